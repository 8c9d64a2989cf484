"""Where the rows of padding go: which nodes may run without them.

Leaving padding out changes what the padding rows of every tensor hold. That is harmless exactly where nobody who
matters reads them. Going from the outputs to the inputs, every reader of a tensor [B, S, …] is asked:

- a graph output does not mind where its rows are tokens of this mask (their padding rows are documented to be 0).
  Rows that come from elsewhere (another stream of tokens of the same sizes, rows in another order) are not;
- a token-wise node minds if its results' readers do;
- attention whose bias hides the padding keys does not mind for keys and values (where it may show them to rows of
  padding: if its results' readers do not), and for queries if its results' readers do not;
- what moves rows to other axes and computes a bias of attention from them does not mind if the attention does not mind
  what is added to the scores of padding, as query and as key;
- a product with the mask, or a choice by it, does not mind: its padding rows are the same number whatever it reads;
- pooling does not mind where it takes the first token of this mask, or where padding rows are known not to count;
- anything else minds.

A node whose results' padding rows matter stays as it is, and so does all that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.attention_masks import AttentionMask
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.custom_ops.varlen_attention.window import window_of
from turbo_onnx.dims import as_dim
from turbo_onnx.graph import Tensor, consumers, input_or_none, integers, is_op
from turbo_onnx.layout import Role, TokenLayout, Tokenwise
from turbo_onnx.masks import MASKED_AT_MOST, MaskFunctions
from turbo_onnx.model import Model
from turbo_onnx.token_axes import Axes, token_axes

_BIAS = 5
"""Which operand of VarlenAttention is added to its scores."""


@dataclass(frozen=True)
class Pooling:
    """A reduction of each sequence's rows to one.

    Attributes:
        mode: of SegmentPooling, or "count" for the number of tokens times a constant.
        floor: for "max", what padding rows hold; for "count", the constant.
        keeps_axis: whether the result has an axis of size 1 where the positions were.
    """

    mode: Literal["first", "sum", "max", "count"]
    floor: float
    keeps_axis: bool


class PaddingFlow:
    """The answers for one graph and one mask.

    Args:
        model: the graph, sorted, with shapes.
        mask: the tensor [B, S].
        layout: of tokens in batches of the mask's shape.
        functions: which tensors are functions of masks.
        masks: for each attention node (by id) what its bias is, if proven.
    """

    def __init__(
        self,
        model: Model,
        mask: Tensor,
        layout: TokenLayout,
        functions: MaskFunctions,
        masks: dict[int, AttentionMask],
    ) -> None:
        self.mask = mask
        self.layout = layout
        self._functions = functions
        self._masks = masks
        self._minded: set[int] = set()
        self._tokenwise: dict[int, Tokenwise | None] = {}
        self._inner = {id(node): number for number, node in enumerate(model.graph.nodes)}
        self._outputs = {id(tensor) for tensor in model.graph.outputs}
        self._origins = self._find_origins(model)
        self._keys = self._find_keys(model)
        for tensor in (*(t for node in model.graph.nodes for t in node.outputs), *model.graph.outputs):
            if layout.lead(tensor) and (self._is_read_inside(tensor) or self._is_foreign_output(model, tensor)):
                self._minded.add(id(tensor))
        for node in reversed(model.graph.nodes):
            for tensor in {id(t): t for t in node.inputs}.values():
                if layout.lead(tensor) and not self._does_not_mind(node, tensor):
                    self._minded.add(id(tensor))

    def _is_read_inside(self, tensor: Tensor) -> bool:
        """Whether a subgraph reads the tensor: nobody asks its nodes what they mind."""
        return any(id(reader) not in self._inner for reader in consumers(tensor))

    def _is_foreign_output(self, model: Model, tensor: Tensor) -> bool:
        return any(tensor is output for output in model.graph.outputs) and not self.has_own_rows(tensor)

    def _find_origins(self, model: Model) -> dict[int, frozenset[int]]:
        """For each computed tensor of token rows, the tensors from which its rows came, each row from the same row."""
        origins: dict[int, frozenset[int]] = {}
        for node in model.graph.nodes:
            rule = self.tokenwise(node)
            sources: list[Tensor] = []
            if rule is not None:
                sources = [t for t, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]
            elif is_op(node, "VarlenAttention", domain=DOMAIN):
                sources = [node.inputs[0]]
            for tensor in node.outputs:
                if sources and self.layout.lead(tensor):
                    parts = (origins.get(id(t), frozenset((id(t),))) for t in sources if not self._tells_tokens(t))
                    origins[id(tensor)] = frozenset[int]().union(*parts)
        return origins

    def _find_keys(self, model: Model) -> list[tuple[bool, frozenset[int]]]:
        """For each attention with a mask: whether it is this one, and where the rows that it hides come from."""
        keys = []
        for node in model.graph.nodes:
            found = self._masks.get(id(node))
            if found is not None:
                key = input_or_none(node, 1)
                key = key if key is not None else node.inputs[0]
                keys.append((found.mask is self.mask, self._origins.get(id(key), frozenset((id(key),)))))
        return keys

    def _tells_tokens(self, tensor: Tensor) -> bool:
        """Whether the tensor is a function of this mask, and so says what rows are whatever it is combined with."""
        function = self._functions.of(tensor)
        return function is not None and function.mask is self.mask

    def has_own_rows(self, tensor: Tensor) -> bool:
        """Whether the tensor's rows are the tokens that this mask tells from padding, and no other mask does.

        They are if they come, row by row, from what an attention with this mask takes its keys from.
        """
        own = self._origins.get(id(tensor), frozenset((id(tensor),)))
        if not own or self._tells_tokens(tensor):
            return True
        covers = {True: frozenset[int](), False: frozenset[int]()}
        for here, origins in self._keys:
            covers[here] |= origins
        return own <= covers[True] and not any(not here and own <= origins for here, origins in self._keys)

    def tokenwise(self, node: gs.Node) -> Tokenwise | None:
        """`TokenLayout.tokenwise`, remembered."""
        key = id(node)
        if key not in self._tokenwise:
            self._tokenwise[key] = self.layout.tokenwise(node)
        return self._tokenwise[key]

    def ignorable(self, tensor: Tensor) -> bool:
        """Whether nothing depends on what the tensor's padding rows hold."""
        return id(tensor) not in self._minded

    def may_pack(self, tensor: Tensor) -> bool:
        """Whether the tensor may be computed without its padding rows, and restored with zeros where need be."""
        if self.ignorable(tensor):
            return True
        value = self.padding_value(tensor)
        pooled = all(id(reader) in self._inner and self.pooling(reader) is not None for reader in consumers(tensor))
        return value == 0 or (value is not None and pooled)

    def attention(self, node: gs.Node) -> AttentionMask | None:
        """What is known of the node's mask, if the node is self-attention over this batch, hidden by this mask."""
        found = self._masks.get(id(node))
        if found is None or found.mask is not self.mask:
            return None
        operands = [tensor for tensor in (input_or_none(node, i) for i in range(3)) if tensor is not None]
        # Keys and values by head are no rows of tokens: their second axis is the heads.
        return found if all(self.layout.lead(tensor) == 2 for tensor in operands) else None

    def row_values(self, tensor: Tensor) -> tuple[float, float] | None:
        """(padding, real): what the tensor's rows hold, for functions of this mask alone, row by row."""
        if tensor.shape is None or not self.layout.lead(tensor):
            return None
        function = self._functions.of(tensor)
        if function is None or function.mask is not self.mask or not function.follows_tokens(len(tensor.shape)):
            return None
        return function.value(0), function.value(1)

    def padding_value(self, tensor: Tensor) -> float | None:
        """The one number that all padding rows of the tensor hold in the original, if it is known."""
        for _ in range(8):
            values = self.row_values(tensor)
            if values is not None:
                return values[0]
            node = tensor.inputs[0] if tensor.inputs else None
            if is_op(node, "Mul") and node is not None:
                zeroed = any((self.row_values(operand) or (1,))[0] == 0 for operand in node.inputs)
                return 0 if zeroed else None
            if is_op(node, "Where") and node is not None:
                choice = self.row_values(node.inputs[0])
                if choice is None:
                    return None
                chosen = node.inputs[1] if choice[0] else node.inputs[2]
                function = self._functions.of(chosen)
                return function.value(0) if function is not None and function.is_number else None
            if not is_op(node, "Identity", "Unsqueeze", "Squeeze", "Reshape") or node is None:
                return None
            if self.tokenwise(node) is None:
                return None
            tensor = node.inputs[0]
        return None

    def pooling(self, node: gs.Node) -> Pooling | None:
        """How the node pools the rows of its first operand [B, S, H], if it does so in a way that ignores padding."""
        if not node.inputs or self.layout.lead(node.inputs[0]) != 2:
            return None
        rows = node.inputs[0]
        along = is_op(node, "Gather") and len(rows.shape) == 3 and node.attrs.get("axis", 0) in (1, -2)
        if along and integers(node.inputs[1]) == [0] and self._pools(rows, node.outputs[0]):
            return Pooling("first", 0.0, len(node.inputs[1].shape) == 1)
        if is_op(node, "Slice") and len(rows.shape) == 3:
            starts, ends, axes, steps = (integers(input_or_none(node, index)) for index in (1, 2, 3, 4))
            first = starts == [0] and ends == [1] and axes in ([1], [-2]) and steps in (None, [1])
            if first and self._pools(rows, node.outputs[0]):
                return Pooling("first", 0.0, True)
        if is_op(node, "ReduceSum", "ReduceMax"):
            return self._reduction(node, rows)
        return None

    def _pools(self, rows: Tensor, first: Tensor) -> bool:
        """Whether the first of the rows may be taken for the first token; there is a kernel for float32 only.

        It may not where it is put among other rows again, as a shift by one position does.
        """
        return rows.dtype == np.float32 and self.has_own_rows(rows) and not _is_put_among_rows(first)

    def _reduction(self, node: gs.Node, rows: Tensor) -> Pooling | None:
        rank = len(rows.shape)
        given = node.attrs.get("axes")
        axes = list(given) if given is not None else integers(input_or_none(node, 1))
        if axes is None or [axis % rank for axis in axes] != [1]:
            return None
        keeps = bool(node.attrs.get("keepdims", 1))
        values = self.row_values(rows)
        if is_op(node, "ReduceSum") and values is not None and values[0] == 0 and self.layout.row(rows) is not None:
            return Pooling("count", values[1], keeps)
        padding = self.padding_value(rows)
        if rank != 3 or padding is None or rows.dtype != np.float32:
            return None
        if is_op(node, "ReduceSum"):
            return Pooling("sum", 0.0, keeps) if padding == 0 else None
        return Pooling("max", padding, keeps) if padding <= MASKED_AT_MOST else None

    def _does_not_mind(self, node: gs.Node, tensor: Tensor) -> bool:
        if is_op(node, "Shape"):
            return True
        if is_op(node, "VarlenAttention", domain=DOMAIN):
            found = self.attention(node)
            if found is None:
                return False
            roles = [index for index in range(len(node.inputs)) if node.inputs[index] is tensor]
            if found.from_all and window_of(node.attrs).unbounded and all(index in (1, 2) for index in roles):
                return True
            return found.from_tokens and max(roles) <= 2 and self.ignorable(node.outputs[0])
        if self.pooling(node) is not None and node.inputs[0] is tensor:
            return all(operand is not tensor for operand in node.inputs[1:])
        rule = self.tokenwise(node)
        if rule is None:
            return self._ends_in_bias(node, tensor)
        roles_here = [role for role, operand in zip(rule.roles, node.inputs, strict=False) if operand is tensor]
        if any(role is not Role.TOKEN for role in roles_here):
            return False
        return all(self.ignorable(o) or self.padding_value(o) is not None for o in node.outputs if not o.is_empty())

    def _ends_in_bias(self, node: gs.Node, tensor: Tensor) -> bool:
        """Whether all that becomes of the rows behind the node is added to scores of attention, token by token.

        Rows of a mask are what hides padding there, and never count as such.
        """
        function = self._functions.of(tensor)
        if self.layout.lead(tensor) != 2 or (function is not None and function.mask is not None):
            return False
        found: dict[int, Axes] = {id(tensor): frozenset((1 - len(tensor.shape),))}
        waiting = {self._inner[id(node)]: node}
        while waiting:
            number = min(waiting)
            reader = waiting.pop(number)
            operands = {index: found[id(t)] for index, t in enumerate(reader.inputs) if id(t) in found}
            if is_op(reader, "VarlenAttention", domain=DOMAIN):
                if not self._takes_bias(reader, operands):
                    return False
                continue
            axes = token_axes(reader, operands, as_dim(self.layout.batch))
            result = reader.outputs[0]
            if axes is None or self.layout.lead(result) or id(result) in self._outputs or self._is_read_inside(result):
                return False
            found[id(result)] = axes
            waiting |= {self._inner[id(r)]: r for r in consumers(result) if not is_op(r, "Shape")}
        return True

    def _takes_bias(self, attention: gs.Node, operands: Mapping[int, Axes]) -> bool:
        """Whether rows of padding do not matter in a bias of attention that has these token axes."""
        mask = self.attention(attention)
        if mask is None or set(operands) != {_BIAS} or not self.ignorable(attention.outputs[0]):
            return False
        shape = attention.inputs[_BIAS].shape
        batched = shape is not None and len(shape) == 4 and shape[0] == self.layout.batch
        return batched and mask.from_tokens and operands[_BIAS] <= {-2, -1}


def _is_put_among_rows(first: Tensor) -> bool:
    """Whether the rows [B, H] or [B, 1, H] are joined with others along the positions."""
    for reader in consumers(first):
        result = reader.outputs[0]
        if is_op(reader, "Concat") and len(result.shape or ()) == 3 and reader.attrs["axis"] in (1, -2):
            return True
        if is_op(reader, "Identity", "Reshape", "Unsqueeze") and _is_put_among_rows(result):
            return True
    return False
