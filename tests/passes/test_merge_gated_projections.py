"""MergeGatedProjections: the two products in front of a gate become one, where no weight is then stored twice."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from tests.passes.support import apply, count, equivalent, graph, normal, parse, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_gated_activation import FuseGatedActivation
from turbo_onnx.passes.merge_gated_projections import MergeGatedProjections

X = {"x": normal(2, 3, 8)}
WEIGHTS = {"wg": normal(8, 6), "wu": normal(8, 6, seed=1), "bg": normal(6, seed=2), "bu": normal(6, seed=3)}
OURS = "turbo_onnx.GatedActivation"
PRODUCTS = "a = MatMul(x, wg) b = MatMul(x, wu)"
SILU = "s = Sigmoid(a) g = Mul(a, s) y = Mul(g, b)"
Y = "float[B,S,6] y"


def model(nodes: str, outputs: str = Y, inputs: str = "float[B,S,8] x", weights: str = "wg wu") -> Model:
    used = {name: WEIGHTS[name] for name in weights.split()}
    return parse(graph(f"g ({inputs}) => ({outputs}) {{{nodes}}}"), used)


def merged(after: Model) -> PassReport:
    FuseGatedActivation().run(after)
    return apply(MergeGatedProjections(), after)


def gates(after: Model) -> list[gs.Node]:
    return [node for node in after.graph.nodes if node.op == "GatedActivation"]


def test_two_products_become_one_whose_columns_are_gate_and_up() -> None:
    before, after = model(f"{PRODUCTS} {SILU}"), model(f"{PRODUCTS} {SILU}")
    assert merged(after).applied == 1
    assert count(after) == {"MatMul": 1, OURS: 1}
    (node,) = gates(after)
    product = node.inputs[0]
    assert (len(node.inputs), list(product.shape)) == (1, ["B", "S", 12])
    np.testing.assert_array_equal(
        product.inputs[0].inputs[1].values, np.concatenate([WEIGHTS["wg"], WEIGHTS["wu"]], axis=1)
    )
    equivalent(before, after, X)


def test_biases_go_along() -> None:
    products = "p = MatMul(x, wg) a = Add(p, bg) q = MatMul(x, wu) b = Add(bu, q)"
    before, after = (model(f"{products} {SILU}", weights="wg wu bg bu") for _ in range(2))
    assert merged(after).applied == 1
    assert count(after) == {"MatMul": 1, OURS: 1}
    equivalent(before, after, X)


def test_layers_with_the_same_weights_share_the_joined_one() -> None:
    again = "c = MatMul(z, wg) d = MatMul(z, wu) r = Sigmoid(c) h = Mul(c, r) k = Mul(h, d) v = Add(y, k)"
    nodes = f"{PRODUCTS} {SILU} z = Neg(x) {again}"
    before, after = (model(nodes, outputs="float[B,S,6] v") for _ in range(2))
    assert merged(after).applied == 2
    first, second = (node.inputs[0].inputs[0].inputs[1] for node in gates(after))
    assert first is second
    equivalent(before, after, X)


def test_weights_that_are_read_elsewhere_are_not_stored_twice() -> None:
    nodes = f"{PRODUCTS} {SILU} z = Neg(x) more = MatMul(z, wu)"
    report = merged(model(nodes, outputs=f"{Y}, float[B,S,6] more"))
    assert report.applied == 0
    assert "wu is read elsewhere too, and would be stored twice" in sentences(report)[0]


def test_products_of_different_tensors_stay_apart() -> None:
    nodes = f"a = MatMul(x, wg) b = MatMul(z, wu) {SILU}"
    report = merged(model(nodes, inputs="float[B,S,8] x, float[B,S,8] z"))
    assert report.applied == 0
    assert "projections of different tensors" in sentences(report)[0]


def test_a_product_that_is_read_elsewhere_stays() -> None:
    report = merged(model(f"{PRODUCTS} {SILU} more = Neg(b)", outputs=f"{Y}, float[B,S,6] more"))
    assert report.applied == 0
    assert "b is read elsewhere too" in sentences(report)[0]


def test_a_silu_without_a_gate_has_nothing_to_join() -> None:
    after = model("p = MatMul(x, wg) a = Add(p, bg) s = Sigmoid(a) y = Mul(a, s)", weights="wg bg")
    report = merged(after)
    assert count(after) == {"MatMul": 1, OURS: 1}
    assert (report.applied, report.rejected) == (0, [])
