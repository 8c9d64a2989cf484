"""Models of which each branch has a memory plan of its own: a decoder that is merged from two, for example.

What a run allocates depends on the branch that it takes, so each branch begins a run by itself. All that runs must be
in the branch, or come behind it: what runs in front would be part of no plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from turbo_onnx.branches import read_from_outside
from turbo_onnx.errors import Reject
from turbo_onnx.graph import is_op, subgraphs


@dataclass(frozen=True)
class Branch:
    """A branch of the main graph's only If.

    Attributes:
        name: "then_branch" or "else_branch".
        graph: the branch.
        flag: what the model's flag is in runs that take it.
    """

    name: str
    graph: gs.Graph
    flag: bool


def planned_branches(graph: gs.Graph) -> list[Branch]:
    """The branches that have to have plans of their own; none where no node has a graph inside.

    Raises:
        Reject: a graph inside of a node can have no plan.
    """
    holders = [node for node in graph.nodes if any(True for _ in subgraphs(node))]
    if not holders:
        return []
    node = holders[0]
    if len(holders) > 1 or not is_op(node, "If"):
        raise Reject("what {} '{}' allocates depends on more than sizes", node.op, node.name)
    flag = node.inputs[0]
    if not any(flag is tensor for tensor in graph.inputs) or flag.shape is None or len(flag.shape) > 1:
        raise Reject("the flag of If '{}', {}, is no input with at most one axis", node.name, flag.name)
    behind = _behind(node)
    for other in graph.nodes:
        if other is not node and id(other) not in behind:
            raise Reject(
                "{} '{}' does not wait for If '{}', whose branches begin a run", other.op, other.name, node.name
            )
    return [Branch(f"{name}_branch", node.attrs[f"{name}_branch"], name == "then") for name in ("then", "else")]


def operands(branches: Sequence[Branch]) -> int:
    """How many tensors the branch that reads most of the graph around it reads there, without constants."""
    read = [
        {id(tensor) for tensor in read_from_outside(one.graph) if isinstance(tensor, gs.Variable)} for one in branches
    ]
    return max(map(len, read), default=0)


def _behind(node: gs.Node) -> set[int]:
    """The nodes that compute with what this one does."""
    found: set[int] = set()
    stack = [node]
    while stack:
        for tensor in stack.pop().outputs:
            for reader in tensor.outputs:
                if id(reader) not in found:
                    found.add(id(reader))
                    stack.append(reader)
    return found
