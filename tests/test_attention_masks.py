"""A bias that hides what comes after a row is known for one, and what only looks like it is not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import graph, parse, run
from turbo_onnx import shapes
from turbo_onnx.attention_masks import AttentionMask, attention_mask
from turbo_onnx.distances import AtLeast
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model

CONSTANTS = """
    int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[2] axes12 = {1, 2}, int64 first = {0}, int64 step = {1},
    int64 two = {2}, float one = {1}, float zero = {0}, float lowest = {-3.4028234663852886e+38},
    float infinite = {-inf}, float half = {0.5}, float shy = {-1}, bool yes = {1}
"""
PARTS = """
    sh = Shape(mask) size = Gather(sh, step) at = Range(first, size, step) row = Unsqueeze(at, axis1)
    column = Unsqueeze(at, axis0) early = Sub(row, two) late = Add(row, two)
    k4 = Unsqueeze(mask, axes12) keys = Cast<to = 9>(k4) kf = Cast<to = 1>(k4) hidden = Sub(one, kf)
"""
CAUSAL = {
    "keys that are not after": "c = LessOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest)",
    "rows that are not before": "c = GreaterOrEqual(row, column) b = And(c, keys) bias = Where(b, zero, infinite)",
    "not keys that are after": "c = Greater(column, row) n = Not(c) b = And(n, keys) bias = Where(b, zero, infinite)",
    "filled where either hides": (
        "c = Less(row, column) n = Not(keys) b = Or(c, n) b2 = And(b, yes) bias = Where(b2, lowest, zero)"
    ),
    "two biases added": (
        "c = Greater(column, row) cf = Cast<to = 1>(c) one_bias = Mul(cf, lowest) other = Mul(hidden, lowest) "
        "bias = Add(one_bias, other)"
    ),
    "the lower of two biases": (
        "c = Greater(column, row) one_bias = Where(c, lowest, zero) other = Mul(hidden, lowest) "
        "bias = Min(one_bias, other)"
    ),
    "one bias filled into the other": (
        "c = Greater(column, row) one_bias = Where(c, lowest, zero) gone = Not(keys) "
        "bias = Where(gone, lowest, one_bias)"
    ),
}
OTHERS = {
    "itself hidden": ("c = Less(column, row) b = And(c, keys) bias = Where(b, zero, lowest)", False),
    "what is before is hidden": (
        "c = GreaterOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest)",
        True,
    ),
    "one more is seen": ("c = Less(column, late) b = And(c, keys) bias = Where(b, zero, lowest)", True),
    "a window of what is before": (
        "c = LessOrEqual(column, row) w = Greater(column, early) cw = And(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        True,
    ),
    "what is after counts less": (
        "c = Greater(column, row) s = Where(c, shy, zero) other = Mul(hidden, lowest) bias = Add(s, other)",
        True,
    ),
    "what is before counts less": (
        "c = Greater(column, row) s = Where(c, lowest, shy) other = Mul(hidden, lowest) bias = Add(s, other)",
        True,
    ),
}
MASK = np.array([[1, 1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])


def load(nodes: str) -> Model:
    model = parse(graph(f"g (int64[B,S] mask) => (float[B,H,Q,S] bias) <{CONSTANTS}> {{ {PARTS} {nodes} }}"))
    shapes.infer(model)
    return model


def mask_of(nodes: str) -> AttentionMask | None:
    model = load(nodes)
    return attention_mask(model.graph.outputs[0], MaskFunctions(model, shapes.infer(model)))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_mask_with_padding_is_known(name: str) -> None:
    found = mask_of(CAUSAL[name])
    assert found is not None
    assert (found.mask.name, found.alone, found.causal, found.inverted) == ("mask", True, True, False)
    assert found.from_tokens, "a token sees itself"
    assert not found.from_all, "with padding on the left, the first rows see no token"


@pytest.mark.parametrize("name", OTHERS)
def test_other_masks_of_positions_are_not_causal(name: str) -> None:
    nodes, sees_itself = OTHERS[name]
    found = mask_of(nodes)
    assert found is not None
    assert (found.alone, found.causal, found.from_all) == (False, False, False)
    assert found.from_tokens is sees_itself


def test_a_causal_mask_without_padding_is_no_mask() -> None:
    model = load(
        "c = LessOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest) alone = Where(c, zero, lowest)"
    )
    alone = next(tensor for node in model.graph.nodes for tensor in node.outputs if tensor.name == "alone")
    assert attention_mask(alone, MaskFunctions(model, shapes.infer(model))) is None


def test_padding_hidden_from_what_is_before_only_is_not_hidden() -> None:
    assert mask_of("c = LessOrEqual(column, row) b = Or(c, keys) bias = Where(b, zero, lowest)") is None


def test_a_comparison_of_other_axes_is_not_the_attentions() -> None:
    assert mask_of("c = LessOrEqual(row, column) t = Transpose<perm = [1,0]>(c) b = And(t, keys) "
                   "bias = Where(b, zero, lowest)") is None  # fmt: skip


@pytest.mark.parametrize("name", [*CAUSAL, *OTHERS])
def test_every_function_of_mask_and_positions_is_what_it_is_said_to_be(name: str) -> None:
    model = load(CAUSAL.get(name) or OTHERS[name][0])
    function = MaskFunctions(model, shapes.infer(model)).of(model.graph.outputs[0])
    if function is None:
        assert name == "one bias filled into the other", "-inf and numbers may be chosen, not computed with"
        return
    (bias,) = run(model, {"mask": MASK})
    distance = np.arange(5)[:, None] - np.arange(5)
    index = tuple(
        (distance >= view.least).astype(int) if isinstance(view, AtLeast) else MASK[:, None, None, :]
        for view in function.views
    )
    np.testing.assert_array_equal(np.broadcast_to(function.table[index], bias.shape), bias)


def test_the_opposite_of_a_mask_leaves_positions_as_they_are() -> None:
    found = mask_of("c = LessOrEqual(column, row) n = Not(keys) b = And(c, n) bias = Where(b, zero, lowest)")
    assert found is not None
    assert (found.inverted, found.causal, found.alone) == (True, True, True)
