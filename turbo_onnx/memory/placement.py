"""Where buffers of known sizes stand: stacking them in a given order, and greedy placements that find an order.

A stacking order says of two buffers that are alive together which one stands below. Each buffer stands on the highest
of those below it, so no order can make buffers overlap, whatever their sizes are. Every placement has such an order
(by rising offset), and stacking by it needs no more bytes than the placement, as long as no buffer is empty: an empty
one holds up what is above it like any other, and so an order means the same at every shape.

The greedy placements are those of the literature on dynamic storage allocation: buffers are taken one after another,
by size, area, duration and so on, and each goes into a gap between those that are already there; or the buffer that
can stand lowest is taken next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up

Order = tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Where each buffer stands.

    Attributes:
        offsets: of each buffer, in bytes from the begin of the block.
        peak: how many bytes the block has to have; sizes count rounded up to the alignment.
    """

    offsets: tuple[int, ...]
    peak: int


def stack(lifetimes: Lifetimes, order: Sequence[int] | IntArray, sizes: IntArray, alignment: int = 64) -> IntArray:
    """The offsets that an order gives, at one shape or at many.

    The longest path from below: what stands under a buffer is known at each moment of its life as the height that was
    reached there, so one pass over the order is enough.

    Args:
        lifetimes: when the buffers are alive.
        order: the numbers of all buffers, from the bottom up.
        sizes: int64 [..., buffers] in bytes.
        alignment: what sizes are rounded up to, and so what all offsets are multiples of.

    Returns:
        int64 [..., buffers] in bytes.

    Raises:
        ValueError: the order does not name every buffer once.
    """
    if not np.array_equal(np.sort(np.asarray(order, np.int64)), np.arange(len(lifetimes))):
        raise ValueError(f"the order of {len(lifetimes)} buffers does not name each of them once")
    total = rounded_up(sizes, alignment)
    if total.ndim == 1:
        return np.array(stack_one(lifetimes, order, total.tolist()), np.int64)
    shapes = total.reshape(-1, len(lifetimes)).T.copy()
    offsets = np.zeros_like(shapes)
    first, last = lifetimes.slots
    height = np.zeros((int(last.max(initial=0)), shapes.shape[1]), np.int64)
    for number in order:
        life = height[first[number] : last[number]]
        offsets[number] = life.max(axis=0)
        life[:] = offsets[number] + shapes[number]
    return offsets.T.reshape(total.shape)


def stack_one(lifetimes: Lifetimes, order: Sequence[int] | IntArray, sizes: Sequence[int]) -> list[int]:
    """`stack` for one shape and sizes that are rounded already, without any checks: the inner step of a search."""
    first, last = lifetimes.slot_lists
    height = [0] * max(last, default=0)
    offsets = [0] * len(sizes)
    for number in order:
        start, end = first[number], last[number]
        offset = max(height[start:end])
        offsets[number] = offset
        height[start:end] = [offset + sizes[number]] * (end - start)
    return offsets


def peaks(lifetimes: Lifetimes, order: Sequence[int] | IntArray, sizes: IntArray, alignment: int = 64) -> IntArray:
    """How many bytes an order needs: int64 [...] for sizes [..., buffers]."""
    tops = stack(lifetimes, order, sizes, alignment) + rounded_up(sizes, alignment)
    highest: IntArray = tops.max(axis=-1, initial=0)
    return highest


def stacking_order(offsets: Sequence[int] | IntArray) -> Order:
    """The order of a placement: by rising offset, and at the same offset by number."""
    return tuple(np.argsort(np.asarray(offsets, np.int64), kind="stable").tolist())


def place(lifetimes: Lifetimes, sizes: IntArray, alignment: int = 64) -> Placement:
    """The best of the greedy placements.

    Args:
        lifetimes: when the buffers are alive.
        sizes: int64 [buffers] in bytes.
        alignment: what sizes are rounded up to.

    Returns:
        The first placement of the smallest peak. Its offsets are those that stacking by its order gives.
    """
    bound = int(lifetimes.lower_bound(sizes, alignment))
    best: Placement | None = None
    for offsets in greedy_placements(lifetimes, sizes, alignment):
        candidate = settled(lifetimes, stacking_order(offsets), sizes, alignment)
        if best is None or candidate.peak < best.peak:
            best = candidate
        if best.peak == bound:
            break
    assert best is not None
    return best


def settled(lifetimes: Lifetimes, order: Sequence[int], sizes: IntArray, alignment: int = 64) -> Placement:
    """The placement that an order gives at one shape."""
    total = rounded_up(sizes, alignment).tolist()
    offsets = stack_one(lifetimes, order, total)
    return Placement(tuple(offsets), max(map(int.__add__, offsets, total), default=0))


def greedy_placements(lifetimes: Lifetimes, sizes: IntArray, alignment: int = 64) -> Iterator[list[int]]:
    """The offsets of each greedy placement, best ones (by experience) first."""
    total = rounded_up(sizes, alignment).tolist()
    keys = _priorities(lifetimes, total)
    for key in keys:
        order = sorted(range(len(total)), key=key)
        for best_fit in (False, True):
            yield fill_gaps(lifetimes, order, total, best_fit=best_fit)
    for key in keys:
        yield lowest_first(lifetimes, sorted(range(len(total)), key=key), total)


def _priorities(lifetimes: Lifetimes, sizes: list[int]) -> list[Callable[[int], tuple[int, ...]]]:
    """Ways to sort buffers, as keys; what sorts first is placed first."""
    first, last = lifetimes.first.tolist(), lifetimes.last.tolist()
    duration = (lifetimes.last - lifetimes.first).tolist()
    conflicts = lifetimes.conflicts
    pressure = _pressure(lifetimes, sizes)
    return [
        lambda b: (-sizes[b], -duration[b], first[b]),
        lambda b: (-sizes[b] * duration[b], first[b]),
        lambda b: (-duration[b], -sizes[b], first[b]),
        lambda b: (-pressure[b], -sizes[b], first[b]),
        lambda b: (-len(conflicts[b]), -sizes[b], first[b]),
        lambda b: (-sizes[b] * len(conflicts[b]), first[b]),
        lambda b: (first[b], -sizes[b]),
        lambda b: (-last[b], -sizes[b]),
    ]


def _pressure(lifetimes: Lifetimes, sizes: list[int]) -> list[int]:
    """For each buffer the most bytes that are alive at a moment of its life."""
    first, last = lifetimes.slot_lists
    alive = [0] * max(last, default=0)
    for start, end, size in zip(first, last, sizes, strict=True):
        for slot in range(start, end):
            alive[slot] += size
    return [max(alive[start:end]) for start, end in zip(first, last, strict=True)]


def fill_gaps(lifetimes: Lifetimes, order: Sequence[int], sizes: Sequence[int], *, best_fit: bool = False) -> list[int]:
    """Place buffers in this order, each into the lowest gap that it fits in, or into the smallest one.

    Args:
        lifetimes: when the buffers are alive.
        order: the numbers of all buffers, in the order in which they are placed.
        sizes: in bytes, rounded already.
        best_fit: take the smallest gap, and the lowest only above all.

    Returns:
        The offset of each buffer.
    """
    offsets = [-1] * len(sizes)
    for number in order:
        size = sizes[number]
        taken = sorted(
            [
                (offsets[other], offsets[other] + sizes[other])
                for other in lifetimes.conflicts[number]
                if offsets[other] >= 0
            ]
        )
        height = 0
        smallest: int | None = None
        for low, high in taken:
            gap = low - height
            if gap >= size and (smallest is None or gap < smallest):
                offsets[number], smallest = height, gap
                if not best_fit:
                    break
            height = max(height, high)
        if smallest is None:
            offsets[number] = height
    return offsets


def lowest_first(lifetimes: Lifetimes, order: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Place next, again and again, the buffer that can stand lowest; among several the first in this order.

    Returns:
        The offset of each buffer.
    """
    rank = np.empty(len(order), np.int64)
    rank[list(order)] = np.arange(len(order))
    conflicts = [np.array(others, np.int64) for others in lifetimes.conflicts]
    lowest = np.zeros(len(order), np.int64)
    key = rank.copy()  # offset · buffers + rank, in one number
    offsets = [0] * len(sizes)
    placed = np.iinfo(np.int64).max
    for _ in order:
        number = int(key.argmin())
        offsets[number] = int(lowest[number])
        others = conflicts[number]
        lowest[others] = np.maximum(lowest[others], offsets[number] + sizes[number])
        waiting = others[key[others] != placed]
        key[waiting] = lowest[waiting] * len(order) + rank[waiting]
        key[number] = placed
    return offsets
