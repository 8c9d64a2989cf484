"""Choose the mask by which padding is removed: the one that hides the padding from most attentions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from turbo_onnx.attention_masks import AttentionMask, attention_mask
from turbo_onnx.graph import Editor, Tensor, consumers, input_or_none, is_op
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport, Rejection
from turbo_onnx.passes.binary_mask import truth

BIAS = 5  # the operand of VarlenAttention that is added to the scores


@dataclass(frozen=True)
class ChosenMask:
    """The mask by which padding is removed.

    Attributes:
        tokens: [B, S], not zero for tokens.
        source: what the graph is given or computes; `tokens` is its opposite if that is 1 for padding, else the same.
        attentions: what is known of each attention's bias, by the node's identity.
    """

    tokens: Tensor
    source: Tensor
    attentions: dict[int, AttentionMask]


def choose_mask(
    model: Model, attentions: Sequence[gs.Node], functions: MaskFunctions, report: PassReport
) -> ChosenMask | None:
    """The mask, or None where no attention has one.

    A mask that is 1 for padding is replaced by its opposite, which becomes a node of the graph if it is none yet.

    Args:
        model: its graph is sorted.
        attentions: the fused attentions.
        functions: which tensors are functions of masks; they are restated where the mask is replaced.
        report: told why where there is none.
    """
    masks = _attention_masks(attentions, functions, report)
    if not masks:
        return None
    votes = Counter((id(found.mask), found.inverted) for found in masks.values())
    chosen = next(f for f in masks.values() if (id(f.mask), f.inverted) == votes.most_common(1)[0][0])
    source = mask = chosen.mask
    if any(isinstance(size, int) for size in mask.shape):
        why = f"the mask {mask.name} has fixed sizes {list(mask.shape)}; export with dynamic axes to pack"
        report.rejected.append(Rejection(report.name, mask.name, why))
        return None
    if chosen.inverted:
        mask = _opposite(Editor(model.graph), mask)
        functions.restate(chosen.mask, mask)
        same = {key: f for key, f in masks.items() if f.mask is chosen.mask and f.inverted}
        masks |= {key: replace(found, mask=mask, inverted=False) for key, found in same.items()}
    return ChosenMask(mask, source, masks)


def _attention_masks(
    attentions: Sequence[gs.Node], functions: MaskFunctions, report: PassReport
) -> dict[int, AttentionMask]:
    masks = {}
    for node in attentions:
        bias = input_or_none(node, BIAS)
        found = attention_mask(bias, functions) if bias is not None else None
        if found is not None:
            masks[id(node)] = found
            continue
        why = "it has no mask" if bias is None else f"its bias {bias.name} is not proven to hide the padding"
        report.rejected.append(Rejection(report.name, node.name, why))
    return masks


def _opposite(edit: Editor, mask: Tensor) -> Tensor:
    """The mask that is 1 where this one is 0; the one that the graph computes already, if it does."""
    here = {id(node) for node in edit.graph.nodes}  # a reader may be inside of a branch
    existing = [r.outputs[0] for r in consumers(mask) if is_op(r, "Not") and id(r) in here]
    if existing:
        return existing[0]
    mask = truth(edit, mask)
    opposite = edit.node("Not", [mask], hint=f"{mask.name}_opposite", dtype=mask.dtype, shape=mask.shape)
    edit.sort()
    return opposite
