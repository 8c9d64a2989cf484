"""The plans of a model's branches as one, for those who ask how much memory a run needs, whichever branch it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import Assumption, Buffer, MemoryPlan, Variable, Variant


def together(plans: Mapping[str, MemoryPlan]) -> MemoryPlan:
    """One plan with the variants of all branches.

    Args:
        plans: of each branch, by its name; at least one.

    Returns:
        A plan in the sizes that any branch sees. In the exceptions of a branch, those that it does not see are 0. What
        only some branches assume says which one does.
    """
    variables: dict[str, Variable] = {}
    for plan in plans.values():
        for variable in plan.variables:
            known = variables.setdefault(variable.name, variable)
            variables[variable.name] = replace(known, role=known.role or variable.role)
    numbers = {name: number for number, name in enumerate(variables)}
    variants = [
        _variant(variant, branch, [numbers[name] for name in plan.names], len(numbers))
        for branch, plan in plans.items()
        for variant in plan.variants
    ]
    every = {
        branch: [replace(one, parts=tuple(numbers[plan.names[part]] for part in one.parts)) for one in plan.assumptions]
        for branch, plan in plans.items()
    }
    first = next(iter(plans.values()))
    return MemoryPlan(
        tuple(variables.values()), tuple(variants), first.runtime, first.alignment, tuple(_assumptions(every))
    )


def _variant(variant: Variant, branch: str, numbers: list[int], count: int) -> Variant:
    """The variant in other variables: what was the first one is that of `numbers[0]`, and so on."""

    def moved(values: tuple[int, ...]) -> tuple[int, ...]:
        there = dict(zip(numbers, values, strict=True))
        return tuple(there.get(number, 0) for number in range(count))

    def size(formula: Formula | None) -> Formula | None:
        return formula and Formula.of((moved(exponents), coefficient) for exponents, coefficient in formula.terms)

    return replace(
        variant,
        buffers=tuple(Buffer(buffer.name, size(buffer.size), buffer.kind) for buffer in variant.buffers),
        exceptions=tuple(moved(values) for values in variant.exceptions),
        branch=branch,
    )


def _assumptions(every: Mapping[str, list[Assumption]]) -> list[Assumption]:
    """Those of all branches once, and then those of some."""
    meanings = [{(one.name, one.parts) for one in assumptions} for assumptions in every.values()]
    shared = set.intersection(*meanings)
    first = next(iter(every.values()))
    found = [one for one in first if (one.name, one.parts) in shared]
    for branch, assumptions in every.items():
        found += [replace(one, branch=branch) for one in assumptions if (one.name, one.parts) not in shared]
    return found
