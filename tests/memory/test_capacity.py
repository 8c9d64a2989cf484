"""Sizes of memory are read as people write them, and the largest batch is the largest one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_onnx.errors import InputError
from turbo_onnx.memory import capacity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2 << 30),
        ("512MB", 512_000_000),
        ("1.5G", 1_500_000_000),
        ("1000000", 1_000_000),
        ("64 kib", 65_536),
        ("1Ti", 1 << 40),
        ("100b", 100),
        ("0.1MiB", 104_857),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert capacity.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "2 G B", "1e9", "1,5G", "2iB", "2PB", "٣", "1.", "nan", "2GiB 3"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="is no size of memory; write one such as 2GiB, 512MB or 1000000"):
        capacity.parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GB", "0.1"])
def test_nothing_is_no_budget(text: str) -> None:
    with pytest.raises(InputError, match="less than a byte"):
        capacity.parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (87_974_000, "83.9 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_bytes_are_written_for_people(count: int, expected: str) -> None:
    assert capacity.format_bytes(count) == expected


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=400),
    st.integers(1, 3000),
    st.booleans(),
)
def test_the_largest_batch_fits_and_so_do_all_smaller_ones_and_the_next_does_not(
    steps: list[int], budget: int, sorted_totals: bool
) -> None:
    table = np.cumsum(steps) if sorted_totals else np.array(steps) * 60

    def totals(batches: np.ndarray) -> np.ndarray:
        assert batches.min() >= 1
        return table[batches - 1]

    misses = np.flatnonzero(table > budget)
    expected = int(misses[0]) if len(misses) else len(table)
    for monotone in {False, sorted_totals}:
        batch, needed = capacity.largest_batch(totals, budget, monotone=monotone, most=len(table))
        assert batch == expected
        assert needed == (table[batch - 1] if batch else 0)


def test_bisection_asks_for_few_batches() -> None:
    asked = 0

    def totals(batches: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(batches)
        return 1000 * batches

    assert capacity.largest_batch(totals, 12_345_678, monotone=True) == (12_345, 12_345_000)
    assert asked < 300
