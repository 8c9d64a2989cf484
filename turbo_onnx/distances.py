"""What is true of two positions by how far apart they are: "not after", "less than 128 away".

Causal masks and windows compare an arange along one axis with an arange along another. Each such comparison says that
the first position minus the second is at least some number, or that it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.dims import Dim
from turbo_onnx.graph import is_op, produced_by
from turbo_onnx.inference.values import Affine, Value, single
from turbo_onnx.shapes import Facts

_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


class AtLeast(NamedTuple):
    """Whether the index along one axis is at least `least` more than the index along another.

    Attributes:
        row, column: the two axes, counted from the last: -1; `row` is the first of them.
        least: the number.
    """

    row: int
    column: int
    least: int


class Compared(NamedTuple):
    """A comparison of positions.

    Attributes:
        views: what it asks of two positions.
        table: NumPy boolean array of shape (2,) * len(views): what the node gives where each of them holds (1) or not.
    """

    views: tuple[AtLeast, ...]
    table: np.ndarray


def compared(node: gs.Node, facts: Facts) -> Compared | None:
    """What a comparison says of two positions; None where the node is none, or compares anything else.

    Args:
        node: any node.
        facts: of its graph.
    """
    if not is_op(node, *_COMPARISONS):
        return None
    left, right = node.inputs
    strict = node.op in ("Greater", "LessOrEqual")  # by negation, every comparison is one with ">" or ">="
    greater = node.op in ("Greater", "GreaterOrEqual")
    for tensor, bound, above in ((left, right, greater), (right, left, not greater)):
        size, most = produced_by(tensor, "Abs"), single(facts[bound].value)
        if size is not None and isinstance(most, int):
            within = _distance(facts[size.inputs[0]].value)
            inclusive = node.op in (("Greater", "LessOrEqual") if tensor is left else ("Less", "GreaterOrEqual"))
            return None if within is None else _within(within, most - int(not inclusive), outside=above)
    distance = _distance(affine_difference(facts[left].value, facts[right].value))
    if distance is None:
        return None
    axes, sign, offset = distance
    if sign == 1:
        least, holds = int(strict) - offset, greater
    else:
        least, holds = offset + int(not strict), not greater
    return Compared((AtLeast(*axes, least),), np.array([not holds, holds]))


_Distance = tuple[tuple[int, int], int, int]  # two axes, sign and offset: sign * (row - column) + offset


def _distance(value: Value | None) -> _Distance | None:
    """The value as the distance of the indices along two axes, which are counted from the last."""
    if not isinstance(value, Affine) or isinstance(value.offset, Dim):
        return None
    rank = len(value.coefficients)
    steps = {axis - rank: step for axis, step in enumerate(value.coefficients) if step != 0}
    numbers = [step for step in steps.values() if isinstance(step, int)]
    if len(steps) != 2 or sorted(numbers) != [-1, 1]:
        return None
    row, column = steps
    return (row, column), numbers[0], value.offset


def _within(distance: _Distance, most: int, *, outside: bool) -> Compared:
    """Whether a distance is `most` at most in either direction, or whether it is not."""
    axes, sign, offset = distance
    middle = -sign * offset
    views = (AtLeast(*axes, middle - most), AtLeast(*axes, middle + most + 1))
    table = np.array([[False, False], [True, False]])
    return Compared(views, ~table if outside else table)


def affine_difference(left: Value | None, right: Value | None) -> Affine | None:
    """Left minus right, of tensors that are affine or one number throughout, broadcast against each other."""
    sides = []
    for value in (left, right):
        item = single(value)
        sides.append(Affine(item, ()) if item is not None and not isinstance(item, bool) else value)
    if not all(isinstance(side, Affine) for side in sides):
        return None
    a, b = (side for side in sides if isinstance(side, Affine))
    rank = max(len(a.coefficients), len(b.coefficients))
    first, second = ((0,) * (rank - len(side.coefficients)) + side.coefficients for side in (a, b))
    return Affine(a.offset - b.offset, tuple(p - q for p, q in zip(first, second, strict=True)))


class Stretch(NamedTuple):
    """Distances that all comparisons agree on.

    Attributes:
        first: the least of them; None where there is none.
        last: the greatest, likewise.
        holds: 1 for each comparison that is true of them, else 0.
    """

    first: int | None
    last: int | None
    holds: tuple[int, ...]

    def includes(self, distance: int) -> bool:
        """Whether the distance is one of them."""
        return (self.first is None or self.first <= distance) and (self.last is None or distance <= self.last)


def stretches(comparisons: Sequence[AtLeast]) -> Iterator[Stretch]:
    """All distances, from the least on, cut where a comparison changes. The comparisons are of the same two axes."""
    borders: list[int | None] = [None, *sorted({comparison.least for comparison in comparisons}), None]
    for first, after in pairwise(borders):
        holds = tuple(int(first is not None and comparison.least <= first) for comparison in comparisons)
        yield Stretch(first, None if after is None else after - 1, holds)
