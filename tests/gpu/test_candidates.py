"""Every way to run a kernel that autotune may choose gives what the kernel's own choice does, on the device itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.cuda.uses import uses
from turbo_onnx import autotune
from turbo_onnx.custom_ops.cuda import samples
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.variant import Use, Variant

KEYS = {
    "BiasGelu": "width=3072;bias=1;tanh=0",
    "GatedActivation": "width=1152;joined=1;last=0;bias=0;activation=0",
    "SkipLayerNormalization": "width=768;beta=1;bias=1;sum=1",
    "EmbedLayerNormalization": "width=768;token_type=1;position=1;beta=1",
    "RestorePadding": "width=768",
    "RotaryEmbedding": "heads=36;rotated=24;head=64;rotary=64;interleaved=0;bias=0;index=1",
    "SegmentPooling": "width=768;mode=0",
    "VarlenAttention": "joined=1;packed=1;causal=0;window=0;positions=0;guard=0;bias=1",
}
"""By operator, what the key of the use is known by."""


class Untimed(autotune.DeviceBench):
    """The device, without a clock."""

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        return [1.0]


@pytest.mark.parametrize("operator", list(KEYS))
def test_every_way_gives_what_the_kernels_own_does(
    operator: str, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "BATCH", samples.ragged(sequences=8, longest=200))
    chosen = [
        use
        for use in uses("float16", widths=(768,), heads=((12, 64),))
        if use.operator == operator and KEYS[operator] in variants_of(use, capability)[0].key
    ]
    (found,) = autotune.tune(chosen[:1], capability, Untimed(capability))
    assert found.tried > 5
    assert not found.refused.keys() & {"gives other results", "cannot be run here"}
