"""What a plan comes to at given sizes: where each buffer lies, how large the block is, and what no plan could go below.

It computes what the library computes when a run begins, from the same plan: the sizes by their formulas, the order by
the tree, the offsets by stacking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from turbo_onnx.errors import InputError
from turbo_onnx.memory.decision import choose, choose_many
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up
from turbo_onnx.memory.placement import stack, stack_one
from turbo_onnx.memory.plan import MemoryPlan, Variant

IntArray = npt.NDArray[np.int64]

LARGEST_BUFFER = 1 << 40
"""Bytes. The library plans no larger buffer."""
TOO_LARGE = 1 << 61
"""Stands for the bytes of a run with a buffer that is larger than that."""


@dataclass(frozen=True)
class RunLayout:
    """One run.

    Attributes:
        plan, variant: the plan, and the number of its variant.
        values: of the plan's variables.
        sizes: of each buffer in bytes; None where it is not known.
        first, last: of each buffer, the events between which it is alive, the last not included. Those on the heap
            count as alive until the end of the run.
        offsets: of each buffer in bytes from the begin of the block; None on the heap.
        order: the number of the stacking order.
        peak: bytes of the block.
        lower_bound: the most bytes that are planned and alive at once, each size rounded up to the alignment.
        outputs: bytes of all outputs whose size is known.
        unknown: how many buffers have a size that is not known.
    """

    plan: MemoryPlan
    variant: int
    values: tuple[int, ...]
    sizes: tuple[int | None, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    offsets: tuple[int | None, ...]
    order: int
    peak: int
    lower_bound: int
    outputs: int
    unknown: int

    @property
    def total(self) -> int:
        """Bytes of the block and the outputs."""
        return self.peak + self.outputs


class Needs(NamedTuple):
    """What runs need, in bytes: int64 [shapes] each."""

    peak: IntArray
    lower_bound: IntArray
    outputs: IntArray

    @property
    def total(self) -> IntArray:
        """Bytes of the block and the outputs, int64 [shapes]."""
        return self.peak + self.outputs


def lay_out(plan: MemoryPlan, values: Sequence[int], variant: int = 0) -> RunLayout:
    """Lay out one run; for many see `Layouts`.

    Args:
        plan: the plan.
        values: of its variables, in order, as `MemoryPlan.values` gives them.
        variant: which one.

    Raises:
        InputError: a buffer would have a negative size or more than 1 TiB, or the plan contradicts itself.
    """
    return Layouts(plan).at(values, variant)


def peaks(plan: MemoryPlan, values: IntArray, variant: int | None = None) -> Needs:
    """What runs at many shapes need; for many calls see `Layouts`.

    Args:
        plan: the plan.
        values: of its variables, int64 [shapes, variables].
        variant: which one; None for the one that needs most, at each shape.

    Raises:
        InputError: a buffer would have a negative size, or the plan contradicts itself.
    """
    return Layouts(plan).peaks(values, variant)


class Layouts:
    """A plan, prepared for laying out runs of many shapes.

    Args:
        plan: the plan.

    Raises:
        InputError: the plan contradicts itself.
    """

    def __init__(self, plan: MemoryPlan) -> None:
        self.plan = plan
        try:
            self._variants = [_Prepared(variant, plan) for variant in plan.variants]
        except (ValueError, IndexError):
            raise InputError("the memory plan contradicts itself; optimize the model again.") from None

    @cached_property
    def monotone(self) -> bool:
        """Whether more of anything is known to never need less."""
        return all(prepared.monotone for prepared in self._variants)

    @cached_property
    def needed(self) -> frozenset[int]:
        """The variables that make a difference."""
        return frozenset().union(*(prepared.needed for prepared in self._variants))

    def at(self, values: Sequence[int], variant: int = 0) -> RunLayout:
        """Lay out one run, as `lay_out` does."""
        return self._variants[variant].at(tuple(int(value) for value in values))

    def total(self, values: Sequence[int]) -> int:
        """Bytes of the block and the outputs of one run, in the variant that needs most. Raises as `lay_out` does."""
        return max(prepared.total(values) for prepared in self._variants)

    def peaks(self, values: IntArray, variant: int | None = None) -> Needs:
        """What many runs need, as the function `peaks` does. Where a buffer is larger than 1 TiB it is `TOO_LARGE`."""
        values = np.asarray(values, np.int64)
        chosen = self._variants if variant is None else [self._variants[variant]]
        needs = [prepared.needs(values) for prepared in chosen]
        most = np.argmax([one.total for one in needs], axis=0)
        shapes = np.arange(len(values))
        return Needs(*(np.stack(parts)[most, shapes] for parts in zip(*needs, strict=True)))


class _Prepared:
    """What does not depend on sizes of one variant: its distinct formulas, and lifetimes of the planned buffers."""

    def __init__(self, variant: Variant, plan: MemoryPlan) -> None:
        self.variant, self.plan, self.alignment = variant, plan, plan.alignment
        _require_sound(variant, plan)
        self.lifetimes = Lifetimes.from_events(variant.events)
        self.planned = np.array(variant.planned, np.int64)
        self.planned_lifetimes = self.lifetimes.subset(self.planned)
        place = {number: index for index, number in enumerate(variant.planned)}
        self.orders = [[place[number] for number in order] for order in variant.orders]
        numbers: dict[Formula, int] = {}
        self.formula_of = [
            None if buffer.size is None else numbers.setdefault(buffer.size, len(numbers)) for buffer in variant.buffers
        ]
        self.formulas = list(numbers)
        self.planned_formulas = [numbers[formula] for formula in self._sizes("planned")]
        self.output_formulas = [numbers[formula] for formula in self._sizes("output")]
        self.tree = [(self._formula(a), self._formula(b), yes, no) for a, b, yes, no in variant.tree]

    def _sizes(self, kind: str) -> Iterable[Formula]:
        return (b.size for b in self.variant.buffers if b.kind == kind and b.size is not None)

    def _formula(self, buffer: int) -> int:
        number = self.formula_of[buffer]
        if number is None:
            raise ValueError(f"the tree compares buffer {buffer}, whose size is not known")
        return number

    @property
    def monotone(self) -> bool:
        coefficients = (coefficient for formula in self.formulas for _, coefficient in formula.terms)
        return len(self.orders) == 1 and all(coefficient > 0 for coefficient in coefficients)

    @property
    def needed(self) -> set[int]:
        exponents = (exponents for formula in self.formulas for exponents, _ in formula.terms)
        return {index for powers in exponents for index, power in enumerate(powers) if power}

    def at(self, values: tuple[int, ...]) -> RunLayout:
        by_formula = self._evaluate(values)
        sizes = [None if number is None else by_formula[number] for number in self.formula_of]
        offsets: list[int | None] = [None] * len(sizes)
        order, placed, peak = self._stack_one(by_formula)
        for number, offset in zip(self.planned.tolist(), placed, strict=True):
            offsets[number] = offset
        planned = np.array([by_formula[number] for number in self.planned_formulas], np.int64)
        return RunLayout(
            plan=self.plan,
            variant=self.plan.variants.index(self.variant),
            values=values,
            sizes=tuple(sizes),
            first=tuple(self.lifetimes.first.tolist()),
            last=tuple(self.lifetimes.last.tolist()),
            offsets=tuple(offsets),
            order=order,
            peak=peak,
            lower_bound=int(self.planned_lifetimes.lower_bound(planned, self.alignment)),
            outputs=sum(by_formula[number] for number in self.output_formulas),
            unknown=self.formula_of.count(None),
        )

    def total(self, values: Sequence[int]) -> int:
        by_formula = self._evaluate(values)
        return self._stack_one(by_formula)[2] + sum(by_formula[number] for number in self.output_formulas)

    def needs(self, values: IntArray) -> Needs:
        sizes, too_large = self._evaluate_many(values)
        planned = sizes[:, self.planned_formulas]
        peak = np.zeros(len(values), np.int64)
        taken = choose_many(self.tree, sizes)
        for number in np.unique(taken) if len(self.planned) else ():
            at = taken == number
            tops = stack(self.planned_lifetimes, self.orders[number], planned[at], self.alignment)
            peak[at] = (tops + rounded_up(planned[at], self.alignment)).max(axis=-1, initial=0)
        bound = self.planned_lifetimes.lower_bound(planned, self.alignment)
        outputs = sizes[:, self.output_formulas].sum(axis=1, dtype=np.int64)
        peak[too_large] = bound[too_large] = TOO_LARGE
        outputs[too_large] = 0
        return Needs(peak, bound, outputs)

    def _stack_one(self, by_formula: Sequence[int]) -> tuple[int, list[int], int]:
        """The order's number, the offsets of the planned buffers, and the bytes of the block."""
        order = choose(self.tree, by_formula)
        rounded = [-(-by_formula[number] // self.alignment) * self.alignment for number in self.planned_formulas]
        offsets = stack_one(self.planned_lifetimes, self.orders[order], rounded)
        return order, offsets, max(map(int.__add__, offsets, rounded), default=0)

    def _evaluate(self, values: Sequence[int]) -> list[int]:
        found = [formula.evaluate(values) for formula in self.formulas]
        for number, size in enumerate(found):
            if not 0 <= size <= LARGEST_BUFFER:
                raise self._refusal(number, size, values)
        return found

    def _evaluate_many(self, values: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """The formulas' values [shapes, formulas], 0 at the shapes that are too large, and which ones are."""
        sizes = np.zeros((len(values), len(self.formulas)), np.int64)
        too_large = np.zeros(len(values), np.bool_)
        for number, formula in enumerate(self.formulas):
            # In floating point first, since integers wrap around.
            terms = [abs(c) * np.prod(values.astype(np.float64) ** exponents, axis=1) for exponents, c in formula.terms]
            safe = sum(terms, np.zeros(len(values))) < TOO_LARGE
            sizes[:, number] = np.where(safe, formula.evaluate_many(values), LARGEST_BUFFER + 1)
            negative = np.flatnonzero(sizes[:, number] < 0)
            if len(negative):
                raise self._refusal(number, int(sizes[negative[0], number]), values[negative[0]].tolist())
            too_large |= sizes[:, number] > LARGEST_BUFFER
        sizes[too_large] = 0
        return sizes, too_large

    def _refusal(self, formula: int, size: int, values: Sequence[int]) -> InputError:
        name = self.variant.buffers[self.formula_of.index(formula)].name
        sizes = ", ".join(f"{n} {value}" for n, value in zip(self.plan.names, values, strict=True))
        why = "which is more than a plan can have" if size > 0 else "so these sizes do not go together"
        return InputError(f"at {sizes} the buffer '{name}' would have {size} bytes, {why}.")


def _require_sound(variant: Variant, plan: MemoryPlan) -> None:
    """Raise ValueError for what the library would refuse, too."""
    orders, nodes = len(variant.orders), len(variant.tree)
    sound = (
        variant.events.count(0) == len(variant.buffers)
        and orders > 0
        and all(sorted(order) == list(variant.planned) for order in variant.orders)
        and all(variant.buffers[number].size is not None for number in variant.planned)
        and all(
            len(exponents) == len(plan.variables)
            for buffer in variant.buffers
            if buffer.size is not None
            for exponents, _ in buffer.size.terms
        )
        and all(
            node < target < nodes or -orders <= target < 0
            for node, (_, _, *targets) in enumerate(variant.tree)
            for target in targets
        )
    )
    if not sound:
        raise ValueError("the plan contradicts itself")
