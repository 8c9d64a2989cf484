"""RotaryEmbedding: what it refuses, what it must not touch, and what it may write over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from tests.custom_ops.cases import normal
from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel, in_place, without_body
from turbo_onnx import runtime
from turbo_onnx.custom_ops import spec

RANDOM = np.random.default_rng(5)


def rotation(
    rows: Array, table: Array, index: Array | None = None, bias: Array | None = None, **attributes: int
) -> Case:
    """With sines that are other numbers than the cosines `table`."""
    return Case("RotaryEmbedding", [rows, bias, table, table[..., ::-1].copy(), index], {"num_heads": 2} | attributes)


ROWS, TABLE = normal(RANDOM, 3, 8), normal(RANDOM, 5, 4)
OF_ROWS = TABLE[:3].copy()
BATCH = normal(RANDOM, 2, 3, 8)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (rotation(ROWS, TABLE, np.array([0, 5, 1])), "index has 5 at 1, which is outside of the 5 rows of cos"),
        (rotation(ROWS, TABLE, np.array([0, 1, -1])), "index has -1 at 2, which is outside of the 5 rows of cos"),
        (rotation(ROWS, TABLE[:0], np.array([0, 0, 0])), "index has 0 at 0, which is outside of the 0 rows of cos"),
        (rotation(ROWS, TABLE, np.array([0, 1])), "index has shape [2], but must be a vector of 3"),
        (rotation(ROWS, TABLE), "cos has shape [5, 4], which does not fit the rows of input, [3, 8]"),
        (rotation(ROWS, TABLE[:1]), "cos has shape [1, 4], which does not fit the rows of input, [3, 8]"),
        (rotation(BATCH, BATCH[:, :2, :4]), "cos has shape [2, 2, 4], which does not fit the rows of input, [2, 3, 8]"),
        (
            rotation(BATCH, np.concatenate([BATCH, BATCH])[:3, :, :4]),
            "cos has shape [3, 3, 4], which does not fit the rows of input, [2, 3, 8]",
        ),
        (rotation(BATCH, TABLE), "cos has shape [5, 4], but must have the rank of input, 3"),
        (
            rotation(BATCH, BATCH[..., :4], np.arange(6)),
            "index is for rows of rank 2 only, but input has shape [2, 3, 8]",
        ),
        (rotation(ROWS[0], TABLE), "input has shape [8], but must have rank 2 or 3"),
        (rotation(ROWS[:, :7], OF_ROWS), "input has shape [3, 7], whose width is no multiple of num_heads = 2"),
        (
            rotation(ROWS, OF_ROWS[:, :3]),
            "cos has shape [3, 3], whose width must be even and at most that of a head, 4",
        ),
        (
            rotation(ROWS, np.tile(OF_ROWS, 2)[:, :6]),
            "cos has shape [3, 6], whose width must be even and at most that of a head, 4",
        ),
        (rotation(ROWS, OF_ROWS, bias=ROWS[0, :4]), "bias has shape [4], but must be a vector of 8"),
        (
            Case("RotaryEmbedding", [ROWS, None, OF_ROWS, OF_ROWS[:2]], {"num_heads": 2}),
            "sin has shape [2, 4], but cos has [3, 4]",
        ),
        (rotation(ROWS, OF_ROWS, num_heads=0), "num_heads is 0, but must be positive"),
        (rotation(ROWS, OF_ROWS, rotated_heads=3), "rotated_heads is 3, but must be between 0 and num_heads = 2"),
        (rotation(ROWS, OF_ROWS, rotated_heads=-1), "rotated_heads is -1, but must be between 0 and num_heads = 2"),
        (rotation(ROWS, OF_ROWS, interleaved=2), "interleaved is 2, but must be 0 or 1"),
    ],
)
def test_wrong_inputs_are_refused_with_a_sentence_that_names_the_numbers(case: Case, sentence: str) -> None:
    ort.set_default_logger_severity(4)  # the runtime prints every error that it returns
    try:
        with pytest.raises(Exception, match="RotaryEmbedding") as refusal:
            by_kernel(case)
    finally:
        ort.set_default_logger_severity(2)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_a_rotation_by_an_angle_keeps_lengths_and_by_none_everything(interleaved: int) -> None:
    rows, angles = normal(RANDOM, 6, 4 * 32), RANDOM.uniform(-3, 3, (6, 16))
    angles = np.repeat(angles, 2, axis=1) if interleaved else np.tile(angles, 2)
    cos, sin = (function(angles).astype(np.float32) for function in (np.cos, np.sin))
    attributes = {"num_heads": 4, "interleaved": interleaved}
    (turned,) = by_kernel(Case("RotaryEmbedding", [rows, None, cos, sin], attributes))
    lengths = [np.linalg.norm(array.reshape(6, 4, 32), axis=-1) for array in (rows, turned)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    assert np.abs(turned - rows).max() > 0.5
    (back,) = by_kernel(Case("RotaryEmbedding", [turned, None, cos, -sin], attributes))
    np.testing.assert_allclose(back, rows, atol=1e-5)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_columns_and_heads_that_are_not_turned_keep_nan_and_infinity(interleaved: int) -> None:
    rows = normal(RANDOM, 2, 3 * 10)
    by_head = rows.reshape(2, 3, 10)
    by_head[0, :, 4:], by_head[1, 2] = np.inf, np.nan
    case = rotation(rows, TABLE[:2].copy(), num_heads=3, rotated_heads=2, interleaved=interleaved)
    expected = case.expected()
    assert np.isnan(expected[0]).sum() == 10
    assert np.isinf(expected[0]).sum() == 2 * 6 + 6
    assert_equal(by_kernel(case), expected)
    assert_equal(by_definition(case), expected)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("rows", "heads", "size"), [(257, 3, 64), (1000, 1, 34), (2, 40, 512)])
def test_work_that_is_cut_into_many_items_is_all_done(rows: int, heads: int, size: int, interleaved: int) -> None:
    table, index = normal(RANDOM, 9, size), RANDOM.integers(0, 9, rows)
    case = rotation(normal(RANDOM, rows, heads * size), table, index, num_heads=heads, interleaved=interleaved)
    assert_equal(by_kernel(case, threads=2), case.expected())


def test_one_table_serves_every_sequence_of_a_batch() -> None:
    rows, table = normal(RANDOM, 3, 70, 2 * 32), normal(RANDOM, 1, 70, 32)
    shared = rotation(rows, table)
    repeated = rotation(rows, np.repeat(table, 3, axis=0))
    np.testing.assert_array_equal(by_kernel(shared, threads=2), by_kernel(repeated))
    assert_equal(by_kernel(shared), shared.expected())


@pytest.mark.parametrize("shape", [(0, 8), (0, 3, 8), (2, 0, 8)])
def test_no_row_at_all_gives_none(shape: tuple[int, ...]) -> None:
    case = rotation(np.zeros(shape, np.float32), np.zeros((*shape[:-1], 4), np.float32))
    for actual in (by_kernel(case), by_definition(case)):
        assert_equal(actual, [np.zeros(shape, np.float32)])


@pytest.mark.parametrize("bias", [None, normal(RANDOM, 3 * 44)])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rows_may_be_rotated_where_they_are(interleaved: int, bias: Array | None) -> None:
    rows, table = normal(RANDOM, 5, 3 * 44), normal(RANDOM, 5, 36)  # whole vectors and a rest
    case = rotation(rows, table, bias=bias, num_heads=3, rotated_heads=2, interleaved=interleaved)
    session = runtime.InferenceSession(in_place(without_body(case), "input").SerializeToString())
    (expected,) = replace(case, inputs=[-rows, *case.inputs[1:]]).expected()
    assert_equal(session.run(None, case.feeds), [-expected])


def test_tables_of_another_type_than_the_rows_are_declared_in_float32_only() -> None:
    declared = spec("RotaryEmbedding")
    choices = {(bound["T"], bound["TTable"]) for bound in declared.choices(declared.cuda_types)}
    halves = ("tensor(float16)", "tensor(bfloat16)")
    assert choices == {(t, t) for t in halves} | {(t, "tensor(float)") for t in (*halves, "tensor(float)")}
