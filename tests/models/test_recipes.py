"""The recipes make valid models, and batches are what they say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import deep, minilm, skeleton, untrained
from models.batches import padded_batch, sorted_groups


@pytest.mark.parametrize("graph", minilm.GRAPHS)
def test_the_sentence_encoder_is_a_valid_model(graph: str) -> None:
    onnx.checker.check_model(minilm.load(graph, real=False))


@pytest.mark.parametrize("graph", untrained.GRAPHS)
def test_every_large_model_has_a_graph_without_weights(graph: str) -> None:
    proto = skeleton.read(untrained.DATA / f"{graph}.onnx.gz")
    assert sum(1 for _ in skeleton.stripped(proto)) > 50


@pytest.mark.skipif(minilm.package_folder() is None, reason="the package with the real weights is not installed")
def test_real_weights_have_the_scale_that_seeded_ones_imitate() -> None:
    name = "minilm-l6__ts17"
    stripped = {tensor.name for tensor in skeleton.stripped(skeleton.read(minilm.DATA / f"{name}.onnx.gz"))}
    real, seeded = (minilm.load(name, real=choice).graph.initializer for choice in (True, False))
    for a, b in zip(real, seeded, strict=True):
        if a.name in stripped:
            assert onnx.numpy_helper.to_array(a).std() == pytest.approx(onnx.numpy_helper.to_array(b).std(), rel=0.1)


def test_safetensors_are_read_by_name(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7], np.int64)}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        kind = {"f": "F32", "i": "I64"}[array.dtype.kind]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}  # type: ignore[dict-item]
        data += array.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    read = minilm.read_safetensors(tmp_path / "w.safetensors")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_a_deep_graph_has_the_nodes_asked_for_and_is_valid() -> None:
    proto = deep.load(100)
    assert 100 <= len(proto.graph.node) < 150
    onnx.checker.check_model(proto, full_check=True)


def test_a_batch_has_the_lengths_asked_for() -> None:
    batch = padded_batch([3, 1, 5], vocabulary=9)
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 1, 5]
    assert ((batch["input_ids"] != 0) == (batch["attention_mask"] != 0)).all()


def test_groups_are_sorted_cut_to_their_longest_and_hold_every_sequence_once() -> None:
    batch = padded_batch([3, 1, 5, 4, 2], vocabulary=1000)
    groups = sorted_groups(batch, 2)
    assert [group["input_ids"].shape for group in groups] == [(2, 2), (2, 4), (1, 5)]
    rows = [row[row != 0].tolist() for group in groups for row in group["input_ids"]]
    assert sorted(rows) == sorted(row[row != 0].tolist() for row in batch["input_ids"])
