"""Improves a stacking order at one shape by small changes, for the shapes at which no greedy placement meets its bound.

The search follows what makes the peak: from a buffer that reaches it down through those that carry it, to the bottom.
Only a change to one of these can lower the peak, so each step moves one of them, either to the place of a buffer that
is alive together with it, or to any place. Which changes are kept is decided by late acceptance (Burke and Bykov, "The
late acceptance Hill-Climbing heuristic", 2017): those that are no worse than what was held some hundred steps ago.
Where nothing better comes for long, these costs are raised, a little more each time, so that the search goes elsewhere.
There is nothing to tune to the sizes, and with a number of steps as budget the result is the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up
from turbo_onnx.memory.placement import Placement, settled, stack_one, stacking_order

_MEMORY = 200  # how many steps ago acceptance looks
_PATIENCE = 2000  # how many steps nothing better may come
_RAISES = (1.03, 1.06, 1.09, 1.12)
_PEAK_WEIGHT = 10  # of the square of the peak, against that of the mean square of heights


def improve(
    lifetimes: Lifetimes,
    order: Sequence[int],
    sizes: IntArray,
    alignment: int = 64,
    *,
    steps: int,
    seconds: float | None = None,
    seed: int = 0,
) -> Placement:
    """Look for a better placement, beginning with an order.

    Args:
        lifetimes: when the buffers are alive.
        order: the numbers of all buffers, bottom first.
        sizes: int64 [buffers] in bytes.
        alignment: what sizes are rounded up to.
        steps: how many changes are tried at most.
        seconds: when to stop at the latest; None for never. With a limit in time the result depends on the machine.
        seed: for the random choices.

    Returns:
        The best placement that was seen. The search ends where the lower bound is met.
    """
    bound = int(lifetimes.lower_bound(sizes, alignment))
    best = settled(lifetimes, order, sizes, alignment)
    search = _Search(lifetimes, list(order), rounded_up(sizes, alignment).tolist(), Random(seed))
    end = None if seconds is None else time.monotonic() + seconds
    for _ in range(steps):
        if best.peak <= bound or (end is not None and time.monotonic() > end):
            break
        if search.step() and search.peak < best.peak:
            best = Placement(tuple(search.offsets), search.peak)
    return best


class _Search:
    """The order that is held, what it leads to, and the costs of those held before.

    Attributes:
        order: what is held, bottom first.
        offsets: of each buffer.
        peak: in bytes.
    """

    def __init__(self, lifetimes: Lifetimes, order: list[int], sizes: list[int], random: Random) -> None:
        self._lifetimes, self._sizes, self._random = lifetimes, sizes, random
        self._conflicts = lifetimes.conflicts
        self._steps = self._raised = 0
        self._hold(order, stack_one(lifetimes, order, sizes))
        self._costs = [self._cost] * _MEMORY
        self._least, self._since = self._cost, 0

    def step(self) -> bool:
        """Try one change, and say whether it was kept."""
        order = self._changed()
        offsets = stack_one(self._lifetimes, order, self._sizes)
        cost = self._cost_of(offsets)
        place = self._steps % _MEMORY
        self._steps += 1
        kept = cost <= self._cost or cost <= self._costs[place]
        if kept:
            # By offsets, the order is one in which a buffer's place says how high it stands.
            self._hold(list(stacking_order(offsets)), offsets)
        self._costs[place] = self._cost
        self._watch()
        return kept

    def _watch(self) -> None:
        """Raise the costs that are accepted where patience is over."""
        if self._cost < self._least:
            self._least, self._since = self._cost, self._steps
        elif self._steps - self._since > _PATIENCE:
            self._costs = [int(self._cost * _RAISES[self._raised % len(_RAISES)])] * _MEMORY
            self._raised += 1
            # What counts from here on is better than where the search is now, not the best that it has seen.
            self._least, self._since = self._costs[0], self._steps

    def _hold(self, order: list[int], offsets: list[int]) -> None:
        self.order, self.offsets = order, offsets
        self._tops = list(map(int.__add__, offsets, self._sizes))
        self.peak = max(self._tops, default=0)
        self._cost = self._cost_of(offsets)

    def _cost_of(self, offsets: list[int]) -> int:
        """The peak, and how high the whole stack is: without that, most changes would look the same."""
        tops = list(map(int.__add__, offsets, self._sizes))
        return _PEAK_WEIGHT * len(tops) * max(tops, default=0) ** 2 + sum([top * top for top in tops])

    def _changed(self) -> list[int]:
        number = self._random.choice(self._carriers())
        order = self.order.copy()
        here = order.index(number)
        others = self._conflicts[number]
        if others and self._random.random() < 0.5:
            there = order.index(self._random.choice(others))
            order[here], order[there] = order[there], order[here]
        else:
            order.insert(self._random.randrange(len(order)), order.pop(here))
        return order

    def _carriers(self) -> list[int]:
        """One way from the peak to the bottom, over buffers that stand on each other."""
        below = [number for number, top in enumerate(self._tops) if top == self.peak]
        found: list[int] = []
        while below:
            number = self._random.choice(below)
            found.append(number)
            offset = self.offsets[number]
            carriers = self._conflicts[number] if offset else []
            below = [other for other in carriers if self._tops[other] == offset and self._sizes[other]]
        return found
