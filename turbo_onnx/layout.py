"""What the rows of a tensor are, and which nodes treat each row by itself.

A batch of B sequences, padded to S, holds B · S token rows. Tensors come in these layouts:

- `padded`   [B, S, …]: one row for each token and each padding;
- `flat`     [B·S, …]: the same rows with the two axes joined;
- position   [1, S, …]: one row for each position, the same in every sequence;
- sequence   [B, 1, …]: one row for each sequence;
- constant   [1, 1, …] or fewer axes: the same for all rows.

A node is *token-wise* if each row of its results depends on that row of its padded or flat operands only (and on what
the other layouts hold for it). Such a node computes the same on rows that were picked out, with the two leading axes
replaced by one: `Tokenwise` says how to write it there. Most axes are counted from the last, and stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

import onnx_graphsurgeon as gs

from turbo_onnx.dims import as_dim, as_item
from turbo_onnx.graph import RAISED_DOMAIN, Tensor, input_or_none, integers, is_op

_ELEMENTWISE = frozenset(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh
    Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less
    LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
    Sinh Softplus Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
    """.split()
)
_ON_LAST_AXES = frozenset("Softmax LogSoftmax Hardmax LayerNormalization RMSNormalization".split())
_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare ArgMax ArgMin".split()
)
_REARRANGING = frozenset(("Reshape", "Unsqueeze", "Squeeze", "Flatten"))


class Role(Enum):
    """What an operand's rows are, seen from the node that reads it."""

    TOKEN = "token"
    POSITION = "position"
    SEQUENCE = "sequence"
    CONSTANT = "constant"
    ABSENT = "absent"


@dataclass(frozen=True)
class Tokenwise:
    """How to write a token-wise node on packed rows.

    Attributes:
        roles: of its operands, in order.
        attrs: its attributes there.
        operands: constants (lists of integers) that replace operands there, by index.
        rearranged: for nodes that only rearrange a row: the row's new shape.
    """

    roles: tuple[Role, ...]
    attrs: dict[str, Any]
    operands: dict[int, list[int]] = field(default_factory=dict)
    rearranged: tuple[int, ...] | None = None


class TokenLayout:
    """Layouts in a graph whose tokens lie in batches of the given shape.

    Args:
        batch, sequence: the sizes B and S as they stand in tensors' shapes.
        opset: the version of the standard operators.
    """

    def __init__(self, batch: int | str, sequence: int | str, opset: int) -> None:
        self.batch = batch
        self.sequence = sequence
        self.opset = opset
        self._rows = as_item(as_dim(batch) * as_dim(sequence))

    def lead(self, tensor: Tensor) -> int:
        """How many leading axes run over tokens: 2 for padded, 1 for flat, 0 for tensors that hold no token rows."""
        shape = None if isinstance(tensor, gs.Constant) else tensor.shape
        if not shape:
            return 0
        if len(shape) >= 2 and shape[0] == self.batch and shape[1] == self.sequence:
            return 2
        return 1 if shape[0] == self._rows else 0

    def row(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The shape of one token's row; None where it is not a plain one."""
        shape = tensor.shape
        if shape is None:
            return None
        rest = shape[self.lead(tensor) :]
        return tuple(rest) if all(isinstance(size, int) for size in rest) else None

    def tokenwise(self, node: gs.Node) -> Tokenwise | None:
        """How to write the node on packed rows; None if it is not token-wise, or not known to be."""
        if not node.outputs or any(self.lead(tensor) == 0 for tensor in node.outputs if not tensor.is_empty()):
            return None
        if is_elementwise(node):
            return self._elementwise(node)
        if not has_standard_meaning(node):
            return None
        if node.op in _REARRANGING:
            return self._rearranged(node)
        lead = self.lead(node.outputs[0])
        first = self.lead(node.inputs[0]) if node.inputs else 0
        if node.op == "Gather":
            return self._lookup(node)
        if first != lead or any(self.lead(tensor) != lead for tensor in node.outputs if not tensor.is_empty()):
            return None
        rule = _RULES.get(node.op)
        return None if rule is None else rule(self, node, lead)

    def _role(self, tensor: Tensor, rank: int, lead: int) -> Role | None:
        """The operand's role in an element-wise node whose result has `rank` axes."""
        if isinstance(tensor, gs.Variable) and tensor.is_empty():
            return Role.ABSENT
        if tensor.shape is None or len(tensor.shape) > rank:
            return None
        if lead and self.lead(tensor) == lead and len(tensor.shape) == rank:
            return Role.TOKEN
        aligned = [1] * (rank - len(tensor.shape)) + list(tensor.shape)
        if all(size == 1 for size in aligned[:lead]):
            return Role.CONSTANT
        if lead == 2 and aligned[:2] == [1, self.sequence]:
            return Role.POSITION
        if lead == 2 and aligned[:2] == [self.batch, 1]:
            return Role.SEQUENCE
        return None

    def _elementwise(self, node: gs.Node) -> Tokenwise | None:
        shape = node.outputs[0].shape
        assert shape is not None
        roles = [self._role(tensor, len(shape), self.lead(node.outputs[0])) for tensor in node.inputs]
        found = tuple(role for role in roles if role is not None)
        if len(found) != len(roles) or Role.TOKEN not in found:
            return None
        return Tokenwise(found, dict(node.attrs))

    def _lookup(self, node: gs.Node) -> Tokenwise | None:
        """Of tokens in a table, or of features, which are the same for all tokens."""
        table, indices = node.inputs
        if self.lead(table):
            rank, axis = len(table.shape), node.attrs.get("axis", 0)
            axis = axis - rank if axis >= 0 else axis
            if axis + rank < self.lead(table) or not isinstance(indices, gs.Constant):
                return None
            fits = self.lead(node.outputs[0]) == self.lead(table)
            return Tokenwise((Role.TOKEN, Role.CONSTANT), {"axis": axis}) if fits else None
        if node.attrs.get("axis", 0) != 0 or not self.lead(indices):
            return None
        if not isinstance(table, gs.Constant):
            return None
        return Tokenwise((Role.CONSTANT, Role.TOKEN), {"axis": 0})

    def _product(self, node: gs.Node, lead: int) -> Tokenwise | None:
        rows, weight = node.inputs[:2]
        rank = len(rows.shape)
        if self.lead(weight) or weight.shape is None or len(weight.shape) != 2 or rank <= lead:
            return None
        roles = [Role.TOKEN, Role.CONSTANT]
        if node.op == "Gemm":
            if node.attrs.get("transA", 0):
                return None
            bias = input_or_none(node, 2)
            if bias is not None:
                if bias.shape is None or (len(bias.shape) > 1 and bias.shape[0] != 1):
                    return None
                roles.append(Role.CONSTANT)
        return Tokenwise(tuple(roles), dict(node.attrs))

    def _on_last_axes(self, node: gs.Node, lead: int) -> Tokenwise | None:
        rank = len(node.inputs[0].shape)
        axis = node.attrs.get("axis", -1)
        axis = axis - rank if axis >= 0 else axis
        if (self.opset < 13 and node.op in ("Softmax", "LogSoftmax", "Hardmax")) or axis + rank < lead:
            return None
        others = [self._role(tensor, rank - lead, 0) for tensor in node.inputs[1:]]
        if any(role not in (Role.CONSTANT, Role.ABSENT) for role in others):
            return None
        return Tokenwise((Role.TOKEN, *(role for role in others if role)), dict(node.attrs) | {"axis": axis})

    def _reduction(self, node: gs.Node, lead: int) -> Tokenwise | None:
        """Over axes of the row.

        They are counted from the first: from the last, ONNX Runtime's result for no rows has the wrong shape.
        """
        rank = len(node.inputs[0].shape)
        first = lead - 1  # how many axes there are less on packed rows
        if node.op in ("ArgMax", "ArgMin"):
            axis = node.attrs.get("axis", 0) % rank
            return None if axis < lead else Tokenwise((Role.TOKEN,), dict(node.attrs) | {"axis": axis - first})
        given = node.attrs.get("axes")
        axes = list(given) if given is not None else integers(input_or_none(node, 1))
        if not axes or min(axis % rank for axis in axes) < lead:
            return None
        packed = [axis % rank - first for axis in axes]
        if given is not None:
            return Tokenwise((Role.TOKEN,), dict(node.attrs) | {"axes": packed})
        return Tokenwise((Role.TOKEN, Role.CONSTANT), dict(node.attrs), {1: packed})

    def _transposed(self, node: gs.Node, lead: int) -> Tokenwise | None:
        order = list(node.attrs.get("perm") or reversed(range(len(node.inputs[0].shape))))
        if order[:lead] != list(range(lead)):
            return None
        return Tokenwise((Role.TOKEN,), {"perm": [0, *(axis - lead + 1 for axis in order[lead:])]})

    def _along_axis(self, node: gs.Node, lead: int) -> Tokenwise | None:
        rank = len(node.outputs[0].shape)
        axis = node.attrs.get("axis", 0)
        axis = axis - rank if axis >= 0 else axis
        if axis + rank < lead:
            return None
        attrs = dict(node.attrs) | {"axis": axis}
        if node.op == "Split":
            return Tokenwise((Role.TOKEN, *([Role.CONSTANT] * (len(node.inputs) - 1))), attrs)
        if any(self.lead(tensor) != lead for tensor in node.inputs):
            return None
        return Tokenwise((Role.TOKEN,) * len(node.inputs), attrs)

    def _sliced(self, node: gs.Node, lead: int) -> Tokenwise | None:
        rank = len(node.inputs[0].shape)
        axes = integers(input_or_none(node, 3))
        if axes is None or any(integers(tensor) is None for tensor in node.inputs[1:]):
            return None
        axes = [axis - rank if axis >= 0 else axis for axis in axes]
        if min(axes) + rank < lead:
            return None
        roles = (Role.TOKEN, *([Role.CONSTANT] * (len(node.inputs) - 1)))
        return Tokenwise(roles, dict(node.attrs), {3: axes})

    def _expanded(self, node: gs.Node, lead: int) -> Tokenwise | None:
        """Within rows."""
        row = self.row(node.outputs[0])
        if row is None or len(node.inputs[0].shape) != lead + len(row):
            return None
        return Tokenwise((Role.TOKEN, Role.CONSTANT), {}, {1: [1, *row]})

    def _rearranged(self, node: gs.Node) -> Tokenwise | None:
        """Reshape and its like, where whole rows stay whole and in order."""
        source, result = node.inputs[0], node.outputs[0]
        before, after = self.row(source), self.row(result)
        if not self.lead(source) or before is None or after is None or prod(before) != prod(after):
            return None
        others = [Role.CONSTANT] * (len(node.inputs) - 1)
        return Tokenwise((Role.TOKEN, *others), {}, rearranged=after)


_RULES: dict[str, Callable[[TokenLayout, gs.Node, int], Tokenwise | None]] = {
    **dict.fromkeys(("MatMul", "Gemm"), TokenLayout._product),
    **dict.fromkeys(_ON_LAST_AXES, TokenLayout._on_last_axes),
    **dict.fromkeys(_REDUCTIONS, TokenLayout._reduction),
    **dict.fromkeys(("Split", "Concat"), TokenLayout._along_axis),
    "Transpose": TokenLayout._transposed,
    "Expand": TokenLayout._expanded,
    "Slice": TokenLayout._sliced,
}


def has_standard_meaning(node: gs.Node) -> bool:
    """Whether the node means what the standard operator of its name does."""
    return is_op(node, node.op) or is_op(node, "Gelu", "RMSNormalization", domain=RAISED_DOMAIN)


def is_elementwise(node: gs.Node) -> bool:
    """Whether the node's result is computed element by element, its operands broadcast against each other."""
    return node.op in _ELEMENTWISE and has_standard_meaning(node)
