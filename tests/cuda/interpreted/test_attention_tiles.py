"""VarlenAttention on CUDA in every tile that measuring may choose.

For devices before 9.0, too, whose kernel has a loop of its own for the keys that all queries see.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from tests.cuda.device import ELEMENTS, fake_codes, run, use_of
from tests.cuda.interpreted.attention_checks import TOLERANCE, UNITS, in_float32
from tests.custom_ops.attention_cases import dense, normal, packed
from tests.custom_ops.single_node import Array, Case, between_casts, rounded
from turbo_onnx.custom_ops.cuda.archive import pack
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.tuning import candidates
from turbo_onnx.custom_ops.cuda.variant import Variant

SHAPES = {
    "packed": packed([1, 70, 0, 130], 16, bias=True, heads=1),
    "causal": packed([1, 70, 0, 130], 16, heads=1, causal=1),
    "more keys": dense(1, 5, 150, heads=1, causal=1),
    "fewer keys": dense(2, 130, 40, heads=1, causal=1, guard=1),
    "biased": in_float32(dense(2, 130, 70, heads=1, bias=3 * normal(2, 1, 130, 70)), "attention_bias"),
    "masked": in_float32(dense(2, 40, 130, heads=1, bias=3 * normal(2, 1, 1, 130)), "attention_bias"),
    "nothing": dense(2, 3, 0, heads=1),
    "window": packed([1, 0, 130], 16, heads=1, window_before=40, window_after=20),
}


def by_variant(case: Case, variant: Variant, element: str) -> list[Array]:
    """What the operator gives if this is its kernel."""
    archive = numpy_helper.from_array(np.frombuffer(pack(fake_codes([variant])), np.uint8), "kernels")
    return run(between_casts(case, ELEMENTS[element], archive), case.feeds)


def tiles_of(case: Case, element: str, capability: int) -> list[Variant]:
    """The kernel that the case launches, once in each tile: the interpreter knows nothing of warps and stages."""
    bias = case.feeds.get("attention_bias")
    way = "" if bias is None else f"bias_by_query={int(bias.shape[2] != 1)};bias_by_key={int(bias.shape[3] != 1)}"
    (own,) = (variant for variant in variants_of(use_of(case, element), capability) if variant.key.endswith(way))
    found = candidates(case.operator, own, capability)
    return list({(one.tile, one.constants["BLOCK_KEYS"]): one for one in found}.values())


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("name", "element"), [*((name, "float16") for name in SHAPES), ("causal", "float32")])
def test_every_tile_that_measuring_may_choose(name: str, element: str, capability: int) -> None:
    case = rounded(SHAPES[name], ELEMENTS[element])
    tiles = tiles_of(case, element, capability)
    assert len(tiles) > 3
    for number, variant in enumerate(tiles):
        # Not twice the same numbers: those of the run before may still be in memory.
        query, *others = case.inputs
        shown = replace(case, inputs=[query * (-1) ** number, *others])  # type: ignore[operator]
        (actual,), (expected,) = by_variant(shown, variant, element), shown.expected()
        scale = max(1.0, float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected))))
        np.testing.assert_allclose(actual, expected, atol=2 * UNITS.get(element, TOLERANCE) * scale)
