"""Whether a model is valid, and one that we take: before its graph is built, without its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, helper

from turbo_onnx.custom_ops.specification import is_ours
from turbo_onnx.errors import ModelFormatError, UnsupportedModelError
from turbo_onnx.serialization.weights import expected_bytes

OLDEST_OPSET = 11
RUNTIME_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training", "org.pytorch.aten")
RUNTIME_PREFIXES = ("com.microsoft", "com.ms.")  # left alone: they mean something to ONNX Runtime
UNSUPPORTED_TYPES = (TensorProto.COMPLEX64, TensorProto.COMPLEX128, TensorProto.UNDEFINED)


def check_support(proto: onnx.ModelProto, name: str, artifacts: bool = False) -> None:
    """Refuse operator sets, domains and types that are not for us.

    Args:
        proto: the model, with or without the data of its initializers.
        name: what to call it in errors.
        artifacts: take our own domains, too.

    Raises:
        UnsupportedModelError, ModelFormatError: with the reason.
    """
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = versions.get("", versions.get("ai.onnx"))
    if opset is None:
        raise UnsupportedModelError(
            f"{name}: it imports no standard operator set; export it with opset {OLDEST_OPSET} or newer."
        )
    if opset < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"{name}: its opset is {opset}, and {OLDEST_OPSET} is the oldest taken; export it again with a newer opset."
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedModelError(
            f"{name}: its opset is {opset}, and {newest} is the newest that the installed onnx knows; export it with"
            f" opset {newest} or older, or upgrade onnx and onnxruntime."
        )
    local = {(function.domain, function.name) for function in proto.functions}
    for node in nodes_of(proto.graph):
        if is_ours(node.domain) and not artifacts:
            raise UnsupportedModelError(
                f"{name}: node '{node.name}' is our own operator {node.op_type}, so the model has already been"
                " optimized; optimize the original instead."
            )
        known = node.domain in RUNTIME_DOMAINS or node.domain.startswith(RUNTIME_PREFIXES) or is_ours(node.domain)
        if not known and (node.domain, node.op_type) not in local:
            raise UnsupportedModelError(
                f"{name}: node '{node.name}' is the operator {node.op_type} of the unknown domain '{node.domain}';"
                " export the model without custom operators."
            )
    _check_types(proto.graph, name)


def _check_types(graph: onnx.GraphProto, name: str) -> None:
    values = (
        (value.name, value.type.tensor_type.elem_type)
        for value in (*graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    )
    tensors = ((tensor.name, tensor.data_type) for tensor in graph.initializer)
    for label, kind in (*values, *tensors):
        if kind not in TensorProto.DataType.values():
            raise UnsupportedModelError(
                f"{name}: tensor '{label}' has the unknown element type {kind}; upgrade onnx, or export it again."
            )
        if kind in UNSUPPORTED_TYPES:
            raise UnsupportedModelError(
                f"{name}: tensor '{label}' has the element type {TensorProto.DataType.Name(kind).lower()}, which"
                " ONNX Runtime's operators do not take; export the model with real types."
            )


def check_structure(proto: onnx.ModelProto, name: str) -> None:
    """Run ONNX's checker over the graph; nodes that only stand in the wrong order are sorted.

    Args:
        proto: the model; initializers may lack their data.
        name: what to call it in errors.

    Raises:
        ModelFormatError: the graph is invalid, which names the node, or has no outputs.
    """
    if not proto.graph.output:
        raise ModelFormatError(f"{name}: it has no outputs, so nothing needs to be computed; export the model again.")
    for tensor in proto.graph.initializer:
        _check_size(tensor, name)
    try:
        onnx.checker.check_model(with_shapes(weightless(proto)))
    except onnx.checker.ValidationError as error:
        if "topologically sorted" in str(error) and _sort(proto.graph):
            check_structure(proto, name)
            return
        raise ModelFormatError(
            f"{name}: the graph is invalid: {_explain(str(error), proto.graph)}; export the model again."
        ) from None


def _check_size(tensor: onnx.TensorProto, name: str) -> None:
    expected = expected_bytes(tensor)
    length = next((e.value for e in tensor.external_data if e.key == "length"), None)
    own = tensor.data_location == TensorProto.EXTERNAL and any(e.value == "\0" for e in tensor.external_data)
    if own and expected is not None and length != str(expected):
        raise ModelFormatError(
            f"{name}: initializer '{tensor.name}' needs {expected} bytes and holds {length}; export the model again."
        )


def weightless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which initializers whose data is elsewhere are inputs, so that it is valid by itself."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.initializer[:]
    inputs = {value.name for value in copy.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in inputs:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    copy.ir_version = max(copy.ir_version, 4)  # older ones want every initializer among the inputs
    return copy


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give inputs and outputs of unknown rank some shape: ONNX's checker wants one where the format does not."""
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return proto


def _explain(message: str, graph: onnx.GraphProto) -> str:
    """The checker's message in one line, with the node that it is about."""
    text = re.sub(r"\s+", " ", message.split("==> Context:")[0]).strip().rstrip(".")
    named = re.search(r"Name: (\S*) OpType: (\S+)", message) or re.search(r"name: (\S*) OpType: (\S+)", message)
    text = re.sub(r" of node: name: \S* OpType: \S+", "", text)
    if named:
        return f"node '{named.group(1)}' ({named.group(2)}): {text}"
    tensor = re.search(r"'([^']+)'", text)
    if tensor:
        nodes = [node.name or node.op_type for node in graph.node if tensor.group(1) in node.output]
        if nodes:
            return f"node '{nodes[-1]}': {text}"
    return text


def _sort(graph: onnx.GraphProto) -> bool:
    """Put the graph's nodes into a topological order that is stable; False if that changes nothing or cannot be."""
    producers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    order: list[int] = []
    state = [0] * len(graph.node)  # 0 new, 1 being visited, 2 done
    for root in range(len(graph.node)):
        stack = [root]
        while stack:
            index = stack[-1]
            if state[index] == 2:
                stack.pop()
                continue
            sources = sorted({producers[name] for name in _reads(graph.node[index]) if name in producers} - {index})
            waiting = [source for source in sources if state[source] != 2]
            if not waiting:
                state[index] = 2
                order.append(index)
                stack.pop()
            elif state[index] == 1:
                return False
            else:
                state[index] = 1
                stack.extend(reversed(waiting))
    if order == sorted(order):
        return False
    nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in graphs_of(node):
        for inner in graph.node:
            yield from _reads(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of the graph and of the graphs in them."""
    for node in graph.node:
        yield node
        yield from _inner_nodes(graphs_of(node))


def _inner_nodes(graphs: Iterable[onnx.GraphProto]) -> Iterator[onnx.NodeProto]:
    for graph in graphs:
        yield from nodes_of(graph)
