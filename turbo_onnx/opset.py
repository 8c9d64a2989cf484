"""Raise the version of the standard operator set that a model imports, without changing what any node means.

A node is left as it is where its operator's schema is the same at both versions, or differs only by more types and by
optional attributes that default to what there was before. Every operator whose schema differs otherwise
has a rewrite below; what has neither stands in the way. All schema changes between 11 and 17 were read for changes of
meaning that a schema does not show: RoiAlign and Resize are the only ones, and have an entry for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import STANDARD_DOMAINS, Editor, Tensor, input_or_none, subgraphs, topological_order

Rewrite = Callable[[gs.Node, Editor], None]


def graphs_of(graph: gs.Graph) -> Iterator[gs.Graph]:
    """The graph and every graph inside it."""
    yield graph
    for node in graph.nodes:
        for inner in subgraphs(node):
            yield from graphs_of(inner)


def means_the_same(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    """Whether every valid node of the old schema is a node of the new one with nothing but defaults added."""
    if new.since_version == old.since_version:
        return True
    if new.deprecated or [(x.name, x.option) for x in old.inputs] != [(x.name, x.option) for x in new.inputs]:
        return False
    if [(x.name, x.option) for x in old.outputs] != [(x.name, x.option) for x in new.outputs]:
        return False
    for name, attribute in old.attributes.items():
        other = new.attributes.get(name)
        if other is None or other.required != attribute.required or other.default_value != attribute.default_value:
            return False
    return not any(attribute.required for name, attribute in new.attributes.items() if name not in old.attributes)


def raise_to(graph: gs.Graph, target: int) -> int:
    """Make the graph, with all graphs inside it, import the standard operators at `target`.

    Returns:
        how many nodes were rewritten.

    Raises:
        Reject: a node would mean something else, and which; the graph is then unchanged.
    """
    current = int(graph.opset)
    every = list(graphs_of(graph))
    work: list[tuple[gs.Graph, gs.Node, Rewrite]] = []
    for inner in every:
        for node in inner.nodes:
            if node.domain in STANDARD_DOMAINS:
                rewrite = _rewrite_for(node, current, target)
                if rewrite is not None:
                    work.append((inner, node, rewrite))
    edit = Editor(graph)  # of all graphs, since a new name has to be new in each of them
    for inner, node, rewrite in work:
        edit.graph = inner
        rewrite(node, edit)
    for inner in every:
        inner.nodes = topological_order(inner.nodes)
        set_opset(inner, target)
    return len(work)


def set_opset(graph: gs.Graph, version: int) -> None:
    """Let the graph import the standard operators at this version, without a look at its nodes."""
    graph.opset = version
    imports = graph.import_domains
    if imports is None:
        return
    found = False
    for entry in imports:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = version
            found = True
    if not found:
        imports.append(onnx.helper.make_opsetid("", version))


def _rewrite_for(node: gs.Node, current: int, target: int) -> Rewrite | None:
    try:
        old = onnx.defs.get_schema(node.op, current, "")
        new = onnx.defs.get_schema(node.op, target, "")
    except onnx.defs.SchemaError:
        raise Reject("{} ({}) is not an operator of opset {}", node.name, node.op, target) from None
    if old.since_version == new.since_version:
        return None
    for since, name, check in _REWRITES:
        if name == node.op and old.since_version < since <= target:
            return check(node)
    if not means_the_same(old, new):
        raise Reject("{} ({}) means something else at opset {}", node.name, node.op, target)
    return None


def _to_input(name: str, default: Any = None) -> Callable[[gs.Node], Rewrite | None]:
    """The integer-list attribute becomes the second input; a node without it stays without it."""

    def check(node: gs.Node) -> Rewrite | None:
        return move if node.attrs.get(name, default) is not None else None

    def move(node: gs.Node, edit: Editor) -> None:
        values = np.array(node.attrs.pop(name, default), np.int64)
        node.inputs.append(edit.constant(values, f"{node.name or node.op}_{name}"))

    return check


def _softmax(node: gs.Node) -> Rewrite | None:
    """Up to opset 12 all axes from `axis` (1 if not given) on are one; from 13 on `axis` (-1) is one axis."""
    axis = int(node.attrs.get("axis", 1))
    shape = node.inputs[0].shape
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        return _last_axis
    return _flattened


def _last_axis(node: gs.Node, edit: Editor) -> None:
    node.attrs["axis"] = -1


def _flattened(node: gs.Node, edit: Editor) -> None:
    """Flatten to two axes, work on the last, and give the result the shape that the operand had."""
    x, y = node.inputs[0], node.outputs[0]
    axis = int(node.attrs.get("axis", 1))
    flat: Tensor = edit.node("Flatten", [x], attrs={"axis": axis}, hint=f"{node.name}_flat", dtype=x.dtype)
    node.inputs[0] = flat
    node.attrs["axis"] = -1
    result = edit.variable(f"{node.name}_result", x.dtype)
    node.outputs[0] = result
    shape = edit.node("Shape", [x], hint=f"{node.name}_shape", dtype=np.dtype(np.int64))
    edit.node("Reshape", [result, shape], hint=f"{node.name}_unflat", outputs=[y])


def _dropout(node: gs.Node) -> Rewrite | None:
    """The ratio moved to an input; nothing is dropped unless the new third input asks for it."""
    if len(node.outputs) > 1 and not node.outputs[1].is_empty():
        raise Reject("{} gives out its mask, which opset {} defines otherwise", node.name, 12)

    def drop(node: gs.Node, edit: Editor) -> None:
        node.attrs.pop("ratio", None)

    return drop


def _batch_normalization(node: gs.Node) -> Rewrite | None:
    """With one output it is inference at both; with more the old one trains."""
    if sum(not output.is_empty() for output in node.outputs) > 1:
        raise Reject("{} trains, which opset {} asks for otherwise", node.name, 14)
    return None


def _roi_align(node: gs.Node) -> Rewrite | None:
    """The old one samples as `output_half_pixel`, the new one as `half_pixel` unless told."""

    def tell(node: gs.Node, edit: Editor) -> None:
        node.attrs["coordinate_transformation_mode"] = "output_half_pixel"

    return tell


def _resize(node: gs.Node) -> Rewrite | None:
    """One way to transform coordinates went away; scales and sizes that are empty tensors are to be left out."""
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_half_pixel_for_nn":
        raise Reject("{} transforms coordinates by {}, which opset {} does not have", node.name, mode, 13)

    def leave_out(node: gs.Node, edit: Editor) -> None:
        for index in range(1, len(node.inputs)):
            tensor = input_or_none(node, index)
            if isinstance(tensor, gs.Constant) and 0 in tensor.shape:
                node.inputs[index] = gs.Variable.empty()

    return leave_out


# The version that brought the change, the operator, and what says how to follow it (None: as it is) or rejects.
_REWRITES: tuple[tuple[int, str, Callable[[gs.Node], Rewrite | None]], ...] = (
    (12, "Dropout", _dropout),
    (13, "Softmax", _softmax),
    (13, "LogSoftmax", _softmax),
    (13, "Hardmax", _softmax),
    (13, "Squeeze", _to_input("axes")),
    (13, "Unsqueeze", _to_input("axes")),
    (13, "ReduceSum", _to_input("axes")),
    (13, "Split", _to_input("split")),
    (13, "Resize", _resize),
    (14, "BatchNormalization", _batch_normalization),
    (16, "RoiAlign", _roi_align),
)
