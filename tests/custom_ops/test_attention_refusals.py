"""VarlenAttention of inputs and attributes that do not fit each other: a sentence, and no reading out of bounds."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.custom_ops.attention_cases import normal, packed
from tests.custom_ops.single_node import Array, Case, by_kernel, model
from turbo_onnx import runtime


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([normal(5, 96), None, None, None, np.array([0, 3, 2, 5], np.int32)], "cu_seqlens must ascend from 0 to the 5"),
        ([normal(5, 96), None, None, None, np.array([0, 3], np.int32)], "cu_seqlens must ascend from 0 to the 5 rows"),
        ([normal(5, 96), None, None, None, np.array([1, 5], np.int32)], "cu_seqlens must ascend from 0 to the 5 rows"),
        ([normal(5, 96), None, None, None, np.zeros(0, np.int32)], "one element more than there are sequences"),
        ([normal(5, 96)], "must have rank 3"),
        (
            [normal(5, 94), None, None, None, np.array([0, 5], np.int32)],
            "is not that of 2 heads of queries and 2 of keys",
        ),
        (
            [normal(5, 9), None, None, None, np.array([0, 5], np.int32)],
            "is not that of 2 heads of queries and 2 of keys",
        ),
        ([normal(5, 32), normal(5, 32), None, None, np.array([0, 5], np.int32)], "both be there, or neither"),
        ([normal(5, 32), normal(4, 32), normal(5, 32), None, np.array([0, 5], np.int32)], "have shapes"),
        ([normal(5, 96), None, None, normal(32), np.array([0, 5], np.int32)], "bias has shape [32]"),
        ([normal(1, 5, 96), None, None, None, None, normal(1, 3, 5, 5)], "must broadcast to [1, 2, 5, 5]"),
        ([normal(1, 5, 96), None, None, None, None, None, np.arange(5)], "cannot be there without cu_seqlens"),
        (
            [normal(5, 96), None, None, None, np.array([0, 5], np.int32), None, np.arange(4)],
            "positions has shape [4], but must be a vector of 5",
        ),
        (
            [normal(5, 96), None, None, None, np.array([0, 2, 5], np.int32), None, np.array([7, 8, 3, 4, 4])],
            "positions has 4 after 4, but must be strictly ascending within each sequence",
        ),
        (
            [normal(5, 32), normal(5, 16), normal(5, 32), None, np.array([0, 5], np.int32)],
            "query has shape [5, 32] and key [5, 16], whose heads have another width",
        ),
        (
            [normal(5, 32), normal(5, 32), normal(5, 31), None, np.array([0, 5], np.int32)],
            "widths 32, 32 and 31 are not multiples of 2, 2 and 2 heads",
        ),
    ],
)
def test_refuses_inputs_that_do_not_fit(inputs: list[Array | None], sentence: str) -> None:
    with pytest.raises(Exception, match="VarlenAttention") as error:
        by_kernel(Case("VarlenAttention", inputs, {"num_heads": 2, "scale": 1.0}))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"num_heads": 3, "kv_num_heads": 2}, "num_heads is 3, but must be a multiple of kv_num_heads, which is 2"),
        ({"num_heads": 2, "kv_num_heads": -1}, "must be a multiple of kv_num_heads, which is -1"),
        ({"num_heads": 0}, "num_heads is 0, but must be positive"),
        ({"num_heads": 2, "window_before": -2}, "window_before is -2, but must be -1 or more"),
        ({"num_heads": 2, "window_after": -5}, "window_after is -5, but must be -1 or more"),
        ({"softcap": -2.0}, "softcap is -2, but must be 0 or a positive number"),
        ({"softcap": np.inf}, "but must be 0 or a positive number"),
        ({"softcap": np.nan}, "but must be 0 or a positive number"),
    ],
)
def test_refuses_attributes_that_mean_nothing(attributes: dict[str, float], sentence: str) -> None:
    proto = model(packed([3], 8))
    del proto.functions[:]
    for name, value in attributes.items():
        (stored,) = (a for a in proto.graph.node[0].attribute if a.name == name)
        stored.CopyFrom(helper.make_attribute(name, value))
    with pytest.raises(Exception, match="VarlenAttention") as error:
        runtime.InferenceSession(proto.SerializeToString())
    assert sentence in str(error.value)
