"""What every test of a pass needs: graphs as text, runs with and without it, and what must hold afterwards."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnxruntime as ort

from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

LOWERINGS = (
    ("lower_gelu", "LowerGelu"),
    ("lower_attention", "LowerAttention"),
    ("lower_rms_normalization", "LowerRmsNormalization"),
)

os.environ.setdefault("OMP_NUM_THREADS", "1")


def parse(text: str, weights: Mapping[str, np.ndarray] | None = None) -> Model:
    """A model from ONNX text, with the shapes and types that onnx infers.

    Args:
        text: the model; the leading `<ir_version: …, opset_import: […]>` may be left out.
        weights: initializers to add, by name, for those too long to write down.
    """
    proto = onnx.parser.parse_model(text)
    for name, value in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(proto)
    return Model.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def graph(body: str, *, opset: int = 17, ir_version: int = 8) -> str:
    """The text of a model at the given opset whose graph is `body`."""
    return f'<ir_version: {ir_version}, opset_import: ["": {opset}]>\n{body}'


def runnable(model: Model) -> onnx.ModelProto:
    """The model as stock onnxruntime takes it: raised operators lowered, function bodies for those of our domain."""
    copy = Model.from_proto(model.to_proto())
    for name, rewrite in LOWERINGS:
        try:
            module = importlib.import_module(f"turbo_onnx.passes.{name}")
        except ModuleNotFoundError:
            continue
        getattr(module, rewrite)().run(copy)
    return copy.to_proto()


def run(model: Model | onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The model's outputs in stock onnxruntime, with all of its optimizations off."""
    proto = runnable(model) if isinstance(model, Model) else model
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def equivalent(
    before: Model | onnx.ModelProto | Sequence[np.ndarray],
    after: Model,
    inputs: Mapping[str, np.ndarray],
    tolerance: float = 1e-5,
) -> None:
    """Assert that both give the same outputs: same types and shapes, numbers within the tolerance.

    Args:
        before: a model, or the outputs that it had.
        after: the rewritten model.
        inputs: by name.
        tolerance: relative, and absolute in units of the largest magnitude of the output.
    """
    expected = before if isinstance(before, list) else run(before, inputs)  # type: ignore[arg-type]
    actual = run(after, inputs)
    assert len(expected) == len(actual)
    for old, new in zip(expected, actual, strict=True):
        assert old.dtype == new.dtype
        assert old.shape == new.shape
        finite = np.abs(old[np.isfinite(old)]) if old.dtype.kind == "f" else np.abs(old)
        scale = float(finite.max()) if finite.size else 1.0
        np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance * max(scale, 1e-30))


def operators(model: Model) -> list[str]:
    """The operator types of the graph in its order, those of our own domain as `turbo_onnx.Name`."""
    return [
        f"{node.domain}.{node.op}" if node.domain not in (None, "", "ai.onnx") else node.op
        for node in model.graph.nodes
    ]


def count(model: Model) -> Counter[str]:
    """How often each operator type occurs."""
    return Counter(operators(model))


def apply(rewrite: Pass, model: Model) -> PassReport:
    """Run the pass, and assert what every pass promises.

    The graph is sorted, has no dead nodes and no dangling tensors, is valid ONNX with consistent shapes, and a second
    run of the pass changes nothing.
    """
    report = rewrite.run(model)
    check_invariants(model)
    nodes = operators(model)
    again = rewrite.run(model)
    assert again.applied == 0, "a second run found more to do"
    assert operators(model) == nodes, "a second run changed the graph"
    return report


def check_invariants(model: Model) -> None:
    """Assert that the graph is in the state in which a pass has to leave it."""
    known = {id(tensor) for tensor in model.graph.inputs}
    read: set[int] = {id(tensor) for tensor in model.graph.outputs}
    for subgraph in model.graph.subgraphs(recursive=True):
        read |= {id(tensor) for node in subgraph.nodes for tensor in node.inputs}
    names: set[str] = set()
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if tensor.name == "" or type(tensor).__name__ == "Constant":
                continue
            read.add(id(tensor))
            assert id(tensor) in known, f"{node.name} reads {tensor.name} before it is computed"
            assert any(reader is node for reader in tensor.outputs), f"{tensor.name} does not know that it is read"
        for tensor in node.outputs:
            if tensor.name == "":
                continue
            assert tensor.name not in names, f"two tensors are called {tensor.name}"
            names.add(tensor.name)
            known.add(id(tensor))
    for node in model.graph.nodes:
        assert any(id(tensor) in read for tensor in node.outputs), f"nothing reads {node.name}"
    proto = runnable(model)
    onnx.checker.check_model(proto)
    del proto.functions[:]  # onnx infers through a function only if the node has all of its outputs
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def sentences(report: PassReport) -> list[str]:
    """What the pass says about the places where it nearly did something."""
    return [rejection.sentence for rejection in report.rejected]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
