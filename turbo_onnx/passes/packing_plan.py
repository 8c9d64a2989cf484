"""Decide which nodes run on packed rows, and what moving rows in and out of that form would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.restore_padding.spec import ROW_TYPES
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.graph import Tensor, consumers, input_or_none, is_float, is_op
from turbo_onnx.layout import Role, Tokenwise
from turbo_onnx.padding_flow import PaddingFlow
from turbo_onnx.passes.packed_rows import onnx_name


class PackingPlan:
    """Which nodes of a graph run on packed rows.

    Args:
        nodes: of the graph, sorted.
        flow: where padding does not matter.

    Attributes:
        attentions: the attention nodes that do, by identity.
        rules: the token-wise nodes that do, by identity, and how to write them.
    """

    def __init__(self, nodes: Sequence[gs.Node], flow: PaddingFlow) -> None:
        self._nodes = nodes
        self._flow = flow
        self._layout = flow.layout
        self._packed: set[int] = set()  # tensors
        self.attentions: set[int] = {id(node) for node in nodes if self.packs_attention(node)}
        self.rules: dict[int, Tokenwise] = {}
        self._plan(nodes)
        self._leave_views(nodes)

    @property
    def empty(self) -> bool:
        """Whether no node would run on packed rows."""
        return not self.attentions and not self.rules

    def packs_attention(self, node: gs.Node) -> bool:
        """Whether the node is attention that can work within sequences of packed rows."""
        if not is_op(node, "VarlenAttention", domain=DOMAIN):
            return False
        found = self._flow.attention(node)
        return found is not None and found.alone and self._flow.ignorable(node.outputs[0])

    def why_not(self, node: gs.Node) -> str | None:
        """Why an attention with a proven mask stays on padded rows; None if it does not, or has no such mask."""
        found = self._flow.attention(node)
        if id(node) in self.attentions or found is None or input_or_none(node, 5) is None:
            return None
        if not found.alone:
            return "more than a padding mask is added to its scores, so it runs on padded rows"
        return "padding rows of its result are read further on"

    @property
    def products(self) -> int:
        """How many matrix products and attentions would leave out the padding: what packing gains by."""
        tokenwise = sum(is_op(node, "MatMul", "Gemm") for node in self._nodes if id(node) in self.rules)
        return tokenwise + len(self.attentions)

    @property
    def crossings(self) -> int:
        """How many tensors of hidden states would be moved into or out of packed form, graph outputs aside."""
        entering = {id(t) for node in self._nodes for t in self._reads_packed(node) if id(t) not in self._packed}
        return len(entering) + sum(1 for node in self._nodes for t in node.outputs if self._leaves(t))

    def _reads_packed(self, node: gs.Node) -> Iterator[Tensor]:
        """The computed hidden states that the node would read in packed form."""
        operands: list[Tensor] = []
        if id(node) in self.attentions:
            operands = [tensor for tensor in (input_or_none(node, index) for index in range(3)) if tensor is not None]
        elif id(node) in self.rules:
            roles = self.rules[id(node)].roles
            operands = [t for t, role in zip(node.inputs, roles, strict=False) if role is Role.TOKEN]
        for tensor in operands:
            if tensor.inputs and is_float(tensor) and self._flow.row_values(tensor) is None:
                yield tensor

    def _leaves(self, tensor: Tensor) -> bool:
        return id(tensor) in self._packed and any(self._reads_padded(reader) for reader in consumers(tensor))

    def _reads_padded(self, reader: gs.Node) -> bool:
        written = id(reader) in self.rules or id(reader) in self.attentions
        return not written and not is_op(reader, "Shape") and self._flow.pooling(reader) is None

    def _plan(self, nodes: Sequence[gs.Node]) -> None:
        """Which token-wise nodes run on packed rows: those that read packed ones, and those that begin a chain."""
        packed = self._packed
        for node in nodes:
            results = [tensor for tensor in node.outputs if not tensor.is_empty()]
            if self.packs_attention(node):
                packed.update(id(tensor) for tensor in results)
                continue
            rule = self._flow.tokenwise(node)
            if rule is None or not all(self._flow.may_pack(tensor) for tensor in results):
                continue
            if any(self._flow.row_values(tensor) is not None for tensor in results) or not self._writable(node, rule):
                continue
            tokens = [t for t, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]
            begins = len(results[0].shape) > self._layout.lead(results[0]) and is_float(results[0])
            if begins or any(id(tensor) in packed for tensor in tokens):
                self.rules[id(node)] = rule
                packed.update(id(tensor) for tensor in results)

    def _leave_views(self, nodes: Sequence[gs.Node]) -> None:
        """Rearranged rows that only padded nodes read are a view of restored rows, which others may read, too."""
        for node in reversed(nodes):
            rule = self.rules.get(id(node))
            if rule is None or rule.rearranged is None or id(node.inputs[0]) not in self._packed:
                continue
            readers = consumers(node.outputs[0])
            if readers and all(self._reads_padded(reader) for reader in readers):
                del self.rules[id(node)]
                self._packed.discard(id(node.outputs[0]))

    def _writable(self, node: gs.Node, rule: Tokenwise) -> bool:
        """Whether every row involved has a known size, and those that come out have a type that can be restored."""
        results = [tensor for tensor in node.outputs if not tensor.is_empty()]
        if any(f"tensor({onnx_name(tensor.dtype)})" not in ROW_TYPES for tensor in results):
            return False
        tokens = [t for t, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]
        for tensor, role in zip(node.inputs, rule.roles, strict=False):
            if role in (Role.POSITION, Role.SEQUENCE) and any(isinstance(s, str) for s in tensor.shape[2:]):
                return False
        return all(self._layout.row(tensor) is not None for tensor in (*tokens, *node.outputs))
