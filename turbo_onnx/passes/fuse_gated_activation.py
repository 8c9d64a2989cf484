"""Fuse the gate of a feed-forward layer: activation(gate) * up, with the biases in front, into one GatedActivation.

Gate and up are mostly halves of one product, which are then read where they lie, or two products. The operator's
kernels do not broadcast, so both must have one shape in every run. x * sigmoid(x) without a gate is such a product too,
of the sigmoid of x and x; that gains where there is a bias. x * sigmoid(1.702 x) is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none, is_op, producer
from turbo_onnx.matcher import Match
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_skip_layer_normalization import same_rows
from turbo_onnx.passes.linear import added_vector, joined_bias
from turbo_onnx.passes.proven_fusion import ProvenFusion
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.passes.views import Ancestor, ancestors, axis_of, scaled_input
from turbo_onnx.pattern import Expression, op, operators, variables


class FuseGatedActivation(ProvenFusion):
    """An activation over float32 and the tensor that it is multiplied with become one operator."""

    name = "fuse-gated-activation"
    summary = "Fuse an activation, what it is multiplied with and the biases of both into GatedActivation."

    def run(self, model: Model) -> PassReport:
        """Rewrite until nothing matches any more; then let the operators add the biases of their operands."""
        report = super().run(model)
        if report.applied:
            _take_biases_in(Editor(model.graph))
        return report

    def pattern(self) -> Expression:
        gate, up = variables("gate up")
        gelu = (operators(RAISED_DOMAIN).Gelu(gate) | op.Gelu(gate)).named("gelu")
        silu = (gate * op.Sigmoid(gate) | op.Swish(gate, alpha=1.0)).named("silu")
        return (gelu | silu | op.Relu(gate).named("relu") | op.Sigmoid(gate).named("sigmoid")) * up

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        gate, up = match.gate, match.up
        if any(tensor is up for node in match.nodes for tensor in node.outputs):
            raise Reject("{} is multiplied with what it is computed from", up.name)
        itself = gate is up and _row_added(gate, match.nodes, edit) is None
        if itself or scaled_input(producer(gate))[0] is up:
            raise Reject("{} is gated by itself, of which ONNX Runtime makes one operator, too", up.name)
        same_rows(gate, up)
        self.check_equal(gate, up)
        attributes: dict[str, int | str] = {"activation": _activation(match)}
        operands = [gate, up]
        whole = _halved(gate, up, int(edit.graph.opset))
        if whole is not None:
            operands, attributes["gate_last"] = [whole[0]], whole[1]
        result = edit.node("GatedActivation", operands, attrs=attributes, domain=DOMAIN)
        self.proven.take_over(result, gate)
        return result


def _activation(match: Match) -> str:
    if match.gelu is None:
        return next(name for name in ("silu", "relu", "sigmoid") if match.values.get(name) is not None)
    return "gelu_tanh" if match.gelu.inputs[0].attrs.get("approximate", "none") == "tanh" else "gelu"


def _halved(gate: Tensor, up: Tensor, opset: int) -> tuple[Tensor, int] | None:
    """The tensor [..., 2N] whose halves the two tensors [..., N] are, and whether the gate is the second one."""
    of_gate = {id(one.tensor): (one, half) for one in ancestors(gate, opset) if (half := _half(one)) is not None}
    for other in ancestors(up, opset):
        one, half = of_gate.get(id(other.tensor), (None, None))
        if one is not None and half is not None and _half(other) == 1 - half:
            return one.tensor, half
    return None


def _half(one: Ancestor) -> int | None:
    """0 or 1 where what is viewed is the first or the second half of the tensor's last axis, and nothing else."""
    *leading, width = one.tensor.shape
    if not isinstance(width, int) or width % 2 or len(one.view.axes) != len(leading) + 1 or one.view.factor != 1.0:
        return None
    expected = [axis_of(index, item) for index, item in enumerate((*leading, width // 2))]
    moved = [index for index in range(len(leading)) if one.view.offset(index) != 0]
    offset = one.view.offset(len(leading))
    if list(one.view.axes) != expected or moved or offset not in (0, width // 2):
        return None
    return int(offset != 0)


def _take_biases_in(edit: Editor) -> None:
    """Let the operators add the constant rows that are added to their operands, where nothing else reads the sums."""
    for node in edit.graph.nodes:
        if not is_op(node, "GatedActivation", domain=DOMAIN):
            continue
        operands = [tensor for index in (0, 1) if (tensor := input_or_none(node, index)) is not None]
        biases = [_row_added(tensor, (node,), edit) for tensor in operands]
        if input_or_none(node, 2) is not None or not any(biases):
            continue
        for index, found in enumerate(biases):
            if found is not None:
                node.inputs[index] = found[0]
        rows = [None if found is None else found[1].values for found in biases]
        row = joined_bias(rows, [tensor.shape[-1] for tensor in operands])
        assert row is not None
        name = next(found[1].name for found in biases if found is not None)
        bias = edit.constant(row, f"{name}_gated")
        node.inputs = [*node.inputs[:2], *[gs.Variable.empty()] * (2 - len(node.inputs)), bias]
    edit.remove_unused()


def _row_added(total: Tensor, readers: Sequence[gs.Node], edit: Editor) -> tuple[Tensor, gs.Constant] | None:
    """A tensor and the constant row [C] whose sum [..., C] this is, if nothing but the readers reads it."""
    added = added_vector(total)
    known = {id(reader) for reader in readers}
    if added is None or any(id(reader) not in known for reader in total.outputs) or edit.is_graph_output(total):
        return None
    return added if len(added[1].shape) == 1 else None
