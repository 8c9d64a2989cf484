"""Tell from signed columns whether they are heads rotated by their positions, and in which of the two ways.

A head x of D columns, of which the first R are rotated, is x[i] * cos[i] + r[i] * sin[i] with each column's partner
r = (-x[R/2], …, x[0], …), or (-x[1], x[0], …) where pairs are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from turbo_onnx.errors import Reject
from turbo_onnx.passes.signed_columns import Columns


@dataclass(frozen=True)
class Table:
    """Which columns of a factor the R cosines, or sines, are.

    Attributes:
        factor: the number of the factor.
        columns: [R].
    """

    factor: int
    columns: np.ndarray


@dataclass(frozen=True)
class Rotation:
    """How rows of heads are made of a source's columns.

    Attributes:
        order: [H*D], which columns of the source the heads are before they are rotated.
        coefficient: what the whole row is multiplied with.
        heads: H.
        rotated: how many of the heads, the first ones, are rotated.
        interleaved: whether pairs are neighbours.
        cos, sin: where cosines and sines stand.
    """

    order: np.ndarray
    coefficient: float
    heads: int
    rotated: int
    interleaved: bool
    cos: Table
    sin: Table


def is_sum_of_products(columns: Columns) -> bool:
    """Whether anything in it is the sum of two columns times factors, as rotated ones are."""
    terms = columns.terms
    return terms.shape[0] == 2 and bool(((terms["factor"] >= 0) & (terms["coefficient"] != 0)).all(axis=0).any())


def rotation(columns: Columns) -> Rotation:
    """The rotation that the columns are.

    Raises:
        Reject: they are none, and why.
    """
    terms = columns.in_order()
    used = terms["coefficient"] != 0
    rotated = used.sum(axis=0) == 2
    if not used[0].all() or (terms["factor"][0] >= 0)[~rotated].any():
        raise Reject("some of its columns are neither rotated nor copied")
    if (terms["factor"][:, rotated] < 0).any():
        raise Reject("some of its columns are sums of what was not multiplied")
    factors = np.unique(terms["factor"][:, rotated])
    if factors.size != 2:
        raise Reject("its columns are multiplied with {} different tensors, not with cosines and sines", factors.size)
    reasons: list[Reject] = []
    for cos, sin in (factors, factors[::-1]):
        try:
            return _rotation(terms, rotated, int(cos), int(sin))
        except Reject as reason:
            reasons.append(reason)
    raise reasons[0] if "cosines and sines" not in str(reasons[0]) else reasons[1]


def _rotation(terms: np.ndarray, rotated: np.ndarray, cos: int, sin: int) -> Rotation:
    """The same, where it is known which factor holds the cosines."""
    swap = rotated & (terms["factor"][0] == sin)
    along, across = np.where(swap, terms[1], terms[0]), np.where(swap, terms[0], terms[1])
    if (along["factor"][rotated] != cos).any() or (across["factor"][rotated] != sin).any():
        raise Reject("some of its columns are not multiplied with cosines and sines once each")
    coefficient = float(along["coefficient"][0])
    if (along["coefficient"] != coefficient).any():
        raise Reject("its columns are multiplied with different numbers")
    reason = Reject("its columns' partners are not those of a rotation, or have other signs")
    width = rotated.size
    for size in range(2, width + 1):
        heads = width // size
        if width % size or (heads > 1 and not _same_in_each_head(rotated, heads)):
            continue
        by_head = rotated.reshape(heads, size)
        turned, part = int(by_head[:, 0].sum()), int(by_head[0].sum())
        if not by_head[:turned, :part].all() or by_head.sum() != turned * part:
            continue
        if part % 2:
            reason = Reject("it rotates {} columns of each head, an odd number", part) if size == width else reason
            continue
        own, other = (which.reshape(heads, size)[:turned, :part] for which in (along, across))
        if any((which["at"] != which["at"][0]).any() for which in (own, other)):
            continue
        for interleaved in (False, True):
            partner, sign = _partners(part, interleaved=interleaved)
            if (other["column"] == own["column"][:, partner]).all() and (
                other["coefficient"] == coefficient * sign
            ).all():
                tables = (Table(number, which["at"][0]) for number, which in ((cos, own), (sin, other)))
                return Rotation(along["column"], coefficient, heads, turned, interleaved, *tables)
    raise reason


def _same_in_each_head(rotated: np.ndarray, heads: int) -> bool:
    """Whether the first heads are rotated in the same columns, and no other is."""
    by_head = rotated.reshape(heads, -1)
    turned = int(by_head.any(axis=1).sum())
    return bool((by_head[:turned] == by_head[0]).all() and not by_head[turned:].any())


def _partners(part: int, *, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each rotated column of a head the one that it is turned with, and the sign of that."""
    columns = np.arange(part)
    first = columns % 2 == 0 if interleaved else columns < part // 2
    distance = 1 if interleaved else part // 2
    return np.where(first, columns + distance, columns - distance), np.where(first, -1.0, 1.0)
