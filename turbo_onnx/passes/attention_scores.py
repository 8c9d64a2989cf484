"""Walk from a Softmax up to the product of queries and keys, and down to the product with the values.

Between them exporters put scales, masks, biases, guards against NaN, casts and reshapes, in any number and order. The
walk up turns each into a `Step` on the scores; the walk down says how the probabilities reach the values. Neither
changes the graph. What stands in the way of an attention that is otherwise there becomes a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Tensor, consumers, input_or_none, is_float, is_op, produced_by, producer, scalar_value
from turbo_onnx.passes.attention_products import OutputProduct, ScoresProduct, output_product, scores_product
from turbo_onnx.passes.views import scaled_input

_DEPTH = 12  # nodes between the product and the Softmax
_OPAQUE = ("Mul", "Div", "Where", "Reshape", "Cast", "Clip", "Pad", "Slice", "Pow", "Max", "Min", "Transpose")


@dataclass(frozen=True)
class Scaled:
    """The scores times `factor`."""

    factor: float


@dataclass(frozen=True)
class Squashed:
    """The hyperbolic tangent of the scores."""


@dataclass(frozen=True)
class Added:
    """The scores plus `bias`, or minus it."""

    bias: Tensor
    negative: bool = False


@dataclass(frozen=True)
class Replaced:
    """where(mask, scores, value), or where(mask, value, scores) with `keeps` false."""

    mask: Tensor
    value: float
    keeps: bool


@dataclass(frozen=True)
class Regrouped:
    """The scores [B*H, S, L] as [B, H, S, L], or back."""


@dataclass(frozen=True)
class Obstacle:
    """An operator that the scores go through and that attention does not have."""

    node: gs.Node


Step = Scaled | Squashed | Added | Replaced | Regrouped | Obstacle


@dataclass(frozen=True)
class Scores:
    """How a Softmax's input is made.

    Attributes:
        product: of queries and keys.
        steps: what happens to the product, in that order, and the tensor after each.
        raw: the tensor that enters the Softmax, before a Cast if there is one.
    """

    product: ScoresProduct
    steps: tuple[tuple[Step, Tensor], ...]
    raw: Tensor


@dataclass(frozen=True)
class Probabilities:
    """How a Softmax's output reaches the values.

    Attributes:
        product: with the values.
        guard: rows of NaN become zeros.
    """

    product: OutputProduct
    guard: bool


def trace_scores(softmax: gs.Node) -> Scores | None:
    """How the Softmax's input comes from a product of queries and keys; None if it does not.

    Paths on which everything is understood are preferred to those with an `Obstacle`.
    """
    raw = softmax.inputs[0]
    cast = produced_by(raw, "Cast")
    if cast is not None and is_float(cast.inputs[0]):
        raw = cast.inputs[0]
    for through_obstacles in (False, True):
        found = _descend(raw, _DEPTH, through_obstacles, set())
        if found is not None:
            return Scores(found[0], tuple(found[1]), raw)
    return None


def _descend(
    tensor: Tensor, depth: int, through_obstacles: bool, seen: set[int]
) -> tuple[ScoresProduct, list[tuple[Step, Tensor]]] | None:
    """The product above the tensor and the steps down to it. `seen` holds what was looked at: no tensor is twice."""
    if id(tensor) in seen:
        return None
    seen.add(id(tensor))
    node = producer(tensor)
    product = scores_product(node)
    if product is not None:
        return product, []
    if node is None or depth == 0:
        return None
    for operand, step in _peeled(node, tensor, through_obstacles):
        if step is None:
            return _descend(operand, depth - 1, through_obstacles, seen)
        found = _descend(operand, depth - 1, through_obstacles, seen)
        if found is not None:
            return found[0], [*found[1], (step, tensor)]
    return None


def _peeled(node: gs.Node, output: Tensor, through_obstacles: bool) -> Iterator[tuple[Tensor, Step | None]]:
    """The operands of the node that may be scores, each with what the node does to them."""
    if is_op(node, "Identity"):
        yield node.inputs[0], None
        return
    scaled, factor = scaled_input(node)
    if scaled is not None:
        yield scaled, Scaled(factor)
        return
    if is_op(node, "Tanh"):
        yield node.inputs[0], Squashed()
        return
    if is_op(node, "Add"):
        for index in (0, 1):
            yield node.inputs[index], Added(node.inputs[1 - index])
        return
    if is_op(node, "Sub"):
        yield node.inputs[0], Added(node.inputs[1], negative=True)
        return
    if is_op(node, "Where"):
        yield from _replacements(node)
    if is_op(node, "Reshape") and is_regrouping(node.inputs[0], output):
        yield node.inputs[0], Regrouped()
        return
    if through_obstacles and is_op(node, *_OPAQUE):
        for operand in node.inputs:
            if isinstance(operand, gs.Variable) and is_float(operand):
                yield operand, Obstacle(node)


def _replacements(where: gs.Node) -> Iterator[tuple[Tensor, Step]]:
    """The operand that a number replaces where the mask says so."""
    mask, kept, replaced = where.inputs
    for scores, value, keeps in ((kept, replaced, True), (replaced, kept, False)):
        number = scalar_value(value)
        if number is not None and scalar_value(scores) is None:
            yield scores, Replaced(mask, float(number), keeps)


def is_regrouping(before: Tensor, after: Tensor) -> bool:
    """Whether a Reshape from one to the other only splits or joins leading axes of rank-3 and rank-4 tensors."""
    if before.shape is None or after.shape is None:
        return False
    return {len(before.shape), len(after.shape)} == {3, 4} and before.shape[-2:] == after.shape[-2:]


def trace_probabilities(softmax: gs.Node, outputs: frozenset[int]) -> Probabilities:
    """How the Softmax's output reaches the values.

    Args:
        softmax: the node.
        outputs: the ids of the graph's output tensors.

    Raises:
        Reject: it does not, or something else reads the probabilities too.
    """
    current: Tensor = softmax.outputs[0]
    guard = False
    for _ in range(_DEPTH):
        if id(current) in outputs:
            raise Reject("its probabilities {} are an output of the graph", current.name)
        readers = consumers(current)
        guarded = _guarded(current, readers)
        if guarded is not None:
            current, guard = guarded, True
            continue
        if len(readers) != 1:
            raise Reject("its probabilities {} are read by {} nodes, not by one", current.name, len(readers))
        node = readers[0]
        product = output_product(node, current)
        if product is not None:
            return Probabilities(product, guard)
        passes = (
            is_op(node, "Identity", "Cast")
            or (is_op(node, "Reshape") and is_regrouping(current, node.outputs[0]))
            or (is_op(node, "Dropout") and _keeps_all(node))
        )
        if not passes:
            raise Reject("its probabilities go into {} {}, not into a product with values", node.op, node.name)
        current = node.outputs[0]
    raise Reject("its probabilities reach no product with values within {} nodes", _DEPTH)


def _guarded(probabilities: Tensor, readers: list[gs.Node]) -> Tensor | None:
    """The result of Where(IsNaN(p), 0, p) if that is what reads p, else None."""
    if len(readers) != 2 or {reader.op for reader in readers} != {"IsNaN", "Where"}:
        return None
    test, choice = sorted(readers, key=lambda reader: reader.op != "IsNaN")
    if any(reader is not choice for reader in test.outputs[0].outputs):
        return None
    condition, when_nan, otherwise = choice.inputs
    if condition is not test.outputs[0] or otherwise is not probabilities or scalar_value(when_nan) != 0:
        return None
    return choice.outputs[0]


def _keeps_all(dropout: gs.Node) -> bool:
    """Whether the Dropout does nothing in inference and its mask is not read."""
    training = input_or_none(dropout, 2)
    return (training is None or scalar_value(training) is False) and not any(t.outputs for t in dropout.outputs[1:])
