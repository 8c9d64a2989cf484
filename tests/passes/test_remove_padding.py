"""RemovePadding: real tokens come out as before, whatever the mask looks like, and padding is not computed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import BIAS, EMBEDDING, layer, model, pack, same_on_tokens
from tests.passes.support import count, normal
from turbo_onnx.optimizer import packed_node_share

TWO_LAYERS = EMBEDDING + BIAS + layer(1) + layer(2)
LENGTH = "sh = Shape(ids) len = Slice(sh, axis1, end)"
ROTATED = """
    top = Squeeze(len, axis0) at = Range(first, top, step) places = Reshape(at, by_position) pf = Cast<to = 1>(places)
    phase = Mul(pf, angles) cosine = Cos(phase) sine = Sin(phase)
    q = MatMul(h0, wq) q4 = Reshape(q, heads) low = Slice(q4, axis0, half, axis3) high = Slice(q4, half, end, axis3)
    minus = Neg(high) turned = Concat<axis = 3>(minus, low) qc = Mul(q4, cosine) qs = Mul(turned, sine)
    q5 = Add(qc, qs) qr = Reshape(q5, merged)
    k = MatMul(h0, wk1) k4 = Reshape(k, single) kc = Mul(k4, cosine) k5 = Unsqueeze(kc, axis3) k2 = Expand(k5, twice)
    kr = Reshape(k2, merged)
    v = MatMul(h0, wv) a = turbo_onnx.VarlenAttention<num_heads = 2, scale = 0.5>(qr, kr, v, , , bias)
    o = MatMul(a, wo) y = Add(o, h0)
"""

PACKED = {
    "hidden states of the last layer": (TWO_LAYERS, "float[B,S,8] h2", {}),
    "hidden states of each layer": (TWO_LAYERS, "float[B,S,8] h0, float[B,S,8] h1, float[B,S,8] h2", {}),
    "causal attention": (
        EMBEDDING + BIAS + layer(1, causal=1) + layer(2, causal=1),
        "float[B,S,8] h2",
        {},
    ),
    "a bias that hides later tokens": (
        EMBEDDING + BIAS + LENGTH + "top = Squeeze(len, axis0) at = Range(first, top, step) row = Unsqueeze(at, axis1) "
        "column = Unsqueeze(at, axis0) later = Greater(column, row) term = Where(later, lowest, zero) "
        "both = Add(term, bias)" + layer(1, bias="both") + layer(2, bias="both"),
        "float[B,S,8] h2",
        {"constants": ", int64 step = {1}"},
    ),
    "embeddings as input": (
        BIAS + layer(1, source="x"),
        "float[B,S,8] h1",
        {"inputs": "float[B,S,8] x, int64[B,S] mask"},
    ),
    "an operand of each sequence": (
        EMBEDDING + BIAS + "moved = Add(h0, each)" + layer(1, source="moved"),
        "float[B,S,8] h1",
        {"inputs": "int64[B,S] ids, int64[B,S] mask, float[B,1,8] each"},
    ),
    "positions [1, S, H]": (
        EMBEDDING + BIAS + LENGTH + "at = Slice(positions, axis0, len, axis1) e0 = Add(at, h0)" + layer(1, source="e0"),
        "float[B,S,8] h1",
        {},
    ),
    "positions [S, H]": (
        EMBEDDING
        + BIAS
        + LENGTH
        + "cut = Slice(positions, axis0, len, axis1) at = Squeeze(cut, axis0) e0 = Add(h0, at)"
        + layer(1, source="e0"),
        "float[B,S,8] h1",
        {},
    ),
    "positions looked up by arange": (
        EMBEDDING
        + BIAS
        + LENGTH
        + "top = Squeeze(len, axis0) at = Range(first, top, step) pe = Gather(table, at) e0 = Add(h0, pe)"
        + layer(1, source="e0"),
        "float[B,S,8] h1",
        {"constants": ", int64 step = {1}"},
    ),
    "heads rotated by their positions, keys repeated": (
        EMBEDDING + BIAS + LENGTH + ROTATED,
        "float[B,S,8] y",
        {
            "constants": ", int64 step = {1}, int64[4] heads = {0, 0, 2, 4}, int64[1] half = {2}, "
            "int64[1] axis3 = {3}, int64[4] single = {0, 0, 1, 4}, int64[5] twice = {1, 1, 1, 2, 1}, "
            "int64[3] merged = {0, 0, 8}, int64[4] by_position = {1, -1, 1, 1}, float[4] angles = {1, 0.1, 1, 0.1}",
            "extra": {"wk1": normal(8, 4, seed=7)},
        },
    ),
    "positions looked up by an input": (
        EMBEDDING + BIAS + "pe = Gather(table, where) e0 = Add(h0, pe)" + layer(1, source="e0"),
        "float[B,S,8] h1",
        {"inputs": "int64[B,S] ids, int64[B,S] mask, int64[1,S] where"},
    ),
    "types of tokens": (
        EMBEDDING + BIAS + "te = Gather(table, types) e0 = Add(h0, te)" + layer(1, source="e0"),
        "float[B,S,8] h1",
        {"inputs": "int64[B,S] ids, int64[B,S] mask, int64[B,S] types"},
    ),
    "a linear layer on flattened rows": (
        EMBEDDING
        + BIAS
        + "rows = Reshape(h0, flat) l = Gemm(rows, wq, bo) whole = Shape(h0) e0 = Reshape(l, whole)"
        + layer(1, source="e0"),
        "float[B,S,8] h1",
        {},
    ),
    "a flattened output": (TWO_LAYERS + "y = Reshape(h2, flat)", "float[rows,8] y", {}),
    "heads split and normalised": (
        EMBEDDING
        + BIAS
        + "heads = Reshape(h0, split) n = Softmax<axis = -1>(heads) t = Transpose<perm = [0,1,3,2]>(n) "
        "e0 = Reshape(t, merge)" + layer(1, source="e0"),
        "float[B,S,8] h1",
        {"constants": ", int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}"},
    ),
    "gated halves": (
        EMBEDDING + BIAS + layer(1) + "a, b = Split<axis = -1>(h1, halves) sb = Sigmoid(b) y = Mul(a, sb)",
        "float[B,S,4] y",
        {"constants": ", int64[2] halves = {4, 4}"},
    ),
    "a reduction of each row": (
        EMBEDDING + BIAS + layer(1) + "m = ReduceMean<axes = [2]>(h1) c = Concat<axis = 2>(h1, m)",
        "float[B,S,9] c, float[B,S,1] m",
        {},
    ),
    "labels of tokens": (TWO_LAYERS + "y = ArgMax<axis = -1, keepdims = 0>(h2)", "int64[B,S] y", {}),
    "the shape of a packed tensor": (
        TWO_LAYERS + "s = Shape(h1) b = Slice(s, axis0, axis2) f = Cast<to = 1>(b) m = ReduceMax<keepdims = 0>(f) "
        "y = Mul(h2, m)",
        "float[B,S,8] y",
        {},
    ),
    "part of the shape of a packed tensor": (
        TWO_LAYERS + "s = Shape<start = 1, end = 3>(h1) f = Cast<to = 1>(s) m = ReduceMax<keepdims = 0>(f) "
        "y = Mul(h2, m)",
        "float[B,S,8] y",
        {},
    ),
    "the mask as an operand": (
        TWO_LAYERS + "c = Unsqueeze(mask, axis2) f = Cast<to = 1>(c) y = Add(h2, f)",
        "float[B,S,8] y",
        {},
    ),
    "the mask as a column": (
        TWO_LAYERS + "c = Unsqueeze(mask, axis2) f = Cast<to = 1>(c) y = Concat<axis = -1>(h2, f)",
        "float[B,S,9] y",
        {},
    ),
    "the mask in a linear layer": (
        TWO_LAYERS + "c = Unsqueeze(mask, axis2) f = Cast<to = 1>(c) l = MatMul(f, row) y = Add(h2, l)",
        "float[B,S,8] y",
        {"extra": {"row": normal(1, 8)}},
    ),
    "the mask spread over a row": (
        TWO_LAYERS + "c = Unsqueeze(mask, axis2) f = Cast<to = 1>(c) s = Shape(h2) e = Expand(f, s) "
        "m = ReduceMean<axes = [2]>(h2) y = Add(e, m)",
        "float[B,S,8] y",
        {},
    ),
    "the mask looked up in a table": (
        TWO_LAYERS + "no = Equal(ids, pad) yes = Not(no) number = Cast<to = 7>(yes) l = Gather(table, number) "
        "y = Add(h2, l)",
        "float[B,S,8] y",
        {},
    ),
}


@pytest.mark.parametrize("name", PACKED)
def test_real_tokens_are_computed_as_before_and_alone(name: str) -> None:
    nodes, outputs, changes = PACKED[name]
    before, after = (model(nodes, outputs, **changes) for _ in range(2))
    report = pack(after)
    assert report.facts["packed"] is True
    assert report.facts["mask_input"] == "mask"
    assert all(list(node.inputs[0].shape) == ["total_tokens", 8] for node in after.graph.nodes if node.op == "MatMul"
               and node.inputs[1].shape == (8, 8))  # fmt: skip
    same_on_tokens(before, after)


@pytest.mark.parametrize("kind", ["int32", "bool", "float", "uint8", "float16", "double"])
def test_masks_of_any_type_are_taken(kind: str) -> None:
    nodes, inputs = EMBEDDING + BIAS + layer(1), f"int64[B,S] ids, {kind}[B,S] mask"
    before, after = (model(nodes, "float[B,S,8] h1", inputs=inputs) for _ in range(2))
    assert pack(after).facts["packed"] is True
    same_on_tokens(before, after)


FROM_IDS = {
    "ids": ("int64", EMBEDDING, ""),
    "ids of another type": ("int32", EMBEDDING.replace("ids)", "wide)"), "wide = Cast<to = 7>(ids)"),
    "ids moved by a constant": ("int64", EMBEDDING.replace("ids)", "moved)"), "moved = Add(ids, two)"),
    "ids taken one by one": (
        "int64",
        EMBEDDING.replace("ids)", "whole)"),
        "rows = Reshape(ids, one_axis) shape = Shape(ids) whole = Reshape(rows, shape)",
    ),
}


@pytest.mark.parametrize("name", FROM_IDS)
@pytest.mark.parametrize("pad", [0, 1])
def test_a_mask_computed_from_the_ids_is_found_and_the_ids_are_no_mask(name: str, pad: int) -> None:
    kind, embedding, first = FROM_IDS[name]
    bias = "yes = Greater(number, padding) m4 = Unsqueeze(yes, axes12) bias = Where(m4, zero, lowest)"
    number = "number = Cast<to = 7>(ids)" if kind == "int32" else "number = Identity(ids)"
    nodes = first + embedding + number + bias + layer(1)
    constants = f", int64 padding = {{{pad}}}, int64[1] one_axis = {{-1}}"
    before, after = (model(nodes, "float[B,S,8] h1", inputs=f"{kind}[B,S] ids", constants=constants) for _ in range(2))
    assert pack(after).facts["mask_input"] == "yes"
    if pad == 0:  # the data's
        same_on_tokens(before, after)


INVERTED = {
    "ids that are not padding": (
        "no = Equal(ids, pad) yes = Not(no) b4 = Unsqueeze(yes, axes12) bias = Where(b4, zero, lowest)",
        "int64[B,S] ids",
        "yes",
    ),
    "ids that are padding": (
        "no = Equal(ids, pad) b4 = Unsqueeze(no, axes12) bias = Where(b4, lowest, zero)",
        "int64[B,S] ids",
        "no_opposite_output",
    ),
    "an input that is true for padding": (
        "b4 = Unsqueeze(padding, axes12) bias = Where(b4, infinite, zero)",
        "int64[B,S] ids, bool[B,S] padding",
        "padding_opposite_output",
    ),
    "an input that is 1 for padding": (
        "b4 = Unsqueeze(padding, axes12) bf = Cast<to = 1>(b4) bias = Mul(bf, lowest)",
        "int64[B,S] ids, int64[B,S] padding",
        "padding_bool_output_opposite_output",
    ),
    "its opposite in a branch only": (
        "b4 = Unsqueeze(padding, axes12) bias = Where(b4, infinite, zero) z = If(flag)<"
        "then_branch = t () => (bool[B,S] p) { p = Not(padding) }, "
        "else_branch = e () => (bool[B,S] q) { q = Identity(padding) }>",
        "int64[B,S] ids, bool[B,S] padding, bool flag",
        "padding_opposite_output",
    ),
}


@pytest.mark.parametrize("name", INVERTED)
def test_a_mask_that_is_true_for_padding_is_turned_round(name: str) -> None:
    bias, inputs, expected = INVERTED[name]
    nodes = EMBEDDING + bias + layer(1)
    outputs = "float[B,S,8] h1" + (", bool[B,S] z" if "flag" in inputs else "")
    before, after = (model(nodes, outputs, inputs=inputs) for _ in range(2))
    report = pack(after)
    assert (report.facts["packed"], report.facts["mask_input"]) == (True, expected)
    same_on_tokens(before, after, zeros="flag" not in inputs)


def test_a_lookup_by_position_is_made_for_each_token() -> None:
    nodes, outputs, changes = PACKED["positions looked up by arange"]
    after = model(nodes, outputs, **changes)
    pack(after)
    lookups = [
        node.inputs[1].name for node in after.graph.nodes if node.op == "Gather" and node.inputs[0].name == "table"
    ]
    assert "token_position" in lookups


def test_one_index_serves_all_inputs_and_outputs() -> None:
    after = model(*PACKED["hidden states of each layer"][:2])
    pack(after)
    assert count(after)["turbo_onnx.RemovePadding"] == 1
    assert count(after)["turbo_onnx.RestorePadding"] == 3
    assert packed_node_share(after) > 0.8


def test_outputs_keep_names_types_and_order() -> None:
    before, after = (model(*PACKED["hidden states of each layer"][:2]) for _ in range(2))
    pack(after)
    assert [(t.name, t.dtype, list(t.shape)) for t in after.graph.outputs] == [
        (t.name, np.dtype(np.float32), ["B", "S", 8]) for t in before.graph.outputs
    ]
