"""VarlenAttention on CUDA with keys and values by head. The tolerance is that of `attention_checks.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.cuda.device import ELEMENTS, by_device, use_of
from tests.cuda.interpreted.attention_checks import UNITS, CaseOnDevice, check, in_float32
from tests.custom_ops.attention_cases import as_rows, cached, normal
from tests.custom_ops.single_node import rounded
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.errors import Reject


@pytest.mark.parametrize(("queries", "keys"), [(1, 100), (5, 9), (40, 70), (70, 40), (3, 0)])
@pytest.mark.parametrize("causal", [0, 1])
def test_queries_and_keys_may_differ_in_number(queries: int, keys: int, causal: int) -> None:
    check(cached(2, keys, queries, (4, 2), causal=causal, bias=True, guard=1))


@pytest.mark.parametrize("value_size", [5, 100])
def test_values_of_another_head_size_than_keys(value_size: int) -> None:
    check(cached(2, 70, 3, (2, 1), value_size=value_size, bias=True))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"window_before": 20, "window_after": 3}, {"attention_bias": 3 * normal(2, 1, 1, 70)}],
    ids=["all", "window", "biased"],
)
@pytest.mark.parametrize("queries", [1, 33])
def test_keys_by_head_equal_those_in_rows(queries: int, attributes: dict[str, Any]) -> None:
    case = cached(2, 70, queries, (4, 2), size=32, value_size=20, **attributes)
    check(case)
    np.testing.assert_array_equal(by_device(case)[0], by_device(as_rows(case))[0])


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_a_mask_in_float32_beside_half_precision(element: str) -> None:
    bias = np.where(np.arange(130) < 50, np.finfo(np.float32).min, 0.0).astype(np.float32)[None, None, None]
    case = in_float32(cached(2, 130, 2, (4, 2), size=64, attention_bias=bias), "attention_bias")
    case = rounded(case, ELEMENTS[element])
    (actual,), (expected,) = by_device(case, element), case.expected()
    np.testing.assert_allclose(actual, expected, atol=2 * UNITS[element] * np.abs(expected).max())


def test_the_kernel_is_one_for_keys_by_head() -> None:
    """Whether the mask has a column for each key is told from where the length of keys by head stands."""
    case = cached(1, 9, 7, attention_bias=normal(1, 2, 7, 9))
    use = use_of(case)
    use.shapes.update(attention_bias=("B", 1, 7, "L"), key=("B", 2, "L", 16))  # type: ignore[attr-defined]
    (variant,) = variants_of(use, 90)
    assert "by_head=1" in variant.key
    assert variant.key.endswith("bias_by_query=1;bias_by_key=1")


def test_there_is_no_kernel_for_packed_keys_by_head() -> None:
    use = use_of(cached(1, 9))
    with pytest.raises(Reject, match="keys_by_head is 1, but key and value must be there, and cu_seqlens must not"):
        variants_of(replace(use, types={**use.types, "cu_seqlens": "int32"}), 90)


def test_refuses_inputs_that_do_not_fit() -> None:
    case = cached(2, 7, 5)
    wrong = CaseOnDevice(case.operator, [case.inputs[0], *[normal(3, 2, 7, 16)] * 2], case.attributes)
    with pytest.raises(Exception, match="VarlenAttention") as error:
        by_device(wrong)
    assert "have shapes [2, 5, 32], [3, 2, 7, 16], [3, 2, 7, 16]" in str(error.value)
