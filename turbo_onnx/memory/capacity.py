"""How much fits: sizes of memory as people write them, and the largest batch within such a size."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from turbo_onnx.errors import InputError

MOST = 1 << 16
"""No larger batch is looked for."""

IntArray = npt.NDArray[np.int64]
Totals = Callable[[IntArray], IntArray]

_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_FIRST_CHUNK = 64
_LARGEST_CHUNK = 4096


def parse_bytes(text: str) -> int:
    """A number of bytes out of what people write: `2GiB`, `512MB`, `1.5G`, `1000000`.

    K, M, G and T are powers of 1000, with or without a B; Ki, Mi, Gi and Ti are powers of 1024. Parts of a byte are cut
    off. Case does not count.

    Raises:
        InputError: it is no such number, or less than a byte.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise InputError(f"'{text}' is no size of memory; write one such as 2GiB, 512MB or 1000000.")
    value = int(Fraction(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].upper()])
    if value < 1:
        raise InputError(f"'{text}' is less than a byte; write a size such as 2GiB, 512MB or 1000000.")
    return value


def format_bytes(count: int) -> str:
    """A number of bytes for people: `83.9 MiB`; below 1 KiB `640 B`."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.95 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}"


def largest_batch(totals: Totals, budget: int, *, monotone: bool, most: int = MOST) -> tuple[int, int]:
    """The largest batch such that it, and every smaller one, fits.

    Args:
        totals: the bytes that runs of these batches need, int64 [batches] -> int64 [batches].
        budget: in bytes.
        monotone: whether a larger batch is known to never need less. If so the answer is found by bisection, else
            every batch is looked at.
        most: no larger one is tried.

    Returns:
        The batch and the bytes of its run; (0, 0) where not even one sequence fits.
    """
    batch = _bisect(totals, budget, most) if monotone else _scan(totals, budget, most)
    return batch, int(totals(np.array([batch], np.int64))[0]) if batch else 0


def _bisect(totals: Totals, budget: int, most: int) -> int:
    """The last of 1..most that fits, found with calls of 64 batches each."""
    fits, too_large = 0, most + 1
    while too_large - fits > 1:
        tried = np.unique(np.linspace(fits + 1, too_large - 1, _FIRST_CHUNK).astype(np.int64))
        fitting = int(np.searchsorted(totals(tried), budget, side="right"))
        if fitting < len(tried):
            too_large = int(tried[fitting])
        if fitting:
            fits = int(tried[fitting - 1])
    return fits


def _scan(totals: Totals, budget: int, most: int) -> int:
    """The one before the first of 1..most that does not fit."""
    start, chunk = 1, _FIRST_CHUNK
    while start <= most:
        tried = np.arange(start, min(start + chunk, most + 1), dtype=np.int64)
        misses = np.flatnonzero(totals(tried) > budget)
        if len(misses):
            return int(tried[misses[0]]) - 1
        start, chunk = start + chunk, min(2 * chunk, _LARGEST_CHUNK)
    return most
