"""When each buffer of a run is alive, and how little memory that could ever need.

A run allocates and frees its buffers in one sequence, whatever its shapes are. Time is the position in that sequence,
and a lifetime is half-open: from the buffer's allocation up to, and without, the moment at which it is freed. Two
buffers conflict when both are alive at some moment: only these must not share bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from turbo_onnx.memory.formula import IntArray


def rounded_up(sizes: IntArray, alignment: int) -> IntArray:
    """The sizes in bytes, each rounded up to a multiple of the alignment."""
    return -(-np.asarray(sizes, np.int64) // alignment) * alignment


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """When each of some buffers is alive.

    Attributes:
        first: int64 [buffers], the moment of each buffer's allocation.
        last: int64 [buffers], the moment from which it is not alive any more; later than `first`.
    """

    first: IntArray
    last: IntArray

    def __post_init__(self) -> None:
        if self.first.shape != self.last.shape or self.first.ndim != 1:
            raise ValueError("lifetimes need one first and one last moment for each buffer")
        wrong = np.flatnonzero(self.first >= self.last)
        if len(wrong):
            raise ValueError(f"buffer {wrong[0]} is freed at {self.last[wrong[0]]}, not after {self.first[wrong[0]]}")

    def __len__(self) -> int:
        return len(self.first)

    @staticmethod
    def of(intervals: Iterable[tuple[int, int]]) -> Lifetimes:
        """From half-open intervals.

        Raises:
            ValueError: an interval is empty.
        """
        pairs = np.array(list(intervals), np.int64).reshape(-1, 2)
        return Lifetimes(pairs[:, 0].copy(), pairs[:, 1].copy())

    @staticmethod
    def from_events(events: Sequence[int]) -> Lifetimes:
        """From what a run does: 0 allocates the next buffer, and k + 1 frees buffer k. The rest lives to the end.

        Raises:
            ValueError: an event frees a buffer that is not alive.
        """
        first: list[int] = []
        last: list[int | None] = []
        for moment, event in enumerate(events):
            if event == 0:
                first.append(moment)
                last.append(None)
            elif 1 <= event <= len(last) and last[event - 1] is None:
                last[event - 1] = moment
            else:
                raise ValueError(f"event {moment} frees buffer {event - 1}, which is not alive")
        return Lifetimes.of(
            (start, len(events) if end is None else end) for start, end in zip(first, last, strict=True)
        )

    def subset(self, buffers: Sequence[int] | IntArray) -> Lifetimes:
        """The lifetimes of these buffers alone, numbered in the order in which they are given."""
        chosen = np.asarray(buffers, np.int64)
        return Lifetimes(self.first[chosen], self.last[chosen])

    @cached_property
    def slots(self) -> tuple[IntArray, IntArray]:
        """The same lifetimes, with only those moments counted at which something is allocated.

        Two buffers conflict by these just where they do by `first` and `last`, since buffers that are alive together
        are so when the later one is allocated.

        Returns:
            Two int64 [buffers]: `first` and `last` in slots.
        """
        moments = np.unique(self.first)
        return np.searchsorted(moments, self.first), np.searchsorted(moments, self.last)

    @cached_property
    def slot_lists(self) -> tuple[list[int], list[int]]:
        """`slots` as lists, which are faster to read one number at a time."""
        first, last = self.slots
        return first.tolist(), last.tolist()

    @cached_property
    def conflicts(self) -> list[list[int]]:
        """For each buffer the others that are alive at some moment of its life, in rising order."""
        count = len(self)
        by_first = np.argsort(self.first, kind="stable")
        # In order of allocation, a buffer conflicts with those that follow until one is allocated after it is freed.
        ends = np.searchsorted(self.first[by_first], self.last[by_first])
        following = ends - np.arange(count) - 1
        left = np.repeat(np.arange(count), following)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(following) - following, following)
        pairs = np.concatenate([by_first[left], by_first[right]]), np.concatenate([by_first[right], by_first[left]])
        order = np.lexsort((pairs[1], pairs[0]))
        bounds = np.cumsum(np.bincount(pairs[0], minlength=count))[:-1]
        return [part.tolist() for part in np.split(pairs[1][order], bounds)][:count]

    def lower_bound(self, sizes: IntArray, alignment: int) -> IntArray:
        """The most bytes that are alive at once. No placement needs less.

        Args:
            sizes: int64 [..., buffers] in bytes.
            alignment: what each size is rounded up to.

        Returns:
            int64 [...].
        """
        total = rounded_up(sizes, alignment)
        if not len(self):
            return np.zeros(total.shape[:-1], np.int64)
        first, last = self.slots
        slots = np.arange(first.max() + 1)
        alive = _sum_until(total, first, slots) - _sum_until(total, last, slots)
        bound: IntArray = alive.max(axis=-1)
        return bound


def _sum_until(sizes: IntArray, moments: IntArray, slots: IntArray) -> IntArray:
    """For each slot the sum of the sizes whose moment is not after it: [..., buffers] to [..., slots]."""
    order = np.argsort(moments, kind="stable")
    sums = np.zeros((*sizes.shape[:-1], len(moments) + 1), np.int64)
    np.cumsum(sizes[..., order], axis=-1, out=sums[..., 1:])
    return sums[..., np.searchsorted(moments[order], slots, side="right")]
