"""Run uses of operators on a GPU: their compiled kernels, through ONNX Runtime and our library."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnxruntime as ort
from hypothesis import HealthCheck, Phase, given, settings
from onnx import numpy_helper

from tests.cuda.device import ELEMENTS, use_of
from tests.custom_ops.cases import cases
from tests.custom_ops.single_node import Array, Case, between_casts, rounded
from turbo_onnx import node_timing
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.variant import Variant
from turbo_onnx.custom_ops.specification import HALF_TYPES

EXAMPLES = int(os.environ.get("TURBO_ONNX_TESTS_EXAMPLES", "12"))
"""Random uses of each operator and element type."""

UNITS = {"float32": 2.0**-17, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Half of the allowed difference, of 1: of a value, and of the largest one. For half types, the last place of 1."""


def has_type(operator: str, element: str) -> bool:
    """Whether the operator computes in the type."""
    return element == "float32" or HALF_TYPES in spec(operator).cuda_types.values()


@functools.cache
def drawn(operator: str, element: str) -> tuple[Case, ...]:
    """The operator's random uses, the same on every call; values as the element type holds them."""
    found: list[Case] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(operator))
    def draw(case: Case) -> None:
        found.append(case if element == "float32" else rounded(case, ELEMENTS[element]))

    draw()
    return tuple(found)


@functools.cache
def archive(operators: tuple[str, ...], capability: int) -> bytes:
    """The kernels for all drawn uses of the operators in every element type, compiled at once.

    PTX is left out unless it is all that there is, so that what runs is known.
    """
    kernels: list[Variant] = []
    for operator in operators:
        for element in filter(partial(has_type, operator), ELEMENTS):
            for case in drawn(operator, element):
                kernels += variants_of(use_of(case, element), capability)
    return node_timing.archive(kernels, capability)


def session(case: Case, element: str, kernels: bytes) -> ort.InferenceSession:
    """The case on the GPU, its inputs and outputs in float32. No node runs on the CPU."""
    stored = numpy_helper.from_array(np.frombuffer(kernels, np.uint8), "kernels")
    return node_timing.open_on_device(between_casts(case, ELEMENTS[element], stored))


def assert_close(actual: Sequence[Array], expected: Sequence[Array], element: str) -> None:
    """Within two units of each value, and of the largest one or 1; integers equal."""
    for result, reference in zip(actual, expected, strict=True):
        assert result.shape == reference.shape
        assert result.dtype == reference.dtype
        if reference.dtype != np.float32:
            np.testing.assert_array_equal(result, reference)
            continue
        scale = max(1.0, float(np.abs(reference).max(initial=0.0, where=np.isfinite(reference))))
        allowed = 2 * UNITS[element]
        np.testing.assert_allclose(result, reference, rtol=allowed, atol=allowed * scale)
