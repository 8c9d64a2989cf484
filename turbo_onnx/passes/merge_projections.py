"""Compute the queries, keys and values of an attention with one MatMul instead of three.

One product of [H, 3*N] reads the hidden states once and gives the matrix library a larger problem. Weights are joined
offline, one attention at a time, and only where the three weights then have no other reader, so that nothing is stored
twice. Layers that share their weights go on sharing the joined one.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, input_or_none, is_op, produced_by
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection

_Weights = tuple[int, int, int]


class MergeProjections(Pass):
    """Join the Q, K and V projections that read the same tensor into one MatMul."""

    name = "merge-projections"
    summary = "Compute queries, keys and values with one MatMul."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        groups: dict[_Weights, list[gs.Node]] = {}
        for node in model.graph.nodes:
            if not is_op(node, "VarlenAttention", domain=DOMAIN) or input_or_none(node, 1) is None:
                continue
            try:
                groups.setdefault(_weights_of(node, edit), []).append(node)
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        for weights, nodes in groups.items():
            try:
                _merge(edit, weights, nodes)
                report.applied += len(nodes)
            except Reject as reason:
                report.rejected += [Rejection(self.name, node.name, str(reason)) for node in nodes]
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _weights_of(node: gs.Node, edit: Editor) -> _Weights:
    """The identities of the attention's three weights.

    Raises:
        Reject: its projections cannot be one.
    """
    producers = [produced_by(tensor, "MatMul") for tensor in node.inputs[:3]]
    products = [product for product in producers if product is not None]
    if len(products) != 3:
        raise Reject("its queries, keys and values are not all products with a weight")
    if any(product.inputs[0] is not products[0].inputs[0] for product in products):
        raise Reject("its queries, keys and values are projections of different tensors")
    for product in products:
        result = product.outputs[0]
        if len(result.outputs) != 1 or edit.is_graph_output(result):
            raise Reject("{} is read elsewhere too", result.name)
    weights = [product.inputs[1] for product in products]
    if any(not isinstance(weight, gs.Constant) or len(weight.shape) != 2 for weight in weights):
        raise Reject("its projections' weights are not all constant matrices")
    if len({(tuple(weight.shape), weight.dtype) for weight in weights}) != 1:
        raise Reject("its projections differ in width: {}", [list(weight.shape) for weight in weights])
    return id(weights[0]), id(weights[1]), id(weights[2])


def _merge(edit: Editor, weights: _Weights, nodes: list[gs.Node]) -> None:
    """Join the weights that all the nodes share, and let each read one product with the joined weight."""
    constants = [tensor.inputs[0].inputs[1] for tensor in nodes[0].inputs[:3]]
    for constant, identity in zip(constants, weights, strict=True):
        if len(constant.outputs) != weights.count(identity) * len(nodes):
            raise Reject("{} is read elsewhere too, and would be stored twice", constant.name)
    joined = edit.constant(np.concatenate([constant.values for constant in constants], axis=1), constants[0].name)
    for node in nodes:
        products = [tensor.inputs[0] for tensor in node.inputs[:3]]
        first = products[0].outputs[0]
        shape = None if first.shape is None else [*first.shape[:-1], joined.shape[1]]
        packed = edit.node("MatMul", [products[0].inputs[0], joined], hint="qkv", dtype=first.dtype, shape=shape)
        node.inputs[0] = packed
        node.inputs[1] = gs.Variable.empty()
        node.inputs[2] = gs.Variable.empty()
        for product in products:  # lets go of the weights now, not when all attentions are done
            product.inputs.clear()
