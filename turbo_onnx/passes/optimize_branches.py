"""Run the passes in the branches of each If of the main graph, too, and say what stands inside of other graphs.

A decoder that is merged from two, without and with a past, is one If. Padding is not removed inside of branches, and
bodies of loops are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_graphsurgeon as gs

from turbo_onnx.branches import Branches
from turbo_onnx.errors import Reject
from turbo_onnx.graph import STANDARD_DOMAINS, is_op
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.passes.base import Pass, PassReport, Rejection

_PRODUCTS = frozenset(("MatMul", "Gemm", "Attention"))
_SOUGHT = _PRODUCTS | {
    "Erf", "Gelu", "LayerNormalization", "RMSNormalization", "ReduceMean", "Softmax", "Tanh"
}  # fmt: skip
"""Where none of these is, no pass would do anything worth mentioning."""
_COUNTED = ("attention_found", "attention_fused")

Rewrite = Callable[[Model], Sequence[PassReport]]
"""Runs passes over a model: the same ones each time."""


class OptimizeBranches(Pass):
    """Rewrite the branches that hold what the passes look for, and report every other graph that does.

    Args:
        rewrite: what to do to each branch; None leaves them as they are.
    """

    name = "optimize-branches"
    summary = "Run the passes in the branches of each If, too."
    repeats = False

    def __init__(self, rewrite: Rewrite | None = None) -> None:
        self.rewrite = rewrite

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        branches = Branches(model)
        runs: list[list[PassReport]] = []
        for node in model.graph.nodes:
            for name, graph in _graphs_in(node):
                try:
                    runs.append(self._rewritten(branches, node, name, graph))
                    report.rejected += _left_inside(graph)
                except Reject as reason:
                    report.rejected.append(_left(node, name, graph, str(reason)))
        report.inside = [_together(steps) for steps in zip(*runs, strict=True)]
        report.applied = sum(step.applied for step in report.inside)
        for fact in _COUNTED:
            numbers = [step.facts.get(fact, 0) for steps in runs for step in steps]
            report.facts[f"{fact}_in_branches"] = sum(number for number in numbers if isinstance(number, int))
        return report

    def _rewritten(self, branches: Branches, node: gs.Node, name: str, graph: gs.Graph) -> list[PassReport]:
        if not is_op(node, "If"):
            raise Reject("only branches of an If are rewritten")
        if self.rewrite is None:
            raise Reject("branches are rewritten for the CPU only")
        with branches.taken_out(graph) as part:
            steps = list(self.rewrite(part))
        for step in steps:
            step.rejected = [
                Rejection(r.rule, f"{r.node} in {name} of {_label(node)}", r.sentence) for r in step.rejected
            ]
        return steps


def _together(steps: Sequence[PassReport]) -> PassReport:
    """What one pass did in all branches."""
    first = steps[0]
    rejected = [rejection for step in steps for rejection in step.rejected]
    seconds = sum(step.seconds for step in steps)
    return PassReport(first.name, sum(step.applied for step in steps), rejected, summary=first.summary, seconds=seconds)


def _left_inside(graph: gs.Graph) -> Iterator[Rejection]:
    for node in graph.nodes:
        for name, inner in _graphs_in(node):
            yield _left(node, name, inner, "it is inside of a branch itself")


def _left(node: gs.Node, name: str, graph: gs.Graph, why: str) -> Rejection:
    inside = list(_nodes_of(graph))
    products = sum(_is_one_of(inner, _PRODUCTS) for inner in inside)
    what = f"{len(inside)} nodes, {products} of them products, are in its {name}, which is left as it is: {why}"
    return Rejection(OptimizeBranches.name, _label(node), what)


def _label(node: gs.Node) -> str:
    return f"{node.op} {node.name or node.outputs[0].name}"


def _graphs_in(node: gs.Node) -> Iterator[tuple[str, gs.Graph]]:
    """The graphs of the node, by attribute, that hold what the passes look for."""
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph) and any(_is_one_of(inner, _SOUGHT) for inner in _nodes_of(value)):
            yield name, value


def _nodes_of(graph: gs.Graph) -> Iterator[gs.Node]:
    for inner in graphs_of(graph):
        yield from inner.nodes


def _is_one_of(node: gs.Node, names: frozenset[str]) -> bool:
    return node.domain in STANDARD_DOMAINS and node.op in names
