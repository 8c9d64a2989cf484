"""A linear layer with constant weights: MatMul, and a constant vector added to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, produced_by


@dataclass(frozen=True)
class Linear:
    """product = x @ weight; output = product + bias.

    Attributes:
        x: [..., K].
        weight: [K, N].
        product: [..., N].
        bias: [N], or None.
    """

    x: Tensor
    weight: gs.Constant
    product: Tensor
    bias: np.ndarray | None


def linear(tensor: Tensor) -> Linear | None:
    """The layer whose output the tensor is, if it is one."""
    product, bias = tensor, None
    add = produced_by(tensor, "Add")
    if add is not None:
        for index in (0, 1):
            constant = add.inputs[index]
            other = add.inputs[1 - index]
            if is_vector(constant, tensor.shape[-1]) and other.shape == tensor.shape and len(other.outputs) == 1:
                product, bias = other, constant.values.reshape(-1)
                break
    node = produced_by(product, "MatMul")
    if node is None:
        return None
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or isinstance(node.inputs[0], gs.Constant):
        return None
    return Linear(node.inputs[0], weight, product, bias)


def is_vector(tensor: Tensor, width: int | str) -> bool:
    """Whether the tensor is a constant with one number for each column, and nothing else."""
    if not isinstance(tensor, gs.Constant) or not tensor.shape or tensor.shape[-1] != width:
        return False
    return all(size == 1 for size in tensor.shape[:-1])


def with_columns(edit: Editor, layer: Linear, order: np.ndarray) -> Tensor:
    """The layer's product with its columns in another order, by permuting the weight."""
    weight = edit.constant(layer.weight.values[:, order], f"{layer.weight.name}_ordered")
    return edit.node("MatMul", [layer.x, weight], dtype=layer.product.dtype, shape=layer.product.shape)
