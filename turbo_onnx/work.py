"""How much a run of a model computes, so that recording its runs can be bounded.

Small batches are recorded, but where large sizes of a model are fixed its runs take long all the same. The bound is in
multiply-adds, not in seconds: the same model has the same plan on a slow machine and on a fast one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.custom_ops.varlen_attention.window import window_of
from turbo_onnx.dims import Dim, as_dim, product, terms_of
from turbo_onnx.errors import Reject
from turbo_onnx.graph import input_or_none
from turbo_onnx.verify_inputs import Feed

MOST_WORK = 4 * 10**12
"""Multiply-adds of all runs that are recorded of one model: some minutes on two cores at worst."""

_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "QuantizedMatMul")
_CONVOLUTIONS = ("Conv", "FusedConv")
_ATTENTIONS = ("VarlenAttention", "MultiHeadAttention", "Attention")
_Amount = Dim | int


@dataclass(frozen=True)
class Work:
    """The multiply-adds of a run, as a polynomial in sizes.

    Attributes:
        total: of matrix products, convolutions and attentions. What else there is takes little beside them.
        sizes: where a named size is seen: in which input, and on which of its axes.
    """

    total: _Amount = 0
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @staticmethod
    def of(graph: gs.Graph, branch: gs.Graph | None = None) -> Work:
        """The work of a graph with inferred shapes, and of a branch in it. What has no known shape is not counted."""
        sizes: dict[str, tuple[str, int]] = {}
        for tensor in graph.inputs:
            for axis, item in enumerate(tensor.shape or ()):
                if isinstance(item, str):
                    sizes.setdefault(item, (tensor.name, axis))
        total: _Amount = 0
        for node in graph.nodes if branch is None else (*graph.nodes, *branch.nodes):
            total = total + _multiply_adds(node)
        return Work(total, sizes)

    def of_run(self, feed: Feed) -> int:
        """The multiply-adds of a run on these inputs.

        Sizes that the inputs do not show, such as the number of real tokens, count as all positions of the batch.
        """
        positions = max((prod(array.shape[:2]) for array in feed.values()), default=1)
        known = {name: feed[tensor].shape[axis] for name, (tensor, axis) in self.sizes.items() if tensor in feed}
        return sum(
            coefficient * prod(known.get(name, positions) for name in names)
            for names, coefficient in terms_of(self.total).items()
        )


class Budget:
    """What may still be computed.

    Args:
        most: multiply-adds.
    """

    def __init__(self, most: int = MOST_WORK) -> None:
        self.most = most
        self.left = most

    def spend(self, work: int) -> bool:
        """Take so many multiply-adds out of it; False, and nothing is taken, where so many are not left."""
        if work > self.left:
            return False
        self.left -= work
        return True

    def require(self, work: int) -> None:
        """As `spend`.

        Raises:
            Reject: so many are not left.
        """
        if not self.spend(work):
            raise Reject(
                "a run that has to be recorded takes {} billion multiply-adds, and {} of {} billion are left",
                *(round(amount / 1e9) for amount in (work, self.left, self.most)),
            )


def _multiply_adds(node: gs.Node) -> _Amount:
    left, right = (_shape(input_or_none(node, index)) for index in (0, 1))
    result = _shape(node.outputs[0]) if node.outputs else None
    if not left or not result:
        return 0
    if node.op in _ATTENTIONS and len(left) > 1:  # with Q | K | V in one operand, or apart
        keys = right if right and len(right) > 1 and node.op != "Attention" else left
        return 2 * product(result) * _seen(node, keys[-2])
    if not right:
        return 0
    if node.op in _PRODUCTS:
        inner = left[-2] if node.attrs.get("transA") and len(left) > 1 else left[-1]
        return product(result) * inner
    return product(result) * product(right[1:]) if node.op in _CONVOLUTIONS else 0


def _seen(node: gs.Node, keys: _Amount) -> _Amount:
    """How many of the keys a query sees at most. Where their number is not fixed, they count as all."""
    if node.domain != DOMAIN or not isinstance(keys, int):
        return keys
    before, after = window_of(node.attrs)
    return keys if before is None or after is None else min(keys, before + after + 1)


def _shape(tensor: gs.Variable | gs.Constant | None) -> list[_Amount] | None:
    if tensor is None or tensor.shape is None or any(item is None for item in tensor.shape):
        return None
    return [as_dim(item) for item in tensor.shape]
