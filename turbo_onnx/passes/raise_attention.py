"""Recognise scaled dot-product attention in any spelling, and write it as one `Attention` operator.

The anchor is a Softmax over the last axis. What stands between the product of queries and keys and the Softmax is
folded into a scale, a soft cap and a bias (`attention_bias.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.attributes import read
from turbo_onnx.dims import Dim, as_dim, product
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, is_float, is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.attention_bias import BiasBuilder, folded
from turbo_onnx.passes.attention_products import Operand
from turbo_onnx.passes.attention_scores import (
    Obstacle,
    Probabilities,
    Regrouped,
    Scores,
    trace_probabilities,
    trace_scores,
)
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.raise_standard_attention import raise_standard_attention
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.passes.regroup_heads import heads_of, with_heads, without_heads
from turbo_onnx.passes.reshaping import transposed
from turbo_onnx.precision import half_type


class RaiseAttention(Pass):
    """Write every spelling of attention as `turbo_onnx.raised.Attention`."""

    name = "raise-attention"
    summary = "Recognise scaled dot-product attention in every spelling."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        raising = _Raising(Editor(model.graph), model.opset)
        found = 0
        for node in list(model.graph.nodes):
            try:
                if is_op(node, "Attention"):
                    found += 1
                    raise_standard_attention(raising.edit, raising.biases, node)
                elif is_op(node, "Softmax"):
                    scores = trace_scores(node)
                    if scores is None:
                        continue
                    found += 1
                    raising.raise_softmax(node, scores)
                else:
                    continue
                report.applied += 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        report.facts["attention_found"] = found
        if raising.edit.modified:
            raising.edit.remove_unused()
            raising.edit.sort()
        return report


class _Raising:
    """One run over one graph."""

    def __init__(self, edit: Editor, opset: int) -> None:
        self.edit = edit
        self.opset = opset
        self._outputs = frozenset(id(tensor) for tensor in edit.graph.outputs)
        self.biases = BiasBuilder(edit, opset)

    def raise_softmax(self, softmax: gs.Node, scores: Scores) -> None:
        """Replace the attention around the Softmax.

        Raises:
            Reject: it is not exactly an attention. Nothing was changed.
        """
        probabilities = trace_probabilities(softmax, self._outputs)
        self._check(softmax, scores, probabilities)
        query, key, value = scores.product.query, scores.product.key, probabilities.product.value
        heads = self._heads(scores, probabilities)
        found = folded(scores)
        bias = self.biases.build(found.plan, heads, query.tensor.dtype)
        operands = [self._operand(operand, heads) for operand in (query, key, value)]
        attrs: dict[str, object] = {"scale": float(found.scale), "guard": int(probabilities.guard), "causal": 0}
        if found.softcap:
            attrs["softcap"] = found.softcap
        precision = np.dtype(softmax.outputs[0].dtype)
        if precision != np.dtype(query.tensor.dtype):
            attrs["softmax_precision"] = int(onnx.helper.np_dtype_to_tensor_dtype(precision))
        shapes = [operand.shape for operand in operands]
        result = self.edit.node(
            "Attention",
            [*operands, bias],
            domain=RAISED_DOMAIN,
            attrs=attrs,
            hint=f"{softmax.name}_attention",
            dtype=query.tensor.dtype,
            shape=[*shapes[0][:3], shapes[2][3]],
        )
        if len(value.order) == 3:
            result = without_heads(self.edit, result, heads, self.opset)
        result = transposed(self.edit, result, probabilities.product.order)
        self.edit.replace(probabilities.product.node.outputs[0], result)

    def _check(self, softmax: gs.Node, scores: Scores, probabilities: Probabilities) -> None:
        node = scores.product.node
        for step, _ in scores.steps:
            if isinstance(step, Obstacle):
                raise Reject("its scores go through {} {}, which attention does not have", step.node.op, step.node.name)
        query, key, value = scores.product.query, scores.product.key, probabilities.product.value
        for operand in (query, key, value):
            if len(operand.order) not in (3, 4):
                raise Reject("{} has {} axes, not 3 or 4", operand.tensor.name, len(operand.order))
        axis = read(softmax, "axis", self.opset)
        softmax_rank = len(scores.raw.shape or ())
        if axis not in (-1, softmax_rank - 1):
            raise Reject("its Softmax is over axis {} of {}, not the last one", axis, softmax_rank)
        path = [node.outputs[0], *(tensor for _, tensor in scores.steps), scores.raw, softmax.inputs[0]]
        for tensor in path:
            if id(tensor) in self._outputs or len(tensor.outputs) != 1:
                raise Reject("its scores {} are read elsewhere too", tensor.name)
        if not is_float(query.tensor) or not is_float(softmax.outputs[0]):
            raise Reject("the type of its queries {} is not known", query.tensor.name)
        if half_type(query.tensor.dtype) is not None:
            raise Reject("{} is {}, and what is left in half precision keeps its roundings", *_typed(query.tensor))
        if np.dtype(value.tensor.dtype) != np.dtype(query.tensor.dtype):
            raise Reject(
                "its values {} are {}, its queries {}", value.tensor.name, value.tensor.dtype, query.tensor.dtype
            )
        groups = [operand.shape[:-2] for operand in (query, key, value)]
        same_rank = len(query.order) == len(value.order)
        values_fit = groups[0] == groups[2] if same_rank else _count(groups[0]) == _count(groups[2])
        if (groups[0] != groups[1] or not values_fit) and not _is_one_for_all(groups):
            raise Reject(
                "its queries {}, keys {} and values {} are not known to have the same batches and heads", *groups
            )

    def _heads(self, scores: Scores, probabilities: Probabilities) -> int | None:
        """How many heads an axis holds that joins them with the batch; None where that is unknown."""
        for operand in (scores.product.query, probabilities.product.value):
            if len(operand.order) == 4:
                heads = operand.shape[1]
                return heads if isinstance(heads, int) else None
        for step, after in scores.steps:
            if isinstance(step, Regrouped) and isinstance(after.shape[1], int):
                return int(after.shape[1])
        query = scores.product.query
        return heads_of(query.tensor, query.order[0], self.opset)

    def _operand(self, operand: Operand, heads: int | None) -> Tensor:
        tensor = operand.emit(self.edit)
        return with_heads(self.edit, tensor, heads, self.opset) if len(operand.order) == 3 else tensor


def _is_one_for_all(groups: Sequence[tuple[int | str, ...]]) -> bool:
    """Whether keys and values have one head, which the products broadcast to all heads of the queries."""
    query, key, value = groups
    return len(query) == 2 and isinstance(query[1], int) and key == value == (query[0], 1)


def _typed(tensor: Tensor) -> tuple[str, object]:
    return tensor.name, tensor.dtype


def _count(dims: Sequence[int | str]) -> Dim | int:
    return product(as_dim(dim) for dim in dims)
