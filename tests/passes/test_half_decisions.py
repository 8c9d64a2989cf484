"""What stays in half precision: decisions by rounded numbers, with all that leads to them, and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.passes.support import graph, normal, parse, run
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.half_decisions import Decisions
from turbo_onnx.passes.widen_precision import WidenPrecision

W = normal(4, 4).astype(np.float16)
NUMBERS = {"zero": 0, "half": 0.5, "one": 1, "three": 3, "low": -65504, "some": 64504, "most": 65504}


def model_of(body: str, opset: int = 17) -> Model:
    numbers = {name: np.array(value, np.float16) for name, value in NUMBERS.items() if re.search(rf"\b{name}\b", body)}
    model = parse(graph(body, opset=opset), {"w": W} | numbers)
    shapes.infer(model)
    return model


def kept(body: str, opset: int = 17) -> tuple[list[str], list[str]]:
    """The operators of the nodes that stay, and the reasons."""
    model = model_of(body, opset)
    decisions = Decisions(model)
    stay = [node.op for node in model.graph.nodes if id(node) in decisions.kept]
    return stay, [why for _, why in decisions.why]


X = "g (float16[N,4] x)"


@pytest.mark.parametrize(
    ("output", "node"),
    [
        ("int64[N,1] y", "y = ArgMax<axis = 1>(a)"),
        ("int32[N,4] y", "y = Cast<to = 6>(a)"),
        ("bool[N,4] y", "y = Greater(a, x)"),
        ("float16[N,4] y", "y = Round(a)"),
        ("float16[N,4] y", "y = Sign(a)"),
        ("bool[N,4] y", "y = IsNaN(a)"),
    ],
)
def test_a_decision_by_rounded_numbers_stays_with_what_leads_to_it(output: str, node: str) -> None:
    stay, why = kept(f"{X} => ({output}, float16[N,4] z) {{ b = Mul(x, x) a = MatMul(b, w) {node} z = Exp(x) }}")
    assert len(stay) == 3
    assert "Exp" not in stay
    assert why[0].startswith("'a' is rounded to half precision, and without that ")
    assert why[0].endswith(" could decide otherwise: it stays as it is, with 2 nodes leading to it")


@pytest.mark.parametrize(
    "body",
    [
        "=> (int64[N,1] y) { a = Neg(x) b = Transpose<perm = [0, 1]>(a) y = ArgMax<axis = 1>(b) }",
        "=> (bool[N,4] y) { a = Cast<to = 1>(x) y = Less(a, a) }",
        "=> (int64[2] y) { a = MatMul(x, w) y = Shape(a) }",
    ],
)
def test_decisions_by_numbers_that_no_rounding_has_touched_do_not(body: str) -> None:
    assert kept(f"{X} {body}") == ([], [])


def test_rounded_numbers_are_followed_through_float32() -> None:
    stay, _ = kept(
        f"{X} => (float[N,2] v, int64[N,2] y) <int64[1] k = {{2}}>"
        " { a = MatMul(x, w) f = Cast<to = 1>(a) e = Exp(f) v, y = TopK(e, k) }"
    )
    assert stay == ["MatMul", "Cast", "Exp", "TopK"]


def test_float32_that_is_rounded_by_a_cast_is_followed() -> None:
    stay, _ = kept("g (float[N,4] x) => (bool[N,4] y) { h = Cast<to = 10>(x) y = Less(h, half) }")
    assert stay == ["Cast", "Less"]


@pytest.mark.parametrize("kind", ["int64", "bool", "float16", "uint8"])
def test_masks_that_are_compared_do_not_stay(kind: str) -> None:
    body = (
        f"g ({kind}[N,4] m, float16[N,4] x) => (float16[N,4] y) "
        " { f = Cast<to = 10>(m) i = Sub(one, f) b = Cast<to = 9>(i) w0 = Where(b, low, i) y = Add(w0, x) }"
    )
    assert kept(body) == ([], [])


def test_buckets_of_positions_stay() -> None:
    """A third of an integer is rounded, and its floor is another integer: 6144 / 3 is 2048 and 6147 / 3 is not 2048."""
    body = "g (int64[N] p) => (int64[N] y) { f = Cast<to = 10>(p) q = Div(f, three) y = Cast<to = 7>(q) }"
    assert kept(body)[0] == ["Cast", "Div", "Cast"]


def test_a_guard_against_rows_of_nan_does_not_stay() -> None:
    body = f"{X} => (float16[N,4] y) {{ p = Softmax<axis = -1>(x) n = IsNaN(p) y = Where(n, zero, p) }}"
    assert kept(body) == ([], [])


def test_a_bound_that_is_lower_after_an_overflow_does_not_stay() -> None:
    body = (
        f"{X} => (float16[N,4] y) {{ a = MatMul(x, w)"
        " f = Cast<to = 1>(a) n = IsInf(f) i = Cast<to = 6>(n) m = ReduceMax<keepdims = 0>(i) b = Cast<to = 9>(m)"
        " t = Where(b, some, most) y = Min(a, t) }"
    )
    assert kept(body) == ([], [])


def test_a_mask_that_is_infinite_in_half_precision_only_stays_so() -> None:
    body = (
        "g (int64[N,4] m, float16[N,4] x) => (float16[N,4] y) <float full = {1}, float lost = {-3.4e38}>"
        " { f = Cast<to = 1>(m) i = Sub(full, f) b = Mul(i, lost) h = Cast<to = 10>(b) y = Add(x, h) }"
    )
    stay, why = kept(body)
    assert stay == ["Cast"]
    assert why == ["it makes 'h' infinite for what a mask holds: it stays as it is"]
    model = model_of(body)
    WidenPrecision().run(model)
    m, x = np.array([[1, 0, 1, 0]]), np.ones((1, 4), np.float16)
    assert run(model, {"m": m, "x": x})[0].tolist() == [[1, -np.inf, 1, -np.inf]]


def test_a_sum_of_lowest_numbers_that_overflows_stays_infinite() -> None:
    body = "g (bool[N,4] m, float16[N,4] x) => (float16[N,4] y) { b = Where(m, zero, low) c = Add(b, b) y = Add(c, x) }"
    assert kept(body)[0] == ["Add"]
    model = model_of(body)
    WidenPrecision().run(model)
    x = np.full((1, 4), 1000, np.float16)
    assert run(model, {"m": np.zeros((1, 4), bool), "x": x})[0].tolist() == [[-np.inf] * 4]


def test_an_operator_that_is_not_known_stays() -> None:
    stay, why = kept(f"{X} => (float16[N,4] y) {{ y = ThresholdedRelu(x) }}")
    assert (stay, why) == (
        ["ThresholdedRelu"],
        ["ThresholdedRelu is not known to be the same in float32: it stays as it is"],
    )


def test_what_stays_decides_bit_for_bit_as_before() -> None:
    """ONNX Runtime moves elements in float16, so that what moves is rounded; in float32 most integers were others."""
    body = (
        f"{X} => (int64[4,N] y, float16[4,N] z)"
        " { a = Mul(x, x) b = Transpose<perm = [1, 0]>(a) y = Cast<to = 7>(b) z = Exp(b) }"
    )
    before, after = model_of(body), model_of(body)
    WidenPrecision().run(after)
    x = (100 * normal(4096, 4, seed=3).clip(-2, 2)).astype(np.float16)
    integers = run(before, {"x": x})[0]
    np.testing.assert_array_equal(run(after, {"x": x})[0], integers)
    assert np.mean((x.astype(np.float32) ** 2).astype(np.int64) != integers.T) > 0.5
