"""Raise the chains of nodes that exporters write for the Gaussian error linear unit to Gelu.

There are two functions: 0.5 x (1 + erf(x / √2)), and its approximation 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
The factors come in every order. x · sigmoid(1.702 x) is a third function, and is left alone.
"""

from __future__ import annotations

import math

import numpy as np

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.pattern import Expression, op, variable
from turbo_onnx.precision import half_type

_CUBIC = 0.044715
_ROOT_2_BY_PI = math.sqrt(2.0 / math.pi)


class RaiseGelu(Fusion):
    """Chains of primitive nodes become the standard operator, or the raised one below opset 20."""

    name = "raise-gelu"
    summary = "Write chains that compute the Gaussian error linear unit as Gelu."
    misses_from = 3
    misses_with = frozenset({"Erf", "Tanh"})

    def pattern(self) -> Expression:
        x = variable("x")
        error = op.Erf(x / math.sqrt(2.0) | x * math.sqrt(0.5))
        tanh = op.Tanh(_tanh_argument(x)).named("tanh")
        return _gated(x, error | tanh)

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        x: Tensor = match.x
        approximate = "tanh" if match.tanh is not None else "none"
        standard = int(edit.graph.opset) >= 20
        if half_type(x.dtype) is not None:
            raise Reject("{} is {}, and what is left in half precision keeps its roundings", x.name, x.dtype)
        if x.dtype not in (np.float32, np.float64) if standard else x.dtype != np.float32:
            raise Reject("{} is {}, for which opset {} has no Gelu", x.name, x.dtype, edit.graph.opset)
        domain = None if standard else RAISED_DOMAIN
        return edit.node("Gelu", [x], attrs={"approximate": approximate}, domain=domain)


def _half(value: Expression) -> Expression:
    return value * 0.5 | value / 2.0


def _gated(x: Expression, gate: Expression) -> Expression:
    """The product x · (1 + gate) / 2 in every order of the factors."""
    shifted = gate + 1.0
    return x * (_half(shifted) | gate * 0.5 + 0.5) | _half(x) * shifted | _half(x * shifted)


def _tanh_argument(x: Expression) -> Expression:
    """√(2/π) (x + 0.044715 x³) in every order of the factors, with x factored out or not."""
    cube = x**3 | (x * x) * x | x**2 * x
    cubic = _CUBIC * cube | ((_CUBIC * x) * x) * x | (_CUBIC * (x * x | x**2)) * x | (_CUBIC * x) * (x * x | x**2)
    quadratic = 1.0 + (_CUBIC * (x * x | x**2) | (_CUBIC * x) * x)
    whole = x + cubic | x * quadratic
    return whole * _ROOT_2_BY_PI | (x * _ROOT_2_BY_PI) * quadratic | x * (quadratic * _ROOT_2_BY_PI)
