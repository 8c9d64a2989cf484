"""How long a run takes, as a function of the lengths of its sequences: what a scheduler asks before it forms a batch.

A run costs something by itself, for each real token, for each pair of tokens of one sequence (attention), and where
padding is computed, for each position of the padded batch and each pair of positions. A packed model has hardly any of
the last two, and that is measured rather than assumed: all are fitted to the times of a few runs.

TurboTransformers (Fang et al., PPoPP 2021) looks such times up in a table of padded lengths and batch sizes. Five
numbers serve every batch, also of mixed lengths.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbo_onnx.errors import InputError

Array = np.ndarray[Any, Any]

TERMS = ("run", "token", "token_pair", "position", "position_pair")
"""What there is a price for: a run; a real token; two tokens of one sequence; a position of the padded batch; two
positions of one of its sequences."""
_VERSION = 1


@dataclass(frozen=True)
class CostModel:
    """The time of runs on one machine, with one model and one number of threads.

    Attributes:
        prices: milliseconds for each of `TERMS`, none negative: [5] float64.
    """

    prices: Array

    def milliseconds(self, lengths: Sequence[int]) -> float:
        """How long a run of sequences of these lengths takes, padded to the longest.

        Raises:
            InputError: there is no sequence, or one without a token.
        """
        return float(counts(lengths) @ self.prices)

    def to_json(self) -> str:
        """The model as JSON text."""
        prices = dict(zip(TERMS, self.prices.tolist(), strict=True))
        return json.dumps({"version": _VERSION, "milliseconds": prices}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CostModel:
        """What `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            found = json.loads(text)
            if found["version"] != _VERSION:
                raise InputError(f"the cost model has version {found['version']}, and this is for {_VERSION}.")
            prices = np.array([float(found["milliseconds"][term]) for term in TERMS])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"this is no cost model: {error}.") from None
        if not (np.isfinite(prices).all() and (prices >= 0).all()):
            raise InputError("this is no cost model: its prices must be finite, and not negative.")
        return cls(prices)


def counts(lengths: Sequence[int]) -> Array:
    """How many there are of each of `TERMS` in a run: [5] float64. Raises as `CostModel.milliseconds` does."""
    tokens = checked_lengths(lengths).astype(np.float64)
    if not tokens.size:
        raise InputError("a run has at least one sequence.")
    longest = tokens.max()
    return np.array([1.0, tokens.sum(), (tokens**2).sum(), longest * tokens.size, longest**2 * tokens.size])


def checked_lengths(lengths: Sequence[int]) -> Array:
    """The lengths as integers: [B] int64.

    Raises:
        InputError: one is no positive integer.
    """
    try:
        given = np.asarray(lengths)
    except ValueError:  # lists of different lengths
        given = np.zeros((0, 0))
    if given.ndim != 1 or (given.size and (given.dtype.kind not in "iu" or (given < 1).any())):
        raise InputError("the lengths of sequences must be a list of positive integers.")
    return given.astype(np.int64)


def fit(samples: Mapping[tuple[int, ...], float]) -> CostModel:
    """The prices that explain measured times best, by least squares of the relative errors.

    None may be negative. There are few enough of them to try every choice of those that are not zero, which finds what
    Lawson and Hanson's algorithm (1974) finds.

    Args:
        samples: milliseconds by the lengths of a run's sequences.

    Raises:
        InputError: there are no samples, or a time that is not positive.
    """
    times = np.array(list(samples.values()), np.float64)
    if not times.size or not (np.isfinite(times).all() and (times > 0).all()):
        raise InputError("a cost model is fitted to at least one run, each of which takes some time.")
    rows = np.array([counts(lengths) for lengths in samples]) / times[:, None]
    scale = np.maximum(rows.max(axis=0), np.finfo(np.float64).tiny)
    best, error = np.zeros(len(TERMS)), np.inf
    for number in range(1, 1 + min(len(TERMS), len(times))):
        for chosen in itertools.combinations(range(len(TERMS)), number):
            found, *_ = np.linalg.lstsq(rows[:, chosen] / scale[list(chosen)], np.ones(len(times)), rcond=None)
            left = float(np.sum((rows[:, chosen] / scale[list(chosen)] @ found - 1.0) ** 2))
            if (found >= 0).all() and left < error * (1 - 1e-9):
                best, error = np.zeros(len(TERMS)), left
                best[list(chosen)] = found / scale[list(chosen)]
    return CostModel(best)
