"""PoolFirstTokensEarly: the last rows are computed for first tokens only, where nothing else reads them."""

from __future__ import annotations

import pytest

from tests.passes.padded_graphs import BIAS, EMBEDDING, MEAN, layer, model, pack, same_on_tokens
from tests.passes.support import check_invariants, operators
from turbo_onnx import shapes
from turbo_onnx.graph import is_op
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.pool_first_tokens_early import PoolFirstTokensEarly

ENCODER = EMBEDDING + BIAS + layer(1) + layer(2)
FIRST = "row = Gather<axis = 1>(h2, first) y = MatMul(row, wq)"


def pool(target: Model) -> PassReport:
    shapes.infer(target)
    report = PoolFirstTokensEarly().run(target)
    shapes.infer(target)
    check_invariants(target)
    before = operators(target)
    assert PoolFirstTokensEarly().run(target).applied == 0
    assert operators(target) == before
    return report


def products_of_tokens(target: Model) -> int:
    """How many matrix products run on all tokens."""
    products = [node for node in target.graph.nodes if is_op(node, "MatMul", "Gemm")]
    return sum(node.outputs[0].shape[0] == "total_tokens" for node in products)


@pytest.mark.parametrize(
    "head",
    [
        FIRST,
        "row = Gather<axis = 1>(h2, axis0) kept = MatMul(row, wq) y = Squeeze(kept, axis1)",
        FIRST.replace("y =", "a =") + " again = Gather<axis = 1>(h2, first) b = Neg(again) y = Add(a, b)",
        "w = Transpose<perm = [0,1,2]>(h2) row = Gather<axis = 1>(w, first) y = MatMul(row, wq)",
    ],
)
def test_behind_the_last_attention_only_first_tokens_are_computed(head: str) -> None:
    before, after = (model(ENCODER + head, "float[B,8] y") for _ in range(2))
    pack(after)
    assert products_of_tokens(after) == 10
    assert pool(after).applied >= 5
    assert products_of_tokens(after) == 8  # the second layer's output and feed-forward products are gone
    same_on_tokens(before, after, first=True)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        ("y = Gather<axis = 1>(h2, first)", "float[B,8] y, float[B,S,8] h2"),
        (
            "y = Gather<axis = 1>(h2, first) last = Identity(h2)" + MEAN.replace("y =", "z ="),
            "float[B,8] y, float[B,8] z",
        ),
    ],
)
def test_rows_that_others_read_are_computed_for_all_tokens(head: str, outputs: str) -> None:
    before, after = (model(ENCODER + head, outputs) for _ in range(2))
    pack(after)
    assert pool(after).applied == 0
    same_on_tokens(before, after, first=True)


def test_another_pooling_of_the_same_rows_is_left_alone() -> None:
    head = "y = Gather<axis = 1>(h2, first) last = Identity(f2)" + MEAN.replace("y =", "z =")
    before, after = (model(ENCODER + head, "float[B,8] y, float[B,8] z") for _ in range(2))
    pack(after)
    pool(after)
    same_on_tokens(before, after, first=True)


def test_nothing_is_moved_where_no_product_gains() -> None:
    nodes = (
        EMBEDDING
        + BIAS
        + layer(1)
        .replace("o1 = MatMul(a1, wo)", "o1 = Neg(a1)")
        .replace("g1 = MatMul(f1, wf) t1 = Tanh(g1)", "t1 = Tanh(f1)")
    )
    after = model(nodes + "y = Gather<axis = 1>(h1, first)", "float[B,8] y")
    pack(after)
    assert pool(after).applied == 0
