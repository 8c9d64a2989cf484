"""RemovePadding: where the real tokens of a padded batch are. Everything packed begins here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import bodies
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

TOTAL_TOKENS = "total_tokens"
MASK_TYPES = ("tensor(int64)", "tensor(int32)", "tensor(bool)", "tensor(float)", "tensor(double)")

_INPUTS = (Operand("mask", "M", "[B, S]", "Not zero where there is a token. Any pattern, holes and all."),)
_OUTPUTS = (
    Operand("token_index", "tensor(int64)", "[total_tokens]", "Index of each token in the flat mask, ascending."),
    Operand("cu_seqlens", "tensor(int32)", "[B + 1]", "Where each sequence's tokens start; the last is total_tokens."),
    Operand("max_seqlen", "tensor(int32)", "[]", "Tokens of the longest sequence; 0 where there is none."),
    Operand("token_position", "tensor(int64)", "[total_tokens]", "token_index modulo S: the column of each token."),
)
_ATTRIBUTES = (
    Attribute(
        "binary_input",
        "",
        "The name of the model's input that the mask is, where the model is only right for a mask of zeros and ones: "
        "anything else in it is an error in that name. Empty where anything that is not 0 is a token.",
    ),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    # cu_seqlens is read off the running sum of the flat mask at every S-th place, so that no reduction ever meets an
    # empty axis.
    binary_input = str(attributes["binary_input"])
    text = f"""
        zero = Constant <value = int64 {{0}}> ()
        one = Constant <value = int64 {{1}}> ()
        zero32 = Constant <value = int32[1] {{0}}> ()
        flat_shape = Constant <value = int64[1] {{-1}}> ()
        first = Constant <value = int64[1] {{0}}> ()
        second = Constant <value = int64[1] {{1}}> ()
        end = Constant <value = int64[1] {{9223372036854775807}}> ()
        real = Cast <to = 9> (mask)
        {_CHECKED if binary_input else ""}
        flat = Reshape ({"checked" if binary_input else "real"}, flat_shape)
        found = NonZero (flat)
        token_index = Reshape (found, flat_shape)
        shape = Shape (mask)
        sequences = Gather <axis = 0> (shape, zero)
        length = Gather <axis = 0> (shape, one)
        {bodies.at_least_one("columns", "length")}
        token_position = Mod (token_index, columns)
        counted = Cast <to = 6> (flat)
        padded = Concat <axis = 0> (zero32, counted)
        running = CumSum (padded, zero)
        bounds = Add (sequences, one)
        numbers = Range (zero, bounds, one)
        places = Mul (numbers, length)
        cu_seqlens = Gather <axis = 0> (running, places)
        ends = Slice (cu_seqlens, second, end)
        last = Constant <value = int64[1] {{-1}}> ()
        starts = Slice (cu_seqlens, first, last)
        lengths = Sub (ends, starts)
        candidates = Concat <axis = 0> (zero32, lengths)
        max_seqlen = ReduceMax <keepdims = 0> (candidates)
    """
    function = bodies.function("RemovePadding", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)
    for node in function.node:
        if node.output[0] == "passed":
            node.name = f"{binary_input}_must_hold_0_and_1_only"
    return function


# There is no operator that fails on purpose. A Reshape of one element to as many as there are wrong ones, and one more,
# fails on every execution provider, since the runtime compares sizes before it computes; its error names the node.
_CHECKED = """
    numbers_there = Cast <to = 11> (mask)
    nothing = Constant <value = double {0}> ()
    unit = Constant <value = double {1}> ()
    is_nothing = Equal (numbers_there, nothing)
    is_unit = Equal (numbers_there, unit)
    is_right = Or (is_nothing, is_unit)
    is_wrong = Not (is_right)
    wrong = NonZero (is_wrong)
    wrong_shape = Shape (wrong)
    wrong_count = Gather <axis = 0> (wrong_shape, second)
    one_more = Add (wrong_count, second)
    yes = Constant <value = bool[1] {1}> ()
    passed = Reshape (yes, one_more)
    checked = And (real, passed)
"""


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    (mask,) = inputs
    assert mask is not None
    sequences, length = mask.shape
    real = mask != 0
    if attributes["binary_input"] and (mask[real] != 1).any():
        raise ValueError(f"{attributes['binary_input']} must hold 0 and 1 only")
    token_index = np.flatnonzero(real).astype(np.int64)
    lengths = real.sum(axis=1, dtype=np.int32)
    cu_seqlens = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    max_seqlen = np.array(lengths.max() if sequences else 0, np.int32)
    return token_index, cu_seqlens, max_seqlen, token_index % max(length, 1)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    (mask,) = shapes
    return (TOTAL_TOKENS,), None if mask is None else (mask[0] + 1,), (), (TOTAL_TOKENS,)


SPEC = OperatorSpec(
    name="RemovePadding",
    doc="Lists the tokens of a padded batch: the places where the mask is not zero, sequence by sequence. total_tokens "
    "is how many there are, and may be 0.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"M": MASK_TYPES},
    kernel_types={"M": MASK_TYPES},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
