"""Several products of one tensor with constant weights, computed as one product with the weights side by side.

One product reads the tensor once and gives the matrix library a larger problem. Weights are joined offline, and only
where they then have no other reader, so that nothing is stored twice. Layers that share their weights go on sharing the
joined one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, produced_by

Products: TypeAlias = tuple[gs.Node, ...]
"""MatMul nodes that read one tensor, in the order in which their columns shall stand side by side."""


def products_of_one_tensor(tensors: Sequence[Tensor], edit: Editor) -> Products:
    """The products with constant weights that compute the tensors [..., N1], [..., N2], … from one tensor [..., K].

    Raises:
        Reject: they are not that, or something reads one of them twice or from elsewhere.
    """
    producers = [produced_by(tensor, "MatMul") for tensor in tensors]
    products = tuple(product for product in producers if product is not None)
    if len(products) != len(tensors):
        raise Reject("{} are not all products with a weight", _names(tensors))
    if any(product.inputs[0] is not products[0].inputs[0] for product in products):
        raise Reject("{} are projections of different tensors", _names(tensors))
    for tensor in tensors:
        if len(tensor.outputs) != 1 or edit.is_graph_output(tensor):
            raise Reject("{} is read elsewhere too", tensor.name)
    weights = [product.inputs[1] for product in products]
    if any(not isinstance(weight, gs.Constant) or len(weight.shape) != 2 for weight in weights):
        raise Reject("the weights of {} are not all constant matrices", _names(tensors))
    if len({weight.dtype for weight in weights}) != 1:
        raise Reject("the weights of {} differ in type", _names(tensors))
    return products


def grouped_by_weights(places: Iterable[Products]) -> list[list[int]]:
    """Which of the places, by index, have the same weights in the same order: each group shares one joined weight."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, products in enumerate(places):
        groups.setdefault(tuple(id(product.inputs[1]) for product in products), []).append(index)
    return list(groups.values())


def join(edit: Editor, places: Sequence[Products], hint: str) -> list[Tensor]:
    """Join the weights that all the places share, and compute each place's products as one.

    The old products lose their operands, so that weights are let go of at once. What reads their results has to be made
    to read the new ones.

    Args:
        edit: of the graph.
        places: one group of `grouped_by_weights`.
        hint: what the new nodes are named after.

    Returns:
        for each place the tensor [..., N1 + N2 + …].

    Raises:
        Reject: a weight is read elsewhere too, and would be stored twice. Nothing was changed.
    """
    weights = [product.inputs[1] for product in places[0]]
    for weight in weights:
        if len(weight.outputs) != sum(other is weight for other in weights) * len(places):
            raise Reject("{} is read elsewhere too, and would be stored twice", weight.name)
    joined = edit.constant(np.concatenate([weight.values for weight in weights], axis=1), weights[0].name)
    results = []
    for products in places:
        first = products[0].outputs[0]
        shape = None if first.shape is None else [*first.shape[:-1], joined.shape[1]]
        x = products[0].inputs[0]
        results.append(edit.node("MatMul", [x, joined], hint=hint, dtype=first.dtype, shape=shape))
        for product in products:
            product.inputs.clear()
    return results


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(tensor.name for tensor in tensors)
