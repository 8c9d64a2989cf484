"""VarlenAttention as decoders use it: keys and values by head, and few queries for many keys.

Few queries have a way of their own through the CPU kernel, which cuts the keys into spans of at most 256 at a head size
of 64. The tolerance is that of `attention_cases.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.custom_ops.attention_cases import as_rows, cached, check, hiding, normal, packed
from tests.custom_ops.cases import by_head, positions_with_gaps
from tests.custom_ops.single_node import Array, Case, by_kernel, without_body
from turbo_onnx import runtime
from turbo_onnx.custom_ops import spec

KEYS = [1, 2, 15, 16, 17, 255, 256, 257, 513, 1300]
GROUPS = [(3, 3), (9, 3), (8, 1), (32, 8), (20, 1)]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("heads", GROUPS)
def test_one_query_at_the_edges_of_vectors_and_spans(keys: int, heads: tuple[int, int]) -> None:
    check(cached(2, keys, heads=heads, size=64))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1, 8, 16, 33, 80, 128])
def test_one_query_of_every_head_size(size: int, bias: bool) -> None:
    check(cached(2, 300, size=size, bias=bias))
    check(cached(1, 40, size=size, bias=bias, heads=(4, 2), value_size=size + 3))


def test_a_head_size_that_no_model_has() -> None:
    """Its products are exact in float32, so that 2,100 roundings do not hide an error."""
    case = cached(1, 70, size=2100, value_size=5)
    for array in case.inputs[:2]:
        array[:] = array.round()
    check(case)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    ("queries", "heads"), [(2, (4, 1)), (4, (1, 1)), (5, (1, 1)), (3, (6, 2)), (3, (18, 2)), (30, (4, 2))]
)
def test_several_queries_share_what_is_read(queries: int, heads: tuple[int, int], causal: int) -> None:
    check(cached(2, 600, queries, heads, size=32, causal=causal, bias=True))


@pytest.mark.parametrize("queries", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_keys_by_head_equal_those_in_rows(queries: int, bias: bool) -> None:
    case = cached(3, 300, queries, (4, 2), size=32, value_size=20, bias=bias)
    np.testing.assert_array_equal(by_kernel(case)[0], by_kernel(as_rows(case))[0])


@pytest.mark.parametrize("window", [(40, 3), (0, 0), (300, -1), (-1, 2), (700, 700)])
@pytest.mark.parametrize("keys", [2, 5, 700])
def test_windows_of_a_few_queries(window: tuple[int, int], keys: int) -> None:
    """Also where queries stand before the first key."""
    before, after = window
    check(cached(2, keys, 4, window_before=before, window_after=after, guard=1))


@pytest.mark.parametrize("gaps", [0, 3])
@pytest.mark.parametrize("window", [(-1, 0), (2, 1), (-1, -1)])
def test_short_packed_sequences_between_long_ones(window: tuple[int, int], gaps: int) -> None:
    lengths = [3, 40, 0, 1, 8, 9, 300, 2]
    before, after = window
    positions = positions_with_gaps(np.random.default_rng(1), lengths, gaps) if gaps else None
    check(packed(lengths, 24, bias=True, positions=positions, window_before=before, window_after=after))
    check(packed(lengths, 16, 4, kv_num_heads=2, window_before=before, window_after=after))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (3,), (0, 3), (0, 1, 2, 3)])
def test_the_attention_bias_of_a_few_queries_broadcasts(axes: tuple[int, ...]) -> None:
    full = (3, 4, 2, 600)
    shape = [size if axis in axes else 1 for axis, size in enumerate(full)]
    check(cached(3, 600, 2, (4, 2), attention_bias=3 * normal(*shape)))


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_hidden_keys_have_no_weight_even_if_they_are_a_whole_span(lowest: float) -> None:
    hidden = np.random.default_rng(5).random((2, 1, 1, 1300)) < 0.5
    hidden[0, ..., :520] = hidden[1, ..., 700:] = True
    case = cached(2, 1300, attention_bias=np.where(hidden, np.float32(lowest), np.float32(0.0)))
    outputs = by_kernel(case)[0]
    for array in case.inputs[1:3]:
        array.transpose(0, 2, 1, 3)[hidden[:, 0, 0, :]] = 7.0
    np.testing.assert_array_equal(by_kernel(case)[0], outputs)
    check(case)


@pytest.mark.parametrize("keys", [20, 1300])
@pytest.mark.parametrize("guard", [0, 1])
def test_a_row_that_sees_nothing_is_nan_or_guarded_zeros(guard: int, keys: int) -> None:
    case = cached(2, keys, 3, bias=True, attention_bias=hiding(3, keys, 1), guard=guard)
    (output,) = by_kernel(case)
    assert np.isnan(output[0, 1]).all() if not guard else not output[0, 1].any()
    assert np.isfinite(output[1]).all()
    check(case)


@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("keys", [40, 1300])
def test_nan_stays_in_its_sequence(operand: int, keys: int) -> None:
    case = cached(2, keys)
    case.inputs[operand][0, 0, ..., 3] = np.nan
    (output,) = by_kernel(case)
    assert np.isnan(output[0]).any()
    assert np.isfinite(output[1]).all()
    check(case)


@pytest.mark.parametrize("place", [3, 1200])
def test_a_guard_takes_a_key_that_is_nan_for_no_softmax(place: int) -> None:
    case = cached(1, 1300, heads=(1, 1), guard=1)
    case.inputs[1][0, 0, place] = np.nan
    assert not by_kernel(case)[0].any()
    check(case)


@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 1, 0), (0, 1, 5), (2, 0, 5), (2, 30, 0)])
def test_nothing_to_see_or_nobody_to_see_it(batch: int, queries: int, keys: int) -> None:
    case = cached(batch, keys, queries, (4, 2), bias=True)
    assert not by_kernel(case)[0].any()
    check(case)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    """The largest score is in the last span, and 1e4 above those of the others."""
    case = cached(1, 1300, heads=(1, 1))
    case.inputs[1][0, 0, 1299] = 1e4 * case.inputs[0][0, 0]
    np.testing.assert_array_equal(by_kernel(case)[0][0, 0], case.inputs[2][0, 0, 1299])


@pytest.mark.parametrize(("softcap", "scale"), [(0.5, 3.0), (50.0, 0.25)])
@pytest.mark.parametrize("queries", [1, 3, 9])
@pytest.mark.parametrize("keys", [9, 1300])
def test_a_soft_cap_bounds_the_scores_of_few_queries(keys: int, queries: int, softcap: float, scale: float) -> None:
    bias = np.where(
        np.random.default_rng(1).random((2, 1, queries, keys)) < 0.3, np.finfo(np.float32).min, np.float32(0)
    )
    case = cached(2, keys, queries, (4, 2), attention_bias=bias.astype(np.float32), softcap=softcap, scale=scale)
    check(case)
    check(cached(2, keys, queries, (4, 2), bias=True, causal=1, softcap=softcap, scale=scale))


@pytest.mark.parametrize("heads", GROUPS)
def test_results_do_not_depend_on_the_number_of_threads(heads: tuple[int, int]) -> None:
    case = cached(3, 1300, heads=heads, size=32)
    np.testing.assert_array_equal(by_kernel(case, threads=1)[0], by_kernel(case, threads=3)[0])


def test_a_row_does_not_depend_on_other_sequences_or_on_how_many_share_its_keys() -> None:
    case = cached(5, 700, heads=(6, 2), size=64)
    (output,) = by_kernel(case)
    for b in range(5):
        alone = [array[b : b + 1] for array in case.inputs[:3]]
        np.testing.assert_array_equal(by_kernel(replace(case, inputs=alone))[0], output[b : b + 1])
    query, key, value = case.inputs[:3]
    own = [query, key.repeat(3, axis=1), value.repeat(3, axis=1)]
    by_itself = Case(case.operator, own, {**case.attributes, "kv_num_heads": 0})
    np.testing.assert_array_equal(by_kernel(by_itself)[0], output)


ROW, HEAD = normal(2, 5, 32), normal(2, 2, 7, 16)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([ROW, HEAD, HEAD, None, np.array([0, 5], np.int32)], "cu_seqlens must not"),
        ([normal(2, 5, 96)], "keys_by_head is 1, but key and value must be there"),
        ([ROW, by_head(ROW, 2), ROW], "must be [B, S, H*D], [B, 2, L, D] and [B, 2, L, Dv]"),
        ([ROW, HEAD, normal(2, 2, 6, 16)], "have shapes [2, 5, 32], [2, 2, 7, 16], [2, 2, 6, 16]"),
        ([ROW, normal(3, 2, 7, 16), normal(3, 2, 7, 16)], "have shapes [2, 5, 32], [3, 2, 7, 16]"),
        ([ROW, normal(2, 1, 7, 16), normal(2, 1, 7, 16)], "have shapes [2, 5, 32], [2, 1, 7, 16]"),
        ([normal(2, 5, 30), HEAD, HEAD], "2 heads like those of key, which has [2, 2, 7, 16], are 32 columns"),
        ([ROW, HEAD, HEAD, normal(64)], "bias has shape [64], but must be a vector of 96"),
        ([ROW, HEAD, HEAD, None, None, normal(1, 1, 5, 5)], "must broadcast to [2, 2, 5, 7]"),
    ],
)
def test_refuses_inputs_that_do_not_fit(inputs: list[Array | None], sentence: str) -> None:
    case = Case("VarlenAttention", inputs, {"num_heads": 2, "scale": 1.0})
    proto = without_body(case)  # of rows: for these inputs there is none by head
    (stored,) = (a for a in proto.graph.node[0].attribute if a.name == "keys_by_head")
    stored.i = 1
    session = runtime.InferenceSession(proto.SerializeToString())
    with pytest.raises(Exception, match="VarlenAttention") as error:
        session.run(None, case.feeds)
    assert sentence in str(error.value)


@pytest.mark.parametrize("operands", [{"query"}, {"query", "key", "value", "cu_seqlens"}])
def test_there_is_no_definition_without_keys_or_of_packed_rows(operands: set[str]) -> None:
    attributes = spec("VarlenAttention").complete(cached(1, 1).attributes)
    with pytest.raises(ValueError, match="keys_by_head is 1, but key and value must be there, and cu_seqlens must not"):
        spec("VarlenAttention").body(17, frozenset(operands), attributes)
