"""Replace shape arithmetic by what it is known to compute.

Symbolic inference knows many integer tensors element by element. Where all elements are numbers, the tensor becomes a
constant. A Reshape's target becomes a constant too where every size is a number, or the input's own size at that axis
(written 0), with at most one left to be worked out (written -1). An Expand that only spells out a broadcast which its
readers do anyway is taken away.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.dims import Dim
from turbo_onnx.graph import Editor, Tensor, consumers, integers, is_op
from turbo_onnx.inference.reading import Dims
from turbo_onnx.inference.values import Elements, Uniform
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

_BROADCASTING = ("Add", "And", "Div", "Mul", "Or", "Sub", "Where")


class SimplifyShapes(Pass):
    """Integer tensors that are known become constants, Reshape targets constants with 0 and -1."""

    name = "simplify-shapes"
    summary = "Replace shape arithmetic by the constants that it is known to compute."

    def run(self, model: Model) -> PassReport:
        """Replace all that inference knows; one run reaches everything, since inference saw through it all."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        facts = shapes.infer(model)
        report.facts["assumed_equal"] = sorted(set(facts.symbols.equalities))
        outputs = {id(tensor) for tensor in model.graph.outputs}
        assumed, certain = shapes.without_assumptions(model)
        proven = facts if certain is None else certain
        for node in list(model.graph.nodes):
            if is_op(node, "Reshape"):
                report.applied += _simplify_target(edit, node, facts, proven)
            elif is_op(node, "Expand"):
                report.applied += _drop_broadcast(edit, node, facts, assumed)
            for tensor in node.outputs:
                value = _known(proven, tensor)
                if value is None or id(tensor) in outputs or not tensor.outputs:
                    continue
                edit.replace(tensor, edit.constant(value, tensor.name))
                report.applied += 1
        edit.remove_unused()
        return report


def _known(facts: shapes.Facts, tensor: gs.Variable) -> np.ndarray | None:
    """The tensor's value, if inference knows it whole."""
    fact = facts[tensor]
    if fact.shape is None or fact.dtype is None or any(isinstance(size, Dim) for size in fact.shape):
        return None
    shape = tuple(int(size) for size in fact.shape if not isinstance(size, Dim))
    if isinstance(fact.value, Elements) and fact.value.known and fact.value.items.shape == shape:
        return np.array(fact.value.items.tolist(), dtype=fact.dtype).reshape(shape)
    if isinstance(fact.value, Uniform) and not isinstance(fact.value.item, Dim) and np.prod(shape) <= 4096:
        return np.full(shape, fact.value.item, dtype=fact.dtype)
    return None


def _simplify_target(edit: Editor, node: gs.Node, facts: shapes.Facts, proven: shapes.Facts) -> int:
    source, result = facts[node.inputs[0]].shape, facts[node.outputs[0]].shape
    if source is None or result is None:
        return 0
    target = constant_target(source, result)
    fixed = integers(node.inputs[1]) is not None and not node.attrs.get("allowzero", 0)
    if target is None or fixed or not _keeps_proven_sums(target, source, node, proven):
        return 0
    node.inputs[1] = edit.constant(np.array(target, dtype=np.int64), f"{node.name}_target")
    node.attrs.pop("allowzero", None)
    return 1


def _keeps_proven_sums(target: list[int], source: Dims, node: gs.Node, proven: shapes.Facts) -> bool:
    """Whether the axes that the target keeps and that are sums (past + new) stay as long as they are in every run."""
    before, after = proven[node.inputs[0]].shape, proven[node.outputs[0]].shape
    sums = [axis for axis, size in enumerate(target) if size == 0 and _is_sum(source[axis])]
    return not sums or (before is not None and after is not None and all(before[a] == after[a] for a in sums))


def _is_sum(size: Dim | int) -> bool:
    return isinstance(size, Dim) and size.name is None


def constant_target(source: Dims, result: Dims) -> list[int] | None:
    """The constant Reshape target (by the rules without `allowzero`) that gives `result` from `source`, if any."""
    target: list[int] = []
    for axis, size in enumerate(result):
        if axis < len(source) and size == source[axis] and (isinstance(size, Dim) or size == 0):
            target.append(0)
        elif isinstance(size, Dim):
            target.append(-1)
        elif size == 0:
            return None
        else:
            target.append(size)
    return target if target.count(-1) <= 1 else None


def _drop_broadcast(edit: Editor, node: gs.Node, facts: shapes.Facts, assumed: set[str]) -> int:
    """An Expand whose readers all reach the same shape without it goes, unless sizes are only assumed to be equal."""
    source, result = node.inputs[0], node.outputs[0]
    full = facts[result].shape
    if full is None or edit.is_graph_output(result) or not result.outputs:
        return 0
    if any(isinstance(size, Dim) and size.symbols & assumed for size in full):
        return 0
    if facts[source].shape != full and not all(
        _same_without(reader, result, source, facts) for reader in consumers(result)
    ):
        return 0
    edit.replace(result, source)
    return 1


def _same_without(reader: gs.Node, expanded: Tensor, source: Tensor, facts: shapes.Facts) -> bool:
    """Whether an element-wise reader's other operands alone give it the shape that it has now."""
    if not is_op(reader, *_BROADCASTING):
        return False
    result, short = facts[reader.outputs[0]].shape, facts[source].shape
    others = [facts[tensor].shape for tensor in reader.inputs if tensor is not expanded]
    if result is None or short is None or any(shape is None for shape in others):
        return False
    for axis, size in enumerate(reversed(result)):
        sizes = [shape[-1 - axis] for shape in (*others, short) if shape is not None and axis < len(shape)]
        if size not in sizes:
            return False
    return True
