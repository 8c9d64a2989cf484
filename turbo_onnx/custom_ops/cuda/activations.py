"""Activations of feed-forward layers in Triton, computed in float32 whatever the element type is."""

from __future__ import annotations

import triton
import triton.language as tl

from turbo_onnx.custom_ops.activations import ACTIVATIONS

GELU = tl.constexpr(ACTIVATIONS.index("gelu"))
GELU_BY_TANH = tl.constexpr(ACTIVATIONS.index("gelu_tanh"))
SILU = tl.constexpr(ACTIVATIONS.index("silu"))
RELU = tl.constexpr(ACTIVATIONS.index("relu"))


@triton.jit
def activated(x, ACTIVATION: tl.constexpr, PRECISE: tl.constexpr):
    """The activation of float32 numbers.

    Args:
        x: the numbers.
        ACTIVATION: its place in `ACTIVATIONS`.
        PRECISE: for a result in float32; otherwise an error is a hundredth of what half precision tells apart.
    """
    if ACTIVATION == GELU:
        result = gelu(x, PRECISE)
    elif ACTIVATION == GELU_BY_TANH:
        # 0.5 (1 + tanh z) = 1 / (1 + exp(-2 z)), which neither overflows to NaN nor loses small values. The exponent is
        # -2 sqrt(2 / pi) (x + 0.044715 x^3), for a power of 2.
        result = x / (1.0 + tl.exp2(x * (-2.3022081985 - 0.1029432396 * x * x)))
    elif ACTIVATION == SILU:
        result = x / (1.0 + tl.exp2(x * -1.4426950408889634))
    elif ACTIVATION == RELU:
        result = tl.where(x < 0.0, 0.0, x)  # NaN stays
    else:
        result = 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))
    return result


@triton.jit
def gelu(x, PRECISE: tl.constexpr):
    """X times the probability that a standard normal number is below it."""
    if PRECISE:
        result = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        result = x * normal_distribution(x)
    return result


@triton.jit
def normal_distribution(x):
    """The probability that a standard normal number is below x, to 5e-6 of it from -5.7 on, and to 1e-8 before.

    A hundredth of what half precision tells apart, for half of the instructions of `tl.erf`, which take as long as the
    memory does. Below 0 the probability is 2 to the power of a polynomial in |x|, since its logarithm bends so little.
    The coefficients make the largest error on [0, 5.7] smallest; found by Lawson's weighted least squares
    ("Contributions to the theory of linear least maximum approximation", 1961).
    """
    size = tl.abs(x)
    power = -1.8213259e-6 * size + 6.1369705e-5
    power = power * size - 9.2903094e-4
    power = power * size + 8.5031567e-3
    power = power * size - 5.3952571e-2
    power = power * size - 0.45846987
    power = power * size - 1.1512496
    below = tl.exp2(power * size - 0.99999535)
    return tl.where(x < 0.0, below, 1.0 - below)
