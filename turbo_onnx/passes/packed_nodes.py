"""Write attention, token-wise nodes and Shape anew for rows that are packed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.custom_ops.varlen_attention.window import Window, window_of
from turbo_onnx.graph import Editor, Shape, Tensor, input_or_none, is_op
from turbo_onnx.layout import Role, Tokenwise, is_elementwise
from turbo_onnx.padding_flow import PaddingFlow
from turbo_onnx.passes.packed_rows import INT64, TOKENS, PackedRows


class PackedNodes:
    """Writes nodes on packed rows; the results are kept in `rows`.

    Args:
        edit: of the graph.
        flow: what is known of masks in it.
        rows: the packed form of its tensors.
    """

    def __init__(self, edit: Editor, flow: PaddingFlow, rows: PackedRows) -> None:
        self._edit = edit
        self._flow = flow
        self._layout = flow.layout
        self._rows = rows

    def attention(self, node: gs.Node) -> None:
        """Attention within sequences of packed rows.

        Rows keep their order, so that a bias which hides what comes after a row is left out as one of padding is. How
        far apart two rows are is not kept where padding lies between them, so other windows need their positions.
        """
        known = self._flow.attention(node)
        window = window_of(node.attrs)
        window = window if known is None else _overlap(window, known.window)
        operands = [None if input_or_none(node, i) is None else self._rows.of(node.inputs[i]) for i in range(3)]
        positions = [None, self._rows.token_position] if window.by_distance else []
        result = self._edit.node(
            "VarlenAttention",
            [*operands, input_or_none(node, 3), self._rows.cu_seqlens, *positions],
            attrs=node.attrs | _attributes(window),
            domain=DOMAIN,
            hint=node.name,
            dtype=node.outputs[0].dtype,
            shape=[TOKENS, *node.outputs[0].shape[2:]],
        )
        self._rows.set(node.outputs[0], result)

    def tokenwise(self, node: gs.Node, rule: Tokenwise) -> None:
        """A token-wise node on packed rows."""
        operands = self._simplified(node, rule)
        if rule.rearranged is not None:
            self._write_rearranged(node, rule.rearranged)
            return
        if operands is None:
            return
        results = []
        for tensor in node.outputs:
            shape: Shape = None if tensor.is_empty() else [TOKENS, *(self._layout.row(tensor) or ())]
            results.append(self._edit.variable(f"{tensor.name}_packed", tensor.dtype, shape))
        self._edit.node(node.op, operands, attrs=rule.attrs, domain=node.domain, hint=node.name, outputs=results)
        for tensor, packed in zip(node.outputs, results, strict=True):
            if not tensor.is_empty():
                self._rows.set(tensor, packed)

    def _simplified(self, node: gs.Node, rule: Tokenwise) -> list[Tensor | None] | None:
        """The operands, functions of the mask replaced by what they are for real tokens.

        A product with 1, or a choice that is always the same, needs no node: None then, and the result is set.
        """
        values = [self._flow.row_values(tensor) for tensor in node.inputs]
        result = node.outputs[0]
        if is_op(node, "Mul") and len(node.inputs) == 2:
            for index in (0, 1):
                other = node.inputs[1 - index]
                if values[index] is not None and values[index][1] == 1 and self._same_row(other, result):  # type: ignore[index]
                    self._rows.set(result, self._rows.of(other))
                    return None
        if is_op(node, "Where") and values[0] is not None:
            chosen = node.inputs[1] if values[0][1] else node.inputs[2]
            if self._same_row(chosen, result):
                self._rows.set(result, self._rows.of(chosen))
                return None
        if rule.rearranged is not None:
            return None
        whole = any(known is None and self._same_row(t, result) for t, known in zip(node.inputs, values, strict=True))
        if not whole or not is_elementwise(node):
            return self._rows.operands(node, rule)
        roles = [role if known is None else Role.ABSENT for role, known in zip(rule.roles, values, strict=True)]
        operands = self._rows.operands(node, replace(rule, roles=tuple(roles)))
        for index, known in enumerate(values):
            if known is not None:
                dtype = node.inputs[index].dtype
                operands[index] = self._edit.constant(np.array(known[1], dtype=dtype), f"{node.name}_real")
        return operands

    def _same_row(self, tensor: Tensor, result: Tensor) -> bool:
        return bool(self._layout.lead(tensor)) and list(tensor.shape) == list(result.shape)

    def _write_rearranged(self, node: gs.Node, row: tuple[int, ...]) -> None:
        source, result = self._rows.of(node.inputs[0]), node.outputs[0]
        if self._layout.row(node.inputs[0]) != row:
            target = self._rows.constant([0, *row], f"{node.name}_target")
            source = self._edit.node("Reshape", [source, target], hint=node.name, dtype=result.dtype,
                                     shape=[TOKENS, *row])  # fmt: skip
        self._rows.set(result, source)

    def shape(self, node: gs.Node) -> bool:
        """Shape of a tensor that is packed now: the mask knows the first two sizes, the rest are numbers."""
        tensor = node.inputs[0]
        rest = self._layout.row(tensor)
        if self._layout.lead(tensor) != 2 or rest is None:
            return False
        whole = self._edit.node("Shape", [self._rows.mask], hint=f"{node.name}_tokens", dtype=INT64, shape=[2])
        if rest:
            parts = [whole, self._rows.constant(list(rest), f"{node.name}_rest")]
            whole = self._edit.node("Concat", parts, attrs={"axis": 0}, hint=node.name, dtype=INT64,
                                    shape=[2 + len(rest)])  # fmt: skip
        start, end = node.attrs.get("start", 0), node.attrs.get("end", 2 + len(rest))
        first, last, _ = slice(start, end).indices(2 + len(rest))
        if (first, last) != (0, 2 + len(rest)):
            bounds = [self._rows.constant([value], f"{node.name}_bound") for value in (first, last)]
            whole = self._edit.node("Slice", [whole, *bounds], hint=node.name, dtype=INT64, shape=[last - first])
        self._edit.replace(node.outputs[0], whole)
        return True


def _overlap(one: Window, other: Window) -> Window:
    """What both windows show."""
    before, after = (
        min((side for side in sides if side is not None), default=None) for sides in zip(one, other, strict=True)
    )
    return Window(before, after)


def _attributes(window: Window) -> dict[str, int]:
    """The window as attributes of VarlenAttention."""
    sides = {"window_before": window.before, "window_after": window.after or None}
    return {"causal": int(window.after == 0)} | {name: side for name, side in sides.items() if side is not None}
