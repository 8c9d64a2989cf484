"""How an inference rule sees one node: its operands' facts, its attributes, and the symbols in force."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.dims import Dim, is_non_negative, solutions, symbol
from turbo_onnx.inference.values import Elements, Item, Value

Dims = tuple[Dim | int, ...]


@dataclass(frozen=True)
class Fact:
    """What is known of one tensor.

    Attributes:
        dtype: NumPy type (or ONNX's number where NumPy has none), or None.
        shape: symbolic shape, or None where not even the rank is known.
        value: what is known of the elements, for integers and booleans.
    """

    dtype: Any = None
    shape: Dims | None = None
    value: Value | None = None


UNKNOWN = Fact()


@dataclass
class Symbols:
    """The named sizes of one model, and which of them were found to be the same.

    Two different sizes that an element-wise operator joins are equal, or one of them is 1 at run time. The size that
    was named later is then taken for the other; `equalities` remembers it as text for the report. (Kernels check
    their operands' sizes at run time, so a size of 1 there is an error or a broadcast and never a wrong number.)

    That holds for sizes of inputs and for sums of them: where the lengths past + new of two layers are joined by a mask
    that both add, their pasts are taken for one. A size that was made up for what nothing is known of may well be 1,
    and is taken for another only where the operator demands it, or where it is one of `limits`: part of an axis, of
    that size unless the axis ends before.

    As much of an axis as there is, n at the most, is a size of its own (`at_most`). Where an operator joins it with the
    whole axis it is all of it, if n is 2 or more: were they different, none of the two sums would be 1.

    With `strict`, sizes of inputs are taken for the same only where they cannot differ.
    """

    inputs: dict[str, int] = field(default_factory=dict)
    limits: dict[str, Dim | int] = field(default_factory=dict)
    parts: dict[str, tuple[Dim, int]] = field(default_factory=dict)
    same: dict[str, Dim | int] = field(default_factory=dict)
    equalities: list[str] = field(default_factory=list)
    strict: bool = False

    def resolve(self, dim: Dim | int) -> Dim | int:
        """The dimension with symbols replaced by what they were found to be."""
        while isinstance(dim, Dim) and any(name in self.same for name in dim.symbols):
            dim = dim.substitute(self.same)
        return dim

    def unify(self, a: Dim | int, b: Dim | int, *, certain: bool = False) -> Dim | int | None:
        """Take two sizes for one and return it, or None where no symbol can be replaced.

        `certain` says that they cannot differ; otherwise one of them may be 1 at run time, and one must be a symbol.
        Made-up symbols give way to anything, inputs' symbols only to what inputs' symbols express, the one that was
        declared last first.
        """
        a, b = self.resolve(a), self.resolve(b)
        if a == b or self._is_whole(a, b):
            return self.resolve(a)
        found = [(one.name, other) for one, other in ((a, b), (b, a)) if isinstance(one, Dim) and one.name is not None]
        if certain or all(self._is_of_inputs(one) for one in (a, b)):  # what is said of sums holds of their parts
            found += solutions(a - b)
        for name, new in sorted(found, key=lambda pair: self.inputs.get(pair[0], 1 << 30), reverse=True):
            if isinstance(new, Dim) and name in new.symbols:
                continue
            if not certain and not self._never_one_by_itself(name, new):
                continue
            if name in self.inputs:
                if not self._is_of_inputs(new):
                    continue
                self.equalities.append(f"{name} = {new}")
            self.same[name] = new
            return self.resolve(a)
        return None

    def at_most(self, axis: Dim, count: int) -> Dim | int | None:
        """As much of an axis as there is, `count` at the most; None where the axis is no single named size."""
        if axis.name is None:
            return None
        name = f"most{count}:{axis.name}"
        self.parts[name] = (axis, count)
        return self.resolve(symbol(name))

    def beyond(self, a: Dim | int, b: Dim | int) -> Dim | int | None:
        """The larger of 0 and an axis less a number: the axis without the part that `at_most` gives; else None."""
        for none, rest in ((a, b), (b, a)):
            count = -rest.terms.get((), 0) if isinstance(rest, Dim) and none == 0 else 0
            axis = rest + count
            part = self.at_most(axis, count) if count > 0 and isinstance(axis, Dim) else None
            if part is not None:
                return axis - part
        return None

    def _is_whole(self, a: Dim | int, b: Dim | int) -> bool:
        """Whether two sizes that are joined differ by a part of an axis where the other has all; they are one then.

        With a = k*part + r and b = k*axis + r, neither k nor r negative, a is 1 only where the part is no more than one
        element, which is all of the axis then; and where b is 1, the axis is no longer, and its part is all of it.
        """
        if not (is_non_negative(a) and is_non_negative(b)):
            return False
        for name, new in solutions(a - b):
            axis, count = self.parts.get(name, (None, 0))
            if axis is not None and count > 1 and self.resolve(axis) == new:
                self.same[name] = new
                return True
        return False

    def _is_of_inputs(self, dim: Dim | int) -> bool:
        """Whether it is a size of inputs, or made of such."""
        return isinstance(dim, Dim) and dim.symbols <= self.inputs.keys()

    def _never_one_by_itself(self, name: str, other: Dim | int) -> bool:
        """Whether the size `name` is not 1 where the other one is more."""
        if name in self.inputs:
            return not self.strict and (not isinstance(other, Dim) or self._is_of_inputs(other))
        return name in self.limits and self.resolve(self.limits[name]) == other


@dataclass
class Reading:
    """One node under inference.

    Attributes:
        node: the node.
        inputs: the facts of its operands, `UNKNOWN` where nothing is known, None where absent.
        opset: the version of the standard operators.
        symbols: the sizes in force.
    """

    node: gs.Node
    inputs: Sequence[Fact | None]
    opset: int
    symbols: Symbols

    def fact(self, index: int) -> Fact:
        """The operand's fact; nothing known if it is absent."""
        fact = self.inputs[index] if index < len(self.inputs) else None
        return fact if fact is not None else UNKNOWN

    def shape(self, index: int) -> Dims | None:
        """The operand's shape."""
        return self.fact(index).shape

    def has(self, index: int) -> bool:
        """Whether the operand is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute, or the default."""
        return self.node.attrs.get(name, default)

    def ints(self, index: int) -> list[int] | None:
        """The operand's elements if all are plain integers."""
        items = self.items(index)
        return [int(item) for item in items] if items is not None and _all_plain(items) else None

    def items(self, index: int) -> list[Item] | None:
        """The operand's elements one by one, if there are few enough; unknown ones are None."""
        value = self.fact(index).value
        return value.list() if isinstance(value, Elements) else None

    def axes(self, index: int, rank: int) -> list[int] | None:
        """Axes given as an attribute (older operator sets) or an operand, made non-negative; None if not known."""
        given = self.attr("axes")
        if given is None:
            given = self.ints(index) if self.has(index) else None
        if given is None:
            return None
        axes = [int(axis) for axis in np.atleast_1d(np.asarray(given))]
        return [axis + rank if axis < 0 else axis for axis in axes]

    def fresh(self, what: str = "size") -> Dim | int:
        """A size that is not known in any other way, named after the tensor at which it arises."""
        place = re.sub(r"[^A-Za-z0-9_.:/]", "_", self.node.outputs[0].name)
        return self.symbols.resolve(symbol(f"{what}:{place}"))

    def broadcast(self, *shapes: Dims | None) -> Dims | None:
        """The shape of an element-wise result, by NumPy's rules; different sizes are unified if they can be."""
        if any(shape is None for shape in shapes):
            return None
        known = [shape for shape in shapes if shape is not None]
        rank = max((len(shape) for shape in known), default=0)
        result: list[Dim | int] = []
        for axis in range(rank):
            size: Dim | int = 1
            for shape in known:
                index = axis - (rank - len(shape))
                if index < 0 or shape[index] == 1 or shape[index] == size:
                    continue
                other = shape[index]
                if size == 1:
                    size = other
                elif isinstance(size, int) and isinstance(other, Dim):
                    pass  # the symbolic one is the same or 1: the number wins
                elif isinstance(other, int):
                    size = other
                else:
                    same = self.symbols.unify(size, other)
                    size = self.fresh(f"broadcast{axis}") if same is None else same
            result.append(size)
        return tuple(result)


Rule = Callable[[Reading], list[Fact]]


def _all_plain(items: list[Item]) -> bool:
    return all(isinstance(item, (int, bool, np.integer)) for item in items)
