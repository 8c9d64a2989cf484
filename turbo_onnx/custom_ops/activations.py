"""The activations of feed-forward layers, as function bodies and in NumPy, for every operator that has one."""

from __future__ import annotations

import math

import numpy as np

from turbo_onnx.custom_ops.bodies import number
from turbo_onnx.custom_ops.specification import Array

GELU_OPSET = 20
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "sigmoid")
"""GELU (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016) and its approximation by tanh, x · sigmoid(x), the
larger of x and 0, and the logistic function. Kernels know an activation by its place here."""


def body(opset: int, activation: str, output: str, x: str) -> str:
    """Lines of a function body: `output` = the activation of `x`."""
    if activation in ("gelu", "gelu_tanh"):
        return _gelu(opset, output, x, by_tanh=activation == "gelu_tanh")
    if activation == "silu":
        return f"{output}_share = Sigmoid ({x})\n{output} = Mul ({x}, {output}_share)\n"
    return f"{output} = {'Relu' if activation == 'relu' else 'Sigmoid'} ({x})\n"


def _gelu(opset: int, output: str, x: str, *, by_tanh: bool) -> str:
    if opset >= GELU_OPSET:
        return f'{output} = Gelu <approximate = "{"tanh" if by_tanh else "none"}"> ({x})\n'
    return f"""
        {number(opset, f"{output}_half", 0.5, x)}
        {number(opset, f"{output}_one", 1.0, x)}
        {_tanh(opset, output, x) if by_tanh else _erf(opset, output, x)}
        {output}_shifted = Add ({output}_function, {output}_one)
        {output}_halved = Mul ({x}, {output}_half)
        {output} = Mul ({output}_halved, {output}_shifted)
    """


def _erf(opset: int, output: str, x: str) -> str:
    return f"""
        {number(opset, f"{output}_root_half", math.sqrt(0.5), x)}
        {output}_scaled = Mul ({x}, {output}_root_half)
        {output}_function = Erf ({output}_scaled)
    """


def _tanh(opset: int, output: str, x: str) -> str:
    return f"""
        {number(opset, f"{output}_cubic", 0.044715, x)}
        {number(opset, f"{output}_rate", math.sqrt(2.0 / math.pi), x)}
        {output}_square = Mul ({x}, {x})
        {output}_cube = Mul ({output}_square, {x})
        {output}_small = Mul ({output}_cube, {output}_cubic)
        {output}_argument = Add ({x}, {output}_small)
        {output}_scaled = Mul ({output}_argument, {output}_rate)
        {output}_function = Tanh ({output}_scaled)
    """


def reference(activation: str, x: Array) -> Array:
    """The activation of each element of `x`, float64."""
    result: Array
    if activation == "gelu":
        result = x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0)))
    elif activation == "gelu_tanh":
        result = x * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    elif activation == "relu":
        result = np.maximum(x, 0.0)
    else:
        share = np.exp(-np.logaddexp(0.0, -x))
        result = x * share if activation == "silu" else share
    return result
