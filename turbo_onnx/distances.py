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
from turbo_onnx.graph import is_op
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


def compared(node: gs.Node, facts: Facts) -> tuple[AtLeast, np.ndarray] | None:
    """A comparison of positions: which one, and what the node gives where it does not hold and where it does.

    Args:
        node: any node.
        facts: of its graph.

    Returns:
        the comparison and a boolean array of shape (2,), or None for other nodes.
    """
    if not is_op(node, *_COMPARISONS):
        return None
    difference = affine_difference(*(facts[operand].value for operand in node.inputs))
    if difference is None or isinstance(difference.offset, Dim):
        return None
    rank = len(difference.coefficients)
    steps = {axis - rank: step for axis, step in enumerate(difference.coefficients) if step != 0}
    if len(steps) != 2 or sorted(steps.values(), key=str) != [-1, 1]:
        return None
    (row, sign), (column, _) = steps.items()
    # left - right = sign * (row - column) + offset; by negation, every comparison is one with ">" or ">="
    strict = node.op in ("Greater", "LessOrEqual")
    greater = node.op in ("Greater", "GreaterOrEqual")
    if sign == 1:
        least, holds = int(strict) - difference.offset, greater
    else:
        least, holds = difference.offset + int(not strict), not greater
    return AtLeast(row, column, least), np.array([not holds, holds])


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
