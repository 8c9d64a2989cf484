"""From a ModelProto to graphsurgeon's graph, with what graphsurgeon drops kept beside it.

Kept on the objects themselves, so that it goes where they go: `node.kept` (doc string, metadata, overload, the types of
attributes that their values do not tell) and `graph.kept` (a subgraph's metadata). Attributes of types that
graphsurgeon does not know stay in `node.attrs` as they are, as `AttributeProto`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from turbo_onnx.graph import subgraphs
from turbo_onnx.serialization.weights import Region, StoredValues, numpy_type

G_LOGGER.severity = G_LOGGER.ERROR  # its warnings are about what is put right here

_Attribute = onnx.AttributeProto
_KNOWN_ATTRIBUTES = (
    _Attribute.FLOAT,
    _Attribute.INT,
    _Attribute.STRING,
    _Attribute.TENSOR,
    _Attribute.GRAPH,
    _Attribute.FLOATS,
    _Attribute.INTS,
    _Attribute.STRINGS,
)
_Message = TypeVar("_Message", onnx.NodeProto, onnx.GraphProto)
_TYPED_ATTRIBUTES = (_Attribute.FLOATS, _Attribute.INTS, _Attribute.STRINGS)


@dataclass
class KeptNode:
    """What graphsurgeon drops of a node.

    Attributes:
        shell: a NodeProto with only its doc string, metadata and overload.
        attribute_types: the types of the list attributes, which an empty list does not tell.
    """

    shell: onnx.NodeProto = field(default_factory=onnx.NodeProto)
    attribute_types: dict[str, int] = field(default_factory=dict)


def import_graph(proto: onnx.ModelProto, locate: Callable[[onnx.TensorProto], Region]) -> gs.Graph:
    """The model's graph. The proto is consumed: functions are taken out of it, and tensors are shared with it.

    Args:
        proto: the model; tensors may be external.
        locate: says where an external tensor's data lies.
    """
    odd = [_take_odd_attributes(node) for node in proto.graph.node]
    functions = list(proto.functions)
    del proto.functions[:]
    graph = gs.import_onnx(proto)
    proto.functions.extend(functions)
    graph.functions = functions  # as protos: nothing edits them, and passes can see that there are some
    graph.import_domains = list(proto.opset_import)
    _keep(graph, proto.graph, odd)
    _finish_tensors(graph, locate)
    return graph


OddAttributes = tuple[list[tuple[int, onnx.AttributeProto]], dict[str, list["OddAttributes"]]]


def _take_odd_attributes(node: onnx.NodeProto) -> OddAttributes:
    """Take out what graphsurgeon cannot import; for subgraphs the same, node by node."""
    odd: list[tuple[int, onnx.AttributeProto]] = []
    inner: dict[str, list[OddAttributes]] = {}
    kept: list[onnx.AttributeProto] = []
    for index, attribute in enumerate(node.attribute):
        if _graphsurgeon_takes(attribute):
            kept.append(attribute)
            if attribute.type == _Attribute.GRAPH:
                inner[attribute.name] = [_take_odd_attributes(nested) for nested in attribute.g.node]
        else:
            copy = onnx.AttributeProto()
            copy.CopyFrom(attribute)
            odd.append((index, copy))
    if odd:
        rest = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
        del node.attribute[:]
        node.attribute.extend(rest)
    return odd, inner


def _graphsurgeon_takes(attribute: onnx.AttributeProto) -> bool:
    if attribute.type not in _KNOWN_ATTRIBUTES or attribute.ref_attr_name or attribute.doc_string:
        return False
    try:
        for text in (attribute.s, *attribute.strings):
            text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _keep(graph: gs.Graph, proto: onnx.GraphProto, odd: list[OddAttributes]) -> None:
    graph.kept = _only(proto, "metadata_props", "quantization_annotation")
    graph.odd_values = {
        value.name: value
        for value in (*proto.input, *proto.output, *proto.value_info)
        if value.type.WhichOneof("value") not in (None, "tensor_type")
    }
    for node, source, (attributes, inner) in zip(graph.nodes, proto.node, odd, strict=True):
        types = {a.name: a.type for a in source.attribute if a.type in _TYPED_ATTRIBUTES}
        shell = _only(source, "doc_string", "metadata_props", "overload")
        if types or shell.ByteSize():
            node.kept = KeptNode(shell, types)
        for attribute in source.attribute:
            if attribute.type == _Attribute.GRAPH:
                _keep(node.attrs[attribute.name], attribute.g, inner[attribute.name])
        if attributes:
            items = list(node.attrs.items())
            for index, attribute in attributes:
                items.insert(index, (attribute.name, attribute))
            node.attrs = dict(items)


def _only(message: _Message, *names: str) -> _Message:
    """A copy with only the named fields, those that are set."""
    copy = type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.name in names:
            if isinstance(value, str):
                setattr(copy, descriptor.name, value)
            else:
                getattr(copy, descriptor.name).extend(value)
    return copy


def _finish_tensors(graph: gs.Graph, locate: Callable[[onnx.TensorProto], Region]) -> None:
    """Point external constants at their data, and give every tensor its NumPy type where NumPy has one."""
    shared: dict[tuple[object, ...], StoredValues] = {}
    for tensor in all_tensors(graph):
        if isinstance(tensor, gs.Constant):
            values = tensor._values
            if type(values) is LazyValues:
                if values.tensor.data_location == onnx.TensorProto.EXTERNAL:
                    stored = StoredValues(values.tensor, locate(values.tensor))
                    key = (*stored.region.key, values.tensor.data_type, *stored.shape)
                    tensor._values = shared.setdefault(key, stored)
                    tensor.data_location = None
                else:
                    values.dtype = numpy_type(values.tensor.data_type)
        elif isinstance(tensor.dtype, (int, np.integer)):
            tensor.dtype = numpy_type(int(tensor.dtype)) if tensor.dtype else None


def all_tensors(graph: gs.Graph) -> Iterator[gs.Variable | gs.Constant]:
    """Every tensor of the graph and of its subgraphs, in order, each at least once; tensor attributes too."""
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                yield value
        for subgraph in subgraphs(node):
            yield from all_tensors(subgraph)
