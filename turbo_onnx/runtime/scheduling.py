"""Divide waiting requests into batches such that all of them are done soonest.

The method is the dynamic programme of TurboTransformers (Fang et al., PPoPP 2021). Requests are sorted by length; the
best division of the first i of them is the best one of the first j, and one batch of the others, for the best j. As a
run's time by `CostModel` grows with its longest sequence, no division that mixes the order is better; where a limit
binds, one may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from turbo_onnx.errors import InputError
from turbo_onnx.runtime.cost import CostModel, checked_lengths

Array = np.ndarray[Any, Any]


def schedule(
    lengths: Sequence[int],
    cost: CostModel,
    *,
    most_sequences: int | None = None,
    most_milliseconds: float | None = None,
    fits: Callable[..., bool] | None = None,
) -> list[list[int]]:
    """The batches that take least time together.

    A sequence that alone is beyond a limit is a batch of its own.

    Args:
        lengths: how many tokens each waiting sequence has.
        cost: of runs.
        most_sequences: in a batch; None: any number.
        most_milliseconds: that a batch may take by `cost`; None: any time.
        fits: says whether a batch may be, by the keywords `batch`, `length` and `tokens` (how many sequences, the
            longest, the sum of all): `lambda **sizes: turbo_onnx.peak_bytes(model, **sizes) < budget`, for example.
            What is smaller than a batch that fits must fit, too.

    Returns:
        for each batch, shortest sequences first, the places of its sequences in `lengths`.

    Raises:
        InputError: a length or a limit is not positive.
    """
    given = checked_lengths(lengths)
    for limit in (most_sequences, most_milliseconds):
        if limit is not None and not limit > 0:
            raise InputError("the limits of a batch must be positive.")
    if most_sequences is not None and most_sequences % 1 != 0:
        raise InputError("a batch has a whole number of sequences.")
    order = np.argsort(given, kind="stable")
    runs = _Runs(given[order], cost)
    most = given.size if most_sequences is None else min(int(most_sequences), given.size)
    total = np.zeros(given.size + 1)  # the least time for the first i
    first = np.zeros(given.size + 1, np.int64)  # where the last batch of that division begins
    for end in range(1, given.size + 1):
        begins = np.arange(_first_that_fits(runs, end, max(0, end - most), fits), end)
        times = runs.milliseconds(begins, end)
        if most_milliseconds is not None:
            times[:-1][times[:-1] > most_milliseconds] = np.inf
        best = int(np.argmin(total[begins] + times))
        first[end], total[end] = begins[best], total[begins[best]] + times[best]
    batches = []
    end = given.size
    while end:
        batches.append([int(place) for place in order[first[end] : end]])
        end = int(first[end])
    return batches[::-1]


class _Runs:
    """What batches of neighbours cost, among sequences sorted by length."""

    def __init__(self, lengths: Array, cost: CostModel) -> None:
        self.lengths, self._prices = lengths, cost.prices
        whole = lengths.astype(np.float64)
        self._tokens, self._pairs = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (whole, whole**2))

    def milliseconds(self, begins: Array, end: int) -> Array:
        """Of the batches from each of `begins` to before `end`."""
        longest, count = float(self.lengths[end - 1]), (end - begins).astype(np.float64)
        tokens, pairs = self._tokens[end] - self._tokens[begins], self._pairs[end] - self._pairs[begins]
        run, token, token_pair, position, position_pair = self._prices
        padded = count * longest * (position + position_pair * longest)
        times: Array = run + token * tokens + token_pair * pairs + padded
        return times

    def sizes(self, begin: int, end: int) -> dict[str, int]:
        tokens = int(self._tokens[end] - self._tokens[begin])
        return {"batch": end - begin, "length": int(self.lengths[end - 1]), "tokens": tokens}


def _first_that_fits(runs: _Runs, end: int, least: int, fits: Callable[..., bool] | None) -> int:
    """The smallest begin, from `least` on, of a batch to before `end` that fits; that of one sequence if none does."""
    if fits is None:
        return least
    low, high = least, end - 1
    while low < high:
        middle = (low + high) // 2
        if fits(**runs.sizes(middle, end)):
            high = middle
        else:
            low = middle + 1
    return low
