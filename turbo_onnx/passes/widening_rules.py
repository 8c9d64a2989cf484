"""What each operator does to the roundings of half precision: carries them on, adds its own, or decides by them.

| an operator | is | in float32 instead of half precision |
|---|---|---|
| moves elements, or picks one of its operands | MOVES | what is exact stays exact |
| computes a continuous function | SMOOTH | gives a number that is nearer to the real one |
| compares, rounds or chooses | DECIDES | is the same of exact operands, and may decide otherwise of rounded ones |
| is in no table | | is not known to be there, or to be the same |

What becomes of the last two: see `half_decisions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import STANDARD_DOMAINS, input_or_none, is_op, scalar_value, subgraphs

MOVES = frozenset(
    """
    Abs Clip Compress Concat ConstantOfShape DepthToSpace Dropout Expand EyeLike Flatten Gather GatherElements GatherND
    GlobalMaxPool Identity Max MaxPool Min Neg Pad ReduceMax ReduceMin Relu Reshape ReverseSequence ScatterElements
    ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Where
    """.split()
)
SMOOTH = frozenset(
    """
    Acos Acosh Add Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Celu Conv ConvTranspose Cos Cosh
    CumSum Div Einsum Elu Erf Exp Gelu Gemm GlobalAveragePool GroupNormalization HardSigmoid HardSwish
    InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul Mean Mish Mul PRelu Pow
    RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum
    ReduceSumSquare RotaryEmbedding Selu Sigmoid SimplifiedLayerNormalization Sin Sinh Softmax Softplus Softsign Sqrt
    Sub Sum Swish Tan Tanh
    """.split()
)
READS_NO_NUMBERS = ("Shape", "Size")
DECIDES = frozenset(
    """
    ArgMax ArgMin Cast Ceil Equal Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual NonZero Round Sign TopK
    """.split()
)
RUNTIME_DOMAIN = "com.microsoft"
RUNTIME_SMOOTH: Mapping[str, tuple[int, ...]] = {
    "Attention": (0, 1),
    "BiasGelu": (0,),
    "EmbedLayerNormalization": (0, 2),
    "FastGelu": (0,),
    "FusedMatMul": (0,),
    "Gelu": (0,),
    "MultiHeadAttention": (0, 1, 2),
    "QuickGelu": (0,),
    "RotaryEmbedding": (0,),
    "SkipLayerNormalization": (0, 3),
    "SkipSimplifiedLayerNormalization": (0, 3),
}
"""ONNX Runtime's own operators that it has for float32 and the CPU, with their outputs of the operands' type."""
TYPED_ATTRIBUTES = ("dtype", "stash_type", "softmax_precision", "output_dtype")
"""They say what an operator computes in: float32 takes the place of a half-precision type there, too."""


def is_smooth(node: gs.Node) -> bool:
    """Whether the node computes a continuous function of its floating-point operands."""
    if node.domain == RUNTIME_DOMAIN:
        return node.op in RUNTIME_SMOOTH
    if node.domain not in STANDARD_DOMAINS or any(True for _ in subgraphs(node)):
        return False
    if node.op == "BatchNormalization":
        return len(node.outputs) == 1
    return node.op in SMOOTH or is_op(node, "ScatterElements", "ScatterND")  # with a reduction: without, they move


def moves(node: gs.Node) -> bool:
    """Whether each element of the node's results is an element of its operands, or its opposite."""
    if node.domain not in STANDARD_DOMAINS or node.op not in MOVES or any(True for _ in subgraphs(node)):
        return False
    if is_op(node, "ScatterElements", "ScatterND"):
        return bool(node.attrs.get("reduction", "none") == "none")
    if is_op(node, "MaxPool"):
        return len(node.outputs) == 1
    if is_op(node, "Dropout"):
        training = input_or_none(node, 2)
        return len(node.outputs) == 1 and (training is None or scalar_value(training) is False)
    return True


def decides(node: gs.Node) -> bool:
    """Whether the node gives integers, booleans or whole numbers by a rule that is the same in float32."""
    return is_op(node, *DECIDES)


def tests_for_infinity(node: gs.Node) -> bool:
    """Whether the node asks which numbers are infinite, or are none."""
    if is_op(node, "IsNaN", "IsInf"):
        return True
    operands = [tensor for tensor in node.inputs if is_op(node, "Equal") and is_float_type(tensor.dtype)]
    numbers = [scalar_value(tensor) for tensor in operands]
    return any(number is not None and not np.isfinite(np.float64(number)) for number in numbers)


def is_float_type(dtype: Any) -> bool:
    """Whether elements of the type are floating-point numbers, or might be, since the type is not known."""
    return not isinstance(dtype, (np.dtype, type)) or np.dtype(dtype).kind not in "iubOSU"
