"""Compare the speed of several ways to do the same work, in one process, so that the machine's moods hit all alike.

An idle session's worker threads spin for tens of milliseconds; on few cores that slows whatever runs next two- or
threefold. So before each timed run there is a pause, in which they fall asleep, and one untimed run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PAUSE = 0.1
"""Seconds of quiet before each measurement."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster one side is than another, over rounds.

    Attributes:
        median: of the rounds' ratios.
        low, high: their first and third quartiles.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each side once a round; which one goes first changes from round to round.

    Args:
        sides: the work to time, by name.
        rounds: how often.

    Returns:
        Seconds for each round, by name.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(PAUSE)
            sides[name]()
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> Ratio:
    """How many times longer `slow` takes than `fast`, round by round."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)
