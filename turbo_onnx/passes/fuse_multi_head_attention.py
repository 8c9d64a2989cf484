"""Fold the split into heads, the merge of heads and the biases of the projections into one VarlenAttention.

    Q, K, V  [B, S, H*D] ─bias─▶ ─split─▶ [B, H, S, D] ─▶ Attention ─▶ [B, H, S, D] ─merge─▶ [B, S, H*D]

becomes one node on [B, S, H*D]. Where Q, K and V are parts of one projection, the node reads the projection itself;
an interleaved one (head by head, or in another order) is brought to Q | K | V by permuting its weights offline. Keys
and values that are repeated for several heads of queries are taken as they were before that.

Keys and values that come by head and are more than the queries' own, as from a cache, are read as they are: to make
rows of them would move all that the cache holds at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.grouped_heads import before_repeating
from turbo_onnx.passes.head_layout import (
    by_head,
    is_side_by_side,
    is_split_or_merged,
    only_for,
    replace_merged,
    side_by_side,
    sources,
    whole_source,
)
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
        keys_by_head: whether keys and values are [B, G, L, D] and [B, G, L, Dv].
    """

    operands: tuple[Tensor, ...]
    bias: np.ndarray | None
    factor: float
    keys_by_head: bool = False


@dataclass(frozen=True)
class _Heads:
    """An operand of an attention.

    Attributes:
        shape: B, H, S, D.
        found: its ancestors, itself first.
    """

    shape: tuple[int | str, ...]
    found: list[Ancestor]

    @property
    def unscaled(self) -> list[Ancestor]:
        """Those that it is no multiple of: nothing else makes up for a factor of values."""
        return [ancestor for ancestor in self.found if ancestor.view.factor == 1.0]


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
    projections = _packed(edit, node, found) or _cached(edit, found) or _separate(edit, node, found)
    bias = None if projections.bias is None else edit.constant(projections.bias, f"{node.name}_bias")
    query, key, value = (*projections.operands, None, None)[:3]
    width = heads * operands[2].shape[3]
    attrs: dict[str, object] = {
        "num_heads": heads,
        "scale": float(node.attrs["scale"]) * projections.factor,
        "causal": int(node.attrs.get("causal", 0)),
        "guard": int(node.attrs.get("guard", 0)),
    }
    if node.attrs.get("softcap", 0.0):
        attrs["softcap"] = float(node.attrs["softcap"])
    if groups != heads:
        attrs["kv_num_heads"] = groups
    if projections.keys_by_head:
        attrs["keys_by_head"] = 1
    result = edit.node(
        "VarlenAttention",
        [query, key, value, bias, None, input_or_none(node, 3)],
        domain=DOMAIN,
        attrs=attrs,
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


def _cached(edit: Editor, found: list[_Heads]) -> _Projections | None:
    """The queries as rows, keys and values by head; None where rows of these cost less, or are as many as queries.

    Either way, what lies otherwise has to be turned. Keys that are as many as queries are of the same tokens: rows of
    them can be packed.
    """
    query, key, value = found
    if key.shape[2] == query.shape[2]:
        return None
    heads = by_head(key.shape, key.found), by_head(value.shape, value.unscaled)
    in_rows = is_side_by_side(key.found), is_side_by_side(value.unscaled)
    sizes = key.shape[3], value.shape[3]
    turned = sum(size if free else -size for size, free in zip(sizes, in_rows, strict=True) if isinstance(size, int))
    if heads[0] is None or heads[1] is None or turned >= 0:
        return None
    source = whole_source(query.found)
    if source is None:
        rows, factor = side_by_side(edit, query.shape, query.found)
    else:
        rows, factor = source.tensor, source.factor
        rows = _batch_first(edit, rows) if source.sequence_first else rows
    operands = (rows, heads[0].tensor, heads[1].tensor)
    return _Projections(operands, None, factor * heads[0].view.factor, keys_by_head=True)


def _separate(edit: Editor, node: gs.Node, found: list[_Heads]) -> _Projections:
    """Three tensors, with their biases taken off where all of them are the attention's own."""
    tensors: list[Tensor] = []
    biases: list[np.ndarray | None] = []
    factor = 1.0
    for name, operand in zip(_OPERANDS, found, strict=True):
        usable = operand.unscaled if name == "value" else operand.found
        source = whole_source(usable)
        bias = None
        if source is None:
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


def _batch_first(edit: Editor, tensor: Tensor) -> Tensor:
    """[S, B, N] as [B, S, N]; the Transpose goes in front of the product that makes it, where it may cancel another."""
    layer = linear(tensor)
    if layer is None or layer.product is not tensor:
        return transposed(edit, tensor, (1, 0, 2))
    source = transposed(edit, layer.x, (1, 0, 2))
    shape = [tensor.shape[1], tensor.shape[0], tensor.shape[2]]
    return edit.node("MatMul", [source, layer.weight], dtype=tensor.dtype, shape=shape)
