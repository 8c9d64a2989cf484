"""From graphsurgeon's graph to a GraphProto, without the weights, in the same order every time.

Our own and not graphsurgeon's, which writes the constants that a subgraph takes from outside into the subgraph again,
loses what `importing.py` keeps, and cannot leave the weights to be streamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.ir.node import Node

from turbo_onnx.graph import is_kept_outside, subgraphs
from turbo_onnx.serialization.importing import KeptNode
from turbo_onnx.serialization.reuse_names import reuse_names
from turbo_onnx.serialization.weights import tensor_bytes


@dataclass
class Exported:
    """A graph without its top-level initializers, and the constants that become them, by name."""

    graph: onnx.GraphProto
    weights: dict[str, gs.Constant] = field(default_factory=dict)


def export_graph(graph: gs.Graph) -> Exported:
    """The graph as a proto; a constant goes to the innermost graph that holds all nodes that read it, or stays outside.

    Constants that share their values (the same array, or the same bytes of a file) become one initializer.

    Raises:
        ValueError: two tensors of one scope have the same name.
    """
    return _Exporter(graph).run()


def element_type(dtype: Any) -> int:
    """The ONNX element type of a NumPy type; numbers are taken to be one already."""
    return int(dtype) if isinstance(dtype, (int, np.integer)) else int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class _Exporter:
    def __init__(self, graph: gs.Graph) -> None:
        self.root = graph
        self.names: dict[int, str] = {}  # of constants, by identity
        self.homes: dict[int, gs.Graph] = {}  # the graph that a constant is written into
        self.constants: dict[int, gs.Constant] = {}
        self.same: dict[tuple[object, ...], gs.Constant] = {}
        self.taken: dict[str, int] = {}
        self.shapes = reuse_names(graph)

    def run(self) -> Exported:
        self._take_names(self.root)
        self._place(self.root)
        for identity, constant in self.constants.items():
            self.names[identity] = self._constant_name(constant)
        weights = {self.names[id(c)]: c for c in self._constants_of(self.root)}
        return Exported(self._graph(self.root, top=True), weights)

    # -- names and places ----------------------------------------------------------------------------------------

    def _take_names(self, graph: gs.Graph) -> None:
        here: dict[str, int] = {}
        produced = (tensor for node in graph.nodes for tensor in node.outputs)
        for tensor in (*graph.inputs, *produced):
            if not tensor.name:
                continue
            if here.setdefault(tensor.name, id(tensor)) != id(tensor):
                raise ValueError(f"two tensors of graph '{graph.name}' are named '{tensor.name}'")
            self.taken[tensor.name] = id(tensor)
        for node in graph.nodes:
            for subgraph in subgraphs(node):
                self._take_names(subgraph)

    def _place(self, graph: gs.Graph) -> None:
        for tensor in (*(t for node in graph.nodes for t in node.inputs), *graph.outputs):
            if not isinstance(tensor, gs.Constant):
                continue
            home = self.homes.setdefault(id(tensor), graph)
            self.constants[id(tensor)] = tensor
            if home is not graph or is_kept_outside(tensor):  # read in more than one scope: where all of them see it
                self.homes[id(tensor)] = self.root
        for node in graph.nodes:
            for subgraph in subgraphs(node):
                self._place(subgraph)

    def _constant_name(self, constant: gs.Constant) -> str:
        is_output = any(output is constant for output in self.root.outputs)
        if self.homes[id(constant)] is self.root and not is_output:
            first = self.same.setdefault(_values_key(constant), constant)
            if first is not constant:
                return self.names[id(first)]
        name, number = constant.name or "constant", 0
        while self.taken.setdefault(name, id(constant)) != id(constant):
            number += 1
            name = f"{constant.name or 'constant'}_{number}"
        return name

    def _constants_of(self, graph: gs.Graph) -> list[gs.Constant]:
        unique: dict[str, gs.Constant] = {}
        for identity, constant in self.constants.items():
            if self.homes[identity] is graph:
                unique.setdefault(self.names[identity], constant)
        return list(unique.values())

    def _name(self, tensor: gs.Variable | gs.Constant) -> str:
        return self.names[id(tensor)] if id(tensor) in self.names else str(tensor.name)

    # -- protos --------------------------------------------------------------------------------------------------

    def _graph(self, graph: gs.Graph, top: bool = False) -> onnx.GraphProto:
        proto = onnx.GraphProto(name=graph.name)
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        odd = graph.__dict__.get("odd_values", {})
        proto.node.extend(self._node(node) for node in graph.nodes)
        proto.input.extend(self._value(tensor, odd) for tensor in graph.inputs)
        proto.output.extend(self._value(tensor, odd) for tensor in graph.outputs)
        edges = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
        for node in graph.nodes:
            for tensor in node.outputs:
                if tensor.name and id(tensor) not in edges and (tensor.dtype is not None or tensor.name in odd):
                    proto.value_info.append(self._value(tensor, odd))
        if not top:
            own = self._constants_of(graph)
            proto.initializer.extend(tensor_proto(constant, self._name(constant)) for constant in own)
        kept = graph.__dict__.get("kept")
        if kept is not None:
            proto.MergeFrom(kept)
        return proto

    def _value(self, tensor: gs.Variable | gs.Constant, odd: Mapping[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
        name = self._name(tensor)
        if name in odd:
            return odd[name]
        if tensor.dtype is None:
            return onnx.ValueInfoProto(name=name)
        shape = None if tensor.shape is None else self.shapes.get(id(tensor)) or named_shape(tensor.shape, name)
        return helper.make_tensor_value_info(name, element_type(tensor.dtype), shape)

    def _node(self, node: gs.Node) -> onnx.NodeProto:
        proto = onnx.NodeProto(op_type=node.op)
        if node.name:
            proto.name = node.name
        if node.domain is not None:
            proto.domain = node.domain
        proto.input.extend(self._name(tensor) for tensor in node.inputs)
        proto.output.extend(self._name(tensor) for tensor in node.outputs)
        kept = node.__dict__.get("kept", KeptNode())
        for name, value in node.attrs.items():
            proto.attribute.append(self._attribute(name, value, kept.attribute_types.get(name)))
        proto.MergeFrom(kept.shell)
        return proto

    def _attribute(self, name: str, value: Any, kind: int | None) -> onnx.AttributeProto:
        if isinstance(value, onnx.AttributeProto):
            return value
        if isinstance(value, gs.Graph):
            return helper.make_attribute(name, self._graph(value))
        if isinstance(value, gs.Constant):
            return helper.make_attribute(name, tensor_proto(value, value.name or ""))
        if isinstance(value, Node.AttributeRef):
            raise ValueError(f"attribute '{name}' refers to the attribute '{value.name}' of a function")
        if isinstance(value, np.ndarray):
            value = value.tolist()
        elif isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, bool):
            value = int(value)
        empty = isinstance(value, (list, tuple)) and not value
        return helper.make_attribute(name, value, attr_type=(kind or onnx.AttributeProto.INTS) if empty else None)


def named_shape(shape: Sequence[Any], tensor: str) -> list[int | str]:
    """The shape with a name for every dimension that has none: the runtime reuses memory only between named ones."""
    named: list[int | str] = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, (int, np.integer)) and dim >= 0:
            named.append(int(dim))
        else:
            named.append(dim if isinstance(dim, str) and dim else f"{tensor}_dim_{axis}")
    return named


def tensor_proto(constant: gs.Constant, name: str) -> onnx.TensorProto:
    """The constant with its data inside."""
    proto, data = tensor_bytes(constant)
    if data is not None:
        proto.raw_data = bytes(data if isinstance(data, (bytes, memoryview)) else data.view())
    if name:
        proto.name = name
    return proto


def opset_imports(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """What the model imports: what it imported, and the domains of all nodes; sorted by domain."""
    versions: dict[str, int] = {}
    for entry in graph.import_domains or []:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    for domain in ("", "ai.onnx"):
        if domain in versions:
            versions[domain] = int(graph.opset)
    if "" not in versions and "ai.onnx" not in versions:
        versions[""] = int(graph.opset)
    for domain in sorted(_domains(graph)):
        versions.setdefault(domain, 1)
    return [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]


def _domains(graph: gs.Graph) -> set[str]:
    found = {str(node.domain) for node in graph.nodes if node.domain and node.domain != "ai.onnx"}
    for node in graph.nodes:
        for subgraph in subgraphs(node):
            found |= _domains(subgraph)
    return found


def _values_key(constant: gs.Constant) -> tuple[object, ...]:
    return (id(constant._values),)
