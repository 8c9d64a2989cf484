"""Every operator, by itself: its CUDA kernels and its reference agree on the CPU's random uses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.cuda.device import by_device
from tests.custom_ops.cases import cases
from tests.custom_ops.single_node import Case, assert_equal
from turbo_onnx.custom_ops import SPECS

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
HALF_TOLERANCE = 2e-3  # two units in the last place of the largest value


@pytest.mark.parametrize("operator", [spec.name for spec in SPECS])
def test_the_kernel_gives_what_the_reference_says(operator: str) -> None:
    @QUICK
    @given(cases(operator))
    def check(case) -> None:
        assert_equal(by_device(case), case.expected())

    check()


@pytest.mark.parametrize("operator", [spec.name for spec in SPECS if spec.cuda_types != spec.kernel_types])
def test_the_kernel_gives_what_the_reference_says_in_half_precision(operator: str) -> None:
    @settings(QUICK, max_examples=15)
    @given(cases(operator))
    def check(case) -> None:
        half = in_half_precision(case)
        exact = Case(half.operator, [widened(x) for x in half.inputs], half.attributes, half.outputs).expected()
        for actual, expected in zip(by_device(half), exact, strict=True):
            assert actual.dtype == np.float16
            scale = max(1.0, float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected))))
            np.testing.assert_allclose(actual, expected, rtol=HALF_TOLERANCE, atol=HALF_TOLERANCE * scale)

    check()


def in_half_precision(case: Case) -> Case:
    """The case with float16 in place of float32."""
    inputs = [x.astype(np.float16) if x is not None and x.dtype == np.float32 else x for x in case.inputs]
    return Case(case.operator, inputs, case.attributes, case.outputs)


def widened(array):
    return array.astype(np.float32) if array is not None and array.dtype == np.float16 else array
