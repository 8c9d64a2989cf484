"""The comparison that whole-model tests rest on can fail, and looks at real tokens only."""

from __future__ import annotations

import numpy as np

from tests.compare import largest_difference, real_rows

MASK = np.array([[1, 1, 0], [1, 0, 0]])
ROWS = np.zeros((2, 3, 4), np.float32)


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[index] = value
    return rows


def test_a_difference_on_a_real_token_counts() -> None:
    assert largest_difference(MASK, {"y": ROWS}, {"y": changed((0, 1, 2), 0.5)}).value == 0.5


def test_a_difference_on_padding_does_not_count() -> None:
    assert largest_difference(MASK, {"y": ROWS}, {"y": changed((1, 2, 0), 9.0)}).value == 0.0


def test_outputs_without_token_rows_are_compared_whole() -> None:
    assert largest_difference(MASK, {"y": ROWS[:, 0]}, {"y": changed((1, 0, 0), 2.0)[:, 0]}).value == 2.0


def test_a_decoder_step_uses_the_end_of_a_longer_mask() -> None:
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert real_rows(mask, np.zeros((2, 2, 5))).shape == (3, 5)


def test_another_shape_type_or_place_of_nan_is_an_infinite_difference() -> None:
    for other in (ROWS[:, :2], ROWS.astype(np.float64), changed((0, 0, 0), np.nan)):
        assert largest_difference(MASK, {"y": ROWS}, {"y": other}).value == np.inf


def test_the_same_nan_on_both_sides_is_no_difference() -> None:
    rows = changed((0, 0, 0), np.nan)
    assert largest_difference(MASK, {"y": rows}, {"y": rows}).value == 0.0
