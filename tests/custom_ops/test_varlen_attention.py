"""VarlenAttention where its kernel changes course: tile edges, long sequences, masks, empty sequences, other machines.

The tolerance is that of `attention_cases.py`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
from onnx import helper

from tests.custom_ops.attention_cases import TOLERANCE, check, dense, hiding, joined, normal, packed, starts_of
from tests.custom_ops.cases import positions_with_gaps
from tests.custom_ops.instruction_sets import VECTORS, run_at, weaker
from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel, model
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions
from turbo_onnx.custom_ops.specification import DOMAIN

LENGTHS = [0, 1, 2, 15, 16, 17, 63, 64, 65, 300]
HEAD_SIZES = [1, 8, 16, 32, 33, 64, 80, 128]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_every_head_size_at_the_edges_of_tiles(size: int, bias: bool, causal: int) -> None:
    check(packed(LENGTHS, size, bias=bias, causal=causal))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("size", [32, 80])
def test_sequences_longer_than_a_chunk_of_keys(size: int, causal: int) -> None:
    check(packed([1500, 3], size, heads=1, causal=causal))


@pytest.mark.parametrize("value_size", [5, 16, 100])
def test_values_of_another_head_size_than_keys(value_size: int) -> None:
    check(packed([70, 20], 16, value_size=value_size, bias=True))


def test_a_head_size_that_no_model_has() -> None:
    """Its products are exact in float32, so that 2,100 roundings do not hide an error."""
    case = packed([40, 600], 2100, heads=1)
    for array in case.inputs[:2]:
        array[:] = array.round()
    check(case)


def test_one_packed_projection_equals_three_separate_ones() -> None:
    case = packed([40, 0, 9], 32, bias=True)
    np.testing.assert_array_equal(by_kernel(joined(case))[0], by_kernel(case)[0])


@pytest.mark.parametrize("window", [(0, 0), (7, 40), (64, 64), (100, -1), (-1, 3)])
@pytest.mark.parametrize("gaps", [0, 3])
def test_windows_at_the_edges_of_tiles_and_chunks(window: tuple[int, int], gaps: int) -> None:
    """Of rows side by side, and of rows with gaps between them."""
    lengths = [0, 1, 17, 64, 65, 600]
    positions = positions_with_gaps(np.random.default_rng(1), lengths, gaps) if gaps else None
    before, after = window
    causal = int(after == 40)
    check(packed(lengths, 32, 1, positions=positions, window_before=before, window_after=after, causal=causal))


@pytest.mark.parametrize("window", [(40, 3), (300, 0), (30, 250)])
def test_queries_that_see_nothing_of_some_chunks_of_keys(window: tuple[int, int]) -> None:
    """Chunks are short where heads are large; behind a long gap nothing before it is seen."""
    before, after = window
    positions = np.arange(330) + np.where(np.arange(330) < 170, 0, 10**6)
    check(packed([330], 256, 1, window_before=before, window_after=after))
    check(packed([330], 256, 1, window_before=before, window_after=after, positions=positions))


def test_rows_see_what_their_positions_say_and_nothing_else() -> None:
    """One key of weight 1 each: which ones are seen is read off the result, by a rule that knows no ranges."""
    positions = np.array([0, 1, 4, 5, 6, 20, 3, 9, 10, 11], np.int64)
    case = packed([6, 4], 10, heads=1, positions=positions, window_before=2, window_after=3)
    case.inputs[0][:] = 0.0
    case.inputs[2][:] = np.eye(10)
    of = np.array([0] * 6 + [1] * 4)
    distance = positions - positions[:, None]
    seen = (of == of[:, None]) & (distance >= -2) & (distance <= 3)
    np.testing.assert_array_equal(by_kernel(case)[0] > 0, seen)
    np.testing.assert_array_equal(case.expected()[0] > 0, seen)


@pytest.mark.parametrize(("window", "causal"), [((40, 3), 0), ((40, 3), 1), ((5, -1), 0), ((2, 700), 0)])
@pytest.mark.parametrize(("queries", "keys"), [(9, 5), (130, 70), (700, 20), (20, 700)])
def test_windows_where_queries_and_keys_differ_in_number(
    queries: int, keys: int, window: tuple[int, int], causal: int
) -> None:
    before, after = window
    bias = normal(2, 1, queries, keys)
    check(dense(2, queries, keys, bias=bias, window_before=before, window_after=after, causal=causal, guard=1))


@pytest.mark.parametrize(("heads", "shared"), [(4, 1), (12, 2)])
@pytest.mark.parametrize("window", [-1, 70])
def test_heads_that_share_keys(heads: int, shared: int, window: int) -> None:
    case = packed([33, 1, 300], 128, heads, bias=True, value_size=5, kv_num_heads=shared, window_before=window)
    check(case)
    np.testing.assert_array_equal(by_kernel(case)[0], by_kernel(case, threads=3)[0])


@pytest.mark.parametrize("sequences", [1, 14, 40])
def test_heads_that_share_keys_equal_those_that_have_them_by_themselves(sequences: int) -> None:
    """Also where there are so many tasks that each takes several heads of a group."""
    case = packed([100] * sequences, 16, heads=12, kv_num_heads=2, bias=True)
    query, *others = case.inputs

    def repeated(array: Array) -> Array:
        by_head = array.reshape(*array.shape[:-1], 2, 16)
        return by_head.repeat(6, axis=-2).reshape(*array.shape[:-1], 12 * 16)

    bias = np.concatenate([others[2][:192], *(repeated(part) for part in np.split(others[2][192:], 2))])
    inputs = [query, repeated(others[0]), repeated(others[1]), bias, *others[3:]]
    own = Case(case.operator, inputs, case.attributes | {"kv_num_heads": 0})
    np.testing.assert_array_equal(by_kernel(case)[0], by_kernel(own)[0])
    np.testing.assert_array_equal(by_kernel(joined(case))[0], by_kernel(own)[0])


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("length", [1, 17, 64, 600])
def test_packed_sequences_of_one_length_equal_the_batch(length: int, causal: int) -> None:
    case = packed([length] * 3, 32, causal=causal)
    rows = [array.reshape(3, length, -1) for array in case.inputs[:3]]
    batch = Case("VarlenAttention", rows, case.attributes)
    np.testing.assert_array_equal(by_kernel(batch)[0].reshape(3 * length, -1), by_kernel(case)[0])


@pytest.mark.parametrize("lengths", [[], [0], [0] * 5])
def test_no_token_at_all(lengths: list[int]) -> None:
    case = packed(lengths, 16, bias=True)
    assert by_kernel(case)[0].shape == (0, 32)
    assert by_definition(case)[0].shape == (0, 32)


def test_a_few_tokens_among_many_empty_sequences() -> None:
    lengths = [0] * 3000
    lengths[5], lengths[1700], lengths[2999] = 3, 40, 1
    check(packed(lengths, 16))


@pytest.mark.parametrize(("queries", "keys"), [(5, 9), (9, 5), (1, 700), (70, 130), (130, 70), (700, 20), (20, 700)])
@pytest.mark.parametrize("causal", [0, 1])
def test_queries_and_keys_may_differ_in_number(queries: int, keys: int, causal: int) -> None:
    check(dense(2, queries, keys, causal=causal))


@pytest.mark.parametrize("keys", [30, 600])
@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (3,), (0, 3), (1, 2, 3), (0, 1, 2, 3)])
def test_the_attention_bias_broadcasts_along_every_axis(axes: tuple[int, ...], keys: int) -> None:
    full = (3, 2, 20, keys)
    shape = [size if axis in axes else 1 for axis, size in enumerate(full)]
    check(dense(3, 20, keys, bias=3 * normal(*shape)))


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min, -1e4])
def test_keys_that_a_bias_hides_have_no_weight(lowest: float) -> None:
    hidden = np.random.default_rng(5).random((2, 1, 1, 90)) < 0.5
    case = dense(2, 33, 90, bias=np.where(hidden, np.float32(lowest), np.float32(0.0)))
    outputs = by_kernel(case)[0]
    for array in case.inputs[1:3]:
        array[hidden[:, 0, 0, :]] = 7.0
    np.testing.assert_array_equal(by_kernel(case)[0], outputs)
    check(case)


@pytest.mark.parametrize("keys", [20, 700])
@pytest.mark.parametrize("guard", [0, 1])
def test_a_row_that_sees_nothing_is_nan_or_guarded_zeros(guard: int, keys: int) -> None:
    case = dense(2, 9, keys, bias=hiding(9, keys, 4), guard=guard)
    (output,) = by_kernel(case)
    assert np.isnan(output[0, 4]).all() if not guard else not output[0, 4].any()
    assert np.isfinite(np.delete(output[0], 4, axis=0)).all()
    check(case)


@pytest.mark.parametrize("guard", [0, 1])
def test_causal_queries_before_the_first_key_see_nothing(guard: int) -> None:
    case = dense(1, 250, 40, causal=1, guard=guard)
    assert np.isnan(by_kernel(case)[0][0, :210]).all() == (not guard)
    check(case)


def test_no_key_at_all_gives_zeros() -> None:
    case = dense(2, 3, 0)
    assert not by_kernel(case)[0].any()
    check(case)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    case = packed([40], 16, scale=300.0)
    assert np.isfinite(by_kernel(case)[0]).all()
    assert_equal(by_kernel(case), case.expected(), 2e-4)  # a score of 5,000 has itself an error of 3e-4


@pytest.mark.parametrize("biased", [False, True])
def test_the_definition_in_float16_scales_before_products_are_beyond_its_range(biased: bool) -> None:
    """A bias may be in float32, with numbers that float16 does not hold."""
    bias = np.zeros((1, 1, 1, 20), np.float32)
    bias[..., 10:] = np.finfo(np.float32).min
    case = dense(1, 5, 20, size=64, heads=1, bias=bias if biased else None)
    for array in case.inputs[:2]:
        array[:] = 64.0
    half = [array if i == 5 or array is None else array.astype(np.float16) for i, array in enumerate(case.inputs)]
    proto = onnx.inliner.inline_local_functions(model(Case(case.operator, half, case.attributes)))
    products = [node.output[0] for node in proto.graph.node if node.op_type == "MatMul"]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in products)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    output, *seen = session.run(
        None, dict(zip(case.feeds, [array for array in half if array is not None], strict=True))
    )
    assert {array.dtype for array in (output, *seen)} == {np.dtype(np.float16)}
    assert all(np.isfinite(array).all() for array in seen)
    np.testing.assert_allclose(output, case.expected()[0], atol=2e-3)


def test_a_negative_scale() -> None:
    check(packed([40], 16, scale=-0.7))


@pytest.mark.parametrize(("softcap", "scale"), [(0.5, 3.0), (5.0, 1.0), (50.0, 0.25), (1000.0, 0.25)])
@pytest.mark.parametrize("causal", [0, 1])
def test_scores_below_and_above_a_soft_cap(softcap: float, scale: float, causal: int) -> None:
    check(packed([0, 1, 5, 17, 64, 300, 700], 16, heads=1, causal=causal, softcap=softcap, scale=scale))


def test_a_soft_cap_bounds_scores_before_a_bias_hides_keys() -> None:
    bias = np.where(np.random.default_rng(1).random((2, 1, 9, 70)) < 0.5, np.finfo(np.float32).min, np.float32(3))
    check(dense(2, 9, 70, bias=bias.astype(np.float32), softcap=0.5, window_before=30))
    check(dense(2, 9, 70, bias=np.full((2, 1, 9, 70), -np.inf, np.float32), softcap=0.5, guard=1))


@pytest.mark.parametrize("length", [30, 700])
def test_nan_stays_in_its_sequence(length: int) -> None:
    case = packed([length, 12], 16)
    case.inputs[1][3] = np.nan
    (output,) = by_kernel(case)
    assert np.isnan(output[:length]).all()
    assert np.isfinite(output[length:]).all()


@pytest.mark.parametrize("lengths", [[3] * 200, [700, 5, 130, 64, 0, 1], [250] * 2])
def test_results_do_not_depend_on_the_number_of_threads(lengths: list[int]) -> None:
    case = packed(lengths, 32, heads=3)
    np.testing.assert_array_equal(by_kernel(case, threads=1)[0], by_kernel(case, threads=3)[0])


def test_a_row_does_not_depend_on_the_other_sequences() -> None:
    lengths = [40, 7, 64, 130]
    case = packed(lengths, 32)
    (output,) = by_kernel(case)
    starts = case.inputs[4]
    for first, last in itertools.pairwise(starts):
        alone = [array[first:last] for array in case.inputs[:3]]
        single = Case("VarlenAttention", [*alone, None, starts_of([last - first])], case.attributes)
        np.testing.assert_array_equal(by_kernel(single)[0], output[first:last])


def test_one_model_may_use_several_forms() -> None:
    """A packed node, a causal one and a dense one: three bodies, three names, one kernel."""
    common = {"num_heads": 2, "scale": 0.25, "domain": DOMAIN}
    nodes = [
        helper.make_node("VarlenAttention", ["rows", "", "", "", "starts"], ["packed"], **common),
        helper.make_node("VarlenAttention", ["rows", "", "", "", "starts"], ["causal"], causal=1, **common),
        helper.make_node("VarlenAttention", ["batch"], ["dense"], **common),
    ]
    inputs = [
        helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["T", 96]),
        helper.make_tensor_value_info("starts", onnx.TensorProto.INT32, ["N"]),
        helper.make_tensor_value_info("batch", onnx.TensorProto.FLOAT, ["B", "S", 96]),
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("packed", "causal", "dense")]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    functions.attach(model, {spec.name: spec for spec in SPECS})
    assert [node.op_type for node in model.graph.node] == ["VarlenAttention", "VarlenAttention_2", "VarlenAttention_3"]
    rows = normal(14, 96)
    feeds = {"rows": rows, "starts": starts_of([9, 5]), "batch": rows.reshape(2, 7, 96)}
    packed_inputs = [rows, None, None, None, feeds["starts"]]
    plain = {"num_heads": 2, "scale": 0.25}
    expected = [
        Case("VarlenAttention", packed_inputs, plain),
        Case("VarlenAttention", packed_inputs, plain | {"causal": 1}),
        Case("VarlenAttention", [feeds["batch"]], plain),
    ]
    stock = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = runtime.InferenceSession(model.SerializeToString())
    for session in (stock, ours):
        assert_equal(session.run(None, feeds), [case.expected()[0] for case in expected], 2 * TOLERANCE)


def test_nodes_that_differ_in_their_soft_caps_alone_share_a_body_unless_one_has_none() -> None:
    spec = next(spec for spec in SPECS if spec.name == "VarlenAttention")
    forms = [functions.form(spec, ["q"], ["y"], {"num_heads": 2, "scale": 1.0, **more}) for more in
             ({}, {"softcap": 0.0}, {"softcap": 30.0}, {"softcap": 50.0})]  # fmt: skip
    assert forms[0] == forms[1] != forms[2] == forms[3]


def test_a_node_that_was_written_without_heads_that_share_keys_and_windows_means_what_it_did() -> None:
    case = packed([5, 40], 16)
    proto = model(case)
    del proto.functions[:]
    (node,) = proto.graph.node
    old = [a for a in node.attribute if a.name in ("num_heads", "scale", "causal", "guard")]
    del node.attribute[:]
    node.attribute.extend(old)
    assert len(node.input) == 5
    assert_equal(runtime.InferenceSession(proto.SerializeToString()).run(None, case.feeds), case.expected(), TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("name", weaker(VECTORS))
def test_weaker_instruction_sets_pass_the_same_tests(name: str) -> None:
    files = [__file__, str(Path(__file__).with_name("test_attention_to_caches.py"))]
    assert "passed" in run_at(name, "not weaker and not refuses", *files)
