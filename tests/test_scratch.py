"""Models that are only run on the way are written beside the result, and go away."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

import turbo_onnx
from tests.corpus import graphs
from turbo_onnx.errors import OutputError
from turbo_onnx.serialization import writing

MODEL = next(graph for graph in graphs() if graph.name == "bert-tiny__ts17")
WAYS: tuple[dict[str, Any], ...] = (
    {"precision": "int8"},
    {"target": "cuda:sm_90", "precision": "fp16", "skip_passes": ["embed-kernels"], "verify": False},
)


@pytest.mark.parametrize("options", WAYS)
def test_models_that_are_only_run_lie_beside_the_result_with_weights_that_can_be_mapped(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, results = tmp_path / "system", tmp_path / "results"
    system.mkdir()
    results.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))
    written: list[tuple[Path, object]] = []
    write = writing.write_model

    def spy(folder: Path, name: str, shell: Any, weights: Any, external: bool | None) -> None:
        written.append((folder.parent, external))
        write(folder, name, shell, weights, external)

    monkeypatch.setattr(writing, "write_model", spy)
    turbo_onnx.optimize(MODEL.load(), output=results / "m.onnx", **options)
    assert len(written) >= 2
    assert {parent for parent, _ in written} == {results}
    assert [external for _, external in written] == [True] * (len(written) - 1) + [None]
    assert [path.name for path in results.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("options", WAYS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_model", full)
    with pytest.raises(OutputError, match=r"no model can be written there to run it: No space left on device\.$"):
        turbo_onnx.optimize(MODEL.load(), output=tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []
