"""Small models that tests of the engine write to files, break, and optimize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from turbo_onnx.model import Model

VOCABULARY, WIDTH = 19, 8


def encoder(*, opset: int = 17, rows: int = VOCABULARY, seed: int = 0) -> onnx.ModelProto:
    """ids [batch, tokens], mask [batch, tokens] -> hidden [batch, tokens, 8]: a lookup, a product, masked by token."""
    random = np.random.default_rng(seed)
    table = numpy_helper.from_array(random.standard_normal((rows, WIDTH)).astype(np.float32), "table")
    weight = numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH)).astype(np.float32), "weight")
    axis = numpy_helper.from_array(np.array([2], np.int64), "last")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="look_up"),
        helper.make_node("MatMul", ["rows", "weight"], ["product"], name="multiply"),
        helper.make_node("Cast", ["mask"], ["numbers"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"], name="unsqueeze"),
        helper.make_node("Mul", ["product", "column"], ["masked"], name="silence"),
        helper.make_node("Tanh", ["masked"], ["hidden"], name="squash"),
    ]
    if opset < 13:
        nodes[3] = helper.make_node("Unsqueeze", ["numbers"], ["column"], name="unsqueeze", axes=[2])
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
        [table, weight] if opset < 13 else [table, weight, axis],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def parsed(text: str) -> Model:
    """A graph in ONNX's text form, opset 17."""
    return Model.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


def one_node(node: onnx.NodeProto, *, kind: int = TensorProto.FLOAT, opset: int = 17) -> onnx.ModelProto:
    """x [n, 4] -> y [n, 4] through one node."""
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 4]) for name in "xy")
    graph = helper.make_graph([node], "one", [x], [y])
    imports = [helper.make_opsetid("", opset)]
    if node.domain:
        imports.append(helper.make_opsetid(node.domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write the model as it is; returns the path."""
    path.write_bytes(model.SerializeToString())
    return path


def save_external(model: onnx.ModelProto, path: Path, data: str = "weights.bin") -> Path:
    """Write the model with all weights of 64 bytes and more in a data file beside it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location=data, size_threshold=64)
    return path


def feed(batch: int = 2, tokens: int = 5) -> dict[str, np.ndarray]:
    """Inputs for `encoder`."""
    random = np.random.default_rng(1)
    ids = random.integers(0, VOCABULARY, (batch, tokens))
    mask = np.arange(tokens)[None, :] < random.integers(1, tokens + 1, (batch, 1))
    return {"ids": ids, "mask": mask.astype(np.int64)}
