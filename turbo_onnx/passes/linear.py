"""A linear layer with constant weights: MatMul, and a constant vector added to it."""

from __future__ import annotations

from collections.abc import Sequence
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
    added = added_vector(tensor)
    if added is not None and len(added[0].outputs) == 1:
        product, bias = added[0], added[1].values.reshape(-1)
    node = produced_by(product, "MatMul")
    if node is None:
        return None
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or len(weight.shape) != 2 or isinstance(node.inputs[0], gs.Constant):
        return None
    return Linear(node.inputs[0], weight, product, bias)


def added_vector(tensor: Tensor) -> tuple[Tensor, gs.Constant] | None:
    """A tensor [..., N] and the constant vector whose sum this one is; None where it is no such sum."""
    add = produced_by(tensor, "Add") if tensor.shape else None
    for x, vector in () if add is None else (add.inputs[::-1], add.inputs):
        if is_vector(vector, tensor.shape[-1]) and x.shape == tensor.shape:
            return x, vector
    return None


def joined_bias(biases: Sequence[np.ndarray | None], widths: Sequence[int]) -> np.ndarray | None:
    """Biases of columns that stand side by side as one, zeros where there is none; None where there is none at all.

    Args:
        biases: each [N], float32.
        widths: N of each.
    """
    if all(bias is None for bias in biases):
        return None
    parts = [np.zeros(width, np.float32) if b is None else b for b, width in zip(biases, widths, strict=True)]
    return np.concatenate(parts)


def is_vector(tensor: Tensor, width: int | str) -> bool:
    """Whether the tensor is a constant with one number for each column, and nothing else."""
    if not isinstance(tensor, gs.Constant) or not tensor.shape or tensor.shape[-1] != width:
        return False
    return all(size == 1 for size in tensor.shape[:-1])


def with_columns(edit: Editor, layer: Linear, order: np.ndarray) -> Tensor:
    """The layer's product with its columns in another order, by permuting the weight."""
    weight = edit.constant(layer.weight.values[:, order], f"{layer.weight.name}_ordered")
    return edit.node("MatMul", [layer.x, weight], dtype=layer.product.dtype, shape=layer.product.shape)
