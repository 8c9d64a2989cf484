"""Which operators may compute in half precision, and why; every other operator stays in float32.

An operator is in the table where its result is as good as its operands: products accumulate in float32 and round once
(ONNX Runtime's matrix products, our kernels), element-wise operators round once, and what only moves elements does not
round at all. What sums up many numbers (statistics, softmax), stretches their range (exponentials, powers, roots) or
divides by a computed number, which may vanish, stays in float32.

A kernel has to be there, too. ONNX Runtime's CUDA provider has all of these operators in float16; in bfloat16 those
that are not in `NO_BFLOAT16`, from opset 13 on, in every release since 1.20. Before all of that, the operator's schema
at the model's opset has to allow the type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import onnx
import onnx_graphsurgeon as gs

from turbo_onnx import custom_ops
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import STANDARD_DOMAINS, Tensor, input_or_none
from turbo_onnx.precision import BFLOAT16, HalfType


class Role(Enum):
    """What an operator has to do with half precision."""

    GAINS = "it is what half precision is for"
    FOLLOWS = "it gains nothing that a cast in front of it would not cost, and is converted with what is next to it"


@dataclass(frozen=True)
class Operands:
    """The operands of a node that would be in half precision, by index, and what the node is.

    Attributes:
        inputs, outputs: indices.
        role: whether the node is reason enough for casts.
        may_stay: those of the inputs that the node also takes in float32 beside the others in half precision.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    role: Role
    may_stay: frozenset[int] = frozenset()

    def without(self, inputs: Collection[int]) -> Operands:
        """The same but for some inputs, which stay in float32."""
        return replace(self, inputs=tuple(index for index in self.inputs if index not in inputs))


_GAINS = "MatMul Gemm Conv Einsum LayerNormalization Gelu".split()
_ROUNDS_ONCE = "Add Sub Mul Div Sum Neg Abs Max Min Clip Relu Tanh Sigmoid Where".split()
_MOVES = """
    Concat Expand Flatten Gather GatherElements GatherND Identity Pad Reshape ScatterElements ScatterND Slice Split
    Squeeze Tile Transpose Trilu Unsqueeze
""".split()
STANDARD: Mapping[str, Role] = {
    **dict.fromkeys(_GAINS, Role.GAINS),
    **dict.fromkeys([*_ROUNDS_ONCE, *_MOVES], Role.FOLLOWS),
}
OURS: Mapping[str, Role] = {
    "EmbedLayerNormalization": Role.GAINS,
    "SkipLayerNormalization": Role.GAINS,
    "BiasGelu": Role.GAINS,
    "GatedActivation": Role.GAINS,
    "RotaryEmbedding": Role.GAINS,
    "VarlenAttention": Role.GAINS,
    "SegmentPooling": Role.GAINS,
    "RestorePadding": Role.FOLLOWS,
}
NO_BFLOAT16 = frozenset("Abs Clip Conv Einsum Gelu Max Min Neg Pad Tile Where".split())
GROWS = frozenset(["Expand", "Pad", "RestorePadding", "Tile"])
"""Their results are larger than their operands: where a cast is needed, it belongs in front of them."""
READ_ANY_TYPE = frozenset(["Cast", "Shape", "Size"])

_BFLOAT16_SINCE = 13
_WHY_NOT: Mapping[str, str] = {
    **dict.fromkeys("Softmax LogSoftmax Exp ReduceLogSumExp".split(), "it computes exponentials"),
    **dict.fromkeys(
        "ReduceMean ReduceSum ReduceL1 ReduceL2 ReduceSumSquare Mean CumSum AveragePool".split(),
        "it sums up many numbers",
    ),
    **dict.fromkeys("Pow Sqrt Reciprocal Log".split(), "it stretches the range of its numbers"),
}


def half_operands(node: gs.Node, opset: int, half: HalfType) -> Operands:
    """Which operands of the node would be in half precision.

    Raises:
        Reject: the node has to stay in float32, and why.
    """
    if node.domain in STANDARD_DOMAINS:
        return _standard(node, opset, half)
    if node.domain == DOMAIN and node.op in OURS:
        spec = custom_ops.spec(node.op)
        variable = spec.outputs[0].type
        if half.onnx_type not in spec.types[variable]:
            raise Reject("{} is not defined in {}", node.op, half.name)
        may_stay = [i for i, operand in enumerate(spec.inputs) if spec.or_float32.get(operand.type) == variable]
        converted = [i for i in may_stay if not _is_better_left(node, input_or_none(node, i))]
        inputs = [i for i, operand in enumerate(spec.inputs) if operand.type == variable or i in converted]
        outputs = [i for i, operand in enumerate(spec.outputs) if operand.type == variable]
        return replace(_present(node, inputs, outputs, OURS[node.op]), may_stay=frozenset(may_stay))
    raise Reject("{} of domain {} is not known to be right in half precision", node.op, node.domain)


def _is_better_left(node: gs.Node, operand: Tensor | None) -> bool:
    """Whether an operand that may stay in float32 does, as it is little to read and needs no cast.

    So are cosines and sines, which one row for all heads shares and which lose nothing then; and an attention bias that
    is one row for all queries, as a mask is. Kernels read that ahead of time: devices can do it with 4 bytes, not 2.
    """
    if node.op == "RotaryEmbedding":
        return True
    return operand is not None and operand.shape is not None and len(operand.shape) == 4 and operand.shape[2] == 1


def _standard(node: gs.Node, opset: int, half: HalfType) -> Operands:
    role = STANDARD.get(node.op)
    if role is None:
        raise Reject("{} stays in float32: {}", node.op, _WHY_NOT.get(node.op, "it may be worse in half precision"))
    if half is BFLOAT16 and (node.op in NO_BFLOAT16 or opset < _BFLOAT16_SINCE):
        raise Reject("ONNX Runtime has no kernel for {} in bfloat16 on CUDA at opset {}", node.op, opset)
    schema = onnx.defs.get_schema(node.op, opset, "")
    variable = schema.outputs[0].type_str
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    if half.onnx_type not in allowed.get(variable, ()):
        raise Reject("{} at opset {} does not take {}", node.op, opset, half.name)
    _check(node)
    last = len(schema.inputs) - 1  # of a variadic operator it is all the others, too
    inputs = [i for i in range(len(node.inputs)) if schema.inputs[min(i, last)].type_str == variable]
    last = len(schema.outputs) - 1
    outputs = [i for i in range(len(node.outputs)) if schema.outputs[min(i, last)].type_str == variable]
    return _present(node, inputs, outputs, role)


def _check(node: gs.Node) -> None:
    """Reject the uses of an operator of the table that are not as good in half precision."""
    if node.op == "Div" and not isinstance(node.inputs[1], gs.Constant):
        raise Reject("it divides by a computed number, which may be too small for half precision")
    if node.op == "LayerNormalization" and int(node.attrs.get("stash_type", 1)) != onnx.TensorProto.FLOAT:
        raise Reject("it asks for its statistics in another type than float32")
    if node.op in ("ScatterElements", "ScatterND") and node.attrs.get("reduction", "none") != "none":
        raise Reject("it sums up what is scattered to one place")


def _present(node: gs.Node, inputs: list[int], outputs: list[int], role: Role) -> Operands:
    return Operands(
        tuple(i for i in inputs if input_or_none(node, i) is not None),
        tuple(i for i in outputs if i < len(node.outputs) and not node.outputs[i].is_empty()),
        role,
    )
