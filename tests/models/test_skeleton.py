"""Graphs without their weights: what goes out, what comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import skeleton

LARGE = np.random.default_rng(0).normal(1.0, 0.5, (64, 32)).astype(np.float32)


def model(**initializers: np.ndarray) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(values, name) for name, values in initializers.items()]
    return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))


def values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_only_large_floating_point_weights_are_taken_out() -> None:
    proto = model(large=LARGE, small=LARGE[:2], integers=np.arange(4096))
    skeleton.strip(proto)
    assert [tensor.name for tensor in skeleton.stripped(proto)] == ["large"]


def test_seeded_weights_have_the_shape_the_type_and_the_scale_of_the_originals() -> None:
    proto = model(single=LARGE, half=LARGE.astype(np.float16))
    skeleton.strip(proto)
    for name, filled in values(skeleton.fill(proto)).items():
        assert filled.shape == LARGE.shape
        assert filled.dtype == (np.float16 if name == "half" else np.float32)
        assert filled.mean() == pytest.approx(1.0, abs=0.05)
        assert filled.std() == pytest.approx(0.5, abs=0.05)


def test_weights_that_were_copies_of_each_other_still_are() -> None:
    proto = model(one=LARGE, copy=LARGE, other=LARGE + 1)
    skeleton.strip(proto)
    filled = values(skeleton.fill(proto))
    np.testing.assert_array_equal(filled["one"], filled["copy"])
    assert not np.array_equal(filled["one"], filled["other"])


def test_a_file_is_the_same_every_time_and_reads_back(tmp_path: Path) -> None:
    proto = model(large=LARGE, small=LARGE[:2])
    skeleton.strip(proto)
    for name in ("a", "b"):
        skeleton.write(proto, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert skeleton.read(tmp_path / "a") == proto


def test_refuses_weights_that_do_not_fit() -> None:
    proto = model(large=LARGE)
    skeleton.strip(proto)
    with pytest.raises(ValueError, match=r"large is float32\[64, 32\], but its weights are float32\[32, 64\]"):
        skeleton.fill(proto, lambda _: LARGE.T)
