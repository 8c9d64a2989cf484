"""Models in half precision, made of float32 ones in the ways that files on model hubs are made.

| style | like | inputs and outputs | kept in float32, between casts |
|---|---|---|---|
| pure | a framework's export of a model that was converted as a whole | half | what has no half-precision kernel |
| mixed | a converter of ONNX files, with a list of operators to leave out | float32 | normalization, softmax, powers |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from turbo_onnx import shapes
from turbo_onnx.graph import Editor
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_constants import ConvertConstants
from turbo_onnx.precision import FLOAT16, HalfType

Style = Literal["pure", "mixed"]
STYLES: tuple[Style, ...] = ("pure", "mixed")

_NO_KERNEL = ("CumSum", "IsInf", "Range", "ScatterElements", "TopK")
_LEFT_OUT = (*_NO_KERNEL, "LayerNormalization", "Max", "Min", "Pow", "ReduceMean", "Softmax", "Sqrt")


def halved(proto: onnx.ModelProto, style: Style = "pure", half: HalfType = FLOAT16) -> onnx.ModelProto:
    """The model in half precision. Numbers beyond the type become its largest; a model with subgraphs is not taken.

    Args:
        proto: in float32; it is not changed.
        style: which of the two.
        half: the type.
    """
    return _Halving(proto, style, half).run()


class _Halving:
    def __init__(self, proto: onnx.ModelProto, style: Style, half: HalfType) -> None:
        self.half = half
        self.floats = _float_tensors(proto)
        self.result = onnx.ModelProto()
        self.result.CopyFrom(proto)
        self.left_out = _LEFT_OUT if style == "mixed" else _NO_KERNEL
        self.keeps_interface = style == "mixed"
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        graph = self.result.graph
        old = list(graph.node)
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(self._tensor(tensor))
        renamed = self._inputs()
        for node in old:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
            self.nodes += self._between_casts(node) if node.op_type in self.left_out else [self._halve(node)]
        self._outputs()
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        return self.result

    def _tensor(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            finite = np.isfinite(array)
            array = np.where(finite, np.clip(array, -self.half.largest, self.half.largest), array)
        return numpy_helper.from_array(array.astype(self.half.dtype), tensor.name)

    def _halve(self, node: onnx.NodeProto) -> onnx.NodeProto:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(self._tensor(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.half.element_type
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros of float32, where nothing else is said
            zero = numpy_helper.from_array(np.zeros(1, self.half.dtype))
            node.attribute.append(helper.make_attribute("value", zero))
        return node

    def _between_casts(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        outputs = []
        for index, name in enumerate(node.input):
            if name in self.floats or name.endswith(".half"):
                node.input[index] = f"{node.name}.{index}.in"
                yield helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT)
        for index, name in enumerate(node.output):
            if name in self.floats:
                node.output[index] = f"{node.name}.{index}.out"
                outputs.append(helper.make_node("Cast", [node.output[index]], [name], to=self.half.element_type))
        yield node
        yield from outputs

    def _inputs(self) -> dict[str, str]:
        renamed = {}
        for value in self.result.graph.input:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                if self.keeps_interface:
                    renamed[value.name] = f"{value.name}.half"
                    cast = helper.make_node("Cast", [value.name], [renamed[value.name]], to=self.half.element_type)
                    self.nodes.append(cast)
                else:
                    value.type.tensor_type.elem_type = self.half.element_type
        return renamed

    def _outputs(self) -> None:
        for value in self.result.graph.output:
            if value.type.tensor_type.elem_type != TensorProto.FLOAT:
                continue
            if not self.keeps_interface:
                value.type.tensor_type.elem_type = self.half.element_type
                continue
            inside = f"{value.name}.half"
            for node in self.nodes:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == value.name:
                            names[index] = inside
            self.nodes.append(helper.make_node("Cast", [inside], [value.name], to=TensorProto.FLOAT))


def _float_tensors(proto: onnx.ModelProto) -> set[str]:
    """The names of the tensors in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = Model.from_proto(copy)
    Editor(model.graph).sort()
    ConvertConstants().run(model)
    shapes.infer(model)
    tensors: list[Any] = [*model.graph.inputs]
    for node in model.graph.nodes:
        tensors += [*node.inputs, *node.outputs]
    return {tensor.name for tensor in tensors if tensor.dtype == np.float32}
