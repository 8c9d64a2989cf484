"""RaiseLinear: a Gemm between a Reshape and its opposite becomes MatMul and Add on three axes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.attention_graphs import cleaned
from tests.passes.support import apply, count, equivalent, graph, normal, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.raise_linear import RaiseLinear


def layer(gemm: str, *, back: str = "{-1, 5, 6}", outputs: str = "float[B,5,6] y", weights: str = "w") -> Model:
    text = graph(
        f"g (float[B,5,8] x) => ({outputs}) <int64[2] flat = {{-1, 8}}, int64[3] back = {back}, "
        f"float[6] bias = {{1,2,3,4,5,6}}> {{ rows = Reshape(x, flat) g = {gemm} y = Reshape(g, back) }}"
    )
    return cleaned(parse(text, {"w": normal(8, 6), "wt": normal(6, 8)} if weights == "w" else {"w": normal(8, 6)}))


@pytest.mark.parametrize(
    ("gemm", "expected"),
    [
        ("Gemm(rows, w, bias)", {"MatMul": 1, "Add": 1}),
        ("Gemm(rows, w)", {"MatMul": 1}),
        ("Gemm<transB = 1>(rows, wt, bias)", {"MatMul": 1, "Add": 1}),
        ("Gemm<alpha = 1.0, beta = 1.0, transA = 0>(rows, w, bias)", {"MatMul": 1, "Add": 1}),
    ],
)
def test_the_detour_over_two_axes_goes(gemm: str, expected: dict[str, int]) -> None:
    before, after = layer(gemm), layer(gemm)
    apply(RaiseLinear(), after)
    assert count(after) == expected
    data = {"x": normal(3, 5, 8, seed=2)}
    equivalent(run(before, data), after, data)


def test_heads_are_merged_apart_from_the_rows() -> None:
    text = graph(
        "g (float[B,5,2,4] x) => (float[B,5,6] y) <int64[2] flat = {-1, 8}, int64[3] back = {-1, 5, 6}> "
        "{ rows = Reshape(x, flat) g = Gemm(rows, w) y = Reshape(g, back) }"
    )
    before, after = (cleaned(parse(text, {"w": normal(8, 6)})) for _ in range(2))
    apply(RaiseLinear(), after)
    assert count(after) == {"Reshape": 1, "MatMul": 1}
    data = {"x": normal(3, 5, 2, 4)}
    equivalent(run(before, data), after, data)


@pytest.mark.parametrize(
    ("gemm", "sentence"),
    [("Gemm<alpha = 2.0>(rows, w, bias)", "transposes or scales"), ("Gemm<beta = 0.5>(rows, w, bias)", "scales")],
)
def test_a_gemm_that_scales_stays(gemm: str, sentence: str) -> None:
    model = layer(gemm)
    report = apply(RaiseLinear(), model)
    assert count(model)["Gemm"] == 1
    assert sentence in sentences(report)[0]


def test_rows_that_are_cut_otherwise_stay() -> None:
    model = layer("Gemm(rows, w, bias)", back="{5, -1, 6}", outputs="float[5,B,6] y")
    apply(RaiseLinear(), model)
    assert count(model)["Gemm"] == 1


def test_a_product_that_is_an_output_stays() -> None:
    model = layer("Gemm(rows, w, bias)", outputs="float[B,5,6] y, float[N,6] g")
    report = apply(RaiseLinear(), model)
    assert "output of the graph" in sentences(report)[0]


def test_what_is_left_in_half_precision_stays() -> None:
    text = graph(
        "g (float16[B,5,8] x) => (float16[B,5,6] y) <int64[2] flat = {-1, 8}, int64[3] back = {-1, 5, 6}> "
        "{ rows = Reshape(x, flat) g = Gemm(rows, w) y = Reshape(g, back) }"
    )
    report = apply(RaiseLinear(), cleaned(parse(text, {"w": normal(8, 6).astype(np.float16)})))
    assert sentences(report) == ["g is in half precision, and what is left of that keeps its roundings"]
