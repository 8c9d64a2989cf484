"""Take away Transposes that undo each other, with nothing between them that minds the order of axes.

torch.nn's attention works on [S, B, H] and is handed [B, S, H]: the batch and the sequence change places in front of
each attention and back behind it, and all that stands between then are linear layers and element-wise operators. Rotary
embeddings stand behind the split into heads, on [B, H, S, D], and attention takes its heads side by side again. Both
compute the same in the other order (`moved_axes`), so there is nothing to transpose but what is broadcast, which is
small: the cosines and sines [1, 1, S, D] of all heads.

Where one Transpose is split into queries, keys and values, each of them ends in a Transpose of its own. The parts are
transposed instead of the whole then, so that each can be looked at by itself.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, consumers, is_op, producer
from turbo_onnx.layout import is_elementwise
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.moved_axes import Moved, Order, inverse, moved, order_of, reordered, stays_in_line
from turbo_onnx.passes.reshaping import transposed, unsqueezed

_MOST_NODES = 64  # between opposite Transposes
_LARGEST_CONSTANT = 1 << 16  # elements that are stored once more in another order


class CancelTransposes(Pass):
    """Remove opposite Transposes around what does not mind the order of axes."""

    name = "cancel-transposes"
    summary = "Remove opposite Transposes around operators that compute the same in another order of axes."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        for node in [node for node in model.graph.nodes if is_op(node, "Transpose")]:
            order = order_of(node)
            read = node.outputs[0].outputs or edit.is_graph_output(node.outputs[0])
            if order and read and node.inputs and node.inputs[0].shape is not None:
                report.applied += _cancel(edit, node, order, model.opset)
        if report.applied:
            edit.remove_unused()
            edit.sort()
        return report


def _cancel(edit: Editor, last: gs.Node, order: Order, opset: int) -> bool:
    try:
        region = _Region(edit, last, order, opset)
    except Reject:
        return False
    edit.replace(last.outputs[0], region.result())
    region.detach()
    return True


class _Region:
    """What lies between a Transpose and those above it that it undoes.

    Args:
        edit: of the graph.
        last: the Transpose.
        order: its order.
        opset: of the standard operators.
    """

    def __init__(self, edit: Editor, last: gs.Node, order: Order, opset: int) -> None:
        self._edit = edit
        self._last = last
        self._order = order
        self._opset = opset
        self._rules: dict[int, Moved] = {}  # how to write each node in between, by identity
        self._nodes: list[gs.Node] = []
        self._written: dict[tuple[int, int], Tensor] = {}  # by identity, and the number of axes that are asked for
        self._undone: list[gs.Node] = []  # the Transposes above
        self._divided: list[gs.Node] = []  # Splits of what they give, parts of which are read elsewhere
        self._undoes: dict[int, bool] = {}  # whether a node is made of what another Transpose gives, by its identity
        tensor = last.inputs[0]
        if not self._reach(tensor, len(tensor.shape)):
            raise Reject("it undoes no other Transpose")
        self._check()

    def _reach(self, tensor: Tensor, rank: int) -> bool:
        """Find what has to be written in the other order for the tensor to be; whether a Transpose is undone by it."""
        node = producer(tensor)
        if node is not None and is_op(node, "Transpose") and order_of(node) == inverse(self._order):
            self._written[id(tensor), len(tensor.shape)] = node.inputs[0]
            self._undone.append(node)
            return True
        if id(node) in self._rules:
            return self._undoes[id(node)]
        before = len(self._nodes)
        try:
            undoes = self._reach_operands(tensor, rank)
        except Reject:
            if not self._is_broadcast(tensor, rank):
                raise
            undoes = False
        if not undoes and self._is_broadcast(tensor, rank):
            for reached in self._nodes[before:]:
                del self._rules[id(reached)]
            del self._nodes[before:]
        return undoes

    def _reach_operands(self, tensor: Tensor, rank: int) -> bool:
        node = producer(tensor)
        rule = None if node is None or len(tensor.shape) < rank else moved(node, self._order, self._opset)
        if node is None or rule is None or len(self._nodes) == _MOST_NODES:
            raise Reject("{} cannot be computed in another order of axes", tensor.name)
        self._rules[id(node)] = rule
        self._nodes.append(node)
        undone = [self._reach(node.inputs[index], self._rank(node, index)) for index in rule.moved_operands]
        self._undoes[id(node)] = any(undone)
        return self._undoes[id(node)]

    def _rank(self, node: gs.Node, index: int) -> int:
        """How many axes an operand has where it is aligned with what it is combined with."""
        return len(node.outputs[0].shape if is_elementwise(node) else node.inputs[index].shape)

    def _is_broadcast(self, tensor: Tensor, rank: int) -> bool:
        """Whether the tensor is small and in line, so that it is brought to the other order by itself."""
        if tensor.shape is None or None in tensor.shape:
            return False
        if isinstance(tensor, gs.Constant):
            return bool(prod(tensor.shape) <= _LARGEST_CONSTANT)
        aligned = [1] * (rank - len(tensor.shape)) + list(tensor.shape)
        lead = len(self._order)
        return stays_in_line(aligned, self._order) and aligned[:lead] != list(self._last.inputs[0].shape[:lead])

    def _check(self) -> None:
        """Make sure that nothing else reads what lies in between, which would then be computed twice."""
        inside = {id(node) for node in (*self._nodes, self._last)}
        for node in self._nodes:
            read = [tensor for tensor in node.outputs if self._is_read_outside(tensor, inside)]
            above = producer(node.inputs[0])
            if read and not (is_op(node, "Split") and any(above is undone for undone in self._undone)):
                raise Reject("{} is read elsewhere too", read[0].name)
            if read:
                self._divided.append(node)

    def _is_read_outside(self, tensor: Tensor, inside: set[int]) -> bool:
        return self._edit.is_graph_output(tensor) or any(id(reader) not in inside for reader in consumers(tensor))

    def result(self) -> Tensor:
        """What the last Transpose gives, computed in its order from the start."""
        tensor: Tensor = self._last.inputs[0]
        return self._in_order(tensor, len(tensor.shape))

    def detach(self) -> None:
        """Let the nodes that are not needed any more read nothing, so that they do not count as readers."""
        for node in (self._last, *self._nodes):
            node.inputs.clear()
        for tensor in (part for node in self._divided for part in node.outputs):
            if tensor.outputs or self._edit.is_graph_output(tensor):
                rank = len(tensor.shape)
                back = (*inverse(self._order), *range(len(self._order), rank))
                self._edit.replace(tensor, transposed(self._edit, self._written[id(tensor), rank], back))
        for node in self._undone:
            if not node.outputs[0].outputs and not self._edit.is_graph_output(node.outputs[0]):
                node.inputs.clear()

    def _in_order(self, tensor: Tensor, rank: int) -> Tensor:
        if (id(tensor), rank) not in self._written:
            node = producer(tensor)
            if id(node) in self._rules and node is not None:
                self._write(node, self._rules[id(node)])
            else:
                self._written[id(tensor), rank] = self._broadcast(tensor, rank)
        return self._written[id(tensor), rank]

    def _write(self, node: gs.Node, rule: Moved) -> None:
        operands: list[Tensor | None] = list(node.inputs)
        for index, values in rule.operands.items():
            operands[index] = self._edit.constant(np.array(values, np.int64), f"{node.name}_axes")
        for index in rule.moved_operands:
            operands[index] = self._in_order(node.inputs[index], self._rank(node, index))
        results: list[Tensor] = []
        for tensor in node.outputs:
            shape = None if tensor.is_empty() else reordered(tensor.shape, self._order)
            results.append(tensor if shape is None else self._edit.variable(tensor.name, tensor.dtype, shape))
            self._written[id(tensor), len(tensor.shape or ())] = results[-1]
        self._edit.node(node.op, operands, attrs=rule.attrs, domain=node.domain, hint=node.name, outputs=results)

    def _broadcast(self, tensor: Tensor, rank: int) -> Tensor:
        missing = rank - len(tensor.shape)
        order = (*self._order, *range(len(self._order), rank))
        if isinstance(tensor, gs.Constant):
            values = tensor.values.reshape((1,) * missing + tuple(tensor.shape)).transpose(order)
            return self._edit.constant(values, tensor.name)
        wide = unsqueezed(self._edit, tensor, list(range(missing)), self._opset) if missing else tensor
        return transposed(self._edit, wide, order)
