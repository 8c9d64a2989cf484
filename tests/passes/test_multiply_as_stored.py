"""MultiplyAsStored: a product with a weight's transpose reads the weight as it lies; nothing else is touched."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.passes.support import apply, count, equivalent, graph, parse
from turbo_onnx import optimize, peak_bytes, shapes
from turbo_onnx.passes.multiply_as_stored import MultiplyAsStored

RANDOM = np.random.default_rng(3)
TABLE = RANDOM.standard_normal((40, 8)).astype(np.float32)
X = RANDOM.standard_normal((2, 3, 8)).astype(np.float32)
FUSED = "com.microsoft.FusedMatMul"

TAKEN = {
    "a head on tied embeddings": (
        "t = Transpose<perm = [1,0]>(w) e = Gather(w, ids) s = Add(x, e) y = MatMul(s, t)",
        "float[B,S,8] x, int64[B,S] ids",
        {"x": X, "ids": RANDOM.integers(0, 40, (2, 3))},
        1,
    ),
    "axes turned by default": ("t = Transpose(w) y = MatMul(x, t)", "float[B,S,8] x", {"x": X}, 1),
    "rows of a matrix": ("t = Transpose(w) y = MatMul(x, t)", "float[T,8] x", {"x": X[0]}, 1),
    "no rows": ("t = Transpose(w) y = MatMul(x, t)", "float[T,8] x", {"x": X[0, :0]}, 1),
    "two products": (
        "t = Transpose(w) n = Neg(x) a = MatMul(n, t) b = MatMul(x, t) y = Mul(a, b)",
        "float[B,S,8] x",
        {"x": X},
        2,
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_product_with_a_transposed_weight_reads_it_as_it_lies(name: str) -> None:
    body, inputs, feed, products = TAKEN[name]
    rank = inputs.count(",", 0, inputs.index("]"))
    result = "float[T,40] y" if rank == 1 else "float[B,S,40] y"
    model = parse(graph(f"g ({inputs}) => ({result}) {{ {body} }}"), {"w": TABLE})
    before = model.to_proto()
    shapes.infer(model)
    report = apply(MultiplyAsStored(), model)
    assert report.applied == count(model)[FUSED] == products
    assert not {"Transpose", "MatMul"} & count(model).keys()
    shapes.infer(model)
    assert list(model.graph.outputs[0].shape)[-1] == 40
    equivalent(before, model, feed)


LEFT = {
    "on the left": (
        "t = Transpose(w) y = MatMul(t, z)",
        "float[40,S] z",
        "float[8,S] y",
        "MatMul .* needs the transpose",
    ),
    "read by something else": (
        "t = Transpose(w) n = Neg(t) a = MatMul(x, t) b = MatMul(x, n) y = Add(a, b)",
        "float[S,8] x",
        "float[S,40] y",
        "Neg .* needs the transpose of w itself",
    ),
    "an output": (
        "t = Transpose(w) y = MatMul(x, t)",
        "float[S,8] x",
        "float[S,40] y, float[8,40] t",
        "the transpose of w is an output",
    ),
    "a vector": ("t = Transpose(w) y = MatMul(x, t)", "float[8] x", "float[40] y", "x is not known to have rows"),
    "computed": ("m = Mul(w, v) t = Transpose(m) y = MatMul(x, t)", "float[S,8] x, float v", "float[S,40] y", None),
    "as it is": ("t = Transpose<perm = [0,1]>(w) y = MatMul(t, z)", "float[8,S] z", "float[40,S] y", None),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_products_stay(name: str) -> None:
    body, inputs, outputs, sentence = LEFT[name]
    model = parse(graph(f"g ({inputs}) => ({outputs}) {{ {body} }}"), {"w": TABLE})
    shapes.infer(model)
    before = model.to_proto().graph.node
    report = apply(MultiplyAsStored(), model)
    assert report.applied == 0
    assert model.to_proto().graph.node == before
    assert len(report.rejected) == (sentence is not None)
    for rejection in report.rejected:
        assert re.search(sentence, rejection.sentence)


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT16"])
def test_only_float32_is_taken(kind: str) -> None:
    element = {"DOUBLE": ("double", np.float64), "FLOAT16": ("float16", np.float16)}[kind]
    text = f"g ({element[0]}[S,8] x) => ({element[0]}[S,40] y) {{ t = Transpose(w) y = MatMul(x, t) }}"
    model = parse(graph(text), {"w": TABLE.astype(element[1])})
    shapes.infer(model)
    assert apply(MultiplyAsStored(), model).applied == 0


def test_a_product_in_a_branch_keeps_the_transpose() -> None:
    text = """g (float[S,8] x, bool flag) => (float[S,40] y) {
        t = Transpose(w)
        y = If(flag) <
            then_branch = a () => (float[S,40] p) { p = MatMul(x, t) },
            else_branch = b () => (float[S,40] q) { r = MatMul(x, t) q = Neg(r) }
        >
    }"""
    model = parse(graph(text), {"w": TABLE})
    shapes.infer(model)
    report = apply(MultiplyAsStored(), model)
    assert report.applied == 0
    assert "needs the transpose of w itself" in report.rejected[0].sentence


def _tied_decoder() -> bytes:
    """A table of more than a megabyte, so that its transpose is not folded."""
    table = RANDOM.standard_normal((6000, 64)).astype(np.float32)
    model = parse(
        graph(
            "g (int64[B,S] ids) => (float[B,S,6000] y)"
            "{ e = Gather(w, ids) n = Tanh(e) t = Transpose(w) y = MatMul(n, t) }"
        ),
        {"w": table},
    )
    return model.to_proto().SerializeToString()


def test_peak_bytes_of_tied_embeddings_do_not_count_the_table_and_the_file_holds_it_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "tied.onnx"
    result = optimize(_tied_decoder(), output=path)
    assert result.report.verify is not None
    assert result.report.verify.ok
    assert result.report.ops_after[FUSED] == 1
    assert path.stat().st_size < 1.5 * 6000 * 64 * 4
    (variant,) = result.require_plan().variants
    assert variant.name == "all, extended, basic, none"
    assert peak_bytes(path, batch=1, length=1) < 64 * 4 * 10 + 6000 * 4 + 4096


def test_it_is_for_cpus_only() -> None:
    from turbo_onnx import pipeline
    from turbo_onnx.options import Options

    assert MultiplyAsStored.name in pipeline.names(pipeline.select(Options()))
    assert MultiplyAsStored.name not in pipeline.names(pipeline.select(Options(target="cuda:sm_90")))
