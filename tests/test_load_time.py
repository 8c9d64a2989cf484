"""What ONNX Runtime computes when it loads a model stays as it is: our operators would compute it in every run."""

from __future__ import annotations

import pytest

from tests.passes.support import apply, graph, normal, operators, parse
from turbo_onnx.load_time import known_when_loaded
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass
from turbo_onnx.passes.fuse_bias_gelu import FuseBiasGelu
from turbo_onnx.passes.fuse_normalization import FuseNormalization
from turbo_onnx.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from turbo_onnx.passes.quantize_linear import QuantizeLinear
from turbo_onnx.passes.raise_gelu import RaiseGelu

NORMALIZED = "n = LayerNormalization(a, g) "
SUM = "s = Add(a, b) n = LayerNormalization(s, g) "
GELU = "s = Add(a, g) n = Gelu(s) "
PRODUCT = "n = MatMul(a, b) "
EVERY_RUN = "a = Add(x, c) "
"""What reads an input is computed in every run."""


def model_of(nodes: str) -> Model:
    weights = {name: normal(32, 32, seed=seed) for seed, name in enumerate(("b", "c"))}
    weights |= {"a": normal(32, 32, seed=2)} if EVERY_RUN not in nodes else {}
    text = f"g (float[32,32] x) => (float[32,32] y) {{{nodes} y = Add(n, x)}}"
    return parse(graph(text, opset=20, ir_version=9), weights | {"g": normal(32)})


@pytest.mark.parametrize(
    ("nodes", "step", "written"),
    [
        (NORMALIZED, FuseNormalization(), "turbo_onnx.SkipLayerNormalization"),
        (SUM, FuseSkipLayerNormalization(), "turbo_onnx.SkipLayerNormalization"),
        (GELU, FuseBiasGelu(), "turbo_onnx.BiasGelu"),
        (PRODUCT, QuantizeLinear("int8"), "turbo_onnx.QuantizedMatMul"),
    ],
)
def test_only_what_depends_on_an_input_becomes_an_operator_of_ours(nodes: str, step: Pass, written: str) -> None:
    constant, computed = model_of(nodes), model_of(EVERY_RUN + nodes)
    before = operators(constant)
    report = apply(step, constant)
    assert (report.applied, report.rejected, operators(constant)) == (0, [], before)
    assert apply(step, computed).applied == 1
    assert written in operators(computed)


def test_chains_of_constants_are_known_and_random_numbers_are_not() -> None:
    model = parse(
        graph(
            "g (float[4] x) => (float[4] y) <float[4] c = {1, 2, 3, 4}>"
            "{ d = Exp(c) r = RandomNormalLike(d) e = Add(d, r) f = Clip(d, , c)"
            "  s = Add(f, x) t = Add(s, e) y = Neg(t) }"
        )
    )
    known = known_when_loaded(model.graph.nodes)
    assert [node.op for node in model.graph.nodes if id(node) in known] == ["Exp", "Clip"]


def test_a_raised_operator_is_left_to_lowering() -> None:
    model = parse(
        graph(
            "g (float[4] x) => (float[4] y)"
            "<float[4] c = {1, 2, 3, 4}, float r = {1.4142135}, float one = {1}, float h = {0.5}>"
            "{ d = Div(c, r) e = Erf(d) a = Add(e, one) m = Mul(c, a) n = Mul(m, h) y = Add(n, x) }"
        )
    )
    assert apply(RaiseGelu(), model).applied == 0
    assert all(node.domain in (None, "") for node in model.graph.nodes)
