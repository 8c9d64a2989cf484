"""Say what stands inside of branches and loops: the passes rewrite the main graph, and leave the graphs in it alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from turbo_onnx.graph import STANDARD_DOMAINS, subgraphs
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.passes.base import Pass, PassReport, Rejection

_PRODUCTS = frozenset(("MatMul", "Gemm", "Attention"))
_SOUGHT = _PRODUCTS | {
    "Erf", "Gelu", "LayerNormalization", "RMSNormalization", "ReduceMean", "Softmax", "Tanh"
}  # fmt: skip
"""Where none of these is, no pass would do anything worth mentioning."""


class OptimizeBranches(Pass):
    """Report every node whose graphs hold what the passes look for."""

    name = "optimize-branches"
    summary = "Say which branches and loops hold what the passes look for."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        for node in model.graph.nodes:
            inside = [inner for graph in subgraphs(node) for inner in _nodes_of(graph)]
            if any(_is_one_of(inner, _SOUGHT) for inner in inside):
                report.rejected.append(Rejection(self.name, node.name or node.outputs[0].name, _sentence(node, inside)))
        return report


def _sentence(node: gs.Node, inside: list[gs.Node]) -> str:
    products = sum(_is_one_of(inner, _PRODUCTS) for inner in inside)
    where = "the branches of this If" if node.op == "If" else f"the body of this {node.op}"
    return f"{len(inside)} nodes, {products} of them products, are in {where}, which is left as it is"


def _nodes_of(graph: gs.Graph) -> Iterator[gs.Node]:
    for inner in graphs_of(graph):
        yield from inner.nodes


def _is_one_of(node: gs.Node, names: frozenset[str]) -> bool:
    return node.domain in STANDARD_DOMAINS and node.op in names
