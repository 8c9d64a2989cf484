"""Models in half precision run on the CPU, too: operators of the domain turbo_onnx.cuda compute in float32 there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

from tests.custom_ops.cases import cases
from tests.custom_ops.single_node import Case, model
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, spec
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN, DOMAIN

QUICK = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
UNIT = {TensorProto.FLOAT: 2.0**-20, TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
TYPES = pytest.mark.parametrize("element", list(UNIT), ids=["float32", "float16", "bfloat16"])


def rounded(array, element):
    """The float32 values that are left when the array is stored in the type."""
    if array is None or array.dtype != np.float32:
        return array
    return array.astype(helper.tensor_dtype_to_np_dtype(element)).astype(np.float32)


def in_domain_cuda(case: Case, element: int) -> onnx.ModelProto:
    """The node with (empty) kernels, between casts, since NumPy has no bfloat16 that a session takes."""
    proto = model(case)
    del proto.functions[:]
    (node,) = proto.graph.node
    declared = spec(case.operator)
    kernels = numpy_helper.from_array(np.zeros(1, np.uint8), "kernels")
    node.input.extend([*[""] * (len(declared.inputs) - len(node.input)), "kernels"])
    node.domain = CUDA_DOMAIN
    floats = [name for name, value in case.feeds.items() if value.dtype == np.float32]
    before = [helper.make_node("Cast", [name], [f"{name}_cast"], to=element) for name in floats]
    node.input[:] = [f"{name}_cast" if name in floats else name for name in node.input]
    after = [helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in node.output]
    node.output[:] = [f"{name}_half" for name in node.output]
    graph = helper.make_graph([*before, node, *after], "graph", proto.graph.input, proto.graph.output, [kernels])
    opsets = [helper.make_opsetid(o.domain.replace(DOMAIN, CUDA_DOMAIN), o.version) for o in proto.opset_import]
    return helper.make_model(graph, opset_imports=opsets, ir_version=proto.ir_version)


@TYPES
@pytest.mark.parametrize("operator", [entry.name for entry in SPECS if entry.cuda_types != entry.kernel_types])
def test_the_cpu_computes_in_float32_and_rounds_once(operator, element):
    @QUICK
    @given(cases(operator))
    def check(case) -> None:
        stored = Case(operator, [rounded(x, element) for x in case.inputs], case.attributes, case.outputs)
        session = runtime.InferenceSession(in_domain_cuda(stored, element).SerializeToString(), ort.SessionOptions())
        for actual, expected in zip(session.run(None, stored.feeds), stored.expected(), strict=True):
            scale = max(1.0, float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected))))
            np.testing.assert_allclose(actual, expected, rtol=1.1 * UNIT[element], atol=1e-5 * scale)

    check()
