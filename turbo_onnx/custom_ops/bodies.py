"""Write function bodies in ONNX's text form, at any opset.

A body is one block of text with placeholders for what differs between opsets. The helpers here return lines of such
text; names that they introduce begin with the name of their result.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from turbo_onnx.custom_ops.functions import float_attribute, parse_body
from turbo_onnx.custom_ops.specification import Attribute, Operand

CAST_LIKE_OPSET = 15
LAYER_NORMALIZATION_OPSET = 17
SUM_AXES_INPUT_OPSET = 13  # ReduceSum takes its axes as an input from here on
REDUCTION_AXES_INPUT_OPSET = 18  # reductions but for ReduceSum take their axes as an input from here on
RMS_NORMALIZATION_OPSET = 23


def function(
    name: str,
    inputs: Sequence[Operand],
    outputs: Sequence[Operand],
    attributes: Sequence[Attribute],
    opset: int,
    text: str,
) -> onnx.FunctionProto:
    """The function of an operator with this signature, whose nodes are `text`, one a line."""
    names = ", ".join(attribute.name for attribute in attributes)
    arguments = ", ".join(operand.name for operand in inputs)
    results = ", ".join(operand.name for operand in outputs)
    signature = f"{f'<{names}> ' if names else ''}({arguments}) => ({results})"
    return parse_body(name, opset, signature, text)


def number(opset: int, output: str, value: float, like: str) -> str:
    """`output` = a scalar of the type of the tensor `like`; below opset 15, float32."""
    if opset < CAST_LIKE_OPSET:
        return f"{output} = Constant <value = float {{{value!r}}}> ()\n"
    return f"{output}_float = Constant <value = float {{{value!r}}}> ()\n{output} = CastLike ({output}_float, {like})\n"


def layer_normalization(opset: int, output: str, x: str, gamma: str, beta: str | None) -> str:
    """`output` = LayerNormalization of `x` over its last axis, with the node's attribute `epsilon`."""
    if opset >= LAYER_NORMALIZATION_OPSET:
        operands = ", ".join(filter(None, (x, gamma, beta)))
        return f"{output} = LayerNormalization <axis = -1, epsilon: float = @epsilon> ({operands})\n"
    epsilon = f"{output}_epsilon"
    lines = f"""
        {output}_mean = ReduceMean <axes = [-1], keepdims = 1> ({x})
        {output}_centred = Sub ({x}, {output}_mean)
        {output}_squares = Mul ({output}_centred, {output}_centred)
        {output}_variance = ReduceMean <axes = [-1], keepdims = 1> ({output}_squares)
        {_epsilon_like(opset, epsilon, x)}
        {output}_shifted = Add ({output}_variance, {epsilon})
        {output}_deviation = Sqrt ({output}_shifted)
        {output}_normal = Div ({output}_centred, {output}_deviation)
    """
    if beta is None:
        return f"{lines}{output} = Mul ({output}_normal, {gamma})\n"
    return f"{lines}{output}_scaled = Mul ({output}_normal, {gamma})\n{output} = Add ({output}_scaled, {beta})\n"


def rms_normalization(opset: int, output: str, x: str, gamma: str, beta: str | None) -> str:
    """`output` = `x` over the root of the mean square of its last axis, with the node's attribute `epsilon`.

    The mean is taken in float32, as the standard operator does: squares leave the range of half precision soon. The
    chain is the one that ONNX Runtime makes one operator of when it loads a model.
    """
    scaled = output if beta is None else f"{output}_scaled"
    shift = "" if beta is None else f"{output} = Add ({scaled}, {beta})\n"
    if opset >= RMS_NORMALIZATION_OPSET:
        return f"{scaled} = RMSNormalization <axis = -1, epsilon: float = @epsilon> ({x}, {gamma})\n{shift}"
    wide, narrow = x, f"{output}_normal"
    lines = rounded = ""
    if opset >= CAST_LIKE_OPSET:
        wide, narrow = f"{output}_wide", f"{output}_narrow"
        lines = f"{wide} = Cast <to = 1> ({x})\n"
        rounded = f"{narrow} = CastLike ({output}_normal, {x})\n"
    mean = f"ReduceMean <axes = [-1], keepdims = 1> ({output}_squares)"
    if opset >= REDUCTION_AXES_INPUT_OPSET:
        lines += f"{output}_axes = Constant <value_ints = [-1]> ()\n"
        mean = f"ReduceMean <keepdims = 1> ({output}_squares, {output}_axes)"
    return f"""
        {lines}
        {output}_two = Constant <value = float {{2.0}}> ()
        {output}_squares = Pow ({wide}, {output}_two)
        {output}_mean = {mean}
        {float_attribute(opset, "epsilon", f"{output}_epsilon")}
        {output}_shifted = Add ({output}_mean, {output}_epsilon)
        {output}_root = Sqrt ({output}_shifted)
        {output}_normal = Div ({wide}, {output}_root)
        {rounded}
        {scaled} = Mul ({narrow}, {gamma})
        {shift}
    """


def _epsilon_like(opset: int, output: str, like: str) -> str:
    if opset < CAST_LIKE_OPSET:
        return float_attribute(opset, "epsilon", output)
    return f"{float_attribute(opset, 'epsilon', f'{output}_float')}{output} = CastLike ({output}_float, {like})\n"


def at_least_one(output: str, x: str) -> str:
    """`output` = the int64 tensor `x` with 1 for 0: a divisor that runtimes accept even where nothing is divided."""
    return f"""
        {output}_nothing = Sub ({x}, {x})
        {output}_is_zero = Equal ({x}, {output}_nothing)
        {output}_extra = Cast <to = 7> ({output}_is_zero)
        {output} = Add ({x}, {output}_extra)
    """
