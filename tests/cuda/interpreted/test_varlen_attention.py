"""VarlenAttention on CUDA: the edges of tiles, masks, empty sequences, special values, bounds that are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import ELEMENTS, by_device
from tests.cuda.interpreted.attention_checks import TOLERANCE, UNITS, CaseOnDevice, check, in_float32
from tests.custom_ops.attention_cases import dense, hiding, joined, normal, packed
from tests.custom_ops.cases import positions_with_gaps
from tests.custom_ops.single_node import Array, Case, assert_equal, rounded


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("size", [1, 16, 33, 64])
def test_every_length_at_the_edges_of_tiles(size: int, causal: int) -> None:
    check(packed([0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65], size, bias=True, heads=1, causal=causal))


@pytest.mark.parametrize(
    ("size", "causal", "element"),
    [
        *((size, number % 2, "float16") for number, size in enumerate((20, 64, 80, 128, 256))),
        *((size, 1 - number % 2, "bfloat16") for number, size in enumerate((20, 64, 80, 128, 256))),
    ],
)
def test_tiles_of_half_precision(size: int, causal: int, element: str) -> None:
    case = rounded(packed([1, 0, 63, 64, 127, 129, 300], size, bias=True, heads=1, causal=causal), ELEMENTS[element])
    (actual,), (expected,) = by_device(case, element), case.expected()
    np.testing.assert_allclose(actual, expected, atol=2 * UNITS[element] * np.abs(expected).max())


@pytest.mark.parametrize(("softcap", "scale"), [(0.5, 3.0), (50.0, 0.25)])
def test_a_soft_cap(softcap: float, scale: float) -> None:
    check(packed([0, 1, 31, 33, 70], 16, heads=1, bias=True, causal=1, softcap=softcap, scale=scale))
    check(packed([40, 70], 16, heads=1, softcap=softcap, scale=-scale, window_before=20, window_after=3))
    hidden = np.random.default_rng(1).random((2, 1, 9, 70)) < 0.5
    bias = np.where(hidden, np.finfo(np.float32).min, np.float32(0)).astype(np.float32)
    check(in_float32(dense(2, 9, 70, bias=bias, softcap=softcap, scale=scale, guard=1), "attention_bias"))


@pytest.mark.parametrize("guard", [0, 1])
def test_a_soft_cap_bounds_infinite_scores(guard: int) -> None:
    query, key, value, bias, *rest = packed([40, 3], 16, heads=1, bias=True).inputs
    assert query is not None
    assert key is not None
    assert bias is not None
    query[5, 0], key[:, 0], bias[16] = np.inf, np.abs(key[:, 0]), 1.0
    attributes = {"num_heads": 1, "scale": 0.25, "softcap": 5.0, "guard": guard}
    case = Case("VarlenAttention", [query, key, value, bias, *rest], attributes)
    assert np.isfinite(case.expected()[0]).all()
    check(case)


@pytest.mark.parametrize("value_size", [5, 16, 100])
def test_values_of_another_head_size_than_keys(value_size: int) -> None:
    check(packed([70, 20], 16, value_size=value_size, bias=True))


def test_one_packed_projection_equals_three_separate_ones() -> None:
    case = packed([40, 0, 9], 32, bias=True)
    np.testing.assert_array_equal(by_device(joined(case))[0], by_device(case)[0])


@pytest.mark.parametrize(("window", "gaps"), [((0, 0), 0), ((7, 40), 0), ((7, 40), 3), ((100, -1), 3), ((-1, 3), 3)])
def test_windows_at_the_edges_of_tiles(window: tuple[int, int], gaps: int) -> None:
    lengths = [0, 1, 32, 33, 130]
    positions = positions_with_gaps(np.random.default_rng(1), lengths, gaps) if gaps else None
    before, after = window
    check(packed(lengths, 16, heads=1, positions=positions, window_before=before, window_after=after))


def test_a_window_ends_at_a_causal_query() -> None:
    sliding = packed([70], 16, heads=1, causal=1, window_before=20, window_after=9)
    check(sliding)
    ends = packed([70], 16, heads=1, window_before=20, window_after=0)
    np.testing.assert_array_equal(by_device(sliding)[0], by_device(ends)[0])


@pytest.mark.parametrize(("queries", "keys"), [(9, 5), (1, 100), (110, 40)])
def test_windows_where_queries_and_keys_differ_in_number(queries: int, keys: int) -> None:
    bias = normal(2, 1, queries, keys)
    check(dense(2, queries, keys, bias=bias, window_before=40, window_after=3, guard=1))
    check(dense(2, queries, keys, window_before=2, window_after=2**40))


@pytest.mark.parametrize("window", [-1, 30])
def test_heads_that_share_keys(window: int) -> None:
    check(packed([1, 40], 16, 4, bias=True, value_size=5, kv_num_heads=2, window_before=window))
    check(joined(packed([1, 40], 16, 2, bias=True, kv_num_heads=1, window_after=window)))


@pytest.mark.parametrize("at", [[0, 0, 0, 0, 0], [9, 3, 7, 1, 0], [-(2**63), 2**63 - 1, 0, 5, -1]])
def test_positions_that_are_wrong_touch_nothing_outside(at: list[int]) -> None:
    case = packed([3, 2], 16, positions=np.array(at), window_before=1, window_after=1)
    wrong = CaseOnDevice("VarlenAttention", case.inputs, case.attributes)
    assert by_device(wrong)[0].shape == (5, 32)


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_sequences_of_one_length_equal_the_batch(causal: int) -> None:
    case = packed([70] * 3, 32, causal=causal)
    rows = [array.reshape(3, 70, -1) for array in case.inputs[:3]]
    batch = Case("VarlenAttention", rows, case.attributes)
    np.testing.assert_array_equal(by_device(batch)[0].reshape(210, -1), by_device(case)[0])


@pytest.mark.parametrize("lengths", [[], [0], [0] * 5])
def test_no_token_at_all(lengths: list[int]) -> None:
    assert by_device(packed(lengths, 16, bias=True))[0].shape == (0, 32)


def test_more_sequences_than_one_step_of_the_search_looks_at() -> None:
    lengths = [0] * 300
    lengths[0], lengths[127], lengths[128], lengths[129], lengths[290], lengths[299] = 3, 40, 33, 1, 65, 2
    check(packed(lengths, 16, heads=1))


def test_many_short_sequences() -> None:
    lengths = [1 + i % 3 for i in range(200)]
    check(packed(lengths, 8, heads=1))


@pytest.mark.parametrize(("queries", "keys"), [(5, 9), (9, 5), (1, 100), (70, 130), (130, 70), (32, 64), (64, 32)])
@pytest.mark.parametrize("causal", [0, 1])
def test_queries_and_keys_may_differ_in_number(queries: int, keys: int, causal: int) -> None:
    check(dense(2, queries, keys, causal=causal))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (3,), (0, 3), (2, 3), (0, 1, 2, 3)])
def test_the_attention_bias_broadcasts_along_every_axis(axes: tuple[int, ...], causal: int) -> None:
    full = (3, 2, 40, 70)
    shape = [size if axis in axes else 1 for axis, size in enumerate(full)]
    check(dense(3, 40, 70, bias=3 * normal(*shape), causal=causal))


@pytest.mark.parametrize(("queries", "keys"), [(1, 40), (40, 1), (1, 1)])
def test_an_attention_bias_for_one_query_or_one_key(queries: int, keys: int) -> None:
    check(dense(2, queries, keys, bias=3 * normal(2, 1, queries, keys)))


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_an_attention_bias_of_half_precision(element: str) -> None:
    case = rounded(dense(2, 130, 70, bias=3 * normal(2, 1, 130, 70)), ELEMENTS[element])
    (actual,), (expected,) = by_device(case, element), case.expected()
    np.testing.assert_allclose(actual, expected, atol=2 * UNITS[element] * np.abs(expected).max())


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_a_bias_in_float32_beside_half_precision_keeps_numbers_that_this_does_not_hold(element: str) -> None:
    """Between keys that differ by little, and where all keys of a query are hidden: then they weigh alike."""
    bias = 1000 + 3 * normal(2, 1, 130, 70)
    bias[:, :, 4] = np.finfo(np.float32).min
    bias[:, :, 5:9, ::2] = np.finfo(np.float32).min
    case = rounded(in_float32(dense(2, 130, 70, bias=bias), "attention_bias"), ELEMENTS[element])
    (actual,), (expected,) = by_device(case, element), case.expected()
    np.testing.assert_allclose(actual, expected, atol=2 * UNITS[element] * np.abs(expected).max())
    np.testing.assert_allclose(actual[0, 4], case.inputs[2][0].mean(axis=0), atol=2 * UNITS[element])


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min, -1e4])
def test_keys_that_a_bias_hides_have_no_weight(lowest: float) -> None:
    hidden = np.random.default_rng(5).random((2, 1, 1, 90)) < 0.5
    hidden[0, 0, 0, :32] = True  # a whole block
    case = dense(2, 33, 90, bias=np.where(hidden, np.float32(lowest), np.float32(0.0)))
    outputs = by_device(case)[0]
    check(case)
    for array in case.inputs[1:3]:
        array[hidden[:, 0, 0, :]] = 7.0
    np.testing.assert_array_equal(by_device(case)[0], outputs)


def test_a_row_of_the_lowest_bias_weighs_all_keys_alike() -> None:
    case = dense(1, 3, 70, bias=np.full((1, 1, 1, 70), np.finfo(np.float32).min))
    (output,) = by_device(case)
    np.testing.assert_allclose(output[0], case.inputs[2][0].mean(axis=0, keepdims=True).repeat(3, axis=0), atol=1e-6)


@pytest.mark.parametrize("keys", [20, 100])
@pytest.mark.parametrize("guard", [0, 1])
def test_a_row_that_sees_nothing_is_nan_or_guarded_zeros(guard: int, keys: int) -> None:
    case = dense(2, 9, keys, bias=hiding(9, keys, 4), guard=guard)
    (output,) = by_device(case)
    assert np.isnan(output[0, 4]).all() if not guard else not output[0, 4].any()
    check(case)


@pytest.mark.parametrize("guard", [0, 1])
def test_causal_queries_before_the_first_key_see_nothing(guard: int) -> None:
    case = dense(1, 110, 40, causal=1, guard=guard)
    assert np.isnan(by_device(case)[0][0, :70]).all() == (not guard)
    check(case)


@pytest.mark.parametrize("guard", [0, 1])
@pytest.mark.parametrize("causal", [0, 1])
def test_no_key_at_all_gives_zeros(causal: int, guard: int) -> None:
    case = dense(2, 3, 0, causal=causal, guard=guard)
    assert not by_device(case)[0].any()
    check(case)


@pytest.mark.parametrize("scale", [-0.7, 0.0, 1e-20])
@pytest.mark.parametrize("element", ["float32", "bfloat16"])
def test_scales_that_no_model_has(scale: float, element: str) -> None:
    case = rounded(packed([40, 70], 16, scale=scale, causal=1), ELEMENTS[element])
    unit = UNITS.get(element, TOLERANCE)
    np.testing.assert_allclose(by_device(case, element)[0], case.expected()[0], atol=10 * unit)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    case = packed([40], 16, scale=300.0)
    assert_equal(by_device(case), case.expected(), 2e-4)  # a score of 5,000 has itself an error of 3e-4


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # by NumPy, for the largest of a row of NaN
@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("place", [3, 69])
def test_nan_stays_in_its_sequence(place: int, operand: int) -> None:
    case = packed([35, 35, 35], 16)
    case.inputs[operand][place] = np.nan
    (output,) = by_device(case)
    own = slice(0, 35) if place < 35 else slice(35, 70)
    touched = place if operand == 0 else own
    assert np.isnan(output[touched]).all()
    assert np.isfinite(np.delete(output, touched, axis=0)).all()


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")
def test_keys_that_no_query_of_a_tile_sees_may_be_nan() -> None:
    case = packed([100], 16, causal=1)
    case.inputs[1][70:] = case.inputs[2][70:] = np.nan
    (output,) = by_device(case)
    assert np.isfinite(output[:64]).all()
    assert np.isnan(output[70:]).all()


@pytest.mark.parametrize("guard", [0, 1])
def test_a_bias_of_keys_that_is_not_finite_leaves_no_softmax(guard: int) -> None:
    """Though a finite one changes nothing."""
    case = packed([20], 16, bias=True, guard=guard)
    case.inputs[3][40] = np.inf  # of the first head's keys
    (output,) = by_device(case)
    assert np.isnan(output[:, :16]).all() if not guard else not output[:, :16].any()
    assert_equal([output[:, 16:]], [case.expected()[0][:, 16:]], TOLERANCE)


@pytest.mark.parametrize(
    "starts", [[0, 2, 900], [-7, 3, 5], [3, 0, 2], [0, 5, 2, 5], [2**31 - 1, -(2**31), 2**31 - 1], [0], [40, 41]]
)
def test_bounds_that_are_wrong_touch_nothing_outside(starts: list[int]) -> None:
    rows = normal(5, 32)
    case = CaseOnDevice(
        "VarlenAttention", [rows, rows, rows, None, np.array(starts, np.int32)], {"num_heads": 2, "scale": 1.0}
    )
    assert by_device(case)[0].shape == (5, 32)


def test_a_sequence_that_ends_behind_the_rows_ends_with_them() -> None:
    case = packed([3, 2], 16)
    (expected,) = by_device(case)
    attributes = case.attributes
    wrong = CaseOnDevice("VarlenAttention", [*case.inputs[:4], np.array([0, 3, 900], np.int32)], attributes)
    np.testing.assert_array_equal(by_device(wrong)[0], expected)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([normal(5, 32)] * 3 + [None, np.zeros(0, np.int32)], "one element more than there are sequences"),
        ([normal(5, 96)], "must have rank 3"),
        ([normal(5, 96), None, normal(5, 96), None, np.array([0, 5], np.int32)], "both be there, or neither"),
        ([normal(5, 32), normal(4, 32), normal(5, 32), None, np.array([0, 5], np.int32)], "have shapes"),
        ([normal(5, 96), None, None, normal(32), np.array([0, 5], np.int32)], "bias has shape [32]"),
        ([normal(1, 5, 96), None, None, None, None, normal(1, 3, 5, 5)], "must broadcast to [1, 2, 5, 5]"),
    ],
)
def test_refuses_inputs_that_do_not_fit(inputs: list[Array | None], sentence: str) -> None:
    with pytest.raises(Exception, match="VarlenAttention") as error:
        by_device(CaseOnDevice("VarlenAttention", inputs, {"num_heads": 2, "scale": 1.0}))
    assert sentence in str(error.value)
