"""Products with constant weights in the ways in which a graph may store and multiply them, quantized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.passes.quantized_layers import (
    BIAS,
    IN,
    LAYER,
    OUT,
    PRODUCT,
    WEIGHT,
    X,
    bound,
    by_kernels,
    end,
    refused,
)
from tests.passes.support import apply, count, graph, normal, operators, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes import quantize_linear
from turbo_onnx.passes.quantize_linear import QuantizeLinear


def check_rows(nodes: str, weights: Mapping[str, np.ndarray], weight: np.ndarray, left: Mapping[str, int]) -> Model:
    """Quantize one product of matrices with the weight, compare, and see that only `left` is left beside it."""
    model = parse(graph(f"g (float[T,{IN}] x) => (float[T,{OUT}] y) {{{nodes}}}", opset=20), weights)
    x = X.reshape(-1, IN)
    (before,) = run(model, {"x": x})
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert count(model) == {**LAYER, **left}
    for (after,) in (run(model, {"x": x}), by_kernels(model, x)):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert (np.abs(after - before) <= bound(x, weight)).all()
        assert (after != before).any()
    return model


@pytest.mark.parametrize(
    ("node", "weight"),
    [
        ("Gemm(x, w)", WEIGHT),
        ("Gemm(x, w, bias)", WEIGHT),
        ("Gemm<transB = 1>(x, flipped, bias)", WEIGHT),
        ("Gemm<alpha = -2.5, beta = 0.5>(x, w, bias)", np.float32(-2.5) * WEIGHT),
        ("Gemm<alpha = 0.3, transB = 1>(x, flipped)", np.float32(0.3) * WEIGHT),
        ("Gemm<beta = 0.0>(x, w, bias)", WEIGHT),
        ("Gemm<beta = 2.0>(x, w, row)", WEIGHT),
    ],
)
@pytest.mark.parametrize("activation", ["Identity", "Relu"])
def test_a_gemm(node: str, weight: np.ndarray, activation: str) -> None:
    weights = {"w": WEIGHT, "flipped": WEIGHT.T, "bias": BIAS, "row": BIAS[None]}
    used = {name: value for name, value in weights.items() if name in node}
    relu = activation == "Relu"
    model = check_rows(f"p = {node} y = {activation}(p)", used, weight, {} if relu else {"Identity": 1})
    assert end(model).attrs["activation"] == ("relu" if relu else "none")
    has_bias = "bias" in node or "row" in node
    assert (len(end(model).inputs) == 5) == (has_bias and "beta = 0.0" not in node)


def test_a_gemm_takes_the_bias_behind_it_only_if_it_has_none() -> None:
    weights = {"w": WEIGHT, "bias": BIAS, "more": normal(OUT, seed=5)}
    model = check_rows("p = Gemm(x, w) y = Add(p, more)", {"w": WEIGHT, "more": weights["more"]}, WEIGHT, {})
    assert end(model).inputs[4].name == "more"
    model = check_rows("p = Gemm(x, w, bias) y = Add(p, more)", weights, WEIGHT, {"Add": 1})
    assert end(model).inputs[4].name == "bias"


@pytest.mark.parametrize("product", ["MatMul(x, t)", "Gemm(x, t)", "Gemm<alpha = 1.0>(x, t, bias)"])
@pytest.mark.parametrize("perm", ["", "<perm = [1, 0]>"])
def test_a_weight_behind_a_transpose(product: str, perm: str) -> None:
    weights = {"table": WEIGHT.T, "bias": BIAS} if "bias" in product else {"table": WEIGHT.T}
    model = check_rows(f"t = Transpose{perm}(table) y = {product}", weights, WEIGHT, {})
    assert [tensor.name for tensor in model.to_proto().graph.initializer][:1] == ["table_int8"]


def test_a_transpose_of_a_transposed_weight() -> None:
    check_rows("t = Transpose(w) y = Gemm<transB = 1>(x, t)", {"w": WEIGHT}, WEIGHT, {})


def test_a_table_of_tied_embeddings_stays_in_float32_where_tokens_are_looked_up() -> None:
    body = f"""g (int64[B,S] ids) => (float[B,S,{OUT}] y) {{
        x = Gather(table, ids)
        t = Transpose<perm = [1, 0]>(table)
        y = MatMul(x, t)
    }}"""
    table = 0.1 * normal(OUT, IN)
    model = parse(graph(body, opset=20), {"table": table})
    ids = np.arange(15).reshape(3, 5)
    (before,) = run(model, {"ids": ids})
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert operators(model) == ["Gather", PRODUCT]
    np.testing.assert_array_equal(model.graph.nodes[0].inputs[0].values, table)
    (after,) = run(model, {"ids": ids})
    assert (np.abs(after - before) <= bound(table[ids], table.T)).all()


def test_a_square_weight_that_is_read_as_it_is_and_transposed() -> None:
    """The two products need different integers, as each column has its scale."""
    square = 0.1 * normal(IN, IN) * np.geomspace(0.01, 1, IN, dtype=np.float32)
    body = f"""g (float[T,{IN}] x) => (float[T,{IN}] y, float[T,{IN}] z) {{
        y = MatMul(x, w) t = Transpose(w) z = MatMul(x, t)
    }}"""
    model = parse(graph(body, opset=20), {"w": square})
    x = X.reshape(-1, IN)
    before = run(model, {"x": x})
    assert sentences(apply(QuantizeLinear("int8"), model)) == []
    assert count(model) == {PRODUCT: 2}
    for old, new, weight in zip(before, by_kernels(model, x), (square, square.T), strict=True):
        assert (np.abs(new - old) <= bound(x, weight)).all()


@pytest.mark.parametrize(
    ("node", "operand", "sentence"),
    [
        ("Gemm<transA = 1>(x, w)", f"float[{IN},B] x", "it transposes x, whose rows are quantized"),
        (
            "Gemm(x, w, table)",
            f"float[5,{IN}] x",
            "its bias table is not a constant with one number for each column",
        ),
        (
            "Gemm(x, w, a)",
            f"float[B,{IN}] x, float[{OUT}] a",
            "its bias a is not a constant with one number for each column",
        ),
        ("Gemm(x, w, number)", f"float[B,{IN}] x", "its bias number is not a constant with one number for each column"),
        ("Gemm<alpha = 1e38>(x, huge)", f"float[B,{IN}] x", "huge has numbers that are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_gemm_that_does_more_than_a_layer(node: str, operand: str, sentence: str) -> None:
    weights = {"w": WEIGHT, "table": normal(5, OUT), "number": np.float32(0.5), "huge": 100 * WEIGHT}
    body = f"g ({operand}) => (float[N,{OUT}] y) {{y = {node}}}"
    assert refused(body, {name: value for name, value in weights.items() if name in node}) == [sentence]


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_small_weight_of_a_gemm(transposed: int) -> None:
    shape = [2, IN] if transposed else [IN, 2]
    body = f"g (float[B,{IN}] x) => (float[B,2] y) {{y = Gemm<transB = {transposed}>(x, w)}}"
    assert refused(body, {"w": normal(*shape)}) == [f"w has shape {shape}, which is too small to gain anything"]


def test_the_rows_of_a_transposed_weight_are_what_has_to_fit_into_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"g (float[B,{IN}] x) => (float[B,{OUT}] y) {{y = Gemm<transB = 1>(x, w)}}"
    monkeypatch.setattr(quantize_linear, "LARGEST", IN - 1)
    assert refused(body, {"w": WEIGHT.T}) == ["w has 40 rows, whose products with bytes need more than 32 bits"]
    monkeypatch.setattr(quantize_linear, "LARGEST", IN)
    assert sentences(apply(QuantizeLinear("int8"), parse(graph(body), {"w": WEIGHT.T}))) == []
