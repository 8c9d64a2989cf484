"""What a run computes is counted from shapes, and what is recorded may compute so much and no more."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recorded_models import model
from turbo_onnx import shapes
from turbo_onnx.custom_ops.quantized_mat_mul.layout import tiled
from turbo_onnx.errors import Reject
from turbo_onnx.work import Budget, Work

IDS = np.zeros((3, 5), np.int64)


def counted(body: str, weights: dict[str, np.ndarray] | None = None) -> Work:
    made = model(body, weights)
    shapes.infer(made)
    return Work.of(made.graph)


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        ("g (float[N,S,4] x) => (float[N,S,7] y) { y = MatMul(x, w) }", {"w": np.ones((4, 7), np.float32)}, 15 * 4 * 7),
        ("g (float[N,S,4] x) => (float[N,S,S] y) { t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t) }", {}, 75 * 4),
        (
            "g (float[N,S,4] x) => (float[N,S,7] y) { y = turbo_onnx.QuantizedMatMul(x, w, scale, sums) }",
            {
                "w": tiled(np.ones((4, 7), np.int8)),
                "scale": np.ones(7, np.float32),
                "sums": np.full(7, 4, np.int32),
            },
            15 * 4 * 7,
        ),
        ("g (float[N,S] x) => (float[S,7] y) { y = Gemm<transA = 1>(x, w) }", {"w": np.ones((3, 7), np.float32)}, 105),
        (
            "g (float[N,S,8,8] x) => (float[N,6,8,8] y) { y = Conv<pads = [1, 1, 1, 1]>(x, k) }",
            {"k": np.ones((6, 5, 3, 3), np.float32)},
            3 * 6 * 64 * 5 * 9,
        ),
        ("g (float[N,S,4] x) => (float[N,S,4] y) { y = Tanh(x) }", {}, 0),
    ],
)
def test_products_are_counted_at_the_shapes_of_the_inputs(
    body: str, weights: dict[str, np.ndarray], expected: int
) -> None:
    feed = {"x": np.zeros((3, 5, 8, 8)[: body.partition("]")[0].count(",") + 1])}
    assert counted(body, weights).of_run(feed) == expected


@pytest.mark.parametrize(
    ("operands", "rest"),
    [("x, x, x", ""), ("qkv", "qkv = Concat<axis = 2>(x, x, x)")],
)
def test_attention_is_counted_by_its_scores_and_what_they_weigh(operands: str, rest: str) -> None:
    work = counted(
        f"g (float[N,S,8] x) => (float[N,S,8] y) {{ {rest} y = turbo_onnx.VarlenAttention<num_heads = 2>({operands}) }}"
    )
    assert work.of_run({"x": np.zeros((3, 5, 8))}) == 2 * 3 * 5 * 5 * 8


@pytest.mark.parametrize(
    ("window", "keys"),
    [("", 64), (", window_before = 3, window_after = 2", 6), (", window_before = 3, causal = 1", 4),
     (", window_before = 3", 64), (", window_before = 99, window_after = 99", 64)],
)  # fmt: skip
def test_attention_in_a_window_is_counted_by_the_keys_that_it_sees(window: str, keys: int) -> None:
    """Heads of keys that serve two of queries each make rows of Q | K | V narrower, and no product fewer."""
    work = counted(
        f"""g (float[N,64,12] qkv) => (float[N,64,8] y) {{
            y = turbo_onnx.VarlenAttention<num_heads = 4, kv_num_heads = 1{window}>(qkv)
        }}"""
    )
    assert work.of_run({"qkv": np.zeros((3, 64, 12))}) == 2 * 3 * 64 * keys * 8


def test_sizes_that_inputs_do_not_show_count_as_all_positions() -> None:
    work = counted(
        """g (int64[N,S] ids) => (float[R,7] y) {
            found = NonZero(ids) rows = Transpose(found) numbers = Cast<to = 1>(rows) y = MatMul(numbers, w)
        }""",
        {"w": np.ones((2, 7), np.float32)},
    )
    assert work.of_run({"ids": IDS}) == IDS.size * 2 * 7


def test_a_budget_is_spent_and_then_refuses() -> None:
    budget = Budget(5 * 10**9)
    assert budget.spend(3 * 10**9)
    assert not budget.spend(3 * 10**9)
    budget.require(2 * 10**9)
    with pytest.raises(Reject) as refusal:
        budget.require(10**9)
    assert (
        str(refusal.value) == "a run that has to be recorded takes 1 billion multiply-adds, and 0 of 5 billion are left"
    )
