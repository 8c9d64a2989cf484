"""What runs of real models take is measured, and explained by what they compute."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import turbo_onnx
from tests.command_line import Run, runner
from tests.corpus import graphs
from tests.optimized import optimized
from tests.recorded_models import needs_recorder
from turbo_onnx import run_costs
from turbo_onnx.errors import InputError
from turbo_onnx.run_costs import measure_cost
from turbo_onnx.serialization.reading import read
from turbo_onnx.verify_inputs import Recipe, describe

GRAPHS = {graph.name: graph for graph in graphs()}
FEW = (Recipe("one", 1, 5, "full", 0), Recipe("some", 3, 9, "mixed", 0))


@pytest.fixture
def encoder(tmp_path):
    path = tmp_path / "encoder.onnx"
    onnx.save(GRAPHS["bert-tiny__ts17"].load(), path)
    return path


@pytest.fixture
def cost(capsys) -> Run:
    return runner(capsys, "cost")


def test_runs_are_described_by_the_lengths_of_their_real_tokens(encoder):
    measured = measure_cost(encoder, batches=FEW, rounds=1, threads=1)
    one, some = measured.runs
    assert one == (5,)
    assert len(some) == 3
    assert some[0] == 9
    assert some[-1] == 1
    assert all(time > 0 for time in measured.runs.values())
    assert measured.cost.milliseconds(one) > 0


@pytest.mark.parametrize(
    "name", ["bert-tiny__ts17", "bert-tiny-noMask__ts17", "gpt2-tiny__ts17", "modernbert-tiny__ts17"]
)
def test_inputs_are_made_for_optimized_models_too(name, tmp_path):
    path = tmp_path / "optimized.onnx"
    turbo_onnx.optimize(GRAPHS[name].load(), output=path, verify=False, skip_passes=["plan-memory"])
    assert len(measure_cost(path, batches=FEW, rounds=1).runs) == len(FEW)


@needs_recorder
@pytest.mark.parametrize("name", ["gpt2-tiny-past__ts17", "llama-tiny-past__dy20"])
def test_inputs_are_made_for_decoders_whose_memory_is_planned(name, tmp_path):
    path = tmp_path / "optimized.onnx"
    path.write_bytes(optimized(name, GRAPHS[name].load).artifact)
    ids = describe(read(path, artifacts=True))[0]
    assert (ids.kind, ids.low) == ("ids", 0)
    assert ids.high > 2
    measured = measure_cost(path, batches=FEW, rounds=1).runs
    assert [(len(lengths), max(lengths)) for lengths in measured] == [(1, 5), (3, 9)]


def test_a_model_without_ids_is_described_by_the_sizes_of_what_it_was_fed(tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2,7,4] x) => (float[2,7,4] y) { y = Neg(x) }'
    path = tmp_path / "fixed.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert list(measure_cost(path, batches=FEW, rounds=1).runs) == [(7, 7)]


@pytest.mark.parametrize("nothing", [{"rounds": 0}, {"batches": ()}])
def test_something_must_be_run(encoder, nothing):
    with pytest.raises(InputError, match="something must be run"):
        measure_cost(encoder, **nothing)


def test_integers_that_are_no_mask_do_not_hide_how_long_sequences_are(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (int64[B,S] position_ids, float[B,S] attention_mask) => (float[B,S] y) {
            p = Cast<to = 1>(position_ids) y = Mul(p, attention_mask)
        }"""
    path = tmp_path / "positions.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert [len(lengths) for lengths in measure_cost(path, batches=FEW, rounds=1).runs] == [1, 3]


def test_batches_that_the_model_does_not_take_are_left_out_and_named(encoder):
    too_long = Recipe("too long", 1, 100_000, "full", 0)
    measured = measure_cost(encoder, batches=(*FEW, too_long), rounds=1)
    assert len(measured.runs) == len(FEW)
    (why,) = measured.skipped
    assert why.startswith("too long: ")


def test_a_model_that_runs_on_no_batch_is_refused(encoder):
    with pytest.raises(InputError, match=r"encoder\.onnx: it runs on none of the batches"):
        measure_cost(encoder, batches=(Recipe("too long", 1, 100_000, "full", 0),), rounds=1)


@pytest.mark.parametrize("threads", [0, 100_000])
def test_more_threads_than_cores_are_refused_before_anything_runs(encoder, threads):
    with pytest.raises(InputError, match=rf"{threads} threads cannot compute at once on the \d+ cores of this machine"):
        measure_cost(encoder, threads=threads)


def test_the_command_prints_runs_and_writes_prices(encoder, tmp_path, monkeypatch, cost):
    monkeypatch.setattr(run_costs, "BATCHES", FEW)
    file = tmp_path / "cost.json"
    found = cost(encoder, "-o", file, "--threads", "1")
    assert found.code == 0, found.err
    assert "by the cost model" in found.out
    assert "Milliseconds: " in found.out
    prices = json.loads(file.read_text())["milliseconds"]
    assert set(prices) == {"run", "token", "token_pair", "position", "position_pair"}
    restored = turbo_onnx.CostModel.from_json(file.read_text())
    assert np.isfinite(restored.milliseconds([3, 4]))


def test_the_command_refuses_to_write_over_the_model(encoder, cost):
    before = encoder.read_bytes()
    found = cost(encoder, "-o", encoder)
    assert found.code == 2
    assert encoder.read_bytes() == before
