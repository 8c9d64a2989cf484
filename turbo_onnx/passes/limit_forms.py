"""Let nodes run by their definitions where a model uses an operator in more forms than the library has names for.

`custom_ops/functions.py` says what a form is, and why each has a name of its own. The forms that most nodes have keep
their kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_graphsurgeon as gs

from turbo_onnx import custom_ops
from turbo_onnx.custom_ops.functions import Form, form
from turbo_onnx.custom_ops.specification import BODY_DOMAIN, DOMAIN, is_ours
from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection


class LimitForms(Pass):
    """Keep every operator of ours within the names that the library registers it by."""

    name = "limit-forms"
    summary = "Run by its definition what uses an operator in more forms than the library has names for."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        uses = [(node, (node.op, _form(node))) for node in ours(model.graph) if node.domain == DOMAIN]
        named: Counter[str] = Counter()
        kept: set[tuple[str, Form]] = set()
        for use, _ in Counter(use for _, use in uses).most_common():
            operator, _ = use
            if named[operator] < custom_ops.spec(operator).forms:
                named[operator] += 1
                kept.add(use)
        for node, use in uses:
            if use in kept:
                continue
            node.domain = BODY_DOMAIN
            report.applied += 1
            sentence = f"the model uses {node.op} in more than {named[node.op]} forms, and this one is rarer than those"
            report.rejected.append(Rejection(self.name, node.name, sentence))
        if report.applied:
            report.facts["nodes_run_by_body"] = run_by_body(model)
        return report


@contextmanager
def limited(model: Model) -> Iterator[None]:
    """Within it the model is as LimitForms leaves it, to be written; then it is as it was."""
    nodes = [node for node in ours(model.graph) if node.domain == DOMAIN]
    LimitForms().run(model)
    try:
        yield
    finally:
        for node in nodes:
            node.domain = DOMAIN


def run_by_body(model: Model) -> list[str]:
    """The names of the nodes of ours that have no kernel."""
    return [node.name for node in ours(model.graph) if node.domain == BODY_DOMAIN]


def ours(graph: gs.Graph) -> Iterator[gs.Node]:
    """The nodes of our operators, in the graphs inside of this one, too."""
    for node in graph.nodes:
        if is_ours(node.domain):
            yield node
        for subgraph in subgraphs(node):
            yield from ours(subgraph)


def _form(node: gs.Node) -> Form:
    spec = custom_ops.spec(node.op)
    return form(spec, [tensor.name for tensor in node.inputs], [tensor.name for tensor in node.outputs], node.attrs)
