"""Finds where a pattern occurs in a graph, and where it nearly does and why not.

Backtracking search from one root node: a list of goals (expression, tensor) is worked off; alternatives, and the two
orders of commutative operators, are choice points. A match counts only if nothing outside it reads a tensor that the
pattern does not return, which is itself a reason to go back and try another alternative.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import attributes
from turbo_onnx.graph import STANDARD_DOMAINS, Shape, Tensor, input_or_none, scalar_value, subgraphs, widened_from
from turbo_onnx.pattern import Binding, Call, Either, Expression, Number, Output, Variable

_Goals = tuple["Expression | None", "Tensor | None", "_Goals"] | None  # what is left to match, as a linked list


@dataclass(frozen=True)
class Match:
    """One occurrence of a pattern.

    Attributes:
        root: the node that computes the first tensor that the pattern returns.
        nodes: every node that is part of the match.
        outputs: the tensors that the pattern returns; None for one that lies in an alternative not taken.
        values: what variables, labels and bindings stand for; also to be had as `match.name`, None where there is none.
        matcher: what found it.
    """

    root: gs.Node
    nodes: tuple[gs.Node, ...]
    outputs: tuple[Tensor | None, ...]
    values: dict[str, Any] = field(repr=False)
    matcher: Matcher = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.values.get(name)

    def is_read_outside(self, tensor: Tensor) -> bool:
        """Whether something that is not part of the match reads the tensor, or the graph gives it out."""
        inside = {id(node) for node in self.nodes}
        return self.matcher.outside_reader(tensor, inside) is not None


@dataclass(frozen=True)
class Miss:
    """The deepest that the search came at one root, and what was in the way.

    Attributes:
        root: where the search began.
        nodes: identities of the nodes that had matched by then.
        operators: their types.
        sentence: what was in the way.
    """

    root: gs.Node
    nodes: frozenset[int]
    operators: frozenset[str]
    sentence: str


def describe(node: gs.Node) -> str:
    """The node's name for people; nodes without one are called after what they compute."""
    return node.name or f"{node.op} of {node.outputs[0].name}"


class Matcher:
    """Matches one pattern against the nodes of one graph.

    Args:
        returns: the expressions that the pattern returns; the first one's node is the root.
        graph: the graph.
        opset: version of the standard operator set, for defaults of attributes.

    Attributes:
        anchors: the (domain, operator) pairs that a root can be; the standard domain is None.
    """

    def __init__(self, returns: Sequence[Expression], graph: gs.Graph, opset: int) -> None:
        self._returns = tuple(returns)
        self._graph = graph
        self._opset = opset
        self._branch_outputs = {id(t) for node in graph.nodes for g in _all_subgraphs(node) for t in g.outputs}
        self.anchors = frozenset(_anchors(self._returns[0]))
        self._gone: Collection[int] = ()
        self._reset()

    def _reset(self) -> None:
        self._tensors: dict[Expression, Tensor | None] = {}
        self._nodes: dict[Call, gs.Node] = {}
        self._values: dict[str, Any] = {}
        self._depth = 0.0
        self._sentence: tuple[Any, ...] = ()
        self._reached: tuple[gs.Node, ...] = ()

    def can_start(self, node: gs.Node) -> bool:
        """Whether the node's type is one that a root can have."""
        return (None if node.domain in STANDARD_DOMAINS else node.domain, node.op) in self.anchors

    def matches(self, root: gs.Node, gone: Collection[int] = ()) -> Iterator[Match]:
        """Every way in which the pattern matches at the root; do not edit the graph while iterating further.

        Args:
            root: the node that shall compute the first tensor that the pattern returns.
            gone: identities of nodes that are no longer part of the graph, and whose reading does not count.
        """
        self._reset()
        self._gone = gone
        for tensor in root.outputs:
            for _ in self._solve((self._returns[0], tensor, None)):
                yield Match(
                    root,
                    tuple({id(node): node for node in self._nodes.values()}.values()),
                    tuple(self._tensors.get(expression) for expression in self._returns),
                    dict(self._values),
                    self,
                )

    def miss(self, root: gs.Node) -> Miss | None:
        """Why the last search, which began at this root, found nothing; None if nothing there matched at all."""
        if not self._sentence or not self._reached:
            return None
        nodes = frozenset(id(node) for node in self._reached)
        operators = frozenset(node.op for node in self._reached)
        template, *values = self._sentence
        return Miss(root, nodes, operators, template.format(*(_say(value) for value in values)))

    def outside_reader(self, tensor: Tensor, inside: Collection[int]) -> gs.Node | gs.Graph | None:
        """A node, other than these and those that are gone, that reads the tensor; or the graph that gives it out."""
        for reader in tensor.outputs:
            if id(reader) not in inside and id(reader) not in self._gone:
                return reader
        if id(tensor) in self._branch_outputs or any(tensor is output for output in self._graph.outputs):
            return self._graph
        return None

    def _note(self, depth: float, *sentence: Any) -> None:
        depth += len(self._nodes)
        if depth > self._depth:
            self._depth = depth
            self._sentence = sentence
            self._reached = tuple(self._nodes.values())

    # Each step below yields once for every way in which all the goals can be met.

    def _solve(self, goals: _Goals) -> Iterator[None]:
        if goals is None:
            if self._is_closed():
                yield
            return
        expression, tensor, rest = goals
        if expression is None:
            if tensor is None:
                yield from self._solve(rest)
            else:
                self._note(0, "{} is an operand that should be absent", tensor)
            return
        if expression in self._tensors:
            if self._tensors[expression] is tensor:
                yield from self._solve(rest)
            else:
                self._note(0, "{} and {} should be the same tensor", tensor, self._tensors[expression])
            return
        self._tensors[expression] = tensor
        label = expression.label
        fresh = label is not None and label not in self._values
        if fresh:
            self._values[str(label)] = tensor
            yield from self._attempt(expression, tensor, rest)
            del self._values[str(label)]
        elif label is None or self._values[label] is tensor:
            yield from self._attempt(expression, tensor, rest)
        else:
            self._note(0, "{} and {} should be the same tensor", tensor, self._values[label])
        del self._tensors[expression]

    def _attempt(self, expression: Expression, tensor: Tensor | None, rest: _Goals) -> Iterator[None]:
        if isinstance(expression, Variable):
            if self._is_allowed(tensor, expression):
                yield from self._solve(rest)
        elif isinstance(expression, Either):
            for option in expression.options:
                yield from self._solve((option, tensor, rest))
        elif isinstance(expression, Number):
            if self._is_number(tensor, expression):
                yield from self._solve(rest)
        elif isinstance(expression, Binding):
            value = scalar_value(tensor)
            if value is None:
                self._note(0, "{} is not a constant with one number", tensor)
            else:
                yield from self._bind(expression.name, value, rest)
        elif tensor is None:
            self._note(0, "an operand is absent")
        elif isinstance(expression, Output):
            yield from self._call(expression.call, expression.index, tensor, rest)
        else:
            assert isinstance(expression, Call)
            yield from self._call(expression, 0, tensor, rest)

    def _is_allowed(self, tensor: Tensor | None, variable: Variable) -> bool:
        if tensor is None and not variable.optional:
            self._note(0, f"the operand {variable.label} is absent")
            return False
        if variable.constant and not isinstance(tensor, gs.Constant):
            self._note(0, "{} is not a constant", tensor)
            return False
        return True

    def _bind(self, name: str, value: Any, rest: _Goals) -> Iterator[None]:
        if name not in self._values:
            self._values[name] = value
            yield from self._solve(rest)
            del self._values[name]
        elif self._values[name] == value:
            yield from self._solve(rest)
        else:
            self._note(0, f"{name} is both {{}} and {{}}", self._values[name], value)

    def _is_number(self, tensor: Tensor | None, expected: Number) -> bool:
        value = scalar_value(tensor)
        if value is None:
            self._note(0, "{} should be the number {}", tensor, expected.value)
            return False
        tolerance = max(expected.tolerance, _rounding(tensor))
        if abs(float(value) - expected.value) <= tolerance * abs(expected.value):
            return True
        half = widened_from(tensor)
        if half is not None and float(value) == float(np.float64(expected.value).astype(half.dtype)):
            return True
        self._note(0.25, "{} is {}, not {}", tensor, float(value), expected.value)
        return False

    def _call(self, call: Call, index: int, tensor: Tensor, rest: _Goals) -> Iterator[None]:
        node = tensor.inputs[0] if tensor.inputs else None
        if call in self._nodes:
            if node is self._nodes[call] and node.outputs[index] is tensor:
                yield from self._solve(rest)
            else:
                self._note(0, "{} should be computed by {}", tensor, self._nodes[call])
            return
        if node is None:
            what = "a constant" if isinstance(tensor, gs.Constant) else "an input of the graph"
            self._note(0, f"expected {call.name}, but {{}} is {what}", tensor)
            return
        domain = None if node.domain in STANDARD_DOMAINS else node.domain
        if node.op != call.name or domain != call.domain:
            self._note(0, f"expected {call.name}, but {{}} is computed by {node.op} ({{}})", tensor, node)
            return
        if index >= len(node.outputs) or node.outputs[index] is not tensor:
            self._note(0, "{} is not the output of {} that is meant", tensor, node)
            return
        self._nodes[call] = node
        operands = _operands(node, call)
        bound = self._read_attributes(call, node)
        if bound is not None and operands is not None and self._keeps_shape(call, operands):
            for order in call.orders:
                goals = rest
                for operand, value in reversed(tuple(zip(order, operands, strict=True))):
                    goals = (operand, value, goals)
                yield from self._solve(goals)
                if len(operands) == 2 and operands[0] is operands[1]:
                    break
        elif operands is None:
            self._note(0, "{} has more operands than it should", node)
        for name in bound or ():
            del self._values[name]
        del self._nodes[call]

    def _keeps_shape(self, call: Call, operands: list[Tensor | None]) -> bool:
        """Whether a constant that stands for a number leaves the shape of what it is combined with as it is."""
        if len(operands) != 2 or not any(isinstance(operand, Number | Binding) for operand in call.operands):
            return True
        for value, other in (operands, operands[::-1]):
            if isinstance(value, gs.Constant) and other is not None and not _is_broadcast_to(value, other.shape):
                self._note(0, "{} {} may change the shape of {}", value, str(list(value.shape)), other)
                return False
        return True

    def _read_attributes(self, call: Call, node: gs.Node) -> list[str] | None:
        """Compare the attributes; the names that were bound, or None if one is different."""
        bound: list[str] = []
        for name, expected in call.attributes.items():
            actual = attributes.read(node, name, self._opset)
            if isinstance(expected, Binding):
                if expected.name not in self._values:
                    self._values[expected.name] = actual
                    bound.append(expected.name)
                    continue
                expected = self._values[expected.name]
            if not _same_attribute(node, name, actual, expected):
                self._note(-0.5, *_difference(node, name, actual, expected))
                for label in bound:
                    del self._values[label]
                return None
        return bound

    def _is_closed(self) -> bool:
        """Whether only the tensors that the pattern returns are read outside the match."""
        inside = {id(node) for node in self._nodes.values()}
        returned = {id(t) for e in self._returns if (t := self._tensors.get(e)) is not None}
        for node in self._nodes.values():
            for tensor in node.outputs:
                if (id(tensor) in returned and id(tensor) not in self._branch_outputs) or tensor.is_empty():
                    continue
                reader = self.outside_reader(tensor, inside)
                if reader is not None:
                    said = "is also read by {}" if isinstance(reader, gs.Node) else "is also an output of the graph"
                    self._note(0.5, f"{{}} {said}", tensor, reader)
                    return False
        return True


def _anchors(expression: Expression) -> Iterator[tuple[str | None, str]]:
    if isinstance(expression, Either):
        for option in expression.options:
            yield from _anchors(option)
    elif isinstance(expression, Output):
        yield from _anchors(expression.call)
    elif isinstance(expression, Call):
        yield expression.domain, expression.name
    else:
        raise TypeError("the first thing that a pattern returns has to be computed by an operator")


def _all_subgraphs(node: gs.Node) -> Iterator[gs.Graph]:
    for graph in subgraphs(node):
        yield graph
        for inner in graph.nodes:
            yield from _all_subgraphs(inner)


def _operands(node: gs.Node, call: Call) -> list[Tensor | None] | None:
    """The node's inputs as the call lists them; None if it has more. Attributes that became inputs do not count."""
    moved = {attributes.AS_INPUT.get((node.op, name)) for name in call.attributes}
    count = len(call.operands)
    if any(index not in moved and input_or_none(node, index) is not None for index in range(count, len(node.inputs))):
        return None
    return [input_or_none(node, index) for index in range(count)]


def _is_broadcast_to(value: gs.Constant, shape: Shape) -> bool:
    """Whether combining the constant with a tensor of that shape gives that shape."""
    sizes = list(value.shape)
    if not sizes:
        return True
    if shape is None or len(sizes) > len(shape):
        return False
    return all(size in (1, dim) for size, dim in zip(sizes[::-1], shape[::-1], strict=False))


def _same_attribute(node: gs.Node, name: str, actual: Any, expected: Any) -> bool:
    if name in ("axis", "axes"):
        shape = node.inputs[0].shape if node.inputs else None
        return attributes.same_axes(actual, expected, None if shape is None else len(shape))
    if isinstance(expected, float) and isinstance(actual, int | float):
        return abs(actual - expected) <= 1e-6 * abs(expected)
    if isinstance(expected, list | tuple) and isinstance(actual, list | tuple):
        return list(actual) == list(expected)
    return bool(actual == expected)


def _difference(node: gs.Node, name: str, actual: Any, expected: Any) -> tuple[Any, ...]:
    if actual is attributes.UNKNOWN:
        return f"{{}} computes its {name} at run time", node
    if name not in ("axis", "axes"):
        return f"{{}} has {name} {actual}, not {expected}", node
    verb = "reduces" if node.op.startswith("Reduce") else "works on"
    if actual is None:
        return f"{{}} {verb} all axes", node
    axes = list(actual) if isinstance(actual, list | tuple) else [actual]
    meant = list(expected) if isinstance(expected, list | tuple) else [expected]
    said = "the last" if meant == [-1] else ", ".join(map(str, meant))
    return f"{{}} {verb} ax{'i' if len(axes) == 1 else 'e'}s {', '.join(map(str, axes))}, not {said}", node


def _rounding(tensor: Tensor | None) -> float:
    """Half the distance between neighbouring numbers of the tensor's type, relative."""
    try:
        return float(np.finfo(tensor.dtype).eps) / 2 if tensor is not None else 0.0
    except (TypeError, ValueError):
        return 0.0


def _say(value: Any) -> str:
    if value is None:
        return "an absent operand"
    if isinstance(value, gs.Node):
        return describe(value)
    if isinstance(value, gs.Variable | gs.Constant):
        return str(value.name)
    return f"{value:.9g}" if isinstance(value, float) else str(value)
