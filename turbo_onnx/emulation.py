"""A model in bfloat16 as one that the CPU runs: computed in float32, every result rounded to bfloat16.

ONNX Runtime has no bfloat16 kernels for the CPU beyond a few that move elements, and no way around that as for float16.
Kernels on the GPU compute in float32, too, and round what they store; so numbers come out as they do there, but for the
order of sums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from turbo_onnx.model import Model
from turbo_onnx.precision import BFLOAT16
from turbo_onnx.serialization import writing
from turbo_onnx.serialization.exporting import element_type

_EXACT, _ROUNDED = "turbo_onnx.exact", "turbo_onnx.rounded"


@contextmanager
def runnable_on_cpu(model: Model, written: Path | bytes) -> Iterator[Path | bytes]:
    """What ONNX Runtime can run of a model on the CPU: what was written of it, or its emulation.

    Args:
        model: the model.
        written: the same in a file, or serialized.
    """
    if not any(_is_bfloat16(tensor) for node in model.graph.nodes for tensor in node.outputs):
        yield written
        return
    with tempfile.TemporaryDirectory(prefix="turbo-onnx-") as folder:
        proto, weights = emulated(model)
        writing.write_model(Path(folder), "model.onnx", proto, weights, None)
        yield Path(folder) / "model.onnx"


def emulated(model: Model) -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
    """The emulation as `Model.without_weights` gives a model. Graphs inside nodes must not hold bfloat16."""
    proto, weights = model.without_weights()
    half = {tensor.name for node in model.graph.nodes for tensor in node.outputs if _is_bfloat16(tensor)}
    stored = [name for name, constant in weights.items() if _is_bfloat16(constant)]
    nodes = [helper.make_node("Cast", [f"{_ROUNDED}.{name}"], [name], to=TensorProto.FLOAT) for name in stored]
    for original in proto.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        nodes.append(node)
        results = [index for index, name in enumerate(node.output) if name in half]
        for index in results:
            nodes += _round(node, index)
        if node.op_type == "Cast" and results:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    del proto.graph.value_info[:]
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    return proto, {f"{_ROUNDED}.{name}" if name in stored else name: constant for name, constant in weights.items()}


def _round(node: onnx.NodeProto, index: int) -> list[onnx.NodeProto]:
    """Let an output of the node be computed under another name, and rounded."""
    name = node.output[index]
    exact, rounded = f"{_EXACT}.{name}", f"{_ROUNDED}.{name}"
    node.output[index] = exact
    return [
        helper.make_node("Cast", [exact], [rounded], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT),
    ]


def _is_bfloat16(tensor: gs.Variable | gs.Constant) -> bool:
    return tensor.dtype is not None and element_type(tensor.dtype) == BFLOAT16.element_type
