"""One call does the whole way, on a real export: it verifies, records what it did, and keeps what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import turbo_onnx
from tests.corpus import graphs
from tests.small_models import encoder, feed, save
from turbo_onnx import optimizer
from turbo_onnx.errors import FusionRequiredError, OutputError

BY_NAME = {graph.name: graph for graph in graphs()}
POOLED = BY_NAME["bert-tiny__ts17"]


@pytest.fixture(scope="module")
def pooled() -> optimizer.Result:
    return turbo_onnx.optimize(POOLED.load(), checks=True, require_fusion=True, inputs=POOLED.inputs)


def test_an_encoder_with_a_pooler_is_packed_verified_and_explained(pooled: optimizer.Result) -> None:
    report = pooled.report
    assert report.verify.ok
    assert report.verify.cases == 10
    assert report.packed is True
    assert 0.5 < report.packed_node_share <= 1
    assert report.first_token_pooling
    assert any("Rows of padding" in note for note in report.notes)
    assert any("first real token" in note for note in report.notes)


def test_the_artifact_records_what_a_later_comparison_needs(pooled: optimizer.Result, tmp_path: Path) -> None:
    properties = {entry.key: entry.value for entry in pooled.model.metadata_props}
    facts = json.loads(properties["turbo_onnx.facts"])
    assert facts == {"first_token_pooling": True, "mask_input": "attention_mask", "packed": True}
    pooled.save(tmp_path / "after.onnx")
    from turbo_onnx.comparison import compare_files

    assert compare_files(save(POOLED.load(), tmp_path / "before.onnx"), tmp_path / "after.onnx").ok


def test_without_packing_nothing_is_packed_and_everything_is_compared() -> None:
    report = turbo_onnx.optimize(POOLED.load(), packing="off").report
    assert report.packed is False
    assert report.packed_node_share == 0
    assert not report.notes
    assert report.verify.ok


def test_the_callers_model_is_not_changed() -> None:
    model = encoder()
    before = model.SerializeToString()
    turbo_onnx.optimize(model)
    assert model.SerializeToString() == before


def test_a_path_bytes_and_a_model_in_memory_give_the_same_result(tmp_path: Path) -> None:
    model = encoder()
    path = save(model, tmp_path / "in.onnx")
    path.write_bytes(model.SerializeToString(deterministic=True))
    results = [turbo_onnx.optimize(source).model for source in (path, str(path), path.read_bytes(), model)]
    assert all(result == results[0] for result in results)


def test_saving_works_after_the_fact_and_is_guarded(tmp_path: Path) -> None:
    path = save(encoder(), tmp_path / "in.onnx")
    result = turbo_onnx.optimize(path, verify=False)
    assert result.report.verify.ok is None
    result.save(tmp_path / "out.onnx")
    assert result.report.output == str(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == result.model
    with pytest.raises(OutputError, match="overwrite the input"):
        result.save(path)


def test_the_callers_inputs_are_given_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **feed())
    made = turbo_onnx.optimize(encoder()).report.verify.cases
    assert turbo_onnx.optimize(encoder(), inputs=feed()).report.verify.cases == made + 1
    assert turbo_onnx.optimize(encoder(), inputs=[tmp_path / "own.npz"]).report.verify.cases == made + 1


def test_a_required_fusion_that_was_left_out_says_how_many_there_were() -> None:
    with pytest.raises(FusionRequiredError, match="0 of 2 attentions were fused"):
        turbo_onnx.optimize(POOLED.load(), require_fusion=True, skip_passes=["fuse-multi-head-attention"])


@pytest.mark.parametrize("pattern", ["bert-tiny-fp16__dy20", "funnel-tiny-factorized__dy20", "gpt2-tiny-past__ts17"])
def test_every_pass_leaves_hard_graphs_whole(pattern: str) -> None:
    assert turbo_onnx.optimize(BY_NAME[pattern].load(), checks=True).report.verify.ok
