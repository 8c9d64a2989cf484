"""The benchmark of placements reports what the validator has seen, from a folder or from instances of its own."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.minimalloc import main
from turbo_onnx.memory.minimalloc import generate, write


def test_the_instances_of_a_folder_are_placed(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / f"{'AB'[seed]}.1048576.csv", generate(seed, 20))
    report = tmp_path / "numbers" / "report.json"
    result = CliRunner().invoke(main, [str(tmp_path), "--seconds", "0.3", "--json", str(report)])
    assert result.exit_code == 0, result.output
    document = json.loads(report.read_text())
    assert [item["title"] for item in document["results"]] == ["A", "B"]
    assert all(2**20 == item["bound"] <= item["peak"] <= item["greedy"] for item in document["results"])
    assert f"Mean ratio {document['mean']:.3f}" in result.output


def test_without_a_folder_it_says_that_instances_are_generated() -> None:
    result = CliRunner().invoke(main, ["--seconds", "0.01"])
    assert result.exit_code == 0, result.output
    assert "generated" in result.output


def test_a_folder_without_tables_and_a_bad_table_are_refused(tmp_path: Path) -> None:
    assert "there are no tables" in CliRunner().invoke(main, [str(tmp_path)]).output
    (tmp_path / "a.csv").write_text("id,lower,upper,size\nb,0,1,x\n")
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "line 2: the size 'x' is no integer" in result.output
