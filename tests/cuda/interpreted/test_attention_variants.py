"""Which kernels a VarlenAttention needs on CUDA, and for which there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.cuda.device import use_of
from tests.cuda.interpreted.attention_checks import CaseOnDevice, check
from tests.custom_ops.attention_cases import dense, normal, packed, starts_of
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.errors import Reject


@pytest.mark.parametrize(
    ("width", "heads", "sentence"),
    [
        (96, 5, "widths 96 and 96 are not multiples of 15 and 15 heads"),
        (1200, 1, "heads of 400 and 400 columns are not between"),
    ],
)
def test_there_is_no_kernel_for_some_heads(width: int, heads: int, sentence: str) -> None:
    rows, starts = normal(5, width), starts_of([5])
    case = CaseOnDevice("VarlenAttention", [rows, None, None, None, starts], {"num_heads": heads, "scale": 1.0})
    with pytest.raises(Reject, match=sentence):
        variants_of(use_of(case), 90)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"kv_num_heads": 4}, "num_heads = 6 is not a multiple of kv_num_heads = 4"),
        ({"window_before": -2}, "window_before is -2, but must be -1 or more"),
    ],
)
def test_there_is_no_kernel_for_attributes_that_mean_nothing(attributes: dict[str, int], sentence: str) -> None:
    use = use_of(packed([5], 8, heads=6))
    with pytest.raises(Reject, match=sentence):
        variants_of(replace(use, attributes={**use.attributes, **attributes}), 90)


@pytest.mark.parametrize(
    ("attributes", "facts"),
    [
        ({}, "causal=0;window=0;positions=0"),
        ({"causal": 1, "window_after": 7}, "causal=1;window=0;positions=0"),
        ({"window_after": 0}, "causal=1;window=0;positions=0"),
        ({"causal": 1, "window_before": 7}, "causal=0;window=1;positions=1"),
        ({"window_before": 7, "window_after": 9}, "causal=0;window=1;positions=1"),
    ],
)
def test_there_is_one_kernel_for_all_windows_and_it_reads_positions_only_if_distances_matter(
    attributes: dict[str, int], facts: str
) -> None:
    """And causal attention is a window that ends at the query."""
    case = packed([5], 8, heads=1, positions=np.arange(5), **attributes)
    (variant,) = variants_of(use_of(case), 90)
    assert facts in variant.key
    check(case)


@pytest.mark.parametrize(
    ("shape", "ways"),
    [
        (("B", 1, 1, "L"), {(0, 1)}),
        (("B", 1, "S", "L"), {(0, 1), (1, 1)}),
        (("B", 1, "S", "M"), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        ((1, 2, 7, 9), {(1, 1)}),
    ],
)
def test_there_is_a_kernel_for_each_way_in_which_a_run_may_broadcast(
    shape: tuple[Any, ...], ways: set[tuple[int, int]]
) -> None:
    use = use_of(dense(1, 7, 9, bias=normal(1, 2, 7, 9)))
    use.shapes.update(attention_bias=shape, key=("B", "L", 32))  # type: ignore[attr-defined]
    keys = [variant.key.split(";")[-2:] for variant in variants_of(use, 90)]
    assert {tuple(int(part[-1]) for part in pair) for pair in keys} == ways
