"""Small memory plans, written as what a run does: "a b -a c -b -c" allocates a and b, frees a, and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import Buffer, Kind, MemoryPlan, Role, Variable, Variant

ROLES: dict[str, Role] = {"batch": "batch", "length": "length", "tokens": "tokens"}


def formula(text: str, variables: Sequence[str]) -> Formula:
    """The formula that is written such as "64*batch*length + 8"; for powers a variable is repeated."""
    terms = []
    for term in text.replace("- ", "+ -").split("+"):
        coefficient, exponents = 1, [0] * len(variables)
        for factor in term.strip().split("*"):
            if factor.lstrip("-").isdigit():
                coefficient *= int(factor)
            else:
                exponents[variables.index(factor)] += 1
        terms.append((tuple(exponents), coefficient))
    return Formula.of(terms)


def variant(
    story: str,
    sizes: Mapping[str, str],
    variables: Sequence[str],
    *,
    outputs: str = "",
    orders: Sequence[str] = (),
    tree: Sequence[tuple[str, str, int, int]] = (),
    name: str = "all",
) -> Variant:
    """One way that runs of a plan go; buffers without a size are those whose size is not known."""
    names = [step for step in story.split() if not step.startswith("-")]

    def kind(buffer: str) -> Kind:
        return "output" if buffer in outputs.split() else "planned" if buffer in sizes else "unknown"

    buffers = tuple(Buffer(n, formula(sizes[n], variables) if n in sizes else None, kind(n)) for n in names)
    planned = " ".join(n for n in names if kind(n) == "planned")
    return Variant(
        name=name,
        buffers=buffers,
        events=tuple(names.index(step[1:]) + 1 if step.startswith("-") else 0 for step in story.split()),
        orders=tuple(tuple(names.index(n) for n in order.split()) for order in orders or (planned,)),
        tree=tuple((names.index(a), names.index(b), yes, no) for a, b, yes, no in tree),
    )


def plan(variants: Sequence[Variant], variables: Sequence[str]) -> MemoryPlan:
    """A plan whose variables have the roles of their names, if they are called after one."""
    return MemoryPlan(
        tuple(Variable(name, ROLES.get(name, ""), 0, axis) for axis, name in enumerate(variables)),
        tuple(variants),
        runtime="1.31.1",
    )


def padded(story: str, sizes: Mapping[str, str], **options: object) -> MemoryPlan:
    """A plan in batch and length, with one variant."""
    variables = ("batch", "length")
    return plan([variant(story, sizes, variables, **options)], variables)  # type: ignore[arg-type]


def packed(story: str, sizes: Mapping[str, str], **options: object) -> MemoryPlan:
    """A plan in batch, length and tokens, with one variant."""
    variables = ("batch", "length", "tokens")
    return plan([variant(story, sizes, variables, **options)], variables)  # type: ignore[arg-type]
