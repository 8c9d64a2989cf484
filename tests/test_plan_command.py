"""`turbo-onnx plan` as a shell sees it: the table, the budget, the files, and what it refuses."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.command_line import Run, runner
from tests.memory.plans import packed, padded, plan, variant
from tests.runtime.test_peak import save
from tests.small_models import encoder
from tests.small_models import save as save_model
from turbo_onnx import optimizer, peak_bytes, plan_report
from turbo_onnx.memory.capacity import MOST
from turbo_onnx.sessions import library_available

STORY = "hidden scratch mask -hidden wide -mask -wide out"
SIZES = {
    "hidden": "1536*tokens",
    "mask": "8*batch*length",
    "wide": "6144*tokens",
    "out": "1536*batch*length",
}
PACKED = packed(STORY, SIZES, outputs="out", orders=["mask hidden wide"])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys, "plan")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return save(tmp_path / "m.turbo.onnx", PACKED)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_the_table_has_a_row_for_each_shape(run: Run, artifact: Path) -> None:
    found = run(artifact, "--shapes", "batch=8,length=128,tokens=700", "--shapes", "batch=1..2,length=16")
    assert (found.code, found.err) == (0, "")
    assert rows(found.out) == [
        ["8", "128", "700", "4.1 MiB", "4.1 MiB", "1.000", "1.5 MiB", "5.6 MiB"],
        ["1", "16", "16", "96.1 KiB", "96.1 KiB", "1.000", "24.0 KiB", "120.1 KiB"],
        ["2", "16", "32", "192.2 KiB", "192.2 KiB", "1.000", "48.0 KiB", "240.2 KiB"],
    ]
    assert "recorded with ONNX Runtime 1.31.1" in found.out
    assert "5 buffers, 3 in the block by 1 stacking order, 1 output on the heap, 1 of unknown size" in found.out
    assert "On the heap, since no formula of the sizes gives their bytes: scratch." in found.out


def test_a_plan_above_its_bound_shows_by_how_much(run: Run, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", packed(STORY, SIZES, outputs="out", orders=["hidden mask wide"]))
    (row,) = rows(run(path, "--shapes", "batch=8,length=128,tokens=700").out)
    assert row[3:6] == ["5.1 MiB", "4.1 MiB", "1.250"]


def test_without_shapes_there_are_usual_ones(run: Run, artifact: Path) -> None:
    found = run(artifact)
    assert [row[:3] for row in rows(found.out)] == [
        ["1", "16", "16"],
        ["1", "128", "128"],
        ["8", "128", "1024"],
        ["32", "128", "2048"],
        ["32", "128", "4096"],
        ["32", "512", "16384"],
    ]


def test_json_is_all_that_goes_to_stdout_and_agrees_with_what_schedulers_are_told(run: Run, artifact: Path) -> None:
    found = run(artifact, "--shapes", "batch=8,length=128,tokens=700", "--json", "-")
    document = json.loads(found.out)
    (one,) = document["runs"]
    assert one == {
        "sizes": {"batch": 8, "length": 128, "tokens": 700},
        "block": 6144 * 700 + 8 * 8 * 128,
        "lower_bound": 6144 * 700 + 8 * 8 * 128,
        "ratio": 1.0,
        "outputs": 1536 * 8 * 128,
        "total": peak_bytes(artifact, batch=8, length=128, tokens=700),
    }
    (only,) = document["variants"]
    assert only == {
        "level": "all",
        "buffers": 5,
        "planned": 3,
        "outputs": 1,
        "unknown": ["scratch"],
        "orders": 1,
        "exceptions": [],
    }
    assert "budget" not in document


def test_the_largest_batch_fits_and_the_next_one_does_not(run: Run, artifact: Path) -> None:
    shapes = ("--shapes", "batch=4,length=100,tokens=130", "--shapes", "length=64")
    found = run(artifact, *shapes, "--budget", "100MB", "--json", "-")
    document = json.loads(found.out)["budget"]
    assert document["bytes"] == 100_000_000
    ragged, full = document["largest_batches"]
    assert (ragged["sizes"], ragged["tokens_per_sequence"]) == ({"length": 100}, 32.5)
    assert (full["sizes"], full["tokens_per_sequence"]) == ({"length": 64}, 64)
    for fit, tokens in ((ragged, lambda batch: -(-batch * 65 // 2)), (full, lambda batch: batch * 64)):
        batch, length = fit["batch"], fit["sizes"]["length"]
        needed = peak_bytes(artifact, batch=batch, length=length, tokens=tokens(batch))
        assert needed == fit["total"] <= 100_000_000
        assert peak_bytes(artifact, batch=batch + 1, length=length, tokens=tokens(batch + 1)) > 100_000_000


def test_the_budget_is_one_sentence_for_each_length(run: Run, artifact: Path) -> None:
    found = run(artifact, "--shapes", "batch=1..4,length=128", "--budget", "2GiB")
    sentences = [line for line in found.out.splitlines() if line.startswith("Within")]
    assert sentences == ["Within 2.0 GiB at length 128 and 128 tokens in each sequence: batch 2182, 2.0 GiB."]
    tight = run(artifact, "--shapes", "length=128", "--budget", "1KiB").out
    assert "Within 1.0 KiB at length 128 and 128 tokens in each sequence: not even one sequence fits." in tight
    wide = run(artifact, "--shapes", "length=1", "--budget", "1TiB").out
    assert f"batch {MOST} or more" in wide


def test_batches_are_looked_at_one_by_one_where_larger_may_need_less(tmp_path: Path, run: Run) -> None:
    falling = padded("a -a", {"a": "64*batch*length - 64*batch"})
    path = save(tmp_path / "m.onnx", falling)
    found = run(path, "--shapes", "length=11", "--budget", "6400", "--json", "-")
    assert json.loads(found.out)["budget"]["largest_batches"] == [
        {"sizes": {"length": 11}, "tokens_per_sequence": None, "batch": 10, "total": 6400}
    ]


def test_files_are_written_and_the_table_is_printed_all_the_same(run: Run, artifact: Path) -> None:
    numbers, page = artifact.with_name("n.json"), artifact.with_name("p.html")
    found = run(artifact, "--json", numbers, "--html", page, "--shapes", "batch=1..4,length=8")
    assert found.code == 0
    assert len(rows(found.out)) == 3
    assert len(json.loads(numbers.read_text())["runs"]) == 3
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    drawings = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in text.split("<svg")[1:]]
    assert [len(list(ElementTree.fromstring(d).iter("rect"))) for d in drawings] == [3, 3, 3]
    assert text.index("batch 4, length 8") < text.index("batch 2, length 8") < text.index("batch 1, length 8")


def test_all_variants_are_told_and_the_table_shows_the_one_that_needs_most(tmp_path: Path, run: Run) -> None:
    names = ("batch", "length")
    small = variant("a -a", {"a": "64*batch"}, names, name="extended")
    large = variant("a b -a -b", {"a": "64*batch", "b": "64*batch"}, names, name="basic")
    found = run(save(tmp_path / "m.onnx", plan([small, large], names)), "--shapes", "batch=16,length=1")
    assert rows(found.out)[0][2] == "2.0 KiB"
    assert "Optimization levels extended: 1 buffers" in found.out
    assert "Optimization levels basic: 2 buffers" in found.out


def test_shapes_at_which_runs_do_something_else_are_named(tmp_path: Path, run: Run) -> None:
    odd = replace(PACKED.variants[0], exceptions=((1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4)))
    path = save(tmp_path / "m.onnx", replace(PACKED, variants=(odd,)))
    found = " ".join(run(path).out.split())
    first = "batch 1, length 1, tokens 1; batch 2, length 1, tokens 2; batch 3, length 1, tokens 3"
    assert f"Runs were seen to do something else, and use the heap, at {first}; and others." in found
    document = json.loads(run(path, "--json", "-").out)
    assert document["variants"][0]["exceptions"][3] == {"batch": 4, "length": 1, "tokens": 4}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shapes", "batch"], "names no sizes"),
        (["--shapes", "batch=1,length=2,tokens=3"], "3 tokens are more than batch 1 times length 2"),
        (["--shapes", "batch=1,length=2,width=3"], "the plan has no size 'width'"),
        (["--shapes", "batch=1"], "the plan needs the sizes length"),
        (["--shapes", "batch=9999999999,length=1"], "which is more than a plan can have"),
        (["--shapes", "batch=99999999999999,length=999999999999"], "which is more than a plan can have"),
        (["--budget", "plenty"], "'plenty' is no size of memory"),
        (["--budget", "1GB", "--shapes", "batch=0,length=1"], "ask for one with batch=1"),
        (["--html", "{model}"], "would overwrite the model"),
        (["--json", "{model}"], "would overwrite the model"),
        (["--json", "{folder}/absent/x.json"], "does not exist; make it first"),
        (["--json", "{folder}/x", "--html", "{folder}/x"], "the picture would overwrite the numbers"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run: Run, artifact: Path, arguments: list[str], sentence: str) -> None:
    before = artifact.read_bytes()
    found = run(artifact, *(a.format(model=artifact, folder=artifact.parent) for a in arguments))
    assert found.code == 2
    assert found.out == ""
    assert sentence in found.err
    assert len(found.err.splitlines()) == 1
    assert artifact.read_bytes() == before
    assert list(artifact.parent.iterdir()) == [artifact]


def test_a_budget_needs_a_plan_with_a_batch(tmp_path: Path, run: Run) -> None:
    path = save(tmp_path / "m.onnx", plan([variant("a -a", {"a": "4*n"}, ("n",))], ("n",)))
    found = run(path, "--budget", "1GB")
    assert found.code == 2
    assert "the plan has no size that is one; it has n." in found.err


def test_what_is_no_model_is_one_sentence(tmp_path: Path, run: Run) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_text("version https://git-lfs.github.com/spec/v1")
    found = run(broken)
    assert (found.code, found.out) == (2, "")
    assert "Git LFS pointer" in found.err


SHAPES = ((1, 9), (3, 40), (16, 128))  # each needs more than the one before
SERVICE = f"""
import json, sys
import numpy as np
import turbo_onnx
from turbo_onnx.runtime.peak import layouts_of, run_values
session, layouts = turbo_onnx.InferenceSession(sys.argv[1]), layouts_of(sys.argv[1])
told, taken = [], []
for batch, length in {SHAPES}:
    mask = np.tril(np.ones((batch, length), np.int64), length // 2)
    session.run(None, {{"ids": np.zeros((batch, length), np.int64), "mask": mask}})
    values = run_values(layouts, {{"batch": batch, "length": length, "tokens": int(mask.sum())}})
    told.append(layouts.at(values).peak)
    taken.append(turbo_onnx.arena_stats().block_bytes_peak)
print(json.dumps([told, taken]))
"""

needs_library = pytest.mark.skipif(not library_available(), reason="the library is not built")


@needs_library
def test_an_optimized_model_is_planned_from_its_metadata(tmp_path: Path, run: Run) -> None:
    source = save_model(encoder(), tmp_path / "model.onnx")
    written = optimizer.optimize(source, output=tmp_path / "model.turbo.onnx")
    assert written.report.facts.get("memory_plan"), written.report.rejected
    found = run(tmp_path / "model.turbo.onnx", "--json", "-", "--html", tmp_path / "p.html")
    document: dict[str, Any] = json.loads(found.out)
    assert found.code == 0
    assert document["onnxruntime"]
    assert document["variants"][0]["planned"] > 0
    assert all(one["block"] >= one["lower_bound"] > 0 for one in document["runs"])


@needs_library
def test_what_is_promised_is_what_the_library_takes(tmp_path: Path) -> None:
    path = tmp_path / "model.turbo.onnx"
    optimizer.optimize(save_model(encoder(), tmp_path / "model.onnx"), output=path)
    done = subprocess.run([sys.executable, "-c", SERVICE, str(path)], capture_output=True, text=True, check=True)
    told, taken = json.loads(done.stdout)
    assert [-(-block // mmap.PAGESIZE) * mmap.PAGESIZE for block in told] == taken
    assert len(set(told)) == len(SHAPES)


@needs_library
def test_any_model_is_recorded_and_not_changed(tmp_path: Path, run: Run) -> None:
    source = save_model(encoder(), tmp_path / "model.onnx")
    before = source.read_bytes()
    found = run(source, "--json", "-")
    assert found.code == 0, found.err
    assert json.loads(found.out)["variants"][0]["planned"] > 0
    assert source.read_bytes() == before
    onnx.checker.check_model(str(source))


@needs_library
def test_reports_say_what_cannot_be_planned(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def refuse(path: Path, *, exact: bool) -> None:
        asked.append(exact)
        raise plan_report.InputError(f"{path}: no memory plan can be made for it: the model reads no inputs.")

    monkeypatch.setattr("turbo_onnx.planning.plan_of", refuse)
    found = run(save(tmp_path / "m.onnx", PACKED), "--exact")
    assert (found.code, asked) == (2, [True])
    assert "the model reads no inputs" in found.err
