"""Multiply 8-bit integers in the layers whose weight is constant, which is what a CPU does several times faster.

x @ W + b, and the activation behind it, become one QuantizedMatMul. Rows of x get a scale each, at run time, so that a
token's numbers do not depend on other tokens, and columns of W a scale each here (`quantized_weights.py`). Everything
else stays in float32, and the report says of every other MatMul and Gemm why.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.branches import Branches
from turbo_onnx.custom_ops.quantized_mat_mul.layout import tiled
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, consumers, input_or_none, is_op, subgraphs
from turbo_onnx.load_time import known_when_loaded
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.constant_products import ConstantProduct, constant_product
from turbo_onnx.passes.linear import added_vector
from turbo_onnx.passes.quantized_weights import QuantizedWeight, quantized
from turbo_onnx.precision import Precision

SMALLEST = 32
"""Rows or columns of a weight: less gains nothing, and a few logits should be exact."""
LARGEST = 1 << 16
"""Rows of a weight: 255 · 128 times as much still fits into 32 bits."""
INSIDE = "it is inside of a loop, or of a branch that is left as it is"


class QuantizeLinear(Pass):
    """Every product of float32 rows with a large enough constant weight multiplies 8-bit integers.

    Args:
        precision: "int8"; any other for a pass that does nothing.
    """

    name = "quantize-linear"
    summary = "Multiply 8-bit integers in layers with constant weights."

    def __init__(self, precision: Precision = "fp32") -> None:
        self.precision = precision

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        if self.precision != "int8":
            return report
        self._quantize(model, report)
        branches = Branches(model)
        for node in model.graph.nodes:
            for graph in subgraphs(node):
                self._quantize_inside(branches, node, graph, report)
        report.facts |= {"int8_layers": report.applied, "precision": self.precision if report.applied else "fp32"}
        return report

    def _quantize(self, model: Model, report: PassReport) -> None:
        rewriting = _Rewriting(model)
        for node in _products(model.graph):
            try:
                rewriting.quantize(constant_product(node))
                report.applied += 1
            except Reject as reason:
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
        rewriting.finish()

    def _quantize_inside(self, branches: Branches, node: gs.Node, graph: gs.Graph, report: PassReport) -> None:
        """Quantize a branch of an If; report what stands in others' graphs, and in those inside of the branch."""
        left = list(graphs_of(graph))
        if is_op(node, "If") and _products(graph):
            with suppress(Reject), branches.taken_out(graph) as part:  # as the report says of the branch already
                shapes.infer(part)
                self._quantize(part, report)
                left = left[1:]
        report.rejected += [Rejection(self.name, product.name, INSIDE) for one in left for product in _products(one)]


def _products(graph: gs.Graph) -> list[gs.Node]:
    """What may be quantized: products that ONNX Runtime does not compute when it loads the model."""
    known = known_when_loaded(graph.nodes)
    return [node for node in graph.nodes if is_op(node, "MatMul", "Gemm") and id(node) not in known]


class _Rewriting:
    """Remembers which weights are quantized already, since layers may share them."""

    def __init__(self, model: Model) -> None:
        self._edit = Editor(model.graph)
        self._outside_branches = {id(node) for node in model.graph.nodes}
        self._weights: dict[tuple[int, bool, float], list[gs.Constant]] = {}

    def quantize(self, layer: ConstantProduct) -> None:
        """Rewrite one layer.

        Raises:
            Reject: it gains nothing, or must not be done.
        """
        _check(layer)
        weight = self._quantized_weight(layer)
        end = self._end(layer)
        result = self._edit.node(
            "QuantizedMatMul",
            [layer.x, *weight, self._vector(end)],
            attrs={"activation": end.activation},
            dtype=np.float32,
            shape=layer.output.shape,
            domain=DOMAIN,
        )
        self._edit.replace(end.result, result)

    def finish(self) -> None:
        """Leave the graph sorted, without what nothing reads any more."""
        if self._edit.modified:
            self._edit.remove_unused()
            self._edit.sort()

    def _end(self, layer: ConstantProduct) -> _End:
        end = _End(layer.output, layer.bias, layer.beta)
        for follow in (_with_bias, _with_activation):
            readers = consumers(end.result)
            alone = len(readers) == 1 and id(readers[0]) in self._outside_branches
            if alone and not self._edit.is_graph_output(end.result):
                end = follow(end, readers[0])
        return end

    def _quantized_weight(self, layer: ConstantProduct) -> list[gs.Constant]:
        stored = layer.stored
        key = id(stored), layer.transposed, layer.alpha
        if key not in self._weights:
            weight = layer.weight()
            if not np.isfinite(weight).all():
                raise Reject("{} has numbers that are not finite", stored.name)
            made: QuantizedWeight = quantized(weight)
            parts = (("int8", tiled(made.integers)), ("scale", made.scale), ("sums", made.column_sums))
            self._weights[key] = [self._edit.constant(part, f"{stored.name}_{hint}") for hint, part in parts]
        return self._weights[key]

    def _vector(self, end: _End) -> gs.Constant | None:
        if end.bias is None or (len(end.bias.shape) == 1 and end.beta == 1.0):
            return end.bias
        return self._edit.constant(np.float32(end.beta) * end.bias.values.reshape(-1), f"{end.bias.name}_row")


def _check(layer: ConstantProduct) -> None:
    x, weight = layer.x, layer.stored
    if x.dtype != np.float32 or weight.dtype != np.float32:
        raise Reject("{} is {}, and only float32 is quantized", x.name, x.dtype)
    if not x.shape or len(x.shape) < 2:
        raise Reject("{} is not known to have rows", x.name)
    if min(layer.shape) < SMALLEST:
        raise Reject("{} has shape {}, which is too small to gain anything", weight.name, list(weight.shape))
    if layer.shape[0] > LARGEST:
        raise Reject("{} has {} rows, whose products with bytes need more than 32 bits", weight.name, layer.shape[0])


@dataclass(frozen=True)
class _End:
    """What becomes of a product before anything else reads it: a bias, and an activation."""

    result: Tensor
    bias: gs.Constant | None = None
    beta: float = 1.0
    activation: str = "none"


def _with_bias(end: _End, reader: gs.Node) -> _End:
    added = added_vector(reader.outputs[0]) if is_op(reader, "Add") and end.bias is None else None
    return _End(reader.outputs[0], added[1]) if added is not None and added[0] is end.result else end


def _with_activation(end: _End, reader: gs.Node) -> _End:
    if is_op(reader, "Relu"):
        return replace(end, result=reader.outputs[0], activation="relu")
    if not is_op(reader, "BiasGelu", domain=DOMAIN) or reader.inputs[0] is not end.result:
        return end
    bias = input_or_none(reader, 1)
    if bias is not None and (end.bias is not None or not isinstance(bias, gs.Constant)):
        return end
    activation = "gelu_tanh" if reader.attrs.get("approximate", "none") == "tanh" else "gelu"
    return replace(end, result=reader.outputs[0], bias=end.bias if bias is None else bias, activation=activation)
