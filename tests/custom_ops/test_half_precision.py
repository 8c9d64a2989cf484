"""Models in half precision run on the CPU, too: operators of the domain turbo_onnx.cuda compute in float32 there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, numpy_helper

from tests.custom_ops.cases import cases
from tests.custom_ops.single_node import Case, between_casts, rounded
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS

QUICK = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
UNIT = {TensorProto.FLOAT: 2.0**-20, TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
TYPES = pytest.mark.parametrize("element", list(UNIT), ids=["float32", "float16", "bfloat16"])


def with_empty_kernels(case: Case, element: int) -> onnx.ModelProto:
    return between_casts(case, element, numpy_helper.from_array(np.zeros(1, np.uint8), "kernels"))


@TYPES
@pytest.mark.parametrize("operator", [entry.name for entry in SPECS if entry.cuda_types != entry.kernel_types])
def test_the_cpu_computes_in_float32_and_rounds_once(operator, element):
    @QUICK
    @given(cases(operator))
    def check(case) -> None:
        stored = rounded(case, element)
        session = runtime.InferenceSession(
            with_empty_kernels(stored, element).SerializeToString(), ort.SessionOptions()
        )
        for actual, expected in zip(session.run(None, stored.feeds), stored.expected(), strict=True):
            scale = max(1.0, float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected))))
            np.testing.assert_allclose(actual, expected, rtol=1.1 * UNIT[element], atol=1e-5 * scale)

    check()
