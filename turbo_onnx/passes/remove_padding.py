"""Compute on the rows of real tokens only.

The padding mask is found by following attention biases back to the tensor they are made of; `padding_flow` decides
which tensors may do without their padding rows. Everything token-wise from the embedding on is then written on packed
rows [T, …], attention works within sequences by `cu_seqlens`, pooling becomes a segment reduction, and what leaves the
packed part is restored to its original shape with zeros for padding. Attention that has more than a padding mask added
to its scores stays on padded rows, between a restoration and a packing (the original of its idea: effective_transformer
and FasterTransformer pack in the same way around attention).
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.graph import Editor, Tensor, consumers, is_op
from turbo_onnx.layout import TokenLayout
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model
from turbo_onnx.padding_flow import PaddingFlow
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.binary_mask import is_taken, must_be_binary, opposite, truth, widened
from turbo_onnx.passes.choose_mask import ChosenMask, choose_mask
from turbo_onnx.passes.even_batch import even_mask, uneven_inputs
from turbo_onnx.passes.packed_nodes import PackedNodes
from turbo_onnx.passes.packed_pooling import write_pooling
from turbo_onnx.passes.packed_rows import PackedRows
from turbo_onnx.passes.packing_plan import PackingPlan


class RemovePadding(Pass):
    """Pack the tokens of a padded batch, as far as the graph provably allows it.

    Args:
        always: pack even where more rows would be moved than matrix products gain by it.
    """

    name = "remove-padding"
    summary = "Compute on real tokens only, wherever padding provably does not matter."

    def __init__(self, *, always: bool = False) -> None:
        self._always = always

    def run(self, model: Model) -> PassReport:
        """Find the mask, decide what may be packed and whether it pays, and rewrite that."""
        report = PassReport(self.name)
        report.facts.update(packed=False, mask_input=None)
        facts = shapes.infer(model)
        attentions = [node for node in model.graph.nodes if is_op(node, "VarlenAttention", domain=DOMAIN)]
        if not attentions or any(is_op(n, "RemovePadding", domain=DOMAIN) for n in model.graph.nodes):
            if not attentions:
                report.rejected.append(Rejection(self.name, "the graph", "it has no fused attention to pack around"))
            return report
        functions = MaskFunctions(model, facts)
        chosen = choose_mask(model, attentions, functions, report)
        if chosen is None:
            return report
        mask = chosen.tokens
        batch, sequence = mask.shape
        layout = TokenLayout(batch, sequence, model.opset)
        flow = PaddingFlow(model, mask, layout, functions, chosen.attentions)
        plan = PackingPlan(model.graph.nodes, flow)
        for node in attentions:
            why = plan.why_not(node)
            if why is not None:
                report.rejected.append(Rejection(self.name, node.name, why))
        edit = Editor(model.graph)
        if self._pays(plan, report):
            report.applied = _rewrite(model, edit, facts, flow, plan, chosen)
            report.facts["packed"] = True if len(plan.attentions) == len(attentions) else "partial"
            report.facts["mask_input"] = mask.name
            report.facts["attention_packed"] = len(plan.attentions)
        edit.remove_unused()
        edit.sort()
        return report

    def _pays(self, plan: PackingPlan, report: PassReport) -> bool:
        if plan.empty:
            return False
        if self._always or plan.crossings <= plan.products:
            return True
        why = (
            f"hidden states would be moved {plan.crossings} times between padded and packed rows for "
            f"{plan.products} matrix products and attentions without padding; `--packing on` does it all the same"
        )
        report.rejected.append(Rejection(self.name, "the graph", why))
        return False


def _rewrite(
    model: Model, edit: Editor, facts: shapes.Facts, flow: PaddingFlow, plan: PackingPlan, chosen: ChosenMask
) -> int:
    """Write what is planned, and restore the padding for the rest. Returns how many nodes were written anew."""
    nodes = list(model.graph.nodes)
    uneven = uneven_inputs(model, flow.layout)
    binary = must_be_binary(chosen.source)
    mask = even_mask(edit, _mask_of_tokens(edit, chosen, binary=binary), chosen.source, uneven)
    name = chosen.source.name if binary else ""
    assumed = shapes.assumed_equal(model)
    axes = [axis for axis, size in enumerate(mask.shape) if str(size) in assumed]
    rows = PackedRows(edit, flow.layout, facts, mask, uneven=axes, binary_input=name)
    writer = PackedNodes(edit, flow, rows)
    done = {id(node) for node in nodes if _write(node, edit, flow, plan, rows, writer)}
    for node in nodes:
        for tensor in node.outputs if id(node) in done else ():
            if tensor.is_empty() or not rows.has(tensor):
                continue
            outside = any(id(reader) not in done for reader in consumers(tensor))
            if outside or edit.is_graph_output(tensor):
                edit.replace(tensor, rows.restored(tensor))
    return len(done)


def _mask_of_tokens(edit: Editor, chosen: ChosenMask, *, binary: bool) -> Tensor:
    """The mask as RemovePadding takes it: with all that it has to see where it must hold zeros and ones only."""
    if not binary:
        return chosen.tokens if is_taken(chosen.tokens) else truth(edit, chosen.tokens)
    return widened(edit, chosen.source) if chosen.tokens is chosen.source else opposite(edit, chosen.source)


def _write(
    node: gs.Node, edit: Editor, flow: PaddingFlow, plan: PackingPlan, rows: PackedRows, writer: PackedNodes
) -> bool:
    """Write one node anew if it is to run on packed rows, or reads them in a way that needs no padding."""
    if id(node) in plan.attentions:
        writer.attention(node)
        return True
    if id(node) in plan.rules:
        writer.tokenwise(node, plan.rules[id(node)])
        return True
    if is_op(node, "Shape") and rows.has(node.inputs[0]):
        return writer.shape(node)
    pooling = flow.pooling(node)
    if pooling is None or not (pooling.mode == "count" or rows.has(node.inputs[0])):
        return False
    if pooling.mode == "count" and rows.uneven:
        return False  # it counts in the mask that was given, not in that which was broadcast
    write_pooling(edit, rows, node, pooling)
    return True
