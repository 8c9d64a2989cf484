"""RemovePadding: attention within windows of positions sees the same on packed rows, holes in the mask or not."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.padded_graphs import BIAS, EMBEDDING, layer, model, pack, same_on_tokens, session, sessions
from tests.passes.support import count
from turbo_onnx.model import Model

CONSTANTS = ", int64 step = {1}, int64 three = {3}, int64 five = {5}, int64[2] axes01 = {0, 1}"
POSITIONS = """
    sh = Shape(ids) length = Gather(sh, step) here = Range(first, length, step)
    row = Unsqueeze(here, axis1) column = Unsqueeze(here, axis0)
"""
AROUND = "away = Sub(row, column) far = Abs(away) sees = LessOrEqual(far, three)"
RECENT = "back = Sub(row, three) near = Greater(column, back) ever = LessOrEqual(column, row) sees = And(near, ever)"
AHEAD = "back = Sub(row, two) near = GreaterOrEqual(column, back) on = Add(row, five) soon = Less(column, on) "
AHEAD += "sees = And(near, soon)"
WINDOWS: dict[str, tuple[str, dict[str, int], bool]] = {
    "three positions around": (AROUND, {"window_before": 3, "window_after": 3}, True),
    "the last three": (RECENT, {"window_before": 2, "causal": 1}, True),
    "more after than before": (AHEAD, {"window_before": 2, "window_after": 4}, True),
    "nothing before": ("sees = GreaterOrEqual(column, row)", {"window_before": 0}, True),
    "nothing after": ("sees = LessOrEqual(column, row)", {"causal": 1}, False),
}
TOGETHER = {
    "added to the bias of the mask": (
        f"{BIAS} w = Where(sees, zero, lowest) w4 = Unsqueeze(w, axes01) sum = Add(w4, bias)"
    ),
    "both in one choice": (
        "m4 = Unsqueeze(mask, axes12) real = Cast<to = 9>(m4) s4 = Unsqueeze(sees, axes01) shown = And(s4, real) "
        "sum = Where(shown, zero, lowest)"
    ),
}


def padded(sees: str, together: str = "both in one choice", readers: str = "y = Tanh(h2)", **attributes: int) -> Model:
    nodes = f"{EMBEDDING} {POSITIONS} {sees} {TOGETHER[together]}"
    layers = layer(1, bias="sum", **attributes) + layer(2, bias="sum", **attributes)
    return model(f"{nodes} {layers} {readers}", constants=CONSTANTS)


def attentions(packed: Model) -> list[gs.Node]:
    return [node for node in packed.graph.nodes if node.op == "VarlenAttention"]


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("together", TOGETHER)
def test_a_window_becomes_the_operators_own(name: str, together: str) -> None:
    sees, attributes, by_distance = WINDOWS[name]
    before, after = padded(sees, together), padded(sees, together)
    pack(after)
    assert count(after)["turbo_onnx.RestorePadding"] == 1
    for node in attentions(after):
        found = {key: value for key, value in node.attrs.items() if key in ("window_before", "window_after", "causal")}
        assert {"causal": 0} | attributes == found
        assert not any(tensor.name for tensor in node.inputs[5:6]), "the bias has gone"
        assert (len(node.inputs) == 7) == by_distance
        assert not by_distance or node.inputs[6].name.startswith("token_position")
    same_on_tokens(before, after)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_the_same_however_long_sequences_are(name: str) -> None:
    before, after = padded(WINDOWS[name][0]), padded(WINDOWS[name][0])
    pack(after)
    random = np.random.default_rng(7)
    mask = (random.random((6, 41)) < np.array([[0.2], [0.5], [0.8], [0.95], [1], [0]])).astype(np.int64)
    mask[1, :9] = 0
    data = {"mask": mask, "ids": random.integers(1, 28, mask.shape) * mask}
    (expected,) = session(before.to_proto()).run(None, data)
    for candidate in sessions(after):
        (actual,) = candidate.run(None, data)
        np.testing.assert_allclose(actual[mask > 0], expected[mask > 0], rtol=1e-5, atol=1e-5)


def test_the_narrower_of_two_windows_counts() -> None:
    before, after = padded(AHEAD, window_before=4, window_after=1), padded(AHEAD, window_before=4, window_after=1)
    pack(after)
    assert [(node.attrs["window_before"], node.attrs["window_after"]) for node in attentions(after)] == [(2, 1)] * 2
    same_on_tokens(before, after)


REFUSED = {
    "itself hidden": "sees = Less(column, row)",
    "a hole": "back = Sub(row, two) old = LessOrEqual(column, back) on = LessOrEqual(row, column) sees = Or(old, on)",
    "as wide as half of the batch": "away = Sub(row, column) far = Abs(away) most = Div(length, two) "
    "sees = LessOrEqual(far, most)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_window_keeps_its_bias(name: str) -> None:
    before, after = padded(REFUSED[name]), padded(REFUSED[name])
    pack(after)
    assert all(len(node.inputs) == 6 and node.inputs[5].name == "sum" for node in attentions(after))
    same_on_tokens(before, after, zeros=False)


def test_rows_of_padding_that_are_read_see_what_they_saw() -> None:
    """They may see nothing but padding through a window, so that it counts what padding holds."""
    reading = "y = CumSum(h2, step)"
    before, after = padded(AROUND, readers=reading), padded(AROUND, readers=reading)
    pack(after)
    assert not {"turbo_onnx.RestorePadding", "turbo_onnx.RemovePadding"} & set(count(after))
    same_on_tokens(before, after, zeros=False)


def test_layers_may_take_turns_in_seeing_everything_and_a_window() -> None:
    nodes = f"{EMBEDDING} {POSITIONS} {AROUND} {TOGETHER['added to the bias of the mask']}"
    layers = layer(1) + layer(2, bias="sum") + layer(3)
    before, after = (model(f"{nodes} {layers} y = Tanh(h3)", constants=CONSTANTS) for _ in range(2))
    pack(after)
    assert [node.attrs.get("window_before") for node in attentions(after)] == [None, 3, None]
    assert count(after)["turbo_onnx.RestorePadding"] == 1
    same_on_tokens(before, after)
