"""Decide which nodes of a graph compute in half precision.

Every node that may (`precision_rules`) does, except

- those that only compute with integers made into floats (positions, masks), which half precision would round;
- those that read a constant which half precision cannot hold: one beyond its range, or one that loses more to
  underflow than rounding would take from it anyway;
- those that read or give a tensor which is too large for it on the inputs of the calibration;
- those that would only gain by being next to one that gains, and are not.

Where the node takes such a constant or tensor in float32 beside its other operands in half precision, as attention does
its bias, only that operand stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Tensor, consumers, is_op, subgraphs
from turbo_onnx.model import Model
from turbo_onnx.passes.precision_rules import GROWS, Operands, Role, half_operands
from turbo_onnx.precision import HalfType

MARGIN = 2.0
"""How far below the largest number tensors must stay on the calibration's inputs.

Other inputs give other numbers; and with room for twice the number, the sum of two tensors that are in range is.
"""
Measure = Callable[[Model, Sequence[gs.Variable]], Mapping[str, float]]
"""The largest |x| that tensors of a model reach, by name."""

_CHUNK = 1 << 20  # elements that are looked at together
_MAKES_FLOATS = ("Cast", "CastLike", "Range", "ConstantOfShape", "EyeLike", "OneHot")


def is_float32(tensor: Tensor) -> bool:
    """Whether the tensor is known to be in float32."""
    return isinstance(tensor.dtype, (np.dtype, type)) and np.dtype(tensor.dtype) == np.float32


def _may_be_float(tensor: Tensor) -> bool:
    return not isinstance(tensor.dtype, (np.dtype, type)) or np.dtype(tensor.dtype).kind not in "iub"


class Plan:
    """What computes in half precision.

    Args:
        model: with the types of all tensors inferred; it is not changed.
        half: the type.
        measure: how the range of the tensors is learnt.
        margin: how many times the largest number of a tensor has to fit.

    Attributes:
        chosen: the operands in half precision of each node that computes in it, by the node's identity.
        kept: the others that compute floating-point numbers, each with the reason.
    """

    def __init__(self, model: Model, half: HalfType, measure: Measure, margin: float = MARGIN) -> None:
        self.model, self.half, self.margin = model, half, margin
        self.nodes: list[gs.Node] = list(model.graph.nodes)
        self.chosen: dict[int, Operands] = {}
        self.kept: list[tuple[gs.Node, str]] = []
        self._unfit_values: dict[int, tuple[np.ndarray, str | None]] = {}
        self._choose()
        self._drop_integers()
        self._drop_constants()
        self._drop_large(measure)
        self._drop_lonely()
        self._drop_growing()
        order = {id(node): position for position, node in enumerate(self.nodes)}
        self.kept.sort(key=lambda entry: order[id(entry[0])])

    def tensors_of(self, node: gs.Node) -> Iterator[Tensor]:
        """The tensors of a chosen node that are in half precision."""
        operands = self.chosen[id(node)]
        yield from (node.inputs[index] for index in operands.inputs)
        yield from (node.outputs[index] for index in operands.outputs)

    def _let_stay(self, node: gs.Node, is_unfit: Callable[[Tensor], bool]) -> None:
        """Leave inputs in float32 that do not fit, where the node takes them so."""
        operands = self.chosen[id(node)]
        stay = [index for index in operands.inputs if index in operands.may_stay and is_unfit(node.inputs[index])]
        self.chosen[id(node)] = operands.without(stay)

    def _candidates(self) -> list[gs.Node]:
        return [node for node in self.nodes if id(node) in self.chosen]

    def _drop(self, node: gs.Node, why: str) -> None:
        del self.chosen[id(node)]
        self.kept.append((node, why))

    def _choose(self) -> None:
        for node in self.nodes:
            if not any(is_float32(tensor) for tensor in node.outputs) or any(subgraphs(node)):
                continue
            if is_op(node, *_MAKES_FLOATS):
                continue
            try:
                self.chosen[id(node)] = half_operands(node, self.model.opset, self.half)
                if not all(is_float32(tensor) for tensor in self.tensors_of(node)):
                    raise Reject("not all of its operands are in float32")
            except Reject as reason:
                self.chosen.pop(id(node), None)
                self.kept.append((node, str(reason)))

    def _drop_integers(self) -> None:
        """Positions in bfloat16 are wrong from 257 on; and so are the angles that are made of them."""
        integral: set[int] = set()
        for node in self.nodes:
            reads = [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable) and is_float32(tensor)]
            made = is_op(node, *_MAKES_FLOATS) and not any(map(_may_be_float, node.inputs))
            if made or (reads and all(id(tensor) in integral for tensor in reads)):
                integral |= {id(tensor) for tensor in node.outputs}
                if id(node) in self.chosen:
                    self._drop(
                        node,
                        f"it computes with numbers made of integers, which {self.half.name} holds up to"
                        f" {self.half.integers} only",
                    )

    def _drop_constants(self) -> None:
        for node in self._candidates():
            self._let_stay(node, lambda tensor: isinstance(tensor, gs.Constant) and self._unfit(tensor) is not None)
            operands = [tensor for tensor in self.tensors_of(node) if isinstance(tensor, gs.Constant)]
            why = next(filter(None, map(self._unfit, operands)), None)
            if why is not None:
                self._drop(node, why)

    def _unfit(self, constant: gs.Constant) -> str | None:
        values = constant.values
        if id(values) not in self._unfit_values:
            self._unfit_values[id(values)] = (values, unfit(values, self.half))
        _, why = self._unfit_values[id(values)]
        return None if why is None else f"'{constant.name}' {why}"

    def _drop_large(self, measure: Measure) -> None:
        candidates = self._candidates()
        tensors = {
            id(tensor): tensor
            for node in candidates
            for tensor in self.tensors_of(node)
            if isinstance(tensor, gs.Variable)
        }
        found = measure(self.model, list(tensors.values()))
        limit = self.half.largest / self.margin
        for node in candidates:
            self._let_stay(node, lambda tensor: found.get(tensor.name, 0.0) > limit)
            largest = max(self.tensors_of(node), key=lambda tensor: found.get(tensor.name, 0.0))
            if found.get(largest.name, 0.0) > limit:
                self._drop(
                    node,
                    f"'{largest.name}' reaches {found[largest.name]:.4g}, and {self.half.name} is given numbers up to"
                    f" {limit:.4g}",
                )

    def _drop_lonely(self) -> None:
        """Drop every group of neighbours none of which gains."""
        seen: set[int] = set()
        lonely: set[int] = set()
        for start in self._candidates():
            if id(start) in seen:
                continue
            group, stack = [start], [start]
            seen.add(id(start))
            while stack:
                new = [node for node in self._neighbours(stack.pop()) if id(node) not in seen]
                seen |= {id(node) for node in new}
                group += new
                stack += new
            if not any(self.chosen[id(node)].role is Role.GAINS for node in group):
                lonely |= {id(node) for node in group}
        for node in self._candidates():
            if id(node) in lonely:
                self._drop(node, "nothing next to it computes in half precision")

    def _neighbours(self, node: gs.Node) -> Iterator[gs.Node]:
        """The chosen nodes that it shares a half-precision tensor with, as giver and reader."""
        operands = self.chosen[id(node)]
        for index in operands.inputs:
            for giver in node.inputs[index].inputs:
                if id(giver) in self.chosen:
                    yield giver
        for index in operands.outputs:
            yield from (reader for reader in consumers(node.outputs[index]) if self._reads_half(reader, node, index))

    def _reads_half(self, reader: gs.Node, node: gs.Node, index: int) -> bool:
        operands = self.chosen.get(id(reader))
        return operands is not None and any(reader.inputs[i] is node.outputs[index] for i in operands.inputs)

    def _drop_growing(self) -> None:
        """Cast in front of what makes more elements of few, not behind it."""
        for node in reversed(self._candidates()):
            if node.op not in GROWS:
                continue
            outputs = self.chosen[id(node)].outputs
            readers = [reader for index in outputs for reader in consumers(node.outputs[index])]
            if not any(id(reader) in self.chosen for reader in readers):
                self._drop(node, "its result is read in float32 only, and is larger than what it is made of")


def unfit(values: np.ndarray, half: HalfType) -> str | None:
    """Why a constant cannot be in half precision; None if it can.

    Rounding takes no more than `roundoff` of a number, and so of the whole in the Euclidean norm. What underflow takes
    matters where it is more than that: where many of the numbers, by weight, are below the smallest normal one.

    Args:
        values: in float32, of any shape. Infinities and NaN stay what they are.
        half: the type.
    """
    flat = values.reshape(-1)
    total = most = 0.0  # of the squares of the numbers; of those of what underflow takes, at most
    for part in _parts(flat):
        sizes = np.abs(part)
        largest = float(sizes.max())
        if not np.isfinite(largest):
            sizes = sizes[np.isfinite(sizes)]
            largest = float(sizes.max(initial=0.0))
        if largest > half.largest:
            return (
                f"holds {part[np.abs(part) == np.float32(largest)][0]:.4g}, and {half.name} ends at {half.largest:.4g}"
            )
        total += float(np.dot(sizes, sizes))
        small = np.count_nonzero(sizes < half.smallest_normal) - np.count_nonzero(sizes == 0.0)
        most += small * (half.smallest_normal * half.roundoff) ** 2
    if most <= half.roundoff**2 * total:
        return None
    return _lost(flat, half)


def _lost(flat: np.ndarray, half: HalfType) -> str | None:
    total = lost = 0.0
    for part in _parts(flat):
        exact = part[np.isfinite(part)].astype(np.float64)
        small = exact[np.abs(exact) < half.smallest_normal]
        total += float(np.dot(exact, exact))
        lost += float(np.sum((small - small.astype(half.dtype).astype(np.float64)) ** 2))
    if lost <= half.roundoff**2 * total:
        return None
    if flat.size == 1:
        return f"is {flat[0]:.4g}, which would become {float(flat.astype(half.dtype)[0]):.4g} in {half.name}"
    return f"would lose {np.sqrt(lost / total):.2g} of its norm to numbers that are too small for {half.name}"


def _parts(flat: np.ndarray) -> Iterator[np.ndarray]:
    return (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
