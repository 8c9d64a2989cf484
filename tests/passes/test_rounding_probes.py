"""Functions of one number, computed with half precision's roundings and without."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import graph, parse
from turbo_onnx import shapes
from turbo_onnx.graph import Tensor
from turbo_onnx.passes.rounding_probes import Probes, Table, overflows, same_decision
from turbo_onnx.precision import BFLOAT16, FLOAT16

NUMBERS = {"one": 1, "many": 2048, "low": -65504}


def output(body: str) -> Tensor:
    model = parse(graph(body), {name: np.array(value, np.float16) for name, value in NUMBERS.items() if name in body})
    shapes.infer(model)
    return model.graph.outputs[0]


def test_a_function_of_an_integer_is_computed_both_ways() -> None:
    table = Probes().of(output("g (int64[N] n) => (float16[N] y) { f = Cast<to = 10>(n) y = Add(f, one) }"))
    assert table is not None
    assert table.half.dtype == np.float16
    at = np.flatnonzero(table.wide == 2050)[0]  # 2049 + 1; float16 has 2048 for 2049
    assert table.half[at] == 2048


def decided(body: str) -> Table | None:
    """What the node behind the output decides."""
    return Probes().of_decision(output(body).inputs[0])


@pytest.mark.parametrize(
    ("function", "same"),
    [
        ("f = Cast<to = 10>(n) y = Equal(f, one)", True),
        ("f = Cast<to = 10>(n) g = Sub(one, f) y = Cast<to = 9>(g)", True),
        ("f = Cast<to = 10>(n) y = Greater(f, many)", False),  # 2049 is greater than 2048, but not rounded
    ],
)
def test_decisions_are_compared_at_every_integer(function: str, same: bool) -> None:
    body = f"g (int64[N] n) => (bool[N] y) {{ {function} }}"
    assert same_decision(decided(body)) is same


@pytest.mark.parametrize(
    ("function", "same"),
    [
        ("a = Sub(x, one) y = Cast<to = 9>(a)", True),  # no difference is rounded to zero
        ("a = Add(x, one) y = Equal(a, one)", False),  # 1 + 2^-12 is 1 in float16
    ],
)
def test_all_numbers_of_an_input_in_half_precision_are_tried(function: str, same: bool) -> None:
    table = decided(f"g (float16[N] x) => (bool[N] y) {{ {function} }}")
    assert table is not None
    assert table.half.shape == (1 << 16,)
    assert same_decision(table) is same


def test_functions_of_different_elements_are_not_mixed() -> None:
    """An element of the mask and one of its transposed are two numbers."""
    assert decided("g (bool[N,N] m) => (bool[N,N] y) { t = Transpose(m) y = And(m, t) }") is None
    assert Probes().of(output("g (bool[N] m) => (bool[N,1] y) <int64[1] a = {1}> { t = Unsqueeze(m, a) y = Not(t) }"))


@pytest.mark.parametrize(
    "function",
    [
        "a = Cast<to = 10>(n) y = Exp(a)",  # not the same on every machine
        "a = Cast<to = 10>(n) y = CumSum(a, c)",  # mixes elements
    ],
)
def test_what_is_not_element_wise_or_exact_is_not_followed(function: str) -> None:
    body = f"g (int64[N] n) => (float16[N] y) <int64 c = {{0}}> {{ {function} }}"
    if "CumSum" in function:
        body = body.replace("to = 10", "to = 1").replace("float16[N] y", "float[N] y")
    assert Probes().of(output(body)) is None


def test_only_what_half_precision_alone_cannot_hold_overflows() -> None:
    scaled = output(
        "g (bool[N] m) => (float16[N] y) <float c = {-1e9}> { f = Cast<to = 1>(m) a = Mul(f, c) y = Cast<to = 10>(a) }"
    )
    infinite = output("g (bool[N] m) => (float16[N] y) { f = Cast<to = 10>(m) y = Div(low, f) }")
    assert overflows(Probes((0, 1)).of(scaled), FLOAT16)
    assert not overflows(Probes((0, 1)).of(infinite), FLOAT16)
    assert not overflows(Probes((0, 1)).of(scaled), BFLOAT16)
    assert not overflows(None, FLOAT16)
    assert np.isinf(np.asarray(Probes((0, 1)).of(infinite).half)).any()  # type: ignore[union-attr]
