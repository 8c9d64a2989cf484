"""LowerGelu: a raised Gelu becomes what the standard operator computes, from primitives."""

from __future__ import annotations

import pytest

from tests.passes.support import apply, count, equivalent, graph, normal, parse
from turbo_onnx.passes.lower_gelu import LowerGelu


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_it_computes_what_the_standard_operator_computes(approximate: str) -> None:
    standard = parse(
        graph(f'g (float[N,4] x) => (float[N,4] y) {{y = Gelu<approximate="{approximate}">(x)}}', opset=20)
    )
    lowered = parse(graph("g (float[N,4] x) => (float[N,4] y) {y = Relu(x)}"))
    node = lowered.graph.nodes[0]
    node.op, node.domain, node.attrs = "Gelu", "turbo_onnx.raised", {"approximate": approximate}
    report = apply(LowerGelu(), lowered)
    assert report.applied == 1
    assert "turbo_onnx.raised.Gelu" not in count(lowered)
    equivalent(standard, lowered, {"x": 2.0 * normal(16, 4)})


def test_a_standard_one_stays() -> None:
    model = parse(graph("g (float[N,4] x) => (float[N,4] y) {y = Gelu(x)}", opset=20))
    assert apply(LowerGelu(), model).applied == 0
