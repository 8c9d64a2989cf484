"""Whole models on a GPU, optimized for it: on real tokens they give what the original gives on the CPU in float32."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import turbo_onnx
from models import minilm, untrained
from models.batches import Batch, padded_batch
from turbo_onnx.precision import Precision
from turbo_onnx.sessions import FLOAT32_PRODUCTS, PROVIDER

MODELS = {
    "minilm": lambda: minilm.load(real=minilm.package_folder() is not None),
    "bert-base": untrained.load,
}
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 16e-2}
"""Largest difference, as a share of the standard deviation of the output over real tokens."""

LENGTHS = (64, 1, 37, 16, 50, 5)


@functools.cache
def original(name: str) -> onnx.ModelProto:
    return MODELS[name]()


@functools.cache
def batch() -> Batch:
    return padded_batch(LENGTHS, 30522)


@functools.cache
def expected(name: str) -> np.ndarray:
    """What the model gives on the CPU, real tokens only."""
    session = ort.InferenceSession(original(name).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, batch())[0])[batch()["attention_mask"] != 0]


@functools.cache
def session(name: str, precision: Precision, capability: int) -> ort.InferenceSession:
    result = turbo_onnx.optimize(original(name), target=f"cuda:sm_{capability}", precision=precision, verify=False)
    found = turbo_onnx.InferenceSession(result.model.SerializeToString(), providers=[(PROVIDER, FLOAT32_PRODUCTS)])
    assert found.get_providers()[0] == PROVIDER
    return found


@pytest.mark.parametrize("precision", list(TOLERANCES))
@pytest.mark.parametrize("name", list(MODELS))
def test_the_optimized_model_gives_what_the_original_does(name: str, precision: Precision, capability: int) -> None:
    reference = expected(name)
    for _ in range(2):  # the second run has everything loaded
        actual = session(name, precision, capability).run(None, batch())[0][batch()["attention_mask"] != 0]
        assert np.abs(actual - reference).max() <= TOLERANCES[precision] * reference.std()


def test_rows_of_padding_are_zero(capability: int) -> None:
    output = session("minilm", "fp16", capability).run(None, batch())[0]
    assert not output[batch()["attention_mask"] == 0].any()


def test_a_batch_of_other_sizes_runs_on_the_same_session(capability: int) -> None:
    opened = session("minilm", "fp16", capability)
    for lengths in ((1,), (3, 128), (16,) * 9):
        fed = padded_batch(lengths, 30522, seed=1)
        reference = ort.InferenceSession(original("minilm").SerializeToString(), providers=["CPUExecutionProvider"])
        real = fed["attention_mask"] != 0
        before, after = (one.run(None, fed)[0][real] for one in (reference, opened))
        assert np.abs(after - before).max() <= TOLERANCES["fp16"] * before.std()


def test_a_saved_artifact_is_served(capability: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    turbo_onnx.optimize(original("minilm"), target=f"cuda:sm_{capability}", precision="fp16", verify=False, output=path)
    opened = turbo_onnx.InferenceSession(str(path), providers=[PROVIDER])
    actual = opened.run(None, batch())[0][batch()["attention_mask"] != 0]
    reference = expected("minilm")
    assert np.abs(actual - reference).max() <= TOLERANCES["fp16"] * reference.std()
