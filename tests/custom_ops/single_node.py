"""A model that is one node of ours, and what it gives: by its definition, by its kernel, by its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions, spec
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN, DOMAIN

Array = np.ndarray[Any, Any]
SMALLEST_IR_VERSION = 8


@dataclass
class Case:
    """One use of an operator: its inputs with None for absent ones, attributes, and which outputs are asked for.

    `in_float32` are the operands that stay so when the others are stored in another element type.
    """

    operator: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    in_float32: frozenset[str] = frozenset()

    @property
    def floats(self) -> set[str]:
        """The inputs that another element type is for."""
        return {name for name, value in self.feeds.items() if value.dtype == np.float32} - self.in_float32

    @property
    def feeds(self) -> dict[str, Array]:
        names = [operand.name for operand in spec(self.operator).inputs]
        return {name: value for name, value in zip(names, self.inputs, strict=False) if value is not None}

    @property
    def complete_attributes(self) -> dict[str, Any]:
        return spec(self.operator).complete(self.attributes)

    def expected(self) -> list[Array]:
        given = list(self.inputs) + [None] * (len(spec(self.operator).inputs) - len(self.inputs))
        return list(spec(self.operator).reference(given, self.complete_attributes))[: self.outputs]


def model(case: Case, opset: int = 17) -> onnx.ModelProto:
    """The case as a model with the function body, its dimensions unnamed."""
    declared = spec(case.operator)
    names = [o.name if value is not None else "" for o, value in zip(declared.inputs, case.inputs, strict=False)]
    while names and not names[-1]:
        names.pop()
    results = [operand.name for operand in declared.outputs][: case.outputs]
    node = helper.make_node(case.operator, names, results, domain=DOMAIN, **case.attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in case.feeds.items()
    ]
    graph = helper.make_graph([node], "graph", inputs, [onnx.ValueInfoProto(name=name) for name in results])
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=SMALLEST_IR_VERSION)
    functions.attach(result, {entry.name: entry for entry in SPECS})
    return result


def rounded(case: Case, element: int) -> Case:
    """The case with the float32 values that are left when they are stored in the ONNX element type."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    inputs = [
        value.astype(dtype).astype(np.float32) if value is not None and operand.name in case.floats else value
        for operand, value in zip(spec(case.operator).inputs, case.inputs, strict=False)
    ]
    return replace(case, inputs=inputs)


def with_archive(case: Case, kernels: onnx.TensorProto) -> onnx.ModelProto:
    """The case in the domain of compiled kernels, which are its last input."""
    proto = without_body(case)
    (node,) = proto.graph.node
    node.domain = CUDA_DOMAIN
    node.input.extend([*[""] * (len(spec(case.operator).inputs) - len(node.input)), kernels.name])
    proto.graph.initializer.append(kernels)
    for opset in proto.opset_import:
        opset.domain = opset.domain.replace(DOMAIN, CUDA_DOMAIN)
    return proto


def between_casts(case: Case, element: int, kernels: onnx.TensorProto) -> onnx.ModelProto:
    """The case in the domain of compiled kernels, in another element type than float32.

    Inputs and outputs of the model stay float32, since a session takes no bfloat16 arrays.
    """
    proto = with_archive(case, kernels)
    (node,) = proto.graph.node
    if element != TensorProto.FLOAT:
        floats = sorted(case.floats)
        outputs = [n for n, value in zip(node.output, case.expected(), strict=False) if value.dtype == np.float32]
        before = [helper.make_node("Cast", [name], [f"{name}_half"], to=element) for name in floats]
        after = [helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in outputs]
        node.input[:] = [f"{name}_half" if name in floats else name for name in node.input]
        node.output[:] = [f"{name}_half" if name in outputs else name for name in node.output]
        nodes = [*before, node, *after]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    return proto


def in_place(proto: onnx.ModelProto, operand: str) -> onnx.ModelProto:
    """The model of one node between two negations, so that its output may take the memory of that operand.

    That is where both are of one shape by name.
    """
    (node,) = proto.graph.node
    output = proto.graph.output[0].name
    before = helper.make_node("Neg", [operand], ["before"])
    after = helper.make_node("Neg", ["after"], [output])
    node.input[:] = ["before" if name == operand else name for name in node.input]
    node.output[0] = "after"
    del proto.graph.node[:]
    proto.graph.node.extend([before, node, after])
    (fed,) = (value for value in proto.graph.input if value.name == operand)
    shape = [f"size_{axis}" for axis, _ in enumerate(fed.type.tensor_type.shape.dim)]
    for name in ("before", "after"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return proto


def by_definition(case: Case, opset: int = 17) -> list[Array]:
    """What stock ONNX Runtime makes of the function body."""
    session = ort.InferenceSession(model(case, opset).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, case.feeds))


def by_kernel(case: Case, threads: int = 1) -> list[Array]:
    """What the kernel gives."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(without_body(case).SerializeToString(), options)
    return list(session.run(None, case.feeds))


def without_body(case: Case) -> onnx.ModelProto:
    """The case as a model without definitions: only a kernel can run it."""
    proto = model(case)
    del proto.functions[:]
    return proto


def assert_equal(actual: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-5) -> None:
    """Same shapes and types; integers equal; floats within `tolerance` of the largest expected magnitude, or 1."""
    assert [a.shape for a in actual] == [e.shape for e in expected]
    assert [a.dtype for a in actual] == [e.dtype for e in expected]
    for result, reference in zip(actual, expected, strict=True):
        if reference.dtype.kind == "f" and reference.dtype != np.float16:
            scale = max(1.0, float(np.abs(reference).max(initial=0.0, where=np.isfinite(reference))))
            np.testing.assert_allclose(result, reference, rtol=tolerance, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(result, reference)
