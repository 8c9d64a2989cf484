"""What of x @ W + b with a constant W stands in the graph: MatMul or Gemm, and the weight as it is stored.

A weight may be stored as its transpose: a Gemm says so, and a decoder with tied embeddings may have a Transpose of the
table that it looks tokens up in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Tensor, input_or_none, is_op, produced_by
from turbo_onnx.passes.linear import is_vector


@dataclass(frozen=True)
class ConstantProduct:
    """output = x @ weight() + beta · bias.

    Attributes:
        x: [..., K].
        stored: [K, N], or [N, K] if transposed.
        output: [..., N].
        transposed: whether the stored weight is.
        alpha: what the stored weight is multiplied by.
        bias: [N], perhaps with axes of size one in front; None where the node adds none.
        beta: what the bias is multiplied by.
    """

    x: Tensor
    stored: gs.Constant
    output: Tensor
    transposed: bool = False
    alpha: float = 1.0
    bias: gs.Constant | None = None
    beta: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        rows, columns = self.stored.shape
        return (columns, rows) if self.transposed else (rows, columns)

    def weight(self) -> np.ndarray[Any, Any]:
        """What x is multiplied by: [K, N]."""
        stored: np.ndarray[Any, Any] = self.stored.values.T if self.transposed else self.stored.values
        return stored if self.alpha == 1.0 else stored * np.float32(self.alpha)


def constant_product(node: gs.Node) -> ConstantProduct:
    """The product that a MatMul or a Gemm computes.

    Raises:
        Reject: what stands on its right is no constant matrix, or the node does more than this.
    """
    x, right = node.inputs[0], node.inputs[1]
    if isinstance(x, gs.Constant):
        raise Reject("its left side {} is constant", x.name)
    stored, transposed = _stored(right)
    if not is_op(node, "Gemm"):
        return ConstantProduct(x, stored, node.outputs[0], transposed)
    if node.attrs.get("transA", 0):
        raise Reject("it transposes {}, whose rows are quantized", x.name)
    transposed ^= bool(node.attrs.get("transB", 0))
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    product = ConstantProduct(x, stored, node.outputs[0], transposed, alpha)
    bias = input_or_none(node, 2) if beta != 0.0 else None
    if bias is None:
        return product
    if not isinstance(bias, gs.Constant) or not is_vector(bias, product.shape[1]):
        raise Reject("its bias {} is not a constant with one number for each column", bias.name)
    return ConstantProduct(x, stored, node.outputs[0], transposed, alpha, bias, beta)


def _stored(weight: Tensor) -> tuple[gs.Constant, bool]:
    """The constant that the weight is, or is the transpose of; which of both."""
    transpose = produced_by(weight, "Transpose")
    source = weight if transpose is None else transpose.inputs[0]
    if not isinstance(source, gs.Constant):
        raise Reject("both of its sides are computed")
    if len(source.shape) != 2:
        raise Reject("{} has shape {}, and only matrices are quantized", source.name, list(source.shape))
    turns = transpose is not None and list(transpose.attrs.get("perm", (1, 0))) == [1, 0]
    return source, turns
