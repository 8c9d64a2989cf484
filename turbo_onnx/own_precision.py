"""What a model computes in as it is: what an artifact for GPUs goes back to, and how exactly it can be compared."""

from __future__ import annotations

from collections import Counter

import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.graph import Editor, is_op, subgraphs
from turbo_onnx.model import Model
from turbo_onnx.precision import PRECISIONS, Precision, half_type

_PRODUCTS = ("MatMul", "Gemm", "Conv", "Einsum", "Attention", "FusedMatMul", "MultiHeadAttention")


def learn_types(model: Model) -> None:
    """Infer the types of a model as read, where it may have tensors in half precision. Sorts its graph."""
    if any(half_type(tensor.dtype) is not None for tensor in mentioned(model.graph)):
        Editor(model.graph).sort()
        for node in model.graph.nodes:
            if is_op(node, "Constant") and isinstance(node.attrs.get("value"), gs.Constant):
                node.outputs[0].dtype = node.attrs["value"].dtype
        shapes.infer(model)


def mentioned(graph: gs.Graph) -> list[gs.Variable | gs.Constant]:
    """The tensors that say whether there is half precision: it comes from inputs, constants or casts."""
    found = [*graph.inputs, *graph.outputs]
    for node in graph.nodes:
        found += [*node.inputs, *node.outputs]
        found += [value for value in node.attrs.values() if isinstance(value, gs.Constant)]
        if is_op(node, "Cast"):
            found.append(gs.Variable("to", dtype=node.attrs["to"]))
        for inner in subgraphs(node):
            found += mentioned(inner)
    return found


def own_precision(model: Model) -> Precision:
    """The type that most of the model's products compute in; that of most of its results where it has none."""
    results = {product: Counter[Precision]() for product in (True, False)}
    for node in model.graph.nodes:
        half = half_type(node.outputs[0].dtype) if node.outputs else None
        if half is not None or (node.outputs and str(node.outputs[0].dtype) == "float32"):
            results[node.op in _PRODUCTS][half.precision if half is not None else "fp32"] += 1
    counts = results[True] or results[False]
    return max(PRECISIONS, key=lambda precision: counts[precision]) if counts else "fp32"


def coarsest(*precisions: Precision) -> Precision:
    """The one with the largest roundings."""
    return max(precisions, key=PRECISIONS.index)


def coarsest_result(model: Model) -> Precision:
    """The coarsest type that the model's inputs have, or any of its nodes rounds its results to."""
    computed = (tensor for node in model.graph.nodes for tensor in node.outputs)
    halves = [half_type(tensor.dtype) for tensor in (*model.graph.inputs, *computed)]
    return coarsest("fp32", *(half.precision for half in halves if half is not None))


def computes_in_half(model: Model) -> bool:
    """Whether any node has a half-precision result, but for casts."""
    nodes = (node for node in model.graph.nodes if not is_op(node, "Cast"))
    return any(half_type(tensor.dtype) is not None for node in nodes for tensor in node.outputs)
