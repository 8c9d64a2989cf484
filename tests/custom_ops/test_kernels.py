"""What random uses of a single node do not reach: special values, large sizes, memory that is shared."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.custom_ops.single_node import Case, assert_equal, by_kernel
from turbo_onnx import runtime
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.specification import DOMAIN

RANDOM = np.random.default_rng(7)


def run(nodes, inputs, outputs, **feeds):
    """Run nodes of ours on float32 inputs, all of rank 2, in one session."""
    value = helper.make_tensor_value_info
    shapes = {name: list(feeds[name].shape) for name in inputs}
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, TensorProto.FLOAT, shapes[name]) for name in inputs],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, domain=DOMAIN, **attributes)


def test_gelu_is_within_two_units_in_the_last_place_of_one_everywhere():
    x = np.linspace(-12, 12, 200_001, dtype=np.float32)[None]
    exact = (0.5 * x.astype(np.float64)) * (1 + np.vectorize(math.erf)(x.astype(np.float64) / math.sqrt(2)))
    (actual,) = by_kernel(Case("BiasGelu", [x]))
    assert np.abs((actual - exact) / np.maximum(1, np.abs(x))).max() < 2.5e-7


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_nan_and_infinity(approximate):
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, 1e30, -1e30]], np.float32)
    (actual,) = by_kernel(Case("BiasGelu", [x], {"approximate": approximate}))
    assert np.isnan(actual[0, 0])
    assert actual[0, 1] == np.inf
    assert actual[0, 3] == 0
    assert actual[0, 4] == np.float32(1e30)
    assert actual[0, 5] == 0


def test_the_variance_survives_a_mean_that_is_much_larger():
    x = (4096 + RANDOM.integers(-8, 9, (3, 100))).astype(np.float32)
    case = Case("SkipLayerNormalization", [x, np.zeros_like(x), np.ones(100, np.float32)])
    assert_equal(by_kernel(case), case.expected())


def test_a_nan_stays_in_its_row():
    x = RANDOM.standard_normal((3, 20)).astype(np.float32)
    clean = Case("SkipLayerNormalization", [x, x, np.ones(20, np.float32)])
    (expected,) = by_kernel(clean)
    dirty = x.copy()
    dirty[1, 4] = np.nan
    (actual,) = by_kernel(Case("SkipLayerNormalization", [dirty, x, np.ones(20, np.float32)]))
    assert np.isnan(actual[1]).all()
    np.testing.assert_array_equal(actual[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("shape", [(3, 20_000), (1000, 33), (70_000, 1)])
def test_work_that_is_cut_into_many_items_is_all_done(shape):
    x = RANDOM.integers(-8, 9, shape).astype(np.float32)
    gamma = RANDOM.standard_normal(shape[1]).astype(np.float32)
    for case in (
        Case("SkipLayerNormalization", [x, x, gamma, None, gamma.round()], {"epsilon": 1e-2}, outputs=2),
        Case("BiasGelu", [x, gamma]),
    ):
        assert_equal(by_kernel(case, threads=2), case.expected())


def test_rows_longer_than_an_item_are_restored():
    mask = np.array([[1, 0, 1], [0, 0, 1]], np.int64)
    rows = RANDOM.standard_normal((3, 2, 20_000)).astype(np.float32)
    case = Case("RestorePadding", [rows, np.array([0, 2, 5]), mask])
    assert_equal(by_kernel(case, threads=2), case.expected())


def test_results_are_right_where_memory_is_shared_with_the_inputs():
    x = RANDOM.integers(-8, 9, (5, 40)).astype(np.float32)
    skip = RANDOM.integers(-8, 9, (5, 40)).astype(np.float32)
    gamma = np.ones(40, np.float32)
    nodes = [  # every intermediate has one reader, so that its memory may be taken over
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Neg", ["skip"], ["b"]),
        node("SkipLayerNormalization", ["a", "b", "gamma"], ["c", "d"]),
        node("BiasGelu", ["c"], ["e"]),
        helper.make_node("Neg", ["e"], ["output"]),
        helper.make_node("Neg", ["d"], ["sum"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(n, TensorProto.FLOAT, s) for n, s in (("x", ["T", 40]), ("skip", ["T", 40]), ("gamma", [40]))],
        [value(n, TensorProto.FLOAT, ["T", 40]) for n in ("output", "sum")],
        value_info=[value(n, TensorProto.FLOAT, ["T", 40]) for n in "abcde"],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = runtime.InferenceSession(proto.SerializeToString())
    output, total = session.run(None, {"x": x, "skip": skip, "gamma": gamma})
    normal, expected_total = Case("SkipLayerNormalization", [-x, -skip, gamma], outputs=2).expected()
    (expected,) = Case("BiasGelu", [normal]).expected()
    assert_equal([output, total], [-expected, -expected_total])


def test_every_alias_has_a_kernel():
    x, gamma = np.arange(4, dtype=np.float32)[None], np.ones(4, np.float32)
    for number in range(2, 1 + spec("SkipLayerNormalization").forms):
        use = node(f"SkipLayerNormalization_{number}", ["x", "", "gamma"], ["y"])
        (actual,) = run([use], ["x", "gamma"], ["y"], x=x, gamma=gamma)
        assert_equal([actual], Case("SkipLayerNormalization", [x, None, gamma]).expected())
