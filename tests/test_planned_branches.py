"""Merged decoders keep to the plan of the branch that a run takes, and compute the same without the library."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest

import turbo_onnx
from tests.arena.counted import counted
from tests.branch_models import merged_decoder
from tests.recorded_models import needs_recorder
from tests.test_planned_models import Planned, as_planned, assert_equal_bits, session
from turbo_onnx import plan_report
from turbo_onnx.report_text import headline
from turbo_onnx.verify_inputs import Feed

pytestmark = needs_recorder
LEVELS = ["all", "extended", "basic", "none"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "masked"])
def masked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def merged(masked: bool) -> Planned:
    proto = merged_decoder(masked).to_proto()
    found = as_planned(proto, turbo_onnx.optimize(proto).model.SerializeToString())
    assert found is not None
    return found


def feeds(masked: bool, count: int = 30) -> Iterator[tuple[tuple[int, int, int], Feed]]:
    """Batch, length and past, and a step of such sizes: the first without a past, those of a cache in between."""
    random = np.random.default_rng(5)
    for number in range(count):
        batch, length, past = (int(size) for size in random.integers(1, 20, 3))
        uses = bool(number % 3)
        given: Feed = {
            "past_keys": random.standard_normal((batch, 2, past, 8), dtype=np.float32),
            "past_values": random.standard_normal((batch, 2, past, 8), dtype=np.float32),
            "use_past": np.array([uses]),
        }
        if masked:
            given["ids"] = random.integers(0, 11, (batch, length))
            given["mask"] = random.integers(0, 2, (batch, length + past * uses))
        else:
            given["x"] = random.standard_normal((batch, length, 16), dtype=np.float32)
        yield (batch, length, past), given


@pytest.mark.parametrize("level", LEVELS)
def test_runs_keep_to_the_plan_of_the_branch_that_they_take(merged: Planned, masked: bool, level: str) -> None:
    on, off = session(merged.content, level), session(merged.content, level, arena="off")
    with counted() as seen:
        for _, feed in feeds(masked):
            assert_equal_bits(on, off, feed)
    assert seen.stats.runs_announced == seen.stats.runs_kept == 30
    assert seen.stats.allocations_off_plan == 0
    assert seen.stats.allocations_served > 100


def test_the_plan_has_both_branches(merged: Planned, masked: bool) -> None:
    assert {variant.branch for variant in merged.plan.variants} == {"then_branch", "else_branch"}
    assert merged.plan.assumed == (["T = length + past in then_branch", "T = length in else_branch"] if masked else [])
    said = plan_report.report("m", merged.plan).sentences()
    assert any(line.startswith("In then_branch, optimization levels all") for line in said)
    assert any(line.startswith("In else_branch, optimization levels all") for line in said)


def test_the_report_says_that_branches_are_planned() -> None:
    said = headline(turbo_onnx.optimize(merged_decoder().to_proto()).report)
    assert any(line.startswith("Memory: planned in then_branch and else_branch for every shape; ") for line in said)


def test_no_run_needs_more_than_the_plan_says(merged: Planned, masked: bool) -> None:
    for (batch, length, past), feed in feeds(masked, 6):
        turbo_onnx.trim()
        on = session(merged.content)
        with counted() as seen:
            outputs = on.run(None, feed)
        sizes = {"batch": batch, "length": length, "past": past} if masked else {"B": batch, "S": length, "P": past}
        promised = turbo_onnx.peak_bytes(merged.plan, **sizes)
        page = 4096
        assert seen.stats.block_bytes_held > 0
        assert seen.stats.block_bytes_held + sum(output.nbytes for output in outputs) <= promised + page


@pytest.mark.parametrize("masked", [True], ids=["masked"], indirect=True)
def test_a_branch_that_does_not_fit_uses_the_heap_and_is_right(merged: Planned) -> None:
    on, off = session(merged.content), session(merged.content, arena="off")
    feed = {
        "ids": np.ones((2, 3), np.int64),
        "mask": np.ones((2, 1), np.int64),  # for all keys, where it should be one for each
        "past_keys": np.ones((2, 2, 4, 8), np.float32),
        "past_values": np.ones((2, 2, 4, 8), np.float32),
    }
    with counted() as seen:
        for flag in (True, False):
            assert_equal_bits(on, off, feed | {"use_past": np.array([flag])})
    assert (seen.stats.runs_announced, seen.stats.runs_mismatched) == (2, 2)


@pytest.mark.parametrize("level", ["ORT_ENABLE_ALL", "ORT_DISABLE_ALL"])
def test_a_stock_runtime_runs_both_branches(merged: Planned, masked: bool, level: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    stock, on = ort.InferenceSession(merged.content, options), session(merged.content)
    for _, feed in feeds(masked, 6):
        for found, expected in zip(stock.run(None, feed), on.run(None, feed), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
