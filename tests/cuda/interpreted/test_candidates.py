"""Every way to run a kernel that measuring may choose gives what the kernel's own does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from tests.cuda.device import CAPABILITY, fake_codes, run, use_of
from tests.custom_ops.cases import eighths
from tests.custom_ops.single_node import Array, Case, assert_equal, with_archive
from turbo_onnx.custom_ops.cuda.archive import pack
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.tuning import candidates, choice
from turbo_onnx.custom_ops.cuda.variant import Variant

RANDOM = np.random.default_rng(17)


def gelu(rows: int, width: int) -> Case:
    return Case("BiasGelu", [eighths(RANDOM, rows, width), eighths(RANDOM, width)])


def gated(rows: int, width: int) -> Case:
    return Case("GatedActivation", [eighths(RANDOM, rows, 2 * width), None, eighths(RANDOM, 2 * width)])


def normalization(rows: int, width: int) -> Case:
    inputs = [eighths(RANDOM, *shape) for shape in ((rows, width), (rows, width), (width,), (width,), (width,))]
    return Case("SkipLayerNormalization", inputs, {"epsilon": 1e-2}, outputs=2)


def normalized_heads(rows: int, heads: int, size: int) -> Case:
    inputs = [eighths(RANDOM, rows, heads, size), None, eighths(RANDOM, size)]
    return Case("SkipLayerNormalization", inputs, {"epsilon": 1e-2, "rms": 1})


def embedding(tokens: int, width: int) -> Case:
    tables = [eighths(RANDOM, size, width) for size in (50, 2, 20)]
    ids = [RANDOM.integers(-size, size, tokens) for size in (50, 2, 20)]
    return Case("EmbedLayerNormalization", [*ids, *tables, eighths(RANDOM, width), eighths(RANDOM, width)])


def restoring(rows: int, width: int) -> Case:
    mask = RANDOM.random((3, rows)) < 0.6
    index = np.flatnonzero(mask).astype(np.int64)
    return Case("RestorePadding", [eighths(RANDOM, len(index), width), index, mask])


def pooling(rows: int, width: int, mode: str) -> Case:
    starts = np.array([0, 0, rows // 3, rows], np.int32)
    return Case("SegmentPooling", [eighths(RANDOM, rows, width), starts], {"mode": mode})


def rotation(rows: int, interleaved: int) -> Case:
    x, cos, sin = (eighths(RANDOM, *shape) for shape in ((rows, 6 * 24), (7, 16), (7, 16)))
    attributes = {"num_heads": 6, "rotated_heads": 5, "interleaved": interleaved}
    return Case("RotaryEmbedding", [x, None, cos, sin, RANDOM.integers(0, 7, rows)], attributes)


CASES = {
    "gelu": gelu(37, 300),
    "gated activation": gated(37, 300),
    "normalization of small rows": normalization(9, 40),
    "normalization": normalization(5, 600),
    "normalization of rows that registers do not hold": normalization(2, 17_000),
    "RMS normalization of heads": normalized_heads(5, 4, 100),
    "embedding": embedding(9, 40),
    "restoring narrow rows": restoring(70, 40),
    "restoring": restoring(11, 600),
    "turning halves": rotation(70, 0),
    "turning neighbours": rotation(70, 1),
    "the mean": pooling(200, 150, "mean"),
    "the maximum": pooling(200, 150, "max"),
}


def ways(case: Case) -> list[Variant]:
    """One for each way to cut the work: the interpreter knows nothing of warps and stages."""
    (own,) = variants_of(use_of(case), CAPABILITY)
    found = {repr((way.tile, choice(way)["constants"])): way for way in candidates(case.operator, own, CAPABILITY)}
    return list(found.values())


def by(variant: Variant, case: Case) -> list[Array]:
    """What the operator gives if this is its kernel."""
    archive = numpy_helper.from_array(np.frombuffer(pack(fake_codes([variant])), np.uint8), "kernels")
    return run(with_archive(case, archive), case.feeds)


@pytest.mark.parametrize("name", list(CASES))
def test_every_way_gives_what_the_reference_says(name: str) -> None:
    case = CASES[name]
    offered = ways(case)
    assert len(offered) > 1
    for variant in offered:
        assert_equal(by(variant, case), case.expected())


def test_a_tile_that_does_not_fit_the_blocks_would_be_seen() -> None:
    case = gelu(37, 300)  # of other numbers than those that are still in memory
    way = ways(case)[0]
    wrong = replace(way, tile=(2 * way.tile[0], *way.tile[1:]))
    with pytest.raises(AssertionError):
        assert_equal(by(wrong, case), case.expected())
