"""Where only the first token of each sequence is read, compute the last rows for these tokens only.

Classifiers and rerankers read one row of each sequence. Between the last attention and that reading, every node treats
each row by itself, so the rows can be picked before instead of after: of the last layer, all matrix products behind its
attention then run on B rows instead of T. What a sequence without any token gets changes from 0 to what rows of zeros
become; it is of no use in either case.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.graph import Editor, Tensor, consumers, is_op
from turbo_onnx.layout import Role, TokenLayout, Tokenwise
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.packed_rows import TOKENS


class PoolFirstTokensEarly(Pass):
    """Move SegmentPooling of first tokens in front of the token-wise nodes that only it reads."""

    name = "pool-first-tokens-early"
    summary = "Compute only the first token of each sequence where no other is read."

    def run(self, model: Model) -> PassReport:
        """Move every such pooling up as far as it goes, where at least one matrix product gains by it."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        layout = TokenLayout(TOKENS, 1, model.opset)
        poolings = [node for node in model.graph.nodes if _pools_first(node)]
        for cu_seqlens in {id(node.inputs[1]): node.inputs[1] for node in poolings}.values():
            together = [node for node in poolings if node.inputs[1] is cu_seqlens]
            region = _region(model.graph.nodes, edit, layout, {id(node) for node in together})
            if any(is_op(node, "MatMul", "Gemm") for node, _ in region.values()):
                report.applied += _move(edit, layout, cu_seqlens, together, region)
        edit.remove_unused()
        edit.sort()
        return report


Region = dict[int, tuple[gs.Node, Tokenwise]]  # by the node's identity, in the graph's order


def _pools_first(node: gs.Node) -> bool:
    return is_op(node, "SegmentPooling", domain=DOMAIN) and node.attrs.get("mode") == "first"


def _region(nodes: list[gs.Node], edit: Editor, layout: TokenLayout, poolings: set[int]) -> Region:
    """The token-wise nodes whose results reach nothing but the poolings."""
    found: Region = {}
    for node in reversed(nodes):
        results = [tensor for tensor in node.outputs if not tensor.is_empty()]
        if not results or any(layout.lead(t) != 1 or edit.is_graph_output(t) for t in results):
            continue
        readers = [reader for tensor in results for reader in consumers(tensor)]
        if not readers or any(id(r) not in poolings and id(r) not in found for r in readers):
            continue
        rule = layout.tokenwise(node)
        if rule is not None and all(role in (Role.TOKEN, Role.CONSTANT, Role.ABSENT) for role in rule.roles):
            found[id(node)] = (node, rule)
    ordered: Region = {}
    for key, (node, rule) in reversed(found.items()):
        if all(_inside(tensor, ordered) or _is_poolable(tensor, layout) for tensor in _tokens(node, rule)):
            ordered[key] = (node, rule)
    return ordered


def _tokens(node: gs.Node, rule: Tokenwise) -> list[Tensor]:
    return [tensor for tensor, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]


def _inside(tensor: Tensor, region: Region) -> bool:
    return bool(tensor.inputs) and id(tensor.inputs[0]) in region


def _is_poolable(tensor: Tensor, layout: TokenLayout) -> bool:
    return len(tensor.shape) == 2 and layout.row(tensor) is not None and tensor.dtype == np.float32


def _move(edit: Editor, layout: TokenLayout, cu_seqlens: Tensor, poolings: list[gs.Node], region: Region) -> int:
    """Write the region for rows of first tokens. Returns how many nodes were written anew."""
    batch = poolings[0].outputs[0].shape[0]
    first: dict[int, Tensor] = {}

    def rows_of(tensor: Tensor) -> Tensor:
        if id(tensor) not in first:
            first[id(tensor)] = edit.node(
                "SegmentPooling", [tensor, cu_seqlens], attrs={"mode": "first"}, domain=DOMAIN,
                hint=f"{tensor.name}_first", dtype=tensor.dtype, shape=[batch, *tensor.shape[1:]],
            )  # fmt: skip
        return first[id(tensor)]

    for node, rule in region.values():
        operands: list[Tensor | None] = []
        for index, (tensor, role) in enumerate(zip(node.inputs, rule.roles, strict=False)):
            if index in rule.operands:
                operands.append(edit.constant(np.array(rule.operands[index], np.int64), f"{node.name}_axes"))
            else:
                operands.append(rows_of(tensor) if role is Role.TOKEN else None if role is Role.ABSENT else tensor)
        results = [_first_of(edit, tensor, batch) for tensor in node.outputs]
        if rule.rearranged is None:
            edit.node(node.op, operands, attrs=rule.attrs, domain=node.domain, hint=node.name, outputs=results)
        else:
            target = edit.constant(np.array([0, *rule.rearranged], np.int64), f"{node.name}_target")
            edit.node("Reshape", [operands[0], target], hint=node.name, outputs=results)
        first.update({id(old): new for old, new in zip(node.outputs, results, strict=True)})
    for node in poolings:
        if _inside(node.inputs[0], region):
            edit.replace(node.outputs[0], first[id(node.inputs[0])])
    return len(region)


def _first_of(edit: Editor, tensor: Tensor, batch: int | str) -> Tensor:
    if tensor.is_empty():
        return tensor
    return edit.variable(f"{tensor.name}_first", tensor.dtype, [batch, *tensor.shape[1:]])
