"""Fold everything that is done to attention scores before the Softmax into a scale, a soft cap and one additive bias.

- a hyperbolic tangent, and the factors in front of it and behind it, bound the scores: b * tanh(a * s) is
  c * tanh(scale * s / c) with the soft cap c = b and the scale a * b. Nothing may be added to the scores before;
- a factor multiplies the scale (and the bias that was added before it);
- something added becomes the bias, or is added to the one there is, in one explicit Add for all layers that share it;
- scores replaced where a mask says so become a bias of -inf there, or of the lowest number where the replacement is
  finite. A row that is masked as a whole stays exact: lowest + score is lowest for every score below 1e31, so the
  probabilities are uniform over the row, as they are in the original. Where a part of the row is visible the masked
  scores vanish in both, provided that visible scores are not themselves near the replacement; a replacement above -1e9
  is therefore refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Shape, Tensor
from turbo_onnx.passes.attention_scores import Added, Regrouped, Replaced, Scaled, Scores, Squashed, Step
from turbo_onnx.passes.regroup_heads import with_heads
from turbo_onnx.passes.reshaping import unsqueezed

HIGHEST_REPLACEMENT = -1e9
SOFTCAPS = (1e-3, 1e6)  # beyond, scores are all the same or not bounded at all: no model does that
BiasStep = tuple[Added | Replaced | Scaled, int]  # with the rank of the scores at that point


class BiasBuilder:
    """Makes bias tensors, and makes each only once, so that layers go on sharing what they shared.

    Args:
        edit: of the graph.
        opset: its standard opset version.
    """

    def __init__(self, edit: Editor, opset: int) -> None:
        self._edit = edit
        self._opset = opset
        self._made: dict[tuple[object, ...], Tensor] = {}
        self._kept: list[Tensor] = []  # keeps the ids in `_made` from being used again

    def build(self, plan: Sequence[BiasStep], heads: int | None, dtype: object) -> Tensor | None:
        """The bias [B, H, S, L], each size 1 or full, that the steps make of nothing; None for no steps."""
        bias: Tensor | None = None
        for step, rank in plan:
            if isinstance(step, Scaled):
                assert bias is not None
                number = self.number(step.factor, dtype)
                bias = self.once("Mul", [bias, number], bias.shape, dtype)
            elif isinstance(step, Added):
                added = self._rank_four(step.bias, rank, heads)
                if step.negative:
                    added = self.once("Neg", [added], added.shape, dtype)
                shape = added.shape if bias is None else broadcast(bias.shape, added.shape)
                bias = added if bias is None else self.once("Add", [bias, added], shape, dtype)
            else:
                mask = self._rank_four(step.mask, rank, heads)
                kept = self.number(0.0, dtype) if bias is None else bias
                hidden = self.number(step.value, dtype)
                shape = mask.shape if bias is None else broadcast(mask.shape, bias.shape)
                choices = [kept, hidden] if step.keeps else [hidden, kept]
                bias = self.once("Where", [mask, *choices], shape, dtype)
        return bias

    def _rank_four(self, tensor: Tensor, rank: int, heads: int | None) -> Tensor:
        """A mask or bias on scores of the given rank, with its axes at [B, H, S, L]."""
        key = ("rank four", id(tensor), rank, heads)
        if key not in self._made:
            own = len(tensor.shape)
            result = tensor
            if rank == 3 and own == 3:
                split = heads if tensor.shape[0] != 1 else None
                result = with_heads(self._edit, tensor, split, self._opset)
            elif own < 4:
                result = unsqueezed(self._edit, tensor, range(4 - own), self._opset)
            self._remember(key, result, [tensor])
        return self._made[key]

    def number(self, value: float, dtype: object) -> Tensor:
        """A scalar constant."""
        key = ("number", repr(value), str(np.dtype(dtype)))  # type: ignore[call-overload]
        if key not in self._made:
            number = np.array(value, np.dtype(dtype))  # type: ignore[call-overload]
            self._remember(key, self._edit.constant(number, "mask_value"), [])
        return self._made[key]

    def once(self, op: str, operands: list[Tensor], shape: Shape, dtype: object) -> Tensor:
        """The result of a node, made the first time that it is asked for."""
        key = (op, *(id(operand) for operand in operands))
        if key not in self._made:
            result = self._edit.node(op, operands, hint=f"attention_bias_{op}", dtype=dtype, shape=shape)
            self._remember(key, result, operands)
        return self._made[key]

    def _remember(self, key: tuple[object, ...], result: Tensor, operands: list[Tensor]) -> None:
        self._made[key] = result
        self._kept += operands


@dataclass(frozen=True)
class Folded:
    """What is done to scores.

    Attributes:
        scale: their factor.
        softcap: c where scaled scores s become c * tanh(s / c), else 0.
        plan: the steps on the bias, each with the rank of the scores that it is made for.
    """

    scale: float
    softcap: float
    plan: list[BiasStep]


def folded(scores: Scores) -> Folded:
    """What is done to scores between the product and the Softmax.

    Raises:
        Reject: a mask or a bias is not known to fit the scores, or replaces them by a number that is not safe; or the
            scores are bounded behind it, or by a number that is none for it.
    """
    folding = _Folding(scores)
    for step, after in scores.steps:
        folding.add(step, after)
    softcap = folding.softcap
    if softcap and not SOFTCAPS[0] <= softcap <= SOFTCAPS[1]:
        raise Reject("its scores are bounded by {}, not by a number from {} to {}", softcap, *SOFTCAPS)
    return Folded(folding.scale, softcap, folding.plan)


class _Folding:
    """What is done to scores up to one of the steps."""

    def __init__(self, scores: Scores) -> None:
        query, key = scores.product.query, scores.product.key
        self.scale = query.factor * key.factor
        self.softcap = 0.0
        self.plan: list[BiasStep] = []
        self._dtype = np.dtype(scores.product.node.outputs[0].dtype)
        self._shape: list[int | str] = [*query.shape[:-1], key.shape[-2]]
        self._finite: float | None = None  # what replaces masked scores so far

    def add(self, step: Step, after: Tensor) -> None:
        """Take a step into account, which makes the tensor `after`."""
        if isinstance(step, Regrouped):
            self._shape = list(after.shape)
            return
        if isinstance(step, Scaled):
            self._scaled(step)
        elif isinstance(step, Squashed):
            if self.plan or self.softcap:
                raise Reject(
                    "its scores go through a Tanh behind {}", "another" if self.softcap else "a mask or a bias"
                )
            self.softcap = 1.0
        elif isinstance(step, Added):
            _check_fits(step.bias, self._shape, "bias")
            if self._finite is not None and not _is_lowest(self._finite):
                raise Reject("{} is added to masked scores, which were replaced by {}", step.bias.name, self._finite)
            self.plan.append((step, len(self._shape)))
        elif isinstance(step, Replaced):
            self._replaced(step)
        if after.shape is None or list(after.shape) != self._shape:
            raise Reject("its scores {} are broadcast to {} {}", self._shape, after.name, after.shape)

    def _scaled(self, step: Scaled) -> None:
        self.scale *= step.factor
        self.softcap *= step.factor
        if any(isinstance(earlier, Replaced) for earlier, _ in self.plan):
            raise Reject("its scores are multiplied by {} after masking", step.factor)
        if self.plan:
            self.plan.append((step, len(self._shape)))

    def _replaced(self, step: Replaced) -> None:
        _check_fits(step.mask, self._shape, "mask")
        value = _replacement(step, self._dtype)
        if np.isfinite(value):
            if self.plan and not _is_lowest(step.value):
                raise Reject("scores with a bias or a mask are replaced by {}, which may be near them", step.value)
            self._finite = step.value
        self.plan.append((Replaced(step.mask, value, step.keeps), len(self._shape)))


def _is_lowest(value: float) -> bool:
    return bool(np.float32(value) == np.finfo(np.float32).min)


def _replacement(step: Replaced, dtype: np.dtype) -> float:
    """The bias that does to scores what replacing them by the step's value does."""
    if step.value == -np.inf:
        return step.value
    if not step.value <= HIGHEST_REPLACEMENT or dtype != np.float32:
        raise Reject("masked {} scores are replaced by {}, which visible scores may be near", dtype, step.value)
    return float(np.finfo(dtype).min)


def _check_fits(tensor: Tensor, scores: Sequence[int | str], what: str) -> None:
    """Raise Reject unless the tensor broadcasts to the scores' shape without making them larger."""
    shape = tensor.shape
    if shape is None or len(shape) > len(scores):
        raise Reject("its {} {} of shape {} does not fit scores {}", what, tensor.name, shape, list(scores))
    for size, full in zip(reversed(shape), reversed(scores), strict=False):
        if size != 1 and size != full:
            raise Reject("its {} {} {} is not known to broadcast to scores {}", what, tensor.name, shape, list(scores))


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape that two rank-4 shapes broadcast to."""
    if a is None or b is None:
        return None
    width = max(len(a), len(b))
    left, right = [1] * (width - len(a)) + list(a), [1] * (width - len(b)) + list(b)
    return [y if x == 1 else x for x, y in zip(left, right, strict=True)]
