"""The two matrix products of an attention, written as MatMul or as Einsum.

Both spellings are brought to one: `scores = Q Kᵀ` from Q [..., S, D] and K [..., L, D], and `output = P V` from
P [..., S, L] and V [..., L, Dv], where an operand is a tensor and the order in which its axes are to be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, is_op, produced_by
from turbo_onnx.passes.reshaping import transposed
from turbo_onnx.passes.views import scaled_input


@dataclass(frozen=True)
class Operand:
    """A tensor, the order in which its axes are read, and a number that it is multiplied with."""

    tensor: Tensor
    order: tuple[int, ...]
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The shape in the order in which the axes are read."""
        return tuple(self.tensor.shape[axis] for axis in self.order)

    def emit(self, edit: Editor) -> Tensor:
        """The operand as a tensor, without the factor; a Transpose is composed with those that are there."""
        return transposed(edit, self.tensor, self.order)


@dataclass(frozen=True)
class ScoresProduct:
    """scores = Q Kᵀ: `query` reads as [..., S, D], `key` as [..., L, D]."""

    node: gs.Node
    query: Operand
    key: Operand


@dataclass(frozen=True)
class OutputProduct:
    """output = P V: `value` reads as [..., L, Dv]; `order` brings [..., S, Dv] to the order of the node's output."""

    node: gs.Node
    value: Operand
    order: tuple[int, ...]


def scores_product(node: gs.Node | None) -> ScoresProduct | None:
    """The node as a product of queries and keys: both of rank 3 or more, and the keys not a constant."""
    if node is None or not is_op(node, "MatMul", "Einsum"):
        return None
    if any(t.shape is None or len(t.shape) < 3 for t in node.inputs) or len(node.inputs) != 2:
        return None
    query, key = node.inputs
    if isinstance(query, gs.Constant) and isinstance(key, gs.Constant):
        return None
    if node.op == "MatMul":
        if isinstance(key, gs.Constant):
            return None
        swapped = (*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2)
        return ScoresProduct(node, _stripped(query, tuple(range(len(query.shape)))), _stripped(key, swapped))
    labels = _labels(node)
    if labels is None or isinstance(key, gs.Constant):
        return None
    a, b, out = labels
    *batch, row, column = out
    inner = [label for label in a if label in b and label not in out]
    if len(inner) != 1 or row not in a or row in b or column not in b or column in a:
        return None
    wanted_query, wanted_key = (*batch, row, inner[0]), (*batch, column, inner[0])
    if set(wanted_query) != set(a) or set(wanted_key) != set(b):
        return None
    return ScoresProduct(
        node,
        _stripped(query, tuple(a.index(label) for label in wanted_query)),
        _stripped(key, tuple(b.index(label) for label in wanted_key)),
    )


def output_product(node: gs.Node, probabilities: Tensor) -> OutputProduct | None:
    """The node as a product of probabilities and values, where it reads the probabilities once, as it should."""
    if len(node.inputs) != 2 or probabilities.shape is None:
        return None
    rank = len(probabilities.shape)
    if is_op(node, "MatMul"):
        value = node.inputs[1]
        if node.inputs[0] is not probabilities or value is probabilities:
            return None
        if value.shape is None or len(value.shape) != rank:
            return None
        return OutputProduct(node, Operand(value, tuple(range(rank))), tuple(range(rank)))
    labels = _labels(node) if is_op(node, "Einsum") else None
    if labels is None:
        return None
    side = 0 if node.inputs[0] is probabilities else 1
    value = node.inputs[1 - side]
    p, v, out = labels[side], labels[1 - side], labels[2]
    *batch, row, column = p
    features = [label for label in v if label not in p]
    if value is probabilities or len(features) != 1 or set(v) != {*batch, column, *features}:
        return None
    result = [*batch, row, *features]
    if set(out) != set(result):
        return None
    return OutputProduct(
        node,
        Operand(value, tuple(v.index(label) for label in (*batch, column, *features))),
        tuple(result.index(label) for label in out),
    )


def _labels(node: gs.Node) -> tuple[list[str], list[str], list[str]] | None:
    """The two operands' and the result's labels of an Einsum without ellipses or repeated labels."""
    equation = node.attrs.get("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, out = text.partition("->")
    parts = left.split(",")
    if not arrow or "." in text or len(parts) != 2 or any(len(set(p)) != len(p) for p in (*parts, out)):
        return None
    return list(parts[0]), list(parts[1]), list(out)


def _stripped(tensor: Tensor, order: tuple[int, ...]) -> Operand:
    """The operand without the constant factors on it, looking through Transposes for them."""
    best = Operand(tensor, order)
    current, factor = tensor, 1.0
    while True:
        node = produced_by(current, "Transpose")
        source, number = scaled_input(None if current.inputs == [] else current.inputs[0])
        if node is not None and node.inputs[0].shape is not None:
            source = node.inputs[0]
            permutation = node.attrs.get("perm") or tuple(range(len(order)))[::-1]
            order = tuple(permutation[axis] for axis in order)
        elif source is not None:
            factor *= number
        else:
            return best
        current = source
        if number != 1.0:
            best = Operand(current, order, factor)
