"""The queries and keys of an attention in front of their rotation, and one rotation for all that was joined again.

Rotating the first heads of Q | K | V only moves the values along, which costs nothing where the operator works in
place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.custom_ops.varlen_attention.window import key_heads
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, produced_by
from turbo_onnx.passes.linear import joined_bias

_TABLES = (2, 3, 4)  # cos, sin and index


@dataclass(frozen=True)
class Rows:
    """What an attention computes with, before queries and keys are rotated.

    Attributes:
        tensors: queries [..., H*D], keys [..., Hk*D] and values [..., Hk*D].
        biases: of each [H*D] or [Hk*D], added before the rotation.
        rotations: the nodes that rotate queries and keys; none where nothing does.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    biases: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]
    rotations: tuple[gs.Node, ...]

    @property
    def bias(self) -> np.ndarray | None:
        """[H*D + 2*Hk*D], or None where there is none at all."""
        return joined_bias(self.biases, [tensor.shape[-1] for tensor in self.tensors])


def rows_of(attention: gs.Node, edit: Editor) -> Rows:
    """What the attention's queries, keys and values are before they are rotated.

    Raises:
        Reject: keys and values are no rows; queries and keys are rotated differently, or their rotation is read
            elsewhere too.
    """
    query, key, value = attention.inputs[:3]
    if attention.attrs.get("keys_by_head", 0):
        raise Reject("its keys {} and values {} are by head, and no columns of rows", key.name, value.name)
    found = [produced_by(tensor, "RotaryEmbedding", domain=DOMAIN) for tensor in (query, key)]
    rotations = [node for node in found if node is not None]
    if not rotations:
        return Rows((query, key, value), (None, None, None), ())
    if len(rotations) == 1:
        raise Reject("only one of {} and {} is rotated", query.name, key.name)
    for tensor in (query, key):
        if len(tensor.outputs) != 1 or edit.is_graph_output(tensor):
            raise Reject("{} is read elsewhere too", tensor.name)
    first, second = rotations
    if any(input_or_none(first, index) is not input_or_none(second, index) for index in _TABLES):
        raise Reject("{} and {} are rotated by different cosines, sines or positions", query.name, key.name)
    if first.attrs.get("interleaved", 0) != second.attrs.get("interleaved", 0) or _size(first) != _size(second):
        raise Reject("{} and {} are rotated in different ways", query.name, key.name)
    if first.attrs.get("rotated_heads", 0) or second.attrs.get("rotated_heads", 0):
        raise Reject("only some heads of {} or {} are rotated", query.name, key.name)
    biases = [input_or_none(node, 1) for node in rotations]
    if any(bias is not None and not isinstance(bias, gs.Constant) for bias in biases):
        raise Reject("the bias in front of the rotation is not constant")
    values = [None if bias is None else bias.values for bias in biases]
    return Rows((first.inputs[0], second.inputs[0], value), (values[0], values[1], None), (first, second))


def _size(rotation: gs.Node) -> int:
    """How many columns each head has."""
    return int(rotation.inputs[0].shape[-1]) // int(rotation.attrs["num_heads"])


def attend_to_joined(edit: Editor, attention: gs.Node, rows: Rows, joined: Tensor, bias: np.ndarray | None) -> None:
    """Let the attention read Q | K | V from one tensor, rotated where its queries and keys were.

    Args:
        edit: of the graph.
        attention: it has read three tensors.
        rows: what it has computed with.
        joined: [..., H*D + 2*Hk*D].
        bias: [H*D + 2*Hk*D], added before the rotation; only where there is one.
    """
    if rows.rotations:
        bias = _with_bias_of_values(attention, rows, bias)
        first = rows.rotations[0]
        size = _size(first)
        turned = sum(int(tensor.shape[-1]) for tensor in rows.tensors[:2]) // size
        constant = None if bias is None else edit.constant(bias.astype(joined.dtype), "rotary_bias")
        joined = edit.node(
            "RotaryEmbedding",
            [joined, constant, *(input_or_none(first, index) for index in _TABLES)],
            domain=DOMAIN,
            attrs={**first.attrs, "num_heads": joined.shape[-1] // size, "rotated_heads": turned},
            dtype=joined.dtype,
            shape=joined.shape,
        )
    for index, operand in enumerate((joined, gs.Variable.empty(), gs.Variable.empty())):
        attention.inputs[index] = operand


def _with_bias_of_values(attention: gs.Node, rows: Rows, bias: np.ndarray | None) -> np.ndarray | None:
    """The bias in front of the rotation, together with the attention's own where that is one of the values only."""
    own = input_or_none(attention, 3)
    turned = sum(int(tensor.shape[-1]) for tensor in rows.tensors[:2])
    if not isinstance(own, gs.Constant) or own.values[:turned].any():
        return bias
    attention.inputs[3] = gs.Variable.empty()
    total: np.ndarray = own.values if bias is None else bias + own.values
    return total


def check_widths(attention: gs.Node, rows: Rows) -> None:
    """Reject queries, keys and values that cannot stand in one row."""
    heads, shared = int(attention.attrs["num_heads"]), key_heads(attention.attrs)
    widths = [tensor.shape[-1] for tensor in rows.tensors]
    if widths[1] != widths[2] or widths[0] * shared != widths[1] * heads:
        raise Reject("its projections differ in width: {}", widths)
    if rows.rotations and widths[2] % _size(rows.rotations[0]):
        raise Reject("its values have {} columns, not whole heads", widths[2])
