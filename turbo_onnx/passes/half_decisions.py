"""Find what must go on computing in half precision, since another rounding could change a decision.

In float32 a model gives numbers that are nearer to the real ones, and users expect no less. But where numbers decide
something (a comparison, an index, a rounding to integers), a number without its rounding can decide otherwise. So a
node that decides by rounded numbers stays as it is, and so do all nodes between it and the last numbers that both
precisions have exactly: together they compute bit for bit what they did. Left out are decisions

- by numbers that no rounding has touched: inputs, weights, and what is moved, compared or negated of them;
- by functions of one integer or one input, such as a mask, that come out the same at every number (`rounding_probes`);
- whether a number is infinite or none, where that only chooses between numbers: no rounding makes a number infinite,
  and one that is too large for half precision alone has no meaning in the original either.

A number that is made infinite on purpose (a mask in float32 with -3.4e38, cast to half precision) stays infinite.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Tensor, consumers, is_op, subgraphs
from turbo_onnx.model import Model
from turbo_onnx.passes.rounding_probes import Probes, overflows, same_decision
from turbo_onnx.passes.widening_rules import (
    READS_NO_NUMBERS,
    decides,
    is_float_type,
    is_smooth,
    moves,
    tests_for_infinity,
)
from turbo_onnx.precision import half_type

_MASK_VALUES = (0, 1)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_COMBINES = frozenset(
    """
    And Cast Concat Equal Expand Gather Greater GreaterOrEqual Identity Less LessOrEqual Max Not Or ReduceMax ReduceMin
    ReduceSum Reshape Slice Squeeze Transpose Unsqueeze Xor
    """.split()
)


class Decisions:
    """What of a graph stays in half precision, and why.

    Args:
        model: with the types of all tensors inferred; it is not changed.

    Attributes:
        kept: the identities of the nodes that stay as they are.
        why: the nodes that make it so, each with a sentence.
    """

    def __init__(self, model: Model) -> None:
        self._graph = model.graph
        self._members = {id(node) for node in model.graph.nodes}  # but not those of its subgraphs
        self._outputs = {id(tensor) for tensor in model.graph.outputs}
        self._rounded: set[int] = set()  # numbers that float32 has otherwise
        self._fitting: set[int] = set()  # numbers in float32 and float64 that half precision has exactly
        self._all, self._few = Probes(), Probes(_MASK_VALUES)
        self.kept: set[int] = set()
        self.why: list[tuple[gs.Node, str]] = []
        for node in model.graph.nodes:
            self._follow(node)
            reason = self._reason(node)
            if reason is not None:
                before = len(self.kept)
                self._keep(node)
                more = len(self.kept) - before - 1
                leading = f", with {more} node{'s' * (more > 1)} leading to it" if more > 0 else ""
                self.why.append((node, f"{reason}: it stays as it is{leading}"))

    # -- where numbers are rounded -----------------------------------------------------------------------------------

    def _follow(self, node: gs.Node) -> None:
        """Learn which of the node's results are rounded."""
        rounded = any(id(tensor) in self._rounded for tensor in _reads(node))
        if is_op(node, "Cast"):
            self._follow_cast(node, rounded)
            return
        for tensor in node.outputs:
            if not is_float_type(tensor.dtype):
                continue
            if rounded or (half_type(tensor.dtype) is not None and not moves(node)) or _is_unknown(tensor):
                self._rounded.add(id(tensor))

    def _follow_cast(self, node: gs.Node, rounded: bool) -> None:
        source, result = node.inputs[0], node.outputs[0]
        if half_type(result.dtype) is None:
            if rounded and is_float_type(result.dtype):
                self._rounded.add(id(result))
            elif half_type(source.dtype) is not None or id(source) in self._fitting:
                self._fitting.add(id(result))
            return
        fits = id(source) in self._fitting or half_type(source.dtype) is not None or _is_small(source.dtype)
        if rounded or not fits:
            self._rounded.add(id(result))

    # -- what decides by them ----------------------------------------------------------------------------------------

    def _reason(self, node: gs.Node) -> str | None:
        """Why the node has to stay as it is; None if it need not."""
        if any(True for _ in subgraphs(node)):
            held = [tensor for inner in _inside(node) for tensor in inner.outputs]
            touched = [tensor for tensor in (*_reads(node), *held) if _may_be_half(tensor)]
            return f"it holds graphs that compute in {_name(touched[0])}" if touched else None
        rounded = next((tensor for tensor in node.inputs if id(tensor) in self._rounded), None)
        if rounded is None and not any(map(_may_be_half, (*node.inputs, *node.outputs))):
            return None
        if any(map(_is_unknown, (*node.inputs, *node.outputs))):
            return f"the types of what {_label(node)} reads and gives are not all known"
        if self._overflows_on_purpose(node):
            return f"it makes '{node.outputs[0].name}' infinite for what a mask holds"
        if is_op(node, *READS_NO_NUMBERS) or _is_conversion(node) or is_smooth(node) or moves(node):
            return None
        if rounded is None:
            return None if decides(node) else f"{_label(node)} is not known to be the same in float32"
        if tests_for_infinity(node) and all(self._only_chooses(tensor, set()) for tensor in node.outputs):
            return None
        if decides(node) and same_decision(self._all.of_decision(node)):
            return None
        return f"'{rounded.name}' is rounded to half precision, and without that {_label(node)} could decide otherwise"

    def _overflows_on_purpose(self, node: gs.Node) -> bool:
        for tensor in node.outputs:
            half = half_type(tensor.dtype)
            if half is not None and overflows(self._few.of(tensor), half):
                return not any(overflows(self._few.of(operand), half) for operand in node.inputs)
        return False

    def _only_chooses(self, tensor: Tensor, seen: set[int]) -> bool:
        """Whether a boolean, and what is made of it, does nothing but choose between floating-point numbers."""
        if id(tensor) in self._outputs:
            return False
        seen.add(id(tensor))
        for reader in consumers(tensor):
            if is_op(reader, "Where") and reader.inputs[0] is tensor and is_float_type(reader.outputs[0].dtype):
                continue
            if reader.op not in _COMBINES or is_float_type(reader.outputs[0].dtype):
                return False
            if id(reader.outputs[0]) not in seen and not self._only_chooses(reader.outputs[0], seen):
                return False
        return True

    # -- what leads to it --------------------------------------------------------------------------------------------

    def _keep(self, node: gs.Node) -> None:
        stack = [node]
        while stack:
            current = stack.pop()
            if id(current) in self.kept or id(current) not in self._members:
                continue
            self.kept.add(id(current))
            self._rounded -= {id(tensor) for tensor in current.outputs}
            inner = any(True for _ in subgraphs(current))
            for tensor in _reads(current):
                if id(tensor) in self._rounded or (inner and half_type(tensor.dtype) is not None):
                    stack.extend(tensor.inputs)


def _inside(node: gs.Node) -> Iterator[gs.Node]:
    for graph in subgraphs(node):
        for inner in graph.nodes:
            yield inner
            yield from _inside(inner)


def _reads(node: gs.Node) -> list[Tensor]:
    """What the node reads, and the nodes in its graphs."""
    inner = [tensor for graph in subgraphs(node) for tensor in graph.outputs]
    return [*node.inputs, *(tensor for one in _inside(node) for tensor in one.inputs), *inner]


def _is_unknown(tensor: Tensor) -> bool:
    return tensor.dtype is None and not (isinstance(tensor, gs.Variable) and tensor.is_empty())


def _may_be_half(tensor: Tensor) -> bool:
    return half_type(tensor.dtype) is not None or _is_unknown(tensor)


def _is_conversion(node: gs.Node) -> bool:
    """Whether the node gives numbers in a floating-point type of 16 bits or more, and takes none of fewer."""
    if not is_op(node, "Cast"):
        return False
    source, result = (_type_name(tensor.dtype) for tensor in (node.inputs[0], node.outputs[0]))
    return result in _FLOATS and (source in _FLOATS or not is_float_type(node.inputs[0].dtype))


def _is_small(dtype: object) -> bool:
    """Whether all integers of the type are exact in half precision."""
    return isinstance(dtype, (np.dtype, type)) and np.dtype(dtype).name in ("bool", "int8", "uint8")


def _type_name(dtype: object) -> str:
    half = half_type(dtype)
    if half is not None:
        return half.name
    return np.dtype(dtype).name if isinstance(dtype, (np.dtype, type)) else "unknown"


def _name(tensor: Tensor) -> str:
    half = half_type(tensor.dtype)
    return half.name if half is not None else "a type that is not known"


def _label(node: gs.Node) -> str:
    return f"{node.op} of domain {node.domain}" if node.domain not in (None, "", "ai.onnx") else str(node.op)
