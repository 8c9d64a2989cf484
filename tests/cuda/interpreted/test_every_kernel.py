"""Every operator, by itself: its CUDA kernels and its reference agree on the CPU's random uses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.cuda.device import ELEMENTS, by_device
from tests.custom_ops.cases import cases
from tests.custom_ops.single_node import assert_equal, rounded
from turbo_onnx.custom_ops import SPECS

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # in the last place of 1


@pytest.mark.parametrize("operator", [spec.name for spec in SPECS if spec.on_gpus])
def test_the_kernel_gives_what_the_reference_says(operator: str) -> None:
    @QUICK
    @given(cases(operator))
    def check(case) -> None:
        assert_equal(by_device(case), case.expected())

    check()


@pytest.mark.parametrize("element", list(UNITS))
@pytest.mark.parametrize("operator", [spec.name for spec in SPECS if spec.cuda_types != spec.kernel_types])
def test_the_kernel_gives_what_the_reference_says_in_half_precision(operator: str, element: str) -> None:
    @settings(QUICK, max_examples=15)
    @given(cases(operator))
    def check(case) -> None:
        stored = rounded(case, ELEMENTS[element])
        for actual, expected in zip(by_device(stored, element), stored.expected(), strict=True):
            scale = max(1.0, float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected))))
            np.testing.assert_allclose(actual, expected, rtol=2 * UNITS[element], atol=2 * UNITS[element] * scale)

    check()
