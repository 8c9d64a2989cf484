"""RotaryEmbedding: the heads of query and key rows, rotated by their positions, and the projections' bias before it.

The method is that of Su et al., "RoFormer: Enhanced transformer with rotary position embedding", 2021. Rotating a part
of each head only, and pairing a column with the one half of that part further on, is as in Black et al., "GPT-NeoX-20B:
An open-source autoregressive language model", 2022.

DECISION: cos and sin are written out for all R columns, as models compute them. Nothing assumes that their halves are
equal, so that a model needs no proof of it to be fused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops.bodies import CAST_LIKE_OPSET, function
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")
_TABLE = "[P, R], of which each row of input takes the one that index names, or its own, or [B or 1, S, R] for rank 3"
_INPUTS = (
    Operand("input", "T", "[T, H*D] or [B, S, H*D]", "The rows, column h*D+d for dimension d of head h."),
    Operand("bias", "T", "[H*D]", "Added to every row before it is rotated, to all of its columns.", optional=True),
    Operand("cos", "TTable", "[P, R] or [B or 1, S, R]", f"In T or float32: {_TABLE}. R is even, and at most D."),
    Operand("sin", "TTable", "[P, R] or [B or 1, S, R]", "Of the shape of cos."),
    Operand(
        "index",
        "tensor(int64)",
        "[T]",
        "Which row of cos and sin each row of input takes, from 0 to P - 1. Only for rank 2, where without it P = T.",
        optional=True,
    ),
)
_OUTPUTS = (Operand("output", "T", "[T, H*D] or [B, S, H*D]", "The rotated rows."),)
_ATTRIBUTES = (
    Attribute("num_heads", None, "H.", int),
    Attribute("rotated_heads", 0, "The first so many heads are rotated, the others only get the bias. 0: all."),
    Attribute("interleaved", 0, "0: column i turns with column i + R/2. 1: column 2i turns with column 2i + 1."),
)


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    heads, rotated = int(attributes["num_heads"]), int(attributes["rotated_heads"])
    parts = [
        _constants(heads, rotated),
        _operands(opset, "bias" in present, "index" in present),
        "turning = Slice (by_head, zero, rotated_heads, minus_two)\n" if rotated else "turning = Identity (by_head)\n",
        _pairs(bool(attributes["interleaved"])),
    ]
    joined = "turned"
    if rotated:
        parts.append("still = Slice (by_head, rotated_heads, far, minus_two)\n")
        parts.append("all_heads = Concat <axis = -2> (turned, still)\n")
        joined = "all_heads"
    cast = "CastLike (rows, input)" if opset >= CAST_LIKE_OPSET else "Identity (rows)"
    parts.append(f"whole_shape = Abs (shape)\nrows = Reshape ({joined}, whole_shape)\noutput = {cast}\n")
    return function("RotaryEmbedding", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, "".join(parts))


def _constants(heads: int, rotated: int) -> str:
    values = {"heads": heads, "rotated_heads": rotated, "zero": 0, "one": 1, "two": 2, "minus_one": -1, "minus_two": -2}
    values["far"] = 9223372036854775807
    return "".join(f"{name} = Constant <value = int64[1] {{{value}}}> ()\n" for name, value in values.items())


def _operands(opset: int, bias: bool, index: bool) -> str:
    """Lines for by_head [..., H, D], and cosines and sines [..., 1, R] by row, all in the type of the tables.

    What Abs is for: see `varlen_attention.body`.
    """
    wide, wide_bias = ("wide", "wide_bias") if opset >= CAST_LIKE_OPSET else ("input", "bias")
    text = ""
    if opset >= CAST_LIKE_OPSET:
        text += "wide = CastLike (input, cos)\n" + ("wide_bias = CastLike (bias, cos)\n" if bias else "")
    text += f"total = Add ({wide}, {wide_bias})\n" if bias else f"total = Identity ({wide})\n"
    for name in ("cos", "sin"):
        row = f"Gather <axis = 0> ({name}, index)" if index else f"Identity ({name})"
        text += f"{name}_rows = {row}\n"
    return f"""
        {text}
        shape = Shape (input)
        leading = Slice (shape, zero, minus_one)
        width = Slice (shape, minus_one, far)
        size = Div (width, heads)
        split = Concat <axis = 0> (leading, heads, size)
        split_shape = Abs (split)
        by_head = Reshape (total, split_shape)
        table_shape = Shape (cos_rows)
        table_leading = Slice (table_shape, zero, minus_one)
        rotary = Slice (table_shape, minus_one, far)
        table_split = Concat <axis = 0> (table_leading, one, rotary)
        table_split_shape = Abs (table_split)
        cosines = Reshape (cos_rows, table_split_shape)
        sines = Reshape (sin_rows, table_split_shape)
        half = Div (rotary, two)
    """


def _pairs(interleaved: bool) -> str:
    """Lines for turned, the heads `turning` with their first R columns rotated."""
    columns = (
        (("zero", "rotary", "two"), ("one", "rotary", "two")) if interleaved else (("zero", "half"), ("half", "rotary"))
    )
    text = ""
    for source in ("turning", "cosines", "sines"):
        for number, (start, end, *step) in enumerate(columns, start=1):
            operands = ", ".join([source, start, end, "minus_one", *step])
            text += f"{source}_{number} = Slice ({operands})\n"
    text += """
        along_1 = Mul (turning_1, cosines_1)
        across_1 = Mul (turning_2, sines_1)
        turned_1 = Sub (along_1, across_1)
        along_2 = Mul (turning_2, cosines_2)
        across_2 = Mul (turning_1, sines_2)
        turned_2 = Add (along_2, across_2)
        rest = Slice (turning, rotary, far, minus_one)
    """
    if not interleaved:
        return text + "turned = Concat <axis = -1> (turned_1, turned_2, rest)\n"
    return f"""
        {text}
        pair_shape = Shape (turned_1)
        pair_leading = Slice (pair_shape, zero, minus_one)
        upright = Concat <axis = 0> (pair_shape, one)
        upright_shape = Abs (upright)
        upright_1 = Reshape (turned_1, upright_shape)
        upright_2 = Reshape (turned_2, upright_shape)
        pairs = Concat <axis = -1> (upright_1, upright_2)
        flat = Concat <axis = 0> (pair_leading, rotary)
        flat_shape = Abs (flat)
        rotated = Reshape (pairs, flat_shape)
        turned = Concat <axis = -1> (rotated, rest)
    """


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    rows, bias, cos, sin, index = inputs
    assert rows is not None and cos is not None and sin is not None
    total = rows.astype(np.float64) + (0.0 if bias is None else bias.astype(np.float64))
    heads = int(attributes["num_heads"])
    output = total.reshape(*total.shape[:-1], heads, total.shape[-1] // heads)
    if index is not None:
        cos, sin = cos[index], sin[index]
    columns = cos.shape[-1]
    x = output[..., : int(attributes["rotated_heads"]) or heads, :columns]
    if attributes["interleaved"]:
        partner = np.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    else:
        partner = np.concatenate([-x[..., columns // 2 :], x[..., : columns // 2]], axis=-1)
    x[...] = x * cos[..., None, :].astype(np.float64) + partner * sin[..., None, :].astype(np.float64)
    return (output.reshape(rows.shape).astype(rows.dtype),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    return (shapes[0],)


SPEC = OperatorSpec(
    name="RotaryEmbedding",
    doc=(
        "With x = input + bias, in the first rotated_heads heads, for i < R: output[i] = x[i] * cos[i] + r[i] * sin[i] "
        "where r = (-x[R/2], ..., -x[R-1], x[0], ..., x[R/2-1]), or (-x[1], x[0], -x[3], x[2], ...) if interleaved. "
        "All other columns are those of x. cos and sin are of the row's position. An index outside of the table is an "
        "error; a GPU cannot raise one, and makes the rotated columns of the row NaN."
    ),
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={"T": _TYPES, "TTable": _TYPES},
    kernel_types={"T": ("tensor(float)",), "TTable": ("tensor(float)",)},
    or_float32={"TTable": "T"},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
    forms=4,
)
