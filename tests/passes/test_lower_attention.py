"""LowerAttention: what nothing fused is written with primitives again, and computes what it did."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from tests.passes.attention_graphs import batches, layer
from tests.passes.support import apply, count, equivalent, normal, run
from turbo_onnx.graph import Editor
from turbo_onnx.model import Model
from turbo_onnx.passes.lower_attention import LowerAttention
from turbo_onnx.passes.raise_attention import RaiseAttention
from turbo_onnx.passes.raised import RAISED_DOMAIN


def test_a_raised_attention_comes_back_in_as_few_nodes() -> None:
    scores = (
        "a = MatMul(q, kt) h = Div(a, two) b = Where(keep, zero, infinite) s = Add(h, b) sm = Softmax<axis = -1>(s) "
        "nan = IsNaN(sm) p = Where(nan, zero, sm) o = MatMul(p, v)"
    )
    before, after = layer(scores), layer(scores)
    RaiseAttention().run(after)
    report = apply(LowerAttention(), after)
    assert report.applied == 1
    assert count(after) + Counter({"Div": 1}) == count(before) + Counter({"Mul": 1})
    assert not [node for node in after.graph.nodes if node.domain == RAISED_DOMAIN]
    for batch in batches():
        equivalent(run(before, batch), after, batch)


def raised(attrs: dict[str, object], opset: int, *, heads: int = 2, groups: int = 2) -> Model:
    """A model of one raised Attention on graph inputs."""
    value = onnx.helper.make_tensor_value_info
    shapes = {"q": ["B", heads, "S", 4], "k": ["B", groups, "L", 4], "v": ["B", groups, "L", 3]}
    inputs = [value(name, 1, shape) for name, shape in shapes.items()]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([], "g", inputs, [value("y", 1, ["B", heads, "S", 3])]),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=8,
    )
    model = Model.from_proto(proto)
    edit = Editor(model.graph)
    edit.node("Attention", model.graph.inputs, domain=RAISED_DOMAIN, attrs=attrs, outputs=model.graph.outputs)
    return model


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, causal: bool, softcap: float = np.inf
) -> np.ndarray:
    scores = (q @ k.swapaxes(-1, -2)).astype(np.float64) * scale
    scores = scores if softcap == np.inf else softcap * np.tanh(scores / softcap)
    if causal:
        rows, columns = scores.shape[-2:]
        later = np.arange(columns) > np.arange(rows)[:, None] + columns - rows
        scores = np.where(later, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 23])
@pytest.mark.parametrize("causal", [False, True])
def test_scale_and_causality_are_written_out(opset: int, causal: bool) -> None:
    model = raised({"scale": 0.5, "guard": 0, "causal": int(causal)}, opset)
    apply(LowerAttention(), model)
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4, seed=1), normal(2, 2, 5, 3, seed=2)
    equivalent([reference(q, k, v, 0.5, causal)], model, {"q": q, "k": k, "v": v})


@pytest.mark.parametrize("causal", [False, True])
def test_a_soft_cap_is_written_out_before_what_hides_keys(causal: bool) -> None:
    model = raised({"scale": 2.0, "guard": 0, "causal": int(causal), "softcap": 1.5}, 17)
    apply(LowerAttention(), model)
    assert count(model)["Tanh"] == 1
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4, seed=1), normal(2, 2, 5, 3, seed=2)
    equivalent([reference(q, k, v, 2.0, causal, 1.5)], model, {"q": q, "k": k, "v": v})


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(("groups", "repeated"), [(1, 0), (3, 2)])
def test_keys_that_queries_share_are_repeated_unless_there_is_one(opset: int, groups: int, repeated: int) -> None:
    model = raised({"scale": 0.5, "guard": 0, "causal": 0}, opset, heads=6, groups=groups)
    apply(LowerAttention(), model)
    assert count(model)["Expand"] == repeated
    q, k, v = normal(2, 6, 3, 4), normal(2, groups, 5, 4, seed=1), normal(2, groups, 5, 3, seed=2)
    every_k, every_v = (np.repeat(shared, 6 // groups, axis=1) for shared in (k, v))
    equivalent([reference(q, every_k, every_v, 0.5, causal=False)], model, {"q": q, "k": k, "v": v})


def test_a_scale_of_one_costs_nothing() -> None:
    model = raised({"scale": 1.0, "guard": 0, "causal": 0}, 17)
    apply(LowerAttention(), model)
    assert count(model) == {"Transpose": 1, "MatMul": 2, "Softmax": 1}
