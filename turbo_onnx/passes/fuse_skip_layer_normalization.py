"""Fuse normalization(x + skip) into one SkipLayerNormalization, with the projection's bias where it is constant.

The normalization is LayerNormalization or RMSNormalization. The sum is often read again further down (pre-norm blocks),
so it is a result of the pattern too.

The kernel does not broadcast, so both operands must have one shape in every run, by the file's own names for its sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Shape, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.proven_fusion import ProvenFusion
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.pattern import Expression, bind, constant, op, operators, optional, variables


class FuseSkipLayerNormalization(ProvenFusion):
    """A residual sum and the normalization over its last axis become one operator."""

    name = "fuse-skip-layer-normalization"
    summary = "Fuse a residual sum, the bias in front of it and its normalization into SkipLayerNormalization."

    def pattern(self) -> tuple[Expression, Expression]:
        x, skip = variables("x skip")
        total = ((x + constant("bias")) + skip | x + skip).named("total")
        return normalized(total), total

    def rewrite(self, match: Match, edit: Editor) -> tuple[Tensor, Tensor | None]:
        x, skip, total = match.x, match.skip, match.total
        same_rows(x, skip)
        self.check_equal(x, skip)
        width = x.shape[-1]
        check_ends(match, width)
        if match.bias is not None:
            vector(match.bias, width)
        normal = edit.variable("SkipLayerNormalization_output")
        results = [normal]
        if match.is_read_outside(total):
            results.append(edit.variable("SkipLayerNormalization_sum"))
        edit.node(
            "SkipLayerNormalization",
            [x, skip, match.gamma, match.beta, match.bias],
            attrs=kind(match),
            domain=DOMAIN,
            outputs=results,
        )
        for new in results:
            self.proven.take_over(new, total)
        return normal, results[1] if len(results) > 1 else None


def normalized(total: Expression) -> Expression:
    """Every normalization of `total` over its last axis, scaled by "gamma" and maybe shifted by "beta"."""
    gamma, epsilon = constant("gamma"), bind("epsilon")
    layer = op.LayerNormalization(total, gamma, optional("beta"), axis=-1, epsilon=epsilon, stash_type=1)
    standard = op.RMSNormalization(total, gamma, axis=-1, epsilon=epsilon, stash_type=1)
    return layer | standard | operators(RAISED_DOMAIN).RMSNormalization(total, gamma, axis=-1, epsilon=epsilon)


def kind(match: Match) -> dict[str, float | int]:
    """The attributes of SkipLayerNormalization for the normalization that matched."""
    return {"epsilon": float(match.epsilon), "rms": int(match.root.op == "RMSNormalization")}


def check_ends(match: Match, width: Any) -> None:
    """Raise Reject unless what matched scales and shifts by constant rows [width]."""
    vector(match.gamma, width)
    constant_or_absent(match.beta, width)


def same_rows(x: Tensor, skip: Tensor) -> None:
    """Raise Reject unless both are float32 tensors [..., H] of one known shape."""
    for tensor in (x, skip):
        check_type(tensor)
        if not is_known(tensor.shape):
            raise Reject("the shape of {} is not known", tensor.name)
    if list(x.shape) != list(skip.shape):
        raise Reject("{} {} broadcasts against {} {}", x.name, list(x.shape), skip.name, list(skip.shape))
    if not x.shape or not isinstance(x.shape[-1], int):
        raise Reject("the length of the last axis of {} is not known", x.name)


def check_type(tensor: Tensor) -> None:
    """Raise Reject unless there is a kernel for the tensor's type."""
    if tensor.dtype != np.float32:
        raise Reject("{} is {}, and there is a kernel for float32 only", tensor.name, tensor.dtype)


def is_known(shape: Shape) -> bool:
    """Whether every dimension is a number or has a name."""
    return shape is not None and all(isinstance(size, int) or bool(size) for size in shape)


def vector(tensor: Tensor, width: Any) -> None:
    """Raise Reject unless the tensor is one row [width]."""
    if tensor.shape is None or list(tensor.shape) != [width]:
        raise Reject("{} {} is not one row of {} numbers", tensor.name, tensor.shape, width)


def constant_or_absent(beta: Tensor | None, width: Any) -> None:
    """Raise Reject unless the shift is left out or a constant row [width]."""
    if beta is not None:
        if beta.inputs:
            raise Reject("{} is computed", beta.name)
        vector(beta, width)
