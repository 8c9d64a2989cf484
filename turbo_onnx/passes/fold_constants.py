"""Compute what depends on constants only.

Only operators whose NumPy result is the same on every machine are folded (no transcendental functions, no matrix
products), since the same model must give the same file everywhere; ONNX Runtime folds the rest when it loads the model.
A large result is folded only where it takes the place of the constant it came from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from turbo_onnx.graph import STANDARD_DOMAINS, Editor, consumers
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport

LARGEST_RESULT = 1 << 20  # bytes
_EXACT = frozenset(
    """
    Abs Add And BitwiseAnd BitwiseNot BitwiseOr Cast Ceil Concat ConstantOfShape Div Equal Expand Flatten Floor Gather
    GatherElements GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Max Min Mod Mul Neg Not Or
    Range Reciprocal ReduceMax ReduceMin ReduceProd Reshape Shape Sign Size Slice Split Sqrt Squeeze Sub Tile Transpose
    Trilu Unsqueeze Where Xor
    """.split()
)


class FoldConstants(Pass):
    """Nodes whose operands are all constant are computed once, here."""

    name = "fold-constants"
    summary = "Compute what depends on constants only."

    def run(self, model: Model) -> PassReport:
        """Fold in topological order, so that chains fold in one run."""
        report = PassReport(self.name)
        edit = Editor(model.graph)
        outputs = {id(tensor) for tensor in model.graph.outputs}
        for node in model.graph.nodes:
            if not _foldable(node) or any(id(tensor) in outputs for tensor in node.outputs):
                continue
            values = _evaluate(node, model.opset)
            if values is None:
                continue
            for tensor, value in zip(node.outputs, values, strict=True):
                folded = edit.constant(value, tensor.name)
                for reader in consumers(tensor):
                    for index, operand in enumerate(reader.inputs):
                        if operand is tensor:
                            reader.inputs[index] = folded
            report.applied += 1
        edit.remove_unused()
        return report


def _foldable(node: gs.Node) -> bool:
    if node.domain not in STANDARD_DOMAINS or node.op not in _EXACT:
        return False
    operands = [t for t in node.inputs if not (isinstance(t, gs.Variable) and t.is_empty())]
    if not all(isinstance(tensor, gs.Constant) for tensor in operands):
        return False
    sizes = [_bytes(tensor.shape, tensor.dtype) for tensor in node.outputs]
    if any(size is None for size in sizes):
        return False
    large = sum(size for size in sizes if size is not None)
    if large <= LARGEST_RESULT:
        return all((_bytes(t.shape, t.dtype) or 0) <= 4 * LARGEST_RESULT or node.op == "Shape" for t in operands)
    sources = [t for t in operands if (_bytes(t.shape, t.dtype) or 0) > LARGEST_RESULT]
    return node.op in ("Transpose", "Reshape", "Cast") and all(len(consumers(t)) == 1 for t in sources)


def _bytes(shape: list[int | str] | None, dtype: object) -> int | None:
    if shape is None or any(isinstance(size, str) for size in shape) or not isinstance(dtype, np.dtype | type):
        return None
    return int(np.prod([int(size) for size in shape], dtype=np.int64)) * np.dtype(dtype).itemsize


def _evaluate(node: gs.Node, opset: int) -> list[np.ndarray] | None:
    """The node's results by onnx's reference implementation; None where that cannot compute them."""
    names, feeds = [], {}
    for index, tensor in enumerate(node.inputs):
        absent: bool = not isinstance(tensor, gs.Constant)
        names.append("" if absent else f"i{index}")
        if not absent:
            feeds[f"i{index}"] = np.asarray(tensor.values)
    outputs = [f"o{index}" for index in range(len(node.outputs))]
    attributes: dict[str, Any] = {key: _plain(value) for key, value in node.attrs.items()}
    try:
        proto = onnx.helper.make_node(node.op, names, outputs, **attributes)
        graph = onnx.helper.make_graph(
            [proto],
            "folding",
            [onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for k, v in feeds.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference implementation raises whatever it likes; such a node stays as it is
        return None
    arrays = [np.asarray(result) for result in results]
    expected = [np.dtype(tensor.dtype) for tensor in node.outputs]
    return arrays if [array.dtype for array in arrays] == expected else None


def _plain(value: object) -> object:
    if isinstance(value, gs.Tensor):
        return onnx.numpy_helper.from_array(np.asarray(value.values))
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value)) if isinstance(value, type | np.dtype) else value
