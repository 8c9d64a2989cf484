"""Read sizes off the model's inputs, and not off what is computed from them.

Exporters ask the tensor at hand for its shape. Such a tensor is read by one node more than the arithmetic needs, which
keeps chains apart that are one otherwise, and every layer computes the same few sizes again.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.dims import Dim
from turbo_onnx.graph import Editor, Tensor, is_op, producer
from turbo_onnx.inference.values import Elements
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

_MOVEMENT = ("Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")


class ReadSizesOfInputs(Pass):
    """An integer that is known to be the size of an input's axis is read there."""

    name = "read-sizes-of-inputs"
    summary = "Read sizes off the inputs that have them, and not off what is computed."

    def run(self, model: Model) -> PassReport:
        """Replace every such integer, but for sizes that are only assumed to be an input's."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        facts = shapes.infer(model)
        sizes = _Sizes(edit, facts, shapes.assumed_equal(model))
        outputs = {id(tensor) for tensor in model.graph.outputs}
        for node in list(model.graph.nodes):
            for tensor in node.outputs:
                name = _size(facts, tensor)
                if name not in sizes or id(tensor) in outputs or not tensor.outputs or _is_read_off_input(tensor):
                    continue
                edit.replace(tensor, sizes.read(name, len(tensor.shape or ())))
                report.applied += 1
        edit.remove_unused()
        edit.sort()
        return report


def _size(facts: shapes.Facts, tensor: Tensor) -> str | None:
    """The symbol that an integer, or the one integer of a vector, is known to be."""
    fact = facts[tensor]
    if fact.dtype != np.int64 or not isinstance(fact.value, Elements) or fact.shape not in ((), (1,)):
        return None
    (item,) = fact.value.list()
    return item.name if isinstance(item, Dim) else None


def _is_read_off_input(tensor: Tensor) -> bool:
    node = producer(tensor)
    while is_op(node, *_MOVEMENT):
        assert node is not None
        node = producer(node.inputs[0])
    return node is not None and is_op(node, "Shape") and producer(node.inputs[0]) is None


class _Sizes:
    """Where each symbol is an input's size, and the nodes that read it there, which are made once."""

    def __init__(self, edit: Editor, facts: shapes.Facts, assumed: set[str]) -> None:
        self._edit = edit
        self._axes: dict[str, tuple[gs.Variable, int]] = {}
        self._shapes: dict[int, Tensor] = {}
        self._read: dict[tuple[str, int], Tensor] = {}
        for tensor in edit.graph.inputs:
            for axis, size in enumerate(facts[tensor].shape or ()):
                if isinstance(size, Dim) and size.name is not None and size.name not in assumed:
                    self._axes.setdefault(size.name, (tensor, axis))

    def __contains__(self, name: object) -> bool:
        return name in self._axes

    def read(self, name: str | None, rank: int) -> Tensor:
        """The size as an int64 of shape [] or [1]."""
        assert name is not None
        if (name, rank) not in self._read:
            tensor, axis = self._axes[name]
            if id(tensor) not in self._shapes:
                self._shapes[id(tensor)] = self._edit.node("Shape", [tensor], dtype=np.int64, shape=[len(tensor.shape)])
            index = self._edit.constant(np.array([axis] if rank else axis, dtype=np.int64), "axis")
            operands = [self._shapes[id(tensor)], index]
            self._read[name, rank] = self._edit.node("Gather", operands, dtype=np.int64, shape=[1] * rank)
        return self._read[name, rank]
