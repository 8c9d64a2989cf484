"""The edits that passes need, on onnx-graphsurgeon's graph, by identity.

graphsurgeon compares tensors by name and nodes by value, sorts recursively and detaches in linear time; everything
here uses `is` and `id()`, and every operation is linear in what it touches.

Vocabulary: a *tensor* is a `gs.Variable` (computed, or a graph input) or a `gs.Constant`; a tensor's `shape` is a list
whose items are integers or canonical symbolic expressions as strings (equal strings mean provably equal dimensions),
or None when not even the rank is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.precision import HalfType

Tensor: TypeAlias = gs.Variable | gs.Constant
Shape = list[int | str] | None

STANDARD_DOMAINS = (None, "", "ai.onnx")
RAISED_DOMAIN = "turbo_onnx.raised"  # what it is for stands in passes/raised.py


def producer(tensor: Tensor) -> gs.Node | None:
    """The node that computes the tensor, or None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def consumers(tensor: Tensor) -> list[gs.Node]:
    """The nodes that read the tensor, each once, in the order in which they were attached."""
    return list({id(node): node for node in tensor.outputs}.values())


def is_op(node: gs.Node | None, *names: str, domain: str | None = None) -> bool:
    """Whether the node is one of the named operators, of the standard domain unless told otherwise."""
    if node is None or node.op not in names:
        return False
    return node.domain in STANDARD_DOMAINS if domain is None else node.domain == domain


def produced_by(tensor: Tensor, *names: str, domain: str | None = None) -> gs.Node | None:
    """The tensor's producer if it is one of the named operators, else None."""
    node = producer(tensor)
    return node if is_op(node, *names, domain=domain) else None


def constant_value(tensor: Tensor | None) -> np.ndarray | None:
    """The tensor's value if it is a constant held in the graph, else None. Loads lazily stored values."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def scalar_value(tensor: Tensor | None) -> float | int | bool | None:
    """The one number that a constant holds in all its elements, else None.

    Only looks into constants of up to 4,096 elements, so that no large weight is read for the question.
    """
    if not isinstance(tensor, gs.Constant) or not 0 < int(np.prod(tensor.shape)) <= 4096:
        return None
    values = tensor.values.reshape(-1)
    first = values[0]
    if not (values == first).all():
        return None
    number: float | int | bool = first.item() if hasattr(first, "item") else first
    return number


def widened_from(tensor: Tensor | None) -> HalfType | None:
    """The half-precision type that a constant's numbers were rounded to, where that is not its type any more."""
    return getattr(tensor, "half_type", None) if isinstance(tensor, gs.Constant) else None


def mark_widened(constant: gs.Constant, half: HalfType) -> None:
    """Remember that the constant's numbers were rounded to a half-precision type."""
    constant.half_type = half


def remember_shape(tensor: gs.Variable, shape: Sequence[int | str]) -> None:
    """Keep a shape that the graph proves as it is now, for when the nodes that prove it are gone.

    Args:
        tensor: always of this shape, whatever becomes of the graph.
        shape: in sizes of the graph's inputs.
    """
    tensor.remembered_shape = list(shape)


def remembered_shape(tensor: gs.Variable) -> list[int | str] | None:
    """The shape that was remembered, if one was."""
    return getattr(tensor, "remembered_shape", None)


def mark_computed_outside(tensor: gs.Variable) -> None:
    """Say of the input of a branch that a node outside computes it: its sizes are not those of what a caller gives."""
    tensor.computed_outside = True


def is_computed_outside(tensor: gs.Variable) -> bool:
    """Whether that was said."""
    return getattr(tensor, "computed_outside", False)


def keep_outside(constant: gs.Constant) -> None:
    """Say of a constant that the main graph holds it, though only a graph inside may read it."""
    constant.kept_outside = True


def is_kept_outside(constant: gs.Constant) -> bool:
    """Whether that was said."""
    return getattr(constant, "kept_outside", False)


def integers(tensor: Tensor | None) -> list[int] | None:
    """The values of a constant 0-d or 1-d integer tensor as a list, else None."""
    value = constant_value(tensor)
    if value is None or value.ndim > 1 or value.dtype.kind not in "iu":
        return None
    return [int(v) for v in value.reshape(-1)]


def is_float(tensor: Tensor) -> bool:
    """Whether the tensor's type is known and floating-point."""
    return tensor.dtype is not None and not isinstance(tensor.dtype, int) and np.dtype(tensor.dtype).kind == "f"


def input_or_none(node: gs.Node, index: int) -> Tensor | None:
    """The node's input at `index`, or None where it is absent or left empty."""
    if index >= len(node.inputs):
        return None
    tensor = node.inputs[index]
    return None if isinstance(tensor, gs.Variable) and tensor.is_empty() else tensor


def subgraphs(node: gs.Node) -> Iterator[gs.Graph]:
    """The graphs held in the node's attributes (the branches of If, the bodies of Loop and Scan)."""
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            yield value


def names_in(graph: gs.Graph) -> set[str]:
    """What the graph's nodes and tensors are called, and those of the graphs inside it."""
    names = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        names.add(node.name)
        names.update(tensor.name for tensor in (*node.inputs, *node.outputs))
        for subgraph in subgraphs(node):
            names |= names_in(subgraph)
    return names


def names_outside(graph: gs.Graph) -> frozenset[str]:
    """Names that nothing new in the graph may have, because the graph around it does: see `branches.py`."""
    return graph.__dict__.get("names_outside", frozenset())  # type: ignore[no-any-return]


class Editor:
    """Edits one graph. Make one for each pass: it remembers which names are taken.

    Args:
        graph: the graph to edit; it is changed in place.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._names = names_in(graph) | names_outside(graph)
        self._numbers: dict[str, int] = {}  # the last that was tried for each hint
        self.modified = False

    def unique_name(self, hint: str) -> str:
        """`hint`, or `hint_1`, `hint_2`, …: the first that nothing in the graph is called."""
        name, number = hint, self._numbers.get(hint, 0)
        while not name or name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._numbers[hint] = number
        self._names.add(name)
        return name

    def is_graph_output(self, tensor: Tensor) -> bool:
        """Whether the tensor is one of the graph's outputs."""
        return any(output is tensor for output in self.graph.outputs)

    def constant(self, value: np.ndarray, hint: str = "constant") -> gs.Constant:
        """A new constant tensor."""
        return gs.Constant(self.unique_name(hint), np.ascontiguousarray(value) if value.ndim else value)

    def variable(self, hint: str, dtype: Any = None, shape: Shape = None) -> gs.Variable:
        """A new tensor with no producer yet."""
        return gs.Variable(self.unique_name(hint), dtype=dtype, shape=None if shape is None else list(shape))

    def node(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        *,
        attrs: Mapping[str, Any] | None = None,
        domain: str | None = None,
        hint: str = "",
        dtype: Any = None,
        shape: Shape = None,
        outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Append a node and return its first output.

        Args:
            op: operator type.
            inputs: the operands; None stands for an optional operand that is left out.
            attrs: attributes.
            domain: operator domain; None is the standard one.
            hint: what the node and its output are named after; the operator's type unless given.
            dtype: of the one output that is made here. Ignored when `outputs` is given.
            shape: likewise.
            outputs: existing tensors without producer that the node shall compute.
        """
        hint = hint or op
        operands = [gs.Variable.empty() if tensor is None else tensor for tensor in inputs]
        while operands and isinstance(operands[-1], gs.Variable) and operands[-1].is_empty():
            operands.pop()
        results = list(outputs) if outputs is not None else [self.variable(f"{hint}_output", dtype, shape)]
        new = gs.Node(
            op,
            name=self.unique_name(hint),
            attrs=dict(attrs or {}),
            inputs=operands,
            outputs=results,
            domain=domain,
        )
        self.graph.nodes.append(new)
        self.modified = True
        return results[0]

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Let everything that reads `old` read `new` instead; graph outputs keep their names, types and order.

        The node that computed `old` stays, unread; `remove_unused` takes it away.
        """
        if old is new:
            return
        self.modified = True
        for reader in consumers(old):
            for index, tensor in enumerate(reader.inputs):
                if tensor is old:
                    reader.inputs[index] = new
        if self.is_graph_output(old):
            self._replace_output(old, new)

    def _replace_output(self, old: Tensor, new: Tensor) -> None:
        source = producer(new)
        taken = source is None or self.is_graph_output(new)
        if taken:  # a graph input, a constant or another output cannot be renamed: pass it through
            name, old.name = old.name, self.unique_name(f"{old.name}_before")
            renamed = gs.Variable(name, dtype=old.dtype, shape=old.shape)
            self.node("Identity", [new], hint=f"{name}_identity", outputs=[renamed])
        else:
            name, old.name = old.name, self.unique_name(f"{old.name}_before")
            new.name = name
            new.dtype = old.dtype if old.dtype is not None else new.dtype
            renamed = new
        for index, output in enumerate(self.graph.outputs):
            if output is old:
                self.graph.outputs[index] = renamed

    def remove_unused(self) -> int:
        """Remove every node none of whose results is read. Returns how many went. Linear in the graph."""
        outputs = {id(tensor) for tensor in self.graph.outputs}
        kept: set[int] = set()
        stack = [node for tensor in self.graph.outputs for node in tensor.inputs]
        while stack:
            node = stack.pop()
            if id(node) in kept:
                continue
            kept.add(id(node))
            for tensor in _reads(node):
                stack.extend(tensor.inputs)
        dead = [node for node in self.graph.nodes if id(node) not in kept]
        alive = [node for node in self.graph.nodes if id(node) in kept]
        if not dead:
            return 0
        assert not any(id(tensor) in outputs for node in dead for tensor in node.outputs)
        dead_ids = {id(inner) for node in dead for inner in _with_inner_nodes(node)}
        touched = {id(t): t for node in dead for t in _reads(node)}
        for tensor in touched.values():  # one sweep for each tensor: graphsurgeon's own detaching is quadratic
            survivors = [reader for reader in tensor.outputs if id(reader) not in dead_ids]
            list.clear(tensor.outputs)
            list.extend(tensor.outputs, survivors)
        for node in dead:
            list.clear(node.inputs)
        self.graph.nodes = alive
        self.modified = True
        return len(dead)

    def sort(self) -> None:
        """Stable topological order: among nodes that could come next, the one that stood first does."""
        self.graph.nodes = topological_order(self.graph.nodes)


def _with_inner_nodes(node: gs.Node) -> Iterator[gs.Node]:
    """The node, and those of its subgraphs."""
    yield node
    for graph in subgraphs(node):
        for inner in graph.nodes:
            yield from _with_inner_nodes(inner)


def _reads(node: gs.Node) -> Iterator[Tensor]:
    """What the node reads: its inputs, and what its subgraphs take from outside."""
    yield from node.inputs
    for graph in subgraphs(node):
        for inner in graph.nodes:
            yield from _reads(inner)
        yield from graph.outputs


def topological_order(nodes: Iterable[gs.Node]) -> list[gs.Node]:
    """Kahn's algorithm over node identity, stable in the given order, without recursion.

    Raises:
        ValueError: the nodes form a cycle.
    """
    ordered = list(nodes)
    position = {id(node): index for index, node in enumerate(ordered)}
    waiting = [0] * len(ordered)
    readers: list[list[int]] = [[] for _ in ordered]
    for index, node in enumerate(ordered):
        sources = {position[id(p)] for t in _reads(node) for p in t.inputs if id(p) in position}
        sources.discard(index)
        waiting[index] = len(sources)
        for source in sources:
            readers[source].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    result: list[gs.Node] = []
    while ready:
        index = heapq.heappop(ready)
        result.append(ordered[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(result) != len(ordered):
        raise ValueError("the graph has a cycle")
    return result
