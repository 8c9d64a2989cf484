"""Let a model that was exported in half precision compute in float32, so that all later passes see what they know.

ONNX Runtime does the same on the CPU: it has hardly any kernels for half precision, converts the operands of the others
to float32, and leaves out the conversions between neighbours. For a GPU the model goes back to its own type behind all
fusions, by `convert_precision`.

Constants keep their exact values, and expressions of constants are computed in half precision before. Tensors in half
precision become float32; casts between the two become superfluous, and one remains for each input and output of the
model. The widened weights are held in memory. What decides by numbers that half precision rounds stays as it is
(`half_decisions`), between casts.

Scores that a mask replaces by the lowest number of half precision are replaced by the lowest of float32: what is meant
is that no score is lower. Not so where there is another mask: in a row without anything visible both hide alike.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.graph import Editor, Tensor, consumers, is_op, mark_widened, producer, scalar_value
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.fold_constants import FoldConstants
from turbo_onnx.passes.half_decisions import Decisions
from turbo_onnx.passes.widening_rules import RUNTIME_DOMAIN, RUNTIME_SMOOTH, TYPED_ATTRIBUTES, is_smooth, moves
from turbo_onnx.precision import HalfType, half_type
from turbo_onnx.serialization.exporting import element_type

_FLOAT32 = np.dtype(np.float32)
_ON_THE_WAY = ("Cast", "Identity", "Reshape", "Transpose")


class WidenPrecision(Pass):
    """Nodes in half precision compute in float32, but for those that decide by rounded numbers."""

    name = "widen-precision"
    summary = "Compute in float32 what was exported in half precision."

    def run(self, model: Model) -> PassReport:
        """Rewrite the main graph. A graph without half precision, or with nothing to widen, stays as it is."""
        report = PassReport(self.name)
        if not any(half_type(tensor.dtype) for node in model.graph.nodes for tensor in (*node.inputs, *node.outputs)):
            return report
        others = _learn_types(model)
        widening = _Widening(model)
        if widening.nodes:
            others += FoldConstants().run(model).applied
            shapes.infer(model)
            widening = _Widening(model)
            widening.run()
        report.applied = len(widening.nodes) or others
        report.rejected = [Rejection(self.name, node.name, why) for node, why in widening.decisions.why]
        report.facts["widened_nodes"] = len(widening.nodes)
        report.facts["half_precision_kept"] = sum(
            any(half_type(tensor.dtype) for tensor in node.outputs) for node in widening.kept
        )
        return report


def _learn_types(model: Model) -> int:
    """Give a type to results of known operators that inference has none for, and write CastLike as Cast: how often.

    Inference knows neither ONNX Runtime's own operators, nor those that it runs in more types than ONNX lists.
    """
    found, casts = False, 0
    for node in model.graph.nodes:
        if is_op(node, "CastLike") and node.outputs[0].dtype is not None:
            node.op, node.attrs = "Cast", {"to": element_type(node.outputs[0].dtype)}
            del node.inputs[1]
            casts += 1
        dtype = _operand_type(node)
        for index in RUNTIME_SMOOTH.get(node.op, ()) if node.domain == RUNTIME_DOMAIN else (0,):
            if dtype is not None and index < len(node.outputs) and node.outputs[index].dtype is None:
                node.outputs[index].dtype = dtype
                found = True
    if casts:
        Editor(model.graph).remove_unused()
    if found:
        shapes.infer(model)
    return casts


def _operand_type(node: gs.Node) -> object:
    """The type of the node's results, where it is that of its operands."""
    if is_op(node, "EyeLike"):
        half = half_type(node.attrs.get("dtype"))
        return None if half is None else half.dtype
    if moves(node) and not is_op(node, "ConstantOfShape"):
        return node.inputs[1 if is_op(node, "Where") else 0].dtype
    return next((tensor.dtype for tensor in node.inputs if _is_float(tensor)), None) if is_smooth(node) else None


def _is_float(tensor: Tensor) -> bool:
    return half_type(tensor.dtype) is not None or tensor.dtype == _FLOAT32


class _Widening:
    """Which nodes are widened, and how.

    Casts between half precision and float32 are none of them: each is bypassed, and goes if nothing reads it any more.
    """

    def __init__(self, model: Model) -> None:
        self.graph = model.graph
        self.decisions = Decisions(model)
        self.kept = [node for node in model.graph.nodes if id(node) in self.decisions.kept]
        self.nodes = [node for node in model.graph.nodes if id(node) not in self.decisions.kept and _changes(node)]
        self._members = {id(node) for node in model.graph.nodes}  # but not those of its subgraphs
        self._wide: dict[int, Tensor] = {}  # what has a tensor's numbers in float32, by the tensor's identity
        self._narrow: dict[int, gs.Variable] = {}  # what has them in half precision
        self._values: dict[int, tuple[object, np.ndarray]] = {}  # of constants, by the identity of what they were

    def run(self) -> None:
        """Rewrite the graph."""
        self.edit = Editor(self.graph)
        order = list(self.graph.nodes)
        halves = {id(node): [half_type(tensor.dtype) for tensor in node.inputs] for node in order}
        for node in self.nodes:
            for index, tensor in enumerate(node.outputs):
                if half_type(tensor.dtype) is not None:
                    node.outputs[index] = self._computed(tensor)
            _widen_attributes(node)
        for node in order:
            for index, half in enumerate(halves[id(node)]):
                if half is None:
                    continue
                if id(node) in self.decisions.kept:
                    node.inputs[index] = self._half_of(node.inputs[index], half.element_type)
                elif not (_is_float_cast(node) and half_type(node.outputs[0].dtype)):
                    self._read_in_full(node, index, half)
        self.edit.remove_unused()
        self.edit.sort()

    def _computed(self, tensor: gs.Variable) -> gs.Variable:
        """What a node gives in float32 instead of the tensor."""
        if not self.edit.is_graph_output(tensor):
            tensor.dtype = _FLOAT32
            return tensor
        full = self.edit.variable(f"{tensor.name}_fp32", _FLOAT32, tensor.shape)
        self._cast(full, tensor, half_type(tensor.dtype).element_type)  # type: ignore[union-attr]
        self._wide[id(tensor)] = full
        return full

    def _read_in_full(self, node: gs.Node, index: int, half: HalfType) -> None:
        tensor = node.inputs[index]
        full = self._lowest(node, index, half) or self._full(tensor)
        if full is not node.outputs[0]:  # a cast of what stays in half precision gives its float32 form
            node.inputs[index] = full

    def _full(self, tensor: Tensor) -> Tensor:
        """The float32 form of a tensor that was in half precision."""
        if id(tensor) not in self._wide:
            if isinstance(tensor, gs.Constant):
                return self._constant(tensor)
            if half_type(tensor.dtype) is None:
                return tensor
            self._wide[id(tensor)] = self._found_in_full(tensor)
        return self._wide[id(tensor)]

    def _found_in_full(self, tensor: gs.Variable) -> Tensor:
        cast = producer(tensor)
        if cast is not None and _is_float_cast(cast) and id(cast) not in self.decisions.kept:
            source = cast.inputs[0]
            if isinstance(source, gs.Constant):
                return self._rounded(source, tensor)
            return source if half_type(source.dtype) is None else self._full(source)
        for reader in consumers(tensor):
            bypassed = _is_float_cast(reader) and id(reader) not in self.decisions.kept
            if bypassed and not half_type(reader.outputs[0].dtype):
                return reader.outputs[0]
        full = self.edit.variable(f"{tensor.name}_fp32", _FLOAT32, tensor.shape)
        self._cast(tensor, full, onnx.TensorProto.FLOAT)
        return full

    def _constant(self, constant: gs.Constant) -> gs.Constant:
        """The constant, changed where nothing needs it as it was, or another."""
        old, half = constant.values, half_type(constant.dtype)
        assert half is not None
        if id(old) not in self._values:
            self._values[id(old)] = (old, old.astype(np.float32))
        _, values = self._values[id(old)]
        if all(self._reads_in_full(reader) for reader in consumers(constant)):
            constant.values = values
            self._wide[id(constant)] = constant
        else:
            self._wide[id(constant)] = gs.Constant(self.edit.unique_name(f"{constant.name}_fp32"), values)
        mark_widened(self._wide[id(constant)], half)
        return self._wide[id(constant)]

    def _reads_in_full(self, reader: gs.Node) -> bool:
        if _is_float_cast(reader) and half_type(reader.outputs[0].dtype):
            return False
        return id(reader) in self._members and id(reader) not in self.decisions.kept

    def _rounded(self, constant: gs.Constant, result: gs.Variable) -> gs.Constant:
        """A constant that is cast to half precision, as that holds it."""
        half = half_type(result.dtype)
        assert half is not None
        return self.edit.constant(constant.values.astype(half.dtype).astype(np.float32), f"{result.name}_fp32")

    def _lowest(self, node: gs.Node, index: int, half: HalfType) -> Tensor | None:
        """What replaces scores instead of the lowest number of half precision."""
        tensor = node.inputs[index]
        if index == 0 or not is_op(node, "Where") or scalar_value(tensor) != -half.largest:
            return None
        if not _is_product(node.inputs[3 - index]) or not self._becomes_probabilities(node.outputs[0]):
            return None
        return self.edit.constant(np.full(tensor.shape, np.finfo(np.float32).min, np.float32), f"{tensor.name}_lowest")

    def _becomes_probabilities(self, scores: Tensor) -> bool:
        """Whether nothing is made of the scores but a softmax, with nothing added."""
        readers = consumers(scores)
        if not readers or self.edit.is_graph_output(scores):
            return False
        return all(
            is_op(reader, "Softmax") or (is_op(reader, *_ON_THE_WAY) and self._becomes_probabilities(reader.outputs[0]))
            for reader in readers
        )

    def _half_of(self, tensor: Tensor, element_type: int) -> Tensor:
        """The half-precision form of a tensor, for a node that stays as it is: of what both have exactly."""
        if half_type(tensor.dtype) is not None:
            return tensor
        if id(tensor) not in self._narrow:
            name = "fp16" if element_type == onnx.TensorProto.FLOAT16 else "bf16"
            dtype = onnx.helper.tensor_dtype_to_np_dtype(element_type)
            self._narrow[id(tensor)] = self.edit.variable(f"{tensor.name}_{name}", np.dtype(dtype), tensor.shape)
            self._cast(tensor, self._narrow[id(tensor)], element_type)
        return self._narrow[id(tensor)]

    def _cast(self, source: Tensor, result: gs.Variable, element_type: int) -> None:
        self.edit.node("Cast", [source], attrs={"to": element_type}, hint=f"{result.name}_cast", outputs=[result])


def _changes(node: gs.Node) -> bool:
    """Whether a node that need not stay is another one in float32. Casts between the two are bypassed."""
    if is_op(node, "Constant") or _is_float_cast(node):
        return False
    return any(half_type(tensor.dtype) for tensor in (*node.inputs, *node.outputs))


def _is_float_cast(node: gs.Node) -> bool:
    return is_op(node, "Cast") and _is_float(node.inputs[0]) and _is_float(node.outputs[0])


def _is_product(scores: Tensor) -> bool:
    """Whether scores are a product of matrices and numbers, and no other mask has been at them."""
    while (node := producer(scores)) is not None and is_op(node, "Mul", "Div", *_ON_THE_WAY):
        if is_op(node, "Mul", "Div") and scalar_value(node.inputs[1]) is None:
            return False
        scores = node.inputs[0]
    return node is not None and is_op(node, "MatMul", "Einsum")


def _widen_attributes(node: gs.Node) -> None:
    if is_op(node, "Cast") and half_type(node.attrs["to"]):
        node.attrs["to"] = onnx.TensorProto.FLOAT
    for name in TYPED_ATTRIBUTES:
        if half_type(node.attrs.get(name)):
            node.attrs[name] = onnx.TensorProto.FLOAT
    value = node.attrs.get("value")
    if is_op(node, "ConstantOfShape") and half_type(getattr(value, "dtype", None)):
        values = value.values if isinstance(value, gs.Constant) else value
        node.attrs["value"] = gs.Constant(f"{node.name}_value", np.asarray(values).astype(np.float32))
