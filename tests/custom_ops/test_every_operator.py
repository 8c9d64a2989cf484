"""Every operator, by itself: its definition, its kernel and its reference agree on random uses of every shape.

Parametrised over the list of operators: a new one is tested as soon as `cases.py` can make uses of it.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.custom_ops.cases import MAKERS, cases
from tests.custom_ops.instruction_sets import VECTORS, run_at, weaker
from tests.custom_ops.single_node import assert_equal, by_definition, by_kernel, model
from turbo_onnx.custom_ops import SPECS, schema, spec
from turbo_onnx.custom_ops.cuda.lookup import module_of

OPERATORS = [spec.name for spec in SPECS]
OPSETS = [11, 12, 13, 15, 17, 18, 20, 21, 23]
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

every_operator = pytest.mark.parametrize("operator", OPERATORS)


def test_there_are_random_uses_of_every_operator() -> None:
    assert set(OPERATORS) <= set(MAKERS)


@every_operator
def test_an_operator_says_whether_there_are_cuda_kernels_for_it(operator: str) -> None:
    assert (find_spec(module_of(operator)) is not None) == spec(operator).on_gpus


@every_operator
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_gives_what_the_reference_says(operator: str, threads: int) -> None:
    @QUICK
    @given(cases(operator))
    def check(case) -> None:
        assert_equal(by_kernel(case, threads), case.expected())

    check()


@pytest.mark.long
@pytest.mark.parametrize("name", weaker(VECTORS))
def test_the_kernels_agree_at_weaker_instruction_sets(name: str) -> None:
    assert f"{2 * len(OPERATORS)} passed" in run_at(name, "the_kernel_gives", __file__)


@every_operator
@pytest.mark.parametrize("opset", OPSETS)
def test_the_definition_gives_what_the_reference_says(operator: str, opset: int) -> None:
    @settings(QUICK, max_examples=6)
    @given(cases(operator).filter(lambda case: is_covered(case, opset)))
    def check(case) -> None:
        assert_equal(by_definition(case, opset), case.expected())

    check()


def is_covered(case, opset: int) -> bool:
    """Old opsets have no operators for some types of rows."""
    types = {value.dtype.name for value in case.feeds.values()}
    return not (
        case.operator == "RestorePadding" and ((opset < 15 and "float16" in types) or (opset < 13 and "bool" in types))
    )


@every_operator
def test_declared_shapes_are_those_that_come_out(operator: str) -> None:
    schema.register()

    @settings(QUICK, max_examples=10)
    @given(cases(operator), st.sampled_from([17, 21]))
    def check(case, opset: int) -> None:
        proto = model(case, opset)
        del proto.functions[:]
        for value, array in zip(proto.graph.input, case.feeds.values(), strict=True):
            for dim, size in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
                dim.dim_value = size
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        for value, expected in zip(inferred.graph.output, case.expected(), strict=True):
            kind = value.type.tensor_type
            assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == expected.dtype
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
            assert len(sizes) == expected.ndim
            assert all(size in (None, actual) for size, actual in zip(sizes, expected.shape, strict=True))

    check()


@every_operator
def test_a_model_with_the_operator_passes_the_checker(operator: str) -> None:
    schema.register()

    @settings(QUICK, max_examples=5)
    @given(cases(operator))
    def check(case) -> None:
        proto = model(case)
        for output, array in zip(proto.graph.output, case.expected(), strict=True):
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind, [None] * array.ndim))
        onnx.checker.check_model(proto, full_check=True)

    check()


@every_operator
def test_results_do_not_depend_on_the_number_of_threads(operator: str) -> None:
    @settings(QUICK, max_examples=8)
    @given(cases(operator))
    def check(case) -> None:
        for one, two in zip(by_kernel(case, 1), by_kernel(case, 2), strict=True):
            np.testing.assert_array_equal(one, two)

    check()
