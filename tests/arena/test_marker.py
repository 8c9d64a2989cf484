"""The node that announces a run, whatever passes it."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tests.arena.planned_models import ALLOCATED, BEGUN, record, serialized, session, with_allocators
from turbo_onnx.custom_ops.begin_run import MOST_OPERANDS

VALUES = {
    TensorProto.FLOAT: np.arange(6, dtype=np.float32).reshape(2, 3),
    TensorProto.DOUBLE: np.arange(4.0),
    TensorProto.FLOAT16: np.ones((1, 1, 2), np.float16),
    TensorProto.INT8: np.array(-3, np.int8),
    TensorProto.UINT8: np.array([3], np.uint8),
    TensorProto.INT32: np.arange(5, dtype=np.int32),
    TensorProto.INT64: np.zeros((0, 4), np.int64),
    TensorProto.BOOL: np.array([True, False]),
    TensorProto.STRING: np.array(["a", "longer than any that fits into the object itself"], dtype=object),
}
TYPES = list(VALUES)


def through(types: list[int], shapes: bool = True, outputs: bool = True, direct: bool = False) -> bytes:
    """A model that gives back all its inputs, by way of the marker.

    Args:
        types: of the inputs.
        shapes: whether the inputs' shapes are written in the model.
        outputs: whether the outputs' are.
        direct: whether the marker's outputs are the model's, with no node between.
    """
    names = range(len(types))
    passed = [f"{'y' if direct else 'm'}{i}" for i in names]
    nodes = [helper.make_node("BeginRun", [f"x{i}" for i in names], passed, domain="turbo_onnx.plan", plan="")]
    if not direct:
        nodes += [helper.make_node("Identity", [f"m{i}"], [f"y{i}"]) for i in names]

    def info(name: str, kind: int, known: bool):
        return helper.make_tensor_value_info(name, kind, [None] * VALUES[kind].ndim if known else None)

    inputs = [info(f"x{i}", kind, shapes) for i, kind in enumerate(types)]
    given = [info(f"y{i}", kind, outputs) for i, kind in enumerate(types)]
    inside = [] if direct else [info(f"m{i}", kind, shapes) for i, kind in enumerate(types)]
    return serialized(helper.make_graph(nodes, "through", inputs, given, value_info=inside))


def assert_passes(content: bytes, types: list[int], **options: object) -> None:
    values = [VALUES[kind] for kind in types]
    results = session(content, **options).run(None, {f"x{i}": value for i, value in enumerate(values)})
    for result, value in zip(results, values, strict=True):
        np.testing.assert_array_equal(result, value)
        assert result.shape == value.shape


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_every_type_and_rank_passes(level):
    assert_passes(through(TYPES), TYPES, graph_optimization_level=getattr(ort.GraphOptimizationLevel, level))


@pytest.mark.parametrize("policy", ["trim", "off"])
def test_an_input_may_be_an_output(policy):
    assert_passes(through(TYPES, direct=True), TYPES, policy=policy)


def test_shapes_need_not_be_known():
    assert_passes(through(TYPES, shapes=False, outputs=False), TYPES)
    assert_passes(through(TYPES, shapes=False), TYPES)


@pytest.mark.parametrize("count", [1, 70, MOST_OPERANDS + 1])
def test_any_number_of_inputs_passes(count):
    types = [TensorProto.FLOAT, TensorProto.INT32] * (count // 2) + [TensorProto.BOOL] * (count % 2)
    assert_passes(through(types), types)


@with_allocators
@pytest.mark.parametrize("beyond", [0, 2])
def test_as_many_inputs_as_a_plan_is_made_for_pass_in_the_same_memory(beyond):
    types = [TensorProto.FLOAT] * (MOST_OPERANDS + beyond)
    subject = session(through(types), graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    kinds = [kind for kind, *_ in record(subject, {f"x{i}": VALUES[kind] for i, kind in enumerate(types)})]
    assert kinds[: kinds.index(BEGUN)].count(ALLOCATED) == beyond


def test_one_output_of_two_may_be_unused():
    nodes = [
        helper.make_node("BeginRun", ["x0", "x1"], ["m0", "m1"], domain="turbo_onnx.plan", plan=""),
        helper.make_node("Neg", ["m1"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["n"]) for i in range(2)]
    inside = [helper.make_tensor_value_info(f"m{i}", TensorProto.FLOAT, None) for i in range(2)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(nodes, "half", inputs, outputs, value_info=inside)
    x = np.ones(3, np.float32)
    np.testing.assert_array_equal(session(serialized(graph)).run(None, {"x0": x, "x1": x})[0], -x)


def test_inputs_of_unknown_sizes_are_not_taken_for_equal():
    """What has two axes of unknown sizes shares no memory with what has two others."""
    nodes = [
        helper.make_node("BeginRun", ["x", "y"], ["x0", "y0"], domain="turbo_onnx.plan", plan=""),
        helper.make_node("Sin", ["x0"], ["a"]),
        helper.make_node("ReduceSum", ["a"], ["b"], keepdims=0),
        helper.make_node("Add", ["y0", "b"], ["c"]),
        helper.make_node("Cos", ["c"], ["d"]),
        helper.make_node("ReduceSum", ["d"], ["z"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in "xy"]
    inside = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("x0", "y0")]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [])]
    content = serialized(helper.make_graph(nodes, "two", inputs, outputs, value_info=inside))
    subject = session(content, graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    for m, n in ((4, 4), (4, 100), (100, 4)):
        x, y = np.ones((m, 16), np.float32), np.ones((n, 16), np.float32)
        np.testing.assert_allclose(subject.run(None, {"x": x, "y": y})[0], np.cos(y + np.sin(x).sum()).sum(), rtol=1e-3)
