"""A model in bfloat16 as one that the CPU runs: computed in float32, with results rounded to bfloat16 or not.

ONNX Runtime has no bfloat16 kernels for the CPU beyond a few that move elements, and no way around that as for float16.
Kernels on the GPU compute in float32, too, and round what they store; so numbers come out as they do there, but for the
order of sums. An original needs no such noise: without the roundings it is run as ONNX Runtime runs float16. Inputs and
outputs in bfloat16, which the runtime has no NumPy arrays for, are in float32, and inputs are rounded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from turbo_onnx.errors import InputError
from turbo_onnx.model import Model
from turbo_onnx.precision import BFLOAT16, half_type
from turbo_onnx.serialization import writing
from turbo_onnx.sessions import explain, open_session
from turbo_onnx.verify_inputs import InputSpec

_HOLDS_VALUES = ("Constant", "ConstantOfShape", "EyeLike")  # their attributes say what they give, not what they read
_EXACT, _ROUNDED = "turbo_onnx.exact", "turbo_onnx.rounded"


@contextmanager
def runnable_on_cpu(model: Model, written: Path | bytes, *, rounded: bool = True) -> Iterator[Path | bytes]:
    """What ONNX Runtime can run of a model on the CPU: what was written of it, or its emulation.

    Args:
        model: the model.
        written: the same in a file, or serialized.
        rounded: whether the emulation rounds the results of all nodes, as a GPU would.

    Raises:
        InputError: it cannot be emulated: a graph inside a node, or a tensor of unknown type, is in bfloat16.
    """
    if not uses_bfloat16(model):
        yield written
        return
    with tempfile.TemporaryDirectory(prefix="turbo-onnx-") as folder:
        proto, weights = emulated(model, rounded=rounded)
        writing.write_model(Path(folder), "model.onnx", proto, weights, None)
        try:
            open_session(Path(folder) / "model.onnx", level="none")
        except Exception as error:
            raise InputError(
                f"{model.name}: the CPU has no kernels for bfloat16, and it cannot be emulated to verify it:"
                f" {explain(error)}; leave that out with --no-verify."
            ) from None
        yield Path(folder) / "model.onnx"


def uses_bfloat16(model: Model) -> bool:
    """Whether an input or a result of a node is in bfloat16. Their types have to be known."""
    computed = (tensor for node in model.graph.nodes for tensor in node.outputs)
    return any(map(_is_bfloat16, (*model.graph.inputs, *computed)))


def fed(specs: Sequence[InputSpec]) -> list[InputSpec]:
    """The inputs of a model as those of its emulation."""
    return [replace(spec, dtype=np.dtype(np.float32)) if _is_type(spec.dtype) else spec for spec in specs]


def emulated(model: Model, *, rounded: bool = True) -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
    """The emulation as `Model.without_weights` gives a model. Graphs inside nodes must not hold bfloat16.

    Args:
        model: the model.
        rounded: whether the results of all nodes are rounded.
    """
    proto, weights = model.without_weights()
    half = {tensor.name for node in model.graph.nodes for tensor in node.outputs if _is_bfloat16(tensor)}
    stored = [name for name, constant in weights.items() if _is_bfloat16(constant)]
    nodes = [helper.make_node("Cast", [f"{_ROUNDED}.{name}"], [name], to=TensorProto.FLOAT) for name in stored]
    renamed = {}
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in filter(_is_bfloat16, model.graph.inputs):
        renamed[tensor.name] = f"{_EXACT}.rounded.{tensor.name}"
        nodes += _rounding(tensor.name, f"{_ROUNDED}.{tensor.name}", renamed[tensor.name])
    for original in proto.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        results = [index for index, name in enumerate(node.output) if name in half]
        for index in results if rounded or node.op_type in _HOLDS_VALUES else ():
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
    return _rounding(exact, rounded, name)


def _rounding(exact: str, rounded: str, result: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [exact], [rounded], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [rounded], [result], to=TensorProto.FLOAT),
    ]


def _is_bfloat16(tensor: gs.Variable | gs.Constant) -> bool:
    return _is_type(tensor.dtype)


def _is_type(dtype: Any) -> bool:
    return half_type(dtype) is BFLOAT16
