"""A model that computes its own mask is verified on the tokens that this mask tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import turbo_onnx
from tests.passes.padded_graphs import BIAS, EMBEDDING, layer, model, pack, weights
from turbo_onnx.comparison import compare_files
from turbo_onnx.padding_mask import computed_mask

CONSTANTS = """
    int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8}, int64 pad = {0}, float zero = {0}, float half = {0.5},
    float lowest = {-3.4e38}, int64[2] axes12 = {1, 2}
"""
ENCODER = """
    x = Gather(table, ids) m4 = Unsqueeze(keep, axes12) bias = Where(m4, zero, lowest)
    q0 = MatMul(x, wq) q1 = Reshape(q0, split) q = Transpose<perm = [0,2,1,3]>(q1)
    k0 = MatMul(x, wk) k1 = Reshape(k0, split) k = Transpose<perm = [0,2,3,1]>(k1)
    v0 = MatMul(x, wv) v1 = Reshape(v0, split) v = Transpose<perm = [0,2,1,3]>(v1)
    scores = MatMul(q, k) scaled = Mul(scores, half) masked = Add(scaled, bias) p = Softmax(masked)
    o = MatMul(p, v) o1 = Transpose<perm = [0,2,1,3]>(o) o2 = Reshape(o1, merge) y = MatMul(o2, wo)
"""
MASKS = {
    "ids above the padding": ("keep = Greater(ids, pad)", ""),
    "ids that are not padding": ("no = Equal(ids, pad) keep = Not(no)", ""),
    "an input that is true for padding": ("keep = Not(padding)", ", bool[B,S] padding"),
}


def encoder(path: Path, name: str) -> Path:
    nodes, inputs = MASKS[name]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (int64[B,S] ids{inputs}) => (float[B,S,8] y) <{CONSTANTS}> '
        f"{{ {nodes} {ENCODER} }}"
    )
    for key in ("table", "wq", "wk", "wv", "wo"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights()[key], key))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("name", MASKS)
def test_a_model_that_computes_its_mask_is_packed_and_verified(name: str, tmp_path: Path) -> None:
    path = encoder(tmp_path / "model.onnx", name)
    result = turbo_onnx.optimize(path)
    assert result.report.packed is True
    assert result.report.verify is not None
    assert result.report.verify.ok
    result.save(tmp_path / "packed.onnx")
    assert compare_files(path, tmp_path / "packed.onnx").ok


def test_the_mask_is_computed_from_the_inputs() -> None:
    target = model(EMBEDDING + BIAS + layer(1), "float[B,S,8] h1", inputs="int64[B,S] ids, float16[B,S] mask")
    pack(target)
    read = computed_mask(target)
    assert read is not None
    mask = np.array([[1, 1, 0], [0, 1, 0]], np.float16)
    np.testing.assert_array_equal(read({"mask": mask, "ids": np.zeros((2, 3), np.int64)}), mask != 0)


def test_a_model_that_is_not_packed_has_none() -> None:
    assert computed_mask(model(EMBEDDING + BIAS + layer(1), "float[B,S,8] h1")) is None
