"""Small models that begin with the node which announces a run, and plans for them, made of recordings."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from turbo_onnx import runtime
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import Assumption, Buffer, MemoryPlan, Variable, Variant

Array = npt.NDArray[np.float32]
WIDTH = 16
VERSION = tuple(map(int, ort.__version__.split(".")[:2]))
with_allocators = pytest.mark.skipif(VERSION < (1, 23), reason="takes no allocator from a library")
ALLOCATED, FREED, BEGUN, EXTENT = 1, 2, 3, 4


def model(plan: str = "", layers: int = 3) -> bytes:
    """x [n, 16] float32 and scale (int64) -> y [n, 16], by products and softmaxes.

    `pick` [1] is the number of the row of the first softmax that is the output `picked`.
    """
    nodes = [
        helper.make_node("BeginRun", ["x", "scale", "pick"], ["x0", "s", "p"], domain="turbo_onnx.plan", plan=plan)
    ]
    for i in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"x{i}", "weight"], [f"a{i}"]),
            helper.make_node("Softmax", [f"a{i}"], [f"b{i}"]),
            helper.make_node("ReduceMean", [f"b{i}"], [f"c{i}"], axes=[1]),
            helper.make_node("Sub", [f"a{i}", f"c{i}"], [f"d{i}"]),
            helper.make_node("Add", [f"d{i}", f"b{i}" if i else "picked"], [f"x{i + 1}"]),
        ]
    nodes.insert(3, helper.make_node("Gather", ["b0", "p"], ["picked"]))
    nodes += [
        helper.make_node("Cast", ["s"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"x{layers}", "factor"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["y"]),
    ]
    weight = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "planned",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH]),
            helper.make_tensor_value_info("scale", TensorProto.INT64, []),
            helper.make_tensor_value_info("pick", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH]),
            helper.make_tensor_value_info("picked", TensorProto.FLOAT, [1, WIDTH]),
        ],
        [numpy_helper.from_array(weight, "weight")],
        value_info=[
            helper.make_tensor_value_info("x0", TensorProto.FLOAT, [None, WIDTH]),
            helper.make_tensor_value_info("s", TensorProto.INT64, []),
            helper.make_tensor_value_info("p", TensorProto.INT64, [1]),
        ],
    )
    return serialized(graph)


def serialized(graph: onnx.GraphProto) -> bytes:
    """The graph as a model that ONNX Runtime reads."""
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("turbo_onnx.plan", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def feed(n: int, pick: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed + n).normal(size=(n, WIDTH)).astype(np.float32)
    return {"x": x, "scale": np.array(2), "pick": np.array([pick])}


def session(content: bytes, policy: str | None = None, **options: object) -> ort.InferenceSession:
    """With the library; `options` are attributes of the session's options."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    for name, value in options.items():
        setattr(chosen, name, value)
    if policy is not None:
        chosen.add_session_config_entry("turbo_onnx.arena", policy)
    return runtime.InferenceSession(content, chosen)


def record(subject: ort.InferenceSession, inputs: dict[str, np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Events of one run: kind, size, number, when."""
    library = ctypes.CDLL(runtime.library_path())
    library.turbo_onnx_record_end.restype = ctypes.c_size_t
    library.turbo_onnx_record_end.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    assert library.turbo_onnx_record_begin()
    outputs = subject.run(None, inputs)
    count = library.turbo_onnx_record_end(None, 0)
    numbers = np.zeros((count, 4), np.int64)
    assert library.turbo_onnx_record_end(numbers.ctypes.data, numbers.size) == count
    del outputs
    return [tuple(row) for row in numbers.tolist()]


def variant(subject: ort.InferenceSession, sizes: Sequence[int] = (8, 24)) -> Variant:
    """What the session does, in one variable, n: sizes are linear in it. Outputs are what nobody frees."""
    low, high = sizes
    first, second = (
        [event for event in record(subject, feed(n)) if event[0] in (ALLOCATED, FREED)] for n in (low, high)
    )
    assert [event[::2] for event in first] == [event[::2] for event in second]
    freed = {number for kind, _, number, _ in first if kind == FREED}
    buffers = []
    for (kind, small, number, _), (_, large, _, _) in zip(first, second, strict=True):
        if kind == ALLOCATED:
            slope = (large - small) // (high - low)
            size = Formula.of([((1,), slope), ((0,), small - slope * low)])
            assert size.evaluate([high]) == large
            buffers.append(Buffer(f"buffer {number}", size, "planned" if number in freed else "output"))
    events = tuple(0 if kind == ALLOCATED else number + 1 for kind, _, number, _ in first)
    planned = tuple(number for number, buffer in enumerate(buffers) if buffer.kind == "planned")
    return Variant("recorded", tuple(buffers), events, (planned,))


def plan(*variants: Variant, assumptions: Sequence[Assumption] = ()) -> str:
    """The text of a plan in n, the first axis of the first input."""
    return MemoryPlan((Variable("n", "", 0, 0),), variants, assumptions=tuple(assumptions)).text()


def wrong(right: Variant, buffer: int = 3) -> Variant:
    """The variant, with another size of one planned buffer."""
    buffers = list(right.buffers)
    number = right.planned[buffer]
    buffers[number] = Buffer("wrong", Formula.of([((1,), 4096), ((0,), 4)]), "planned")
    return Variant("wrong", tuple(buffers), right.events, right.orders)
