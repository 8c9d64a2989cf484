"""What runs cost, by the lengths of their sequences."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turbo_onnx.errors import InputError
from turbo_onnx.runtime import CostModel
from turbo_onnx.runtime.cost import TERMS, counts, fit

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=20)
BATCHES = [(8,), (128,), (512,), (16,) * 8, (128,) * 8, (100, 3, 5), (384, 30, 20, 10), (64, 60, 2, 1, 1)]


def costs(**prices: float) -> CostModel:
    return CostModel(np.array([prices.get(term, 0.0) for term in TERMS]))


def test_everything_that_has_a_price_is_counted():
    assert counts([2, 3]).tolist() == [1, 5, 13, 6, 18]
    assert costs(run=1.0).milliseconds([5, 7]) == 1.0
    assert costs(token=2.0).milliseconds([5, 7]) == 24.0
    assert costs(token_pair=1.0).milliseconds([5, 7]) == 74.0
    assert costs(position=1.0).milliseconds([5, 7]) == 14.0
    assert costs(position_pair=1.0).milliseconds([5, 7]) == 98.0


def test_long_batches_do_not_overflow():
    assert costs(token_pair=1.0).milliseconds([2**31, 2**31]) == 2.0**63


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 1e-4, 0.03, 5.0]), min_size=5, max_size=5))
def test_prices_are_found_again_from_the_times_that_they_make(prices):
    expected = CostModel(np.array(prices))
    times = {lengths: expected.milliseconds(lengths) for lengths in BATCHES}
    if min(times.values()) == 0.0:
        return
    found = fit(times)
    assert [found.milliseconds(lengths) for lengths in BATCHES] == pytest.approx(list(times.values()), rel=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.1, 1000.0), min_size=len(BATCHES), max_size=len(BATCHES)))
def test_no_price_is_negative_whatever_was_measured(times):
    found = fit(dict(zip(BATCHES, times, strict=True)))
    assert (found.prices >= 0).all()
    assert np.isfinite(found.prices).all()


def test_a_fit_is_better_than_any_other_prices_near_it():
    random = np.random.default_rng(0)
    times = {lengths: costs(run=1.0, token=0.1).milliseconds(lengths) * random.uniform(0.8, 1.2) for lengths in BATCHES}

    def error(prices: np.ndarray) -> float:
        return sum((CostModel(prices).milliseconds(lengths) / time - 1) ** 2 for lengths, time in times.items())

    best = fit(times).prices
    for _ in range(200):
        other = np.maximum(best * random.uniform(0.9, 1.1, 5) + random.choice([0.0, 1e-6], 5), 0.0)
        assert error(other) >= error(best) - 1e-9


def test_one_run_is_enough_for_one_price():
    assert fit({(10, 20): 3.0}).milliseconds((10, 20)) == pytest.approx(3.0)


@pytest.mark.parametrize("times", [{}, {(3,): 0.0}, {(3,): float("nan")}, {(3,): -1.0}])
def test_times_that_say_nothing_are_refused(times):
    with pytest.raises(InputError, match="at least one run, each of which takes some time"):
        fit(times)


@pytest.mark.parametrize("lengths", [[0], [3, -1], [1.5], [[1, 2]], [[1], [1, 2]], ["a"]])
def test_lengths_must_be_positive_integers(lengths):
    with pytest.raises(InputError, match="a list of positive integers"):
        costs(run=1.0).milliseconds(lengths)


def test_a_run_without_sequences_is_refused():
    with pytest.raises(InputError, match="at least one sequence"):
        costs(run=1.0).milliseconds([])


def test_json_is_read_as_it_was_written():
    written = costs(run=0.25, token=1e-3, token_pair=1e-7)
    assert CostModel.from_json(written.to_json()).prices.tolist() == written.prices.tolist()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "this is no cost model"),
        ("[]", "this is no cost model"),
        ('{"version": 1}', "this is no cost model: 'milliseconds'"),
        ('{"version": 2, "milliseconds": {}}', "has version 2, and this is for 1"),
        (json.dumps({"version": 1, "milliseconds": dict.fromkeys(TERMS, -1.0)}), "must be finite, and not negative"),
        (json.dumps({"version": 1, "milliseconds": dict.fromkeys(TERMS, "x")}), "this is no cost model"),
        (json.dumps({"version": 1, "milliseconds": dict.fromkeys(TERMS, 10**400)}), "this is no cost model"),
        ("[" * 100_000, "this is no cost model"),
    ],
)
def test_other_json_is_refused(text, sentence):
    with pytest.raises(InputError, match=sentence):
        CostModel.from_json(text)


def test_a_serving_process_needs_neither_onnx_nor_onnxruntime_to_schedule():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('onnx', 'onnxruntime', 'onnx_graphsurgeon', 'rich', 'click')))\n"
        "import turbo_onnx\n"
        "import numpy as np\n"
        "print(turbo_onnx.schedule([3, 1, 2], turbo_onnx.CostModel(np.ones(5))))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().startswith("[[")
