"""Compile what our operators need on CUDA devices, and put it into the model: once, as an input of every node.

A node is specialised for what is known of it: element types, the sizes that do not change between runs, attributes, and
which optional operands it has. Where a kernel cannot be made, the node runs by its function body, which needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx import custom_ops
from turbo_onnx.custom_ops.cuda import compiler, toolchain
from turbo_onnx.custom_ops.cuda.archive import Code, pack
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.targets import compiled_for, sm
from turbo_onnx.custom_ops.cuda.tuning import Tuning
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.custom_ops.specification import BODY_DOMAIN, CUDA_DOMAIN, DOMAIN, OperatorSpec, numpy_name
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, input_or_none
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.limit_forms import ours, run_by_body
from turbo_onnx.serialization.exporting import element_type

ARCHIVE = "turbo_onnx_kernels"  # what the tensor with all compiled kernels is called


class EmbedKernels(Pass):
    """Give every operator of ours its compiled CUDA kernels.

    Args:
        capabilities: the compute capabilities to compile for; 90 is sm_90.
        tuning: choices for kernels that were measured; None for their own.
    """

    name = "embed-kernels"
    summary = "Compile the CUDA kernels that operators need, and store them in the model."

    def __init__(self, capabilities: Sequence[int], tuning: Tuning | None = None) -> None:
        self.capabilities = tuple(capabilities)
        self._tuning = tuning or Tuning()

    def require_compiler(self) -> None:
        """Raises InputError if what compiles kernels is not installed, or cannot do it for one of the capabilities."""
        toolchain.find(compiled_for(self.capabilities))

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        kernels: dict[int, list[Variant]] = {capability: [] for capability in compiled_for(self.capabilities)}
        served = []
        for node in ours(model.graph):
            if node.domain != DOMAIN:
                continue
            report.applied += 1
            try:
                use = use_of(node)
                needed = {capability: self._variants(use, capability) for capability in kernels}
            except Reject as reason:
                node.domain = BODY_DOMAIN
                report.rejected.append(Rejection(self.name, node.name, str(reason)))
                continue
            served.append(node)
            for capability, variants in needed.items():
                kernels[capability] += variants
        if served:
            compiled = compiler.compile_kernels(kernels, self.capabilities)
            codes = [code for kernel in compiled for code in kernel.codes]
            archive = np.frombuffer(pack(codes), np.uint8)
            _embed(Editor(model.graph).constant(archive, ARCHIVE), served)
            report.facts["kernels"] = _facts(codes, archive, self.capabilities)
        if report.rejected:
            report.facts["nodes_run_by_body"] = run_by_body(model)
        return report

    def _variants(self, use: Use, capability: int) -> list[Variant]:
        own = variants_of(use, capability)
        return [self._tuning.apply(use.operator, variant, capability) for variant in own]


def _facts(codes: Sequence[Code], archive: np.ndarray, capabilities: Sequence[int]) -> Mapping[str, object]:
    return {
        "count": len({code.key for code in codes}),
        "bytes": archive.nbytes,
        "architectures": [sm(capability) for capability in capabilities],
    }


def _embed(archive: gs.Constant, nodes: Sequence[gs.Node]) -> None:
    for node in nodes:
        absent = len(custom_ops.spec(node.op).inputs) - len(node.inputs)
        node.inputs.extend([*(gs.Variable.empty() for _ in range(absent)), archive])
        node.domain = CUDA_DOMAIN


def use_of(node: gs.Node) -> Use:
    """What is known of a node of ours.

    Raises:
        Reject: an operand's type is not known, or one that no CUDA kernel takes.
    """
    spec = custom_ops.spec(node.op)
    operands = {operand.name: input_or_none(node, index) for index, operand in enumerate(spec.inputs)}
    operands |= {operand.name: tensor for operand, tensor in zip(spec.outputs, node.outputs, strict=False)}
    present = {name: tensor for name, tensor in operands.items() if tensor is not None and tensor.name}
    types = {name: _element(tensor) for name, tensor in present.items()}
    _require_types(spec, types)
    return Use(
        operator=spec.name,
        types=types,
        shapes={name: _shape(tensor) for name, tensor in present.items()},
        attributes=spec.complete(node.attrs),
    )


def _element(tensor: Tensor) -> str:
    if tensor.dtype is None:
        raise Reject("the type of {} is not known", tensor.name)
    return numpy_name(str(onnx.TensorProto.DataType.Name(element_type(tensor.dtype))).lower())


def _require_types(spec: OperatorSpec, types: Mapping[str, str]) -> None:
    bound: dict[str, str] = {}
    for operand in (*spec.inputs, *spec.outputs):
        element = types.get(operand.name)
        if element is None:
            continue
        taken = [numpy_name(text) for text in spec.cuda_types.get(operand.type, (operand.type,))]
        if element not in taken:
            raise Reject("{} is {}, and CUDA kernels take {}", operand.name, element, " or ".join(taken))
        if bound.setdefault(operand.type, element) != element:
            raise Reject("{} is {}, and other operands are {}", operand.name, element, bound[operand.type])
        narrow = bound.get(spec.or_float32.get(operand.type, ""))
        if narrow is not None and element not in (narrow, "float32"):
            raise Reject("{} is {}, and must be {} or float32", operand.name, element, narrow)


def _shape(tensor: Tensor) -> tuple[int | str, ...] | None:
    return None if tensor.shape is None else tuple(_size(item) for item in tensor.shape)


def _size(item: Any) -> int | str:
    return int(item) if isinstance(item, (int, np.integer)) and item >= 0 else str(item)
