"""RemovePadding: what reduces each sequence to one row stays packed, or keeps its padding where that counts."""

from __future__ import annotations

import pytest

from tests.passes.padded_graphs import (
    BIAS,
    EMBEDDING,
    MEAN,
    batches,
    compare,
    layer,
    model,
    pack,
    same_on_tokens,
    session,
    sessions,
)
from tests.passes.support import count

ENCODER = EMBEDDING + BIAS + layer(1) + layer(2)
LAST = ENCODER.replace("h2 =", "last =")
CHOICE = "real = Cast<to = 9>(mask) chosen = Unsqueeze(real, axis2)"

POOLED = {
    "first token": ("first", ENCODER + "y = Gather<axis = 1>(h2, first)", "float[B,8] y"),
    "first token, its axis kept": ("first", ENCODER + "y = Gather<axis = -2>(h2, axis0)", "float[B,1,8] y"),
    "first token by a slice": (
        "first",
        ENCODER + "cut = Slice(h2, axis0, axis1, axis1) y = Squeeze(cut, axis1)",
        "float[B,8] y",
    ),
    "first token into a linear layer": (
        "first",
        ENCODER + "row = Gather<axis = 1>(h2, first) l = Gemm(row, wq, bo) y = Tanh(l)",
        "float[B,8] y",
    ),
    "mean over the mask": ("sum", LAST + MEAN, "float[B,8] y"),
    "mean over the mask, its axis kept": (
        "sum",
        LAST + MEAN.replace("keepdims = 0", "keepdims = 1"),
        "float[B,1,8] y",
    ),
    "mean over a choice by the mask": (
        "sum",
        ENCODER + CHOICE + "w = Where(chosen, h2, zero) total = ReduceSum<keepdims = 0>(w, axis1) "
        "n = ReduceSum<keepdims = 1>(mask, axis1) nf = Cast<to = 1>(n) c = Max(nf, tiny) y = Div(total, c)",
        "float[B,8] y",
    ),
    "maximum with the lowest number": (
        "max",
        ENCODER + CHOICE + "w = Where(chosen, h2, lowest) y = ReduceMax<axes = [1], keepdims = 0>(w)",
        "float[B,8] y",
    ),
    "maximum with minus infinity, its axis kept": (
        "max",
        ENCODER + CHOICE + "w = Where(chosen, h2, infinite) y = ReduceMax<axes = [1]>(w)",
        "float[B,1,8] y",
    ),
    "maximum where padding is chosen first": (
        "max",
        ENCODER
        + CHOICE
        + "hidden = Not(chosen) w = Where(hidden, lowest, h2) y = ReduceMax<axes = [1], keepdims = 0>(w)",
        "float[B,8] y",
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_pooling_stays_packed(name: str) -> None:
    mode, nodes, outputs = POOLED[name]
    before, after = (model(nodes, outputs) for _ in range(2))
    assert pack(after).facts["packed"] is True
    (pooling,) = (node for node in after.graph.nodes if node.op == "SegmentPooling")
    assert pooling.attrs["mode"] == mode
    assert count(after)["turbo_onnx.RestorePadding"] == 0
    same_on_tokens(before, after, first=mode == "first")


FILLS = {"ten thousand": "-10000.0", "lowest": "-3.4028234663852886e+38", "infinity": "-inf"}


@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("name", FILLS)
def test_what_fills_padding_takes_part_in_a_maximum_only_where_there_is_padding(name: str, keeps: int) -> None:
    nodes = (
        ENCODER
        + CHOICE
        + "low = Mul(h2, huge) lower = Sub(low, far) w = Where(chosen, lower, fill) "
        + f"y = ReduceMax<axes = [1], keepdims = {keeps}>(w)"
    )
    constants = f", float fill = {{{FILLS[name]}}}, float huge = {{1e5}}, float far = {{1e6}}"
    before, after = (model(nodes, f"float[B,{'1,' * keeps}8] y", constants=constants) for _ in range(2))
    pack(after)
    assert count(after)["SegmentPooling"] + count(after)["turbo_onnx.SegmentPooling"] == 1
    reference = session(before.to_proto())
    for candidate in sessions(after):
        for mask, data in batches():
            compare(reference, candidate, mask, data)


def test_the_number_of_tokens_is_read_off_the_index() -> None:
    after = model(LAST + MEAN, "float[B,8] y")
    pack(after)
    assert count(after)["ReduceSum"] == 0


PADDING_COUNTS = {
    "mean over all positions": "y = ReduceMean<axes = [1], keepdims = 0>(h2)",
    "sum over all positions": "y = ReduceSum<keepdims = 0>(h2, axis1)",
    "maximum over all positions": "y = ReduceMax<axes = [1], keepdims = 0>(h2)",
    "maximum over zeros for padding": CHOICE + "w = Where(chosen, h2, zero) y = ReduceMax<axes = [1], keepdims = 0>(w)",
    "maximum with a number that is not low": (
        CHOICE + "w = Where(chosen, h2, shy) y = ReduceMax<axes = [1], keepdims = 0>(w)"
    ),
    "the last position": "cut = Slice(h2, minus, end, axis1) y = Squeeze(cut, axis1)",
    "the second position on": "cut = Slice(h2, axis0, axis2, axis1) y = ReduceSum<keepdims = 0>(cut, axis1)",
    "sequences upside down": "t = Slice(h2, minus, far, axis1, minus) y = ReduceSum<keepdims = 0>(t, axis1)",
}


@pytest.mark.parametrize("name", PADDING_COUNTS)
def test_what_reads_padding_is_given_the_padding_of_the_original(name: str) -> None:
    constants = ", int64[1] minus = {-1}, int64[1] far = {-9223372036854775807}"
    nodes = ENCODER + PADDING_COUNTS[name]
    before, after = (model(nodes, "float[B,8] y", constants=constants) for _ in range(2))
    report = pack(after)
    chosen = "chosen" in nodes  # then padding is a number of the graph's own, and attention need not compute it
    assert report.facts["packed"] is (True if chosen else report.facts["packed"])
    assert report.facts["attention_packed"] == (2 if chosen else 0)
    assert count(after)["turbo_onnx.SegmentPooling"] == 0
    same_on_tokens(before, after)


def test_a_mask_that_hides_padding_from_real_rows_only_keeps_what_rows_of_padding_see() -> None:
    two_sided = """
        k4 = Unsqueeze(mask, axes12) keys = Cast<to = 9>(k4) q3 = Unsqueeze(mask, axis2) q4 = Unsqueeze(q3, axis1)
        queries = Cast<to = 9>(q4) both = And(keys, queries) bias = Where(both, zero, lowest)
    """
    nodes = EMBEDDING + two_sided + layer(1) + "y = ReduceMean<axes = [1], keepdims = 0>(h1)"
    before, after = (model(nodes, "float[B,8] y") for _ in range(2))
    assert pack(after).facts.get("attention_packed", 0) == 0
    same_on_tokens(before, after)
    nodes = EMBEDDING + two_sided + layer(1)
    before, after = (model(nodes, "float[B,S,8] h1") for _ in range(2))
    assert pack(after).facts["packed"] is True
    same_on_tokens(before, after)
