"""Fuse the bias in front of a Gelu into it: BiasGelu(x, bias). A Gelu without one becomes BiasGelu(x).

Both make one trip through memory where Add and Gelu make two and more.
"""

from __future__ import annotations

import numpy as np

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.pattern import Expression, constant, op, operators, variable


class FuseBiasGelu(Fusion):
    """Every Gelu over float32 becomes a BiasGelu, with the constant row that is added before where there is one."""

    name = "fuse-bias-gelu"
    summary = "Fuse Gelu and the bias in front of it into BiasGelu."

    def pattern(self) -> Expression:
        x, bias = variable("x"), constant("bias")
        raised = operators(RAISED_DOMAIN)
        return raised.Gelu(x + bias) | op.Gelu(x + bias) | raised.Gelu(x) | op.Gelu(x)

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        x, bias = match.x, match.bias
        if x.dtype != np.float32:
            raise Reject("{} is {}, and BiasGelu has a kernel for float32 only", x.name, x.dtype)
        if not x.shape:
            raise Reject("{} has no last axis that is known", x.name)
        if bias is not None and (list(bias.shape) != [x.shape[-1]]):
            raise Reject("{} {} is not a bias of {} {}", bias.name, list(bias.shape), x.name, list(x.shape))
        attributes = {"approximate": match.root.attrs.get("approximate", "none")}
        return edit.node("BiasGelu", [x, bias], attrs=attributes, domain=DOMAIN)
