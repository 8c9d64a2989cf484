"""GatedActivation: special values of every activation, both forms at the edges of vectors, memory that is shared."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.custom_ops.single_node import Array, Case, assert_equal, by_definition, by_kernel
from turbo_onnx import runtime
from turbo_onnx.custom_ops.activations import ACTIVATIONS
from turbo_onnx.custom_ops.specification import DOMAIN

RANDOM = np.random.default_rng(11)


def activated(x: Array, activation: str) -> Array:
    """The kernel's activation alone, at every place of a vector."""
    results = []
    for before in (0, 5):  # so that a number is once in a whole vector and once in the rest of a row
        row = np.concatenate([np.zeros(before, np.float32), x, np.zeros(16 - before, np.float32)])
        (y,) = by_kernel(Case("GatedActivation", [row[None], np.ones_like(row)[None]], {"activation": activation}))
        results.append(y[0, before : before + len(x)])
    np.testing.assert_array_equal(*results)
    return results[0]


EXTREME = (math.nan, math.inf, -math.inf, 1e30, -1e30, 200.0, -200.0, 0.0, 3.4e38, -3.4e38)
LINEAR = (math.nan, math.inf, math.nan, 1e30, 0.0, 200.0, 0.0, 0.0, 3.4e38, 0.0)
"""Of what is x times a share: -inf · 0 is no number."""


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("gelu", LINEAR),
        ("gelu_tanh", LINEAR),
        ("silu", LINEAR),
        ("relu", (math.nan, math.inf, 0.0, 1e30, 0.0, 200.0, 0.0, 0.0, 3.4e38, 0.0)),
        ("sigmoid", (math.nan, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5, 1.0, 0.0)),
    ],
)
def test_extreme_numbers(activation: str, expected: tuple[float, ...]) -> None:
    x, wanted = np.array(EXTREME, np.float32), np.array(expected, np.float32)
    np.testing.assert_allclose(activated(x, activation), wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("activation", ["silu", "sigmoid"])
def test_the_logistic_function_is_right_to_its_last_places_until_it_is_next_to_nothing(activation: str) -> None:
    x = np.linspace(-80, 100, 50_001, dtype=np.float32)
    exact = np.exp(-np.logaddexp(0.0, -x.astype(np.float64)))
    exact = exact * x if activation == "silu" else exact
    np.testing.assert_allclose(activated(x, activation), exact, rtol=4e-7, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("columns", [1, 15, 16, 17, 20_000])
def test_every_form_gives_the_same(columns: int, activation: str) -> None:
    gate, up = RANDOM.standard_normal((2, 3, columns)).astype(np.float32)
    gate_bias, up_bias = RANDOM.standard_normal((2, columns)).astype(np.float32)
    (apart,) = by_kernel(Case("GatedActivation", [gate + gate_bias, up + up_bias], {"activation": activation}))
    order = {0: (gate, up, gate_bias, up_bias), 1: (up, gate, up_bias, gate_bias)}
    for last, (first, second, first_bias, second_bias) in order.items():
        inputs = [np.concatenate([first, second], axis=1), None, np.concatenate([first_bias, second_bias])]
        joined = Case("GatedActivation", inputs, {"activation": activation, "gate_last": last})
        for actual in (by_kernel(joined, threads=2), by_definition(joined, 17)):
            assert_equal(actual, [apart])


def test_results_may_take_the_memory_of_either_operand() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Neg", ["z"], ["b"]),
        helper.make_node("GatedActivation", ["a", "b"], ["c"], domain=DOMAIN, activation="silu"),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, TensorProto.FLOAT, ["T", 40]) for name in "xz"],
        [value("y", TensorProto.FLOAT, ["T", 40])],
        value_info=[value(name, TensorProto.FLOAT, ["T", 40]) for name in "abc"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(proto)
    x, z = RANDOM.standard_normal((2, 7, 40)).astype(np.float32)
    (actual,) = runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": x, "z": z})
    (expected,) = Case("GatedActivation", [-x, -z], {"activation": "silu"}).expected()
    assert_equal([actual], [-expected])
