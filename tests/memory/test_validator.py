"""The validator lets through what is safe and nothing else: a plan that is made wrong on purpose is found out."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_onnx.errors import PassError
from turbo_onnx.memory import validator
from turbo_onnx.memory.validator import validate_order, validate_placement

BUFFERS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(0, 5)).map(lambda t: (t[0], t[0] + t[1], t[2])),
        st.integers(0, 12),
    ),
    max_size=9,
)


@given(BUFFERS)
def test_it_finds_an_overlap_just_when_two_share_a_byte_at_a_moment(
    placed: list[tuple[tuple[int, int, int], int]],
) -> None:
    buffers, offsets = [buffer for buffer, _ in placed], [offset for _, offset in placed]
    shared = any(
        set(range(a[0], a[1])) & set(range(b[0], b[1])) and set(range(x, x + a[2])) & set(range(y, y + b[2]))
        for (a, x), (b, y) in combinations(placed, 2)
    )
    if shared:
        with pytest.raises(PassError, match="overlaps"):
            validate_placement(buffers, offsets)
    else:
        assert validate_placement(buffers, offsets) == max((x + b[2] for b, x in placed if b[2]), default=0)


def test_an_overlap_names_both_buffers_their_bytes_and_their_times() -> None:
    with pytest.raises(PassError) as caught:
        validate_placement([(0, 4, 128), (3, 9, 64)], [0, 64], 64, ["hidden", "scores"])
    assert str(caught.value) == (
        "hidden (bytes 0 to 128, alive from 0 to 4) overlaps scores (bytes 64 to 128, alive from 3 to 9)"
    )


def test_a_buffer_may_begin_where_and_when_another_ends() -> None:
    assert validate_placement([(0, 4, 64), (4, 6, 64), (4, 6, 64)], [0, 0, 64], 64) == 128


@pytest.mark.parametrize("offset", [-64, 32])
def test_a_negative_or_misaligned_offset_is_refused(offset: int) -> None:
    with pytest.raises(PassError, match=f"buffer 1 stands at {offset}"):
        validate_placement([(0, 1, 8), (5, 6, 8)], [0, offset], 64)


def test_an_offset_too_few_is_refused() -> None:
    with pytest.raises(PassError, match="2 buffers have 1 offsets"):
        validate_placement([(0, 1, 8), (5, 6, 8)], [0])


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(PassError, match="each of them once"):
        validate_order([(0, 1, 8), (5, 6, 8), (0, 6, 8)], order)


def test_an_order_is_checked_at_sizes() -> None:
    buffers = [(0, 2, 100), (1, 4, 10), (3, 5, 200)]
    assert validate_order(buffers, [0, 2, 1], 64) == 256 + 10
    assert validate_order(buffers, [1, 0, 2], 64) == 64 + 200


def test_it_shares_no_code_with_the_planner() -> None:
    tree = ast.parse(Path(validator.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("turbo_onnx")} == {"turbo_onnx.errors"}
