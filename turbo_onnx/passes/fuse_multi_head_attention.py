"""Fold the split into heads, the merge of heads and the biases of the projections into one VarlenAttention.

    Q, K, V  [B, S, H*D] ─bias─▶ ─split─▶ [B, H, S, D] ─▶ Attention ─▶ [B, H, S, D] ─merge─▶ [B, S, H*D]

becomes one node on [B, S, H*D]. Where Q, K and V are parts of one projection, the node reads the projection itself;
an interleaved one (head by head, or in another order) is brought to Q | K | V by permuting its weights offline. Keys
and values that are repeated for several heads of queries are taken as they were before that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op, produced_by
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.grouped_heads import before_repeating
from turbo_onnx.passes.head_layout import Source, is_split_or_merged, only_for, replace_merged, side_by_side, sources
from turbo_onnx.passes.linear import joined_bias, linear, with_columns
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.passes.reshaping import transposed
from turbo_onnx.passes.views import Ancestor, ancestors

_OPERANDS = ("query", "key", "value")


@dataclass(frozen=True)
class _Projections:
    """What the fused node reads.

    Attributes:
        operands: one tensor [B, S, (H + 2*G)*D], or three, where G is the number of heads of keys and values.
        bias: [H*D + G*D + G*Dv], or None.
        factor: further factor of the scores.
    """

    operands: tuple[Tensor, ...]
    bias: np.ndarray | None
    factor: float


@dataclass(frozen=True)
class _Heads:
    """An operand of an attention.

    Attributes:
        shape: B, H, S, D.
        found: its ancestors, itself first.
    """

    shape: tuple[int | str, ...]
    found: list[Ancestor]


class FuseMultiHeadAttention(Pass):
    """Write raised attention, with what splits and merges its heads, as `turbo_onnx.VarlenAttention`."""

    name = "fuse-multi-head-attention"
    summary = "Fuse attention with the split and merge of its heads and the biases of its projections."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in list(model.graph.nodes):
            if not is_op(node, "Attention", domain=RAISED_DOMAIN):
                continue
            try:
                _fuse(edit, node, model.opset)
                report.applied += 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        report.facts["attention_fused"] = report.applied
        if edit.modified:
            edit.remove_unused()
            edit.sort()
        return report


def _fuse(edit: Editor, node: gs.Node, opset: int) -> None:
    operands = node.inputs[:3]
    for tensor in operands:
        if tensor.dtype != np.float32:
            raise Reject("{} is {}, and only float32 has a kernel", tensor.name, tensor.dtype)
        if not isinstance(tensor.shape[1], int) or not isinstance(tensor.shape[3], int):
            raise Reject("the number or size of the heads of {} is not known: {}", tensor.name, tensor.shape)
    if node.attrs.get("softmax_precision", 0):
        raise Reject("its Softmax runs in another precision than its products")
    batch, heads, rows, _ = operands[0].shape
    found = [_Heads(tuple(tensor.shape), list(ancestors(tensor, opset))) for tensor in operands]
    if not is_split_or_merged(edit, node.outputs[0], [operand.found for operand in found], opset):
        raise Reject("its heads are neither split above it nor merged below it: fusing it would only add copies")
    found = _shared(found, opset)
    groups = found[1].shape[1]
    projections = _packed(edit, node, found) or _separate(edit, node, found)
    bias = None if projections.bias is None else edit.constant(projections.bias, f"{node.name}_bias")
    query, key, value = (*projections.operands, None, None)[:3]
    width = heads * operands[2].shape[3]
    attrs: dict[str, object] = {
        "num_heads": heads,
        "scale": float(node.attrs["scale"]) * projections.factor,
        "causal": int(node.attrs.get("causal", 0)),
        "guard": int(node.attrs.get("guard", 0)),
    }
    result = edit.node(
        "VarlenAttention",
        [query, key, value, bias, None, input_or_none(node, 3)],
        domain=DOMAIN,
        attrs=attrs if groups == heads else attrs | {"kv_num_heads": groups},
        hint=node.name,
        dtype=operands[0].dtype,
        shape=[batch, rows, width],
    )
    replace_merged(edit, node.outputs[0], result, opset)


def _shared(operands: list[_Heads], opset: int) -> list[_Heads]:
    """The operands, keys and values without what repeats both of them equally."""
    query, *others = operands
    shared = [before_repeating(operand.found, opset) for operand in others]
    known = [each for each in shared if each is not None]
    if len(known) != 2 or known[0].times != known[1].times or known[1].found[0].view.factor != 1.0:
        return operands
    return [query, *(_Heads(each.shape, each.found) for each in known)]


def _packed(edit: Editor, node: gs.Node, found: list[_Heads]) -> _Projections | None:
    """One projection that holds Q, K and V, with its bias taken off; None where there is none."""
    if found[1].shape[3] != found[2].shape[3]:
        return None
    choices = [sources(operand.found) for operand in found]
    for query in reversed(choices[0]):
        parts = [query]
        for others in choices[1:]:
            same = [other for other in others if other.tensor is query.tensor]
            parts += same[:1]
        if len(parts) != 3 or query.takes_all or parts[2].factor != 1.0:
            continue
        order = np.concatenate([part.columns for part in parts])
        width = query.tensor.shape[2]
        if any(part.sequence_first != query.sequence_first for part in parts):
            continue
        if order.size != width or not (np.sort(order) == np.arange(width)).all():
            continue
        nodes = [step for part in parts for step in part.nodes]
        projection = linear(query.tensor) if only_for(query.tensor, [*nodes, node], edit) else None
        straight = bool((order == np.arange(width)).all())
        if projection is None and not straight:
            continue
        tensor, bias = query.tensor, None
        if projection is not None:
            tensor, bias = projection.product, projection.bias
            if not straight:
                tensor = with_columns(edit, projection, order)
                bias = None if bias is None else bias[order]
        if query.sequence_first:
            tensor = _batch_first(edit, tensor)
        return _Projections((tensor,), bias, query.factor * parts[1].factor)
    return None


def _separate(edit: Editor, node: gs.Node, found: list[_Heads]) -> _Projections:
    """Three tensors, with their biases taken off where all of them are the attention's own."""
    tensors: list[Tensor] = []
    biases: list[np.ndarray | None] = []
    factor = 1.0
    for name, operand in zip(_OPERANDS, found, strict=True):
        usable = [ancestor for ancestor in operand.found if name != "value" or ancestor.view.factor == 1.0]
        source: Source | None = next((source for source in reversed(sources(usable)) if source.takes_all), None)
        bias = None
        if source is None or _is_squeezed(source.tensor):
            tensor, own_factor = side_by_side(edit, operand.shape, usable)
        else:
            tensor, own_factor = source.tensor, source.factor
            projection = linear(tensor) if only_for(tensor, [*source.nodes, node], edit) else None
            if projection is not None:
                tensor, bias = projection.product, projection.bias
            if source.sequence_first:
                tensor = _batch_first(edit, tensor)
        tensors.append(tensor)
        biases.append(bias)
        factor *= own_factor
    bias = joined_bias(biases, [tensor.shape[2] for tensor in tensors])
    return _Projections(tuple(tensors), bias, factor)


def _is_squeezed(tensor: Tensor) -> bool:
    """Whether [B, S, D] is made of a single head [B, 1, S, D]: as a Transpose that may undo the one above it."""
    node = produced_by(tensor, "Reshape", "Squeeze")
    batch, rows, size = tensor.shape
    return node is not None and node.inputs[0].shape == [batch, 1, rows, size]


def _batch_first(edit: Editor, tensor: Tensor) -> Tensor:
    """[S, B, N] as [B, S, N]; the Transpose goes in front of the product that makes it, where it may cancel another."""
    layer = linear(tensor)
    if layer is None or layer.product is not tensor:
        return transposed(edit, tensor, (1, 0, 2))
    source = transposed(edit, layer.x, (1, 0, 2))
    shape = [tensor.shape[1], tensor.shape[0], tensor.shape[2]]
    return edit.node("MatMul", [source, layer.weight], dtype=tensor.dtype, shape=shape)
