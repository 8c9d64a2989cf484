"""That the measurements of memory run, see what they should, and print it. Nothing timed is a test."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click import ClickException
from click.testing import CliRunner
from rich.console import Console

from benchmarks import memory, memory_process, soak
from benchmarks.memory_process import SIDES, Measures, Peak, positions, random_lengths
from models import minilm
from turbo_onnx.sessions import library_available

MIB = 2**20

needs_library = pytest.mark.skipif(not library_available(), reason="the library is not built")
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system shows no memory in /proc")


@pytest.fixture
def small_minilm(monkeypatch) -> None:
    monkeypatch.setitem(memory.MODELS, "minilm", lambda: minilm.load(real=False))


def found(side: str, *, peak: int = 10 * MIB, seconds: float = 1.0, digest: str = "a", kept: int = 1) -> Measures:
    counts = dict.fromkeys(("runs_announced", "runs_kept"), 4)
    counts |= dict.fromkeys(("runs_mismatched", "runs_abandoned", "runs_over_limit", "block_bytes_peak"), 0)
    names = ("served", "outputs", "unknown", "off_plan")
    counts |= dict.fromkeys((f"allocations_{name}" for name in names), 0)
    counts["runs_kept"] = kept * 4
    return Measures(side, 4, seconds, 1.0, 0.0, 0, peak, dict.fromkeys(memory.MOMENTS, 0), digest, counts)


def test_shapes_stay_within_what_is_said_of_them() -> None:
    every = random_lengths(500, 2048, seed=3)
    assert every == random_lengths(500, 2048, seed=3) != random_lengths(500, 2048, seed=4)
    assert max(map(positions, every)) <= 2048
    assert max(map(len, every)) <= 64
    assert all(lengths[0] == max(lengths) <= 512 and min(lengths) >= 1 for lengths in every)
    assert {len(lengths) for lengths in every} >= {1, 2, 3, 4}


@needs_proc
@pytest.mark.parametrize("marked", [True, False], ids=["by the system", "by looking"])
def test_the_peak_counts_what_was_given_back(marked, monkeypatch, tmp_path) -> None:
    if not marked:  # a system that does not let a process begin anew
        (tmp_path / "clear_refs").mkdir()
        (tmp_path / "statm").symlink_to("/proc/self/statm")
        monkeypatch.setattr(memory_process, "PROCESS", tmp_path)
    np.ones(128 * MIB, np.uint8)  # before the start: must not count
    with Peak() as peak:
        taken = np.ones(64 * MIB, np.uint8)
        time.sleep(0 if marked else 0.2)
        del taken
    assert 60 * MIB < peak.bytes < 80 * MIB


@pytest.mark.long
@needs_library
@needs_proc
def test_all_sides_run_and_are_compared(small_minilm, tmp_path) -> None:
    file = tmp_path / "numbers" / "memory.json"
    arguments = ["--model", "minilm", "--runs", "3", "--most-tokens", "512", "--repetitions", "1", "--json", str(file)]
    result = CliRunner().invoke(memory.main, arguments)
    assert result.exit_code == 0, result.output
    printed = " ".join(result.output.split())
    for text in (*SIDES, "at most 512 positions", "4 of 4 runs kept to the plan, 0 mismatched", "have the same bits"):
        assert text in printed
    document = json.loads(file.read_text())["models"]["minilm"]
    assert document["difference"] < memory.TOLERANCE
    sides = {side: Measures(**measures) for side, (measures,) in document["sides"].items()}
    assert list(sides) == list(SIDES)
    assert len({sides[side].digest for side in SIDES if side != "exported"}) == 1
    for side, measures in sides.items():
        assert measures.peak > MIB
        assert measures.seconds > 0
        planned = SIDES[side] in ("trim", "grow")
        assert measures.arena.get("runs_kept", 0) == (4 if planned else 0)
    assert sides["planned"].kept["after trim"] < sides["default arena"].kept["after trim"]


@needs_library
@needs_proc
def test_a_process_that_fails_says_why(tmp_path) -> None:
    onnx.save(onnx.ModelProto(), tmp_path / "empty.onnx")
    with pytest.raises(ClickException, match="'planned' failed with exit code 1"):
        memory.run_side(tmp_path / "empty.onnx", "planned", [])


def test_nothing_is_reported_where_bits_differ(tmp_path) -> None:
    sides = {"planned": [found("planned")], "default arena": [found("default arena", digest="b")]}
    with pytest.raises(ClickException, match="other bits"):
        memory.check(sides, tmp_path)


@pytest.mark.parametrize("value", [1.001, np.nan])
def test_nothing_is_reported_where_numbers_differ(value, tmp_path) -> None:
    np.save(tmp_path / "exported.npy", np.ones((2, 3), np.float32))
    np.save(tmp_path / "optimized.npy", np.full((2, 3), value, np.float32))
    sides = {"planned": [found("planned")], "exported": [found("exported", digest="b")]}
    with pytest.raises(ClickException, match="outputs differ"):
        memory.check(sides, tmp_path)


def test_ratios_are_ours_over_theirs_in_memory_and_theirs_over_ours_in_time() -> None:
    sides = {
        "planned": [found("planned", peak=50, seconds=2.0)],
        "exported": [found("exported", peak=100, seconds=3.0)],
    }
    less, faster = memory.peak_ratio(sides, "exported"), memory.speed(sides, "exported")
    assert less is not None
    assert less.median == 0.5
    assert faster is not None
    assert faster.median == 1.5
    assert memory.speed(sides, "default arena") is None


def test_runs_that_left_their_plan_are_red() -> None:
    assert "[green]4 of 4" in memory.sentence_on_plan(found("planned"))
    assert "[red]0 of 4" in memory.sentence_on_plan(found("planned", kept=0))


@needs_library
@needs_proc
def test_a_short_soak_runs_reopens_and_compares(small_minilm, tmp_path) -> None:
    file = tmp_path / "soak.json"
    arguments = "--minutes 0.06 --round 0.2 --reopen 0.25 --most-tokens 512 --known 2 --sessions 2 --threads 2".split()
    result = CliRunner().invoke(soak.main, [*arguments, "--json", str(file)])
    assert result.exception is None or isinstance(result.exception, SystemExit)  # flat or not: too short to say
    assert "0 wrong outputs" in result.output
    assert "0 mismatched" in result.output
    assert "over the beginning, the arena's 0.0 MiB" in result.output
    document = json.loads(file.read_text())
    assert len(document["rounds"]) >= 2
    assert sum(entry["runs"] for entry in document["rounds"]) > 0


@needs_library
@needs_proc
def test_a_soak_sees_wrong_outputs(tmp_path) -> None:
    model = tmp_path / "model.onnx"
    memory.turbo_onnx.optimize(minilm.load(real=False), verify=False).save(model)
    service = soak.Service(model, "trim", sessions=1, most_tokens=512, known=2)
    service._known = [(batch, b"other bits") for batch, _ in service._known]
    while not service.wrong:
        service.work(threads=1, seconds=0.2, reopen=1.0)
    assert 0 < service.wrong <= service.runs


def rounds(growth: float) -> list[soak.Round]:
    """Twenty minutes of 100 MiB with some noise, which grow by so many MiB in an hour."""
    noise = np.random.default_rng(0).normal(0, 0.2, 20)
    megabytes = [100 + growth * minute / 60 + noise[minute] for minute in range(20)]
    return [soak.Round(float(minute), 1, 0, int(size * MIB), 0) for minute, size in enumerate(megabytes)]


@pytest.mark.parametrize(("growth", "said"), [(0.0, "OK"), (-50.0, "OK"), (20.0, "NOT FLAT")])
def test_growth_is_told_from_noise(growth, said) -> None:
    console = Console(record=True, width=150, file=io.StringIO())
    assert soak.verdict(console, rounds(growth)) == (said == "OK")
    assert said in console.export_text()


def test_a_few_rounds_say_nothing() -> None:
    console = Console(record=True, width=150, file=io.StringIO())
    assert not soak.verdict(console, rounds(0.0)[:4])
    assert "too short to say" in console.export_text()


def test_a_line_is_fitted_with_its_error() -> None:
    exact = soak.fit([0.0, 30.0, 60.0], [0, 50, 100])
    assert exact.per_hour == pytest.approx(100)
    assert exact.error == pytest.approx(0, abs=1e-9)
    assert soak.fit([0.0, 60.0], [0, 100]).error == float("inf")
    assert soak.fit([0.0], [1]).error == float("inf")
