"""Compute in float16 or bfloat16 wherever that keeps the result, and in float32 elsewhere.

Which nodes do is decided in `precision_plan`. Here the graph is rewritten: the weights that those nodes read are stored
in half precision, and a Cast stands wherever a tensor goes from one side to the other: one for each tensor and type, so
that a number is never cast back and forth between neighbours. The model's inputs and outputs keep their types. The
converted weights are held in memory, unlike others, which stay in their file. What is in half precision already stays.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Editor, Tensor, consumers, is_op, producer
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.precision_plan import MARGIN, Measure, Plan
from turbo_onnx.passes.precision_rules import READ_ANY_TYPE
from turbo_onnx.precision import HALF_TYPES, HalfType, Precision, half_type


class ConvertPrecision(Pass):
    """Half precision where it keeps the result.

    Args:
        precision: "fp16" or "bf16"; any other for a pass that does nothing.
        measure: learns the range of the numbers; needed where anything is done.
        own: what the model computed in when it was exported. In the same type its numbers have proved to fit, and need
            no room above them.
    """

    name = "convert-precision"
    summary = "Compute in half precision where that keeps the result."

    def __init__(self, precision: Precision = "fp32", measure: Measure | None = None, own: Precision = "fp32") -> None:
        self.precision = precision
        self.measure = measure
        self.own = own

    def run(self, model: Model) -> PassReport:
        """Rewrite the main graph. Raises what the measuring does."""
        report = PassReport(self.name)
        if self.precision not in HALF_TYPES:
            return report
        assert self.measure is not None, "half precision needs to know how large the numbers get"
        half = HALF_TYPES[self.precision]
        report.facts["precision"] = self.precision
        plan = Plan(model, half, self.measure, margin=1.0 if self.own == self.precision else MARGIN)
        rewriting = _Rewriting(model, half, plan)
        rewriting.run()
        report.applied = len(plan.chosen)
        report.rejected = [Rejection(self.name, node.name, why) for node, why in plan.kept]
        report.facts |= {
            "half_precision_nodes": len(plan.chosen),
            "float32_nodes": len(plan.kept),
            "casts": rewriting.casts,
        }
        return report


class _Rewriting:
    """Carries out a plan. A tensor that goes over to half precision keeps its float32 form for who still reads that."""

    def __init__(self, model: Model, half: HalfType, plan: Plan) -> None:
        self.graph, self.half, self.plan = model.graph, half, plan
        self.edit = Editor(model.graph)
        self.casts = 0
        self.full: list[gs.Variable] = []  # the float32 forms of what is computed in half precision
        self.halves: dict[int, gs.Variable] = {}  # the half-precision form of a tensor, by its identity
        self.weights: dict[int, gs.Constant] = {}  # likewise of a constant, by the identity of its values

    def run(self) -> None:
        nodes = [node for node in self.graph.nodes if id(node) in self.plan.chosen]
        for node in nodes:
            for index in self.plan.chosen[id(node)].outputs:
                node.outputs[index] = self._computed(node.outputs[index])
        for node in nodes:
            for index in self.plan.chosen[id(node)].inputs:
                node.inputs[index] = self._operand(node.inputs[index])
        for tensor in self.full:
            self._widen(tensor)
        self.edit.remove_unused()
        self.edit.sort()

    def _half_of(self, tensor: gs.Variable) -> gs.Variable:
        half = self.edit.variable(f"{tensor.name}_{self.half.precision}", self.half.dtype, tensor.shape)
        self.halves[id(tensor)] = half
        return half

    def _computed(self, tensor: gs.Variable) -> gs.Variable:
        self.full.append(tensor)
        return self._half_of(tensor)

    def _operand(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, gs.Constant):
            return self._weight(tensor)
        if id(tensor) not in self.halves:
            source = _before_cast(tensor)
            if half_type(source.dtype) is self.half:
                return source
            self._cast(source, self._half_of(tensor), self.half.element_type)
        return self.halves[id(tensor)]

    def _weight(self, constant: gs.Constant) -> gs.Constant:
        values = constant.values
        if id(values) not in self.weights:
            name = f"{constant.name}_{self.half.precision}"
            self.weights[id(values)] = self.edit.constant(values.astype(self.half.dtype), name)
        return self.weights[id(values)]

    def _widen(self, tensor: gs.Variable) -> None:
        """Compute the float32 form of a tensor again, if anything reads it."""
        half = self.halves[id(tensor)]
        for reader in consumers(tensor):
            if is_op(reader, "Cast") and half_type(reader.outputs[0].dtype) is self.half:
                self.edit.replace(reader.outputs[0], half)
            elif is_op(reader, *READ_ANY_TYPE):
                reader.inputs[0] = half
        if tensor.outputs or self.edit.is_graph_output(tensor):
            self._cast(half, tensor, onnx.TensorProto.FLOAT)

    def _cast(self, source: Tensor, result: gs.Variable, element_type: int) -> None:
        self.edit.node("Cast", [source], attrs={"to": element_type}, hint=f"{result.name}_cast", outputs=[result])
        self.casts += 1


def _before_cast(tensor: gs.Variable) -> Tensor:
    """What to cast instead of the result of a cast from an integer or from half precision: it has the same numbers."""
    cast = producer(tensor)
    if cast is None or not is_op(cast, "Cast"):
        return tensor
    source = cast.inputs[0]
    integers = isinstance(source.dtype, np.dtype) and source.dtype.kind in "iub"
    return source if integers or half_type(source.dtype) is not None else tensor
