"""What stands between the split into heads and the scores: rotation by position, norms, heads that are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.random_models.builder import Stream
from tests.random_models.norms import rms_normalized

if TYPE_CHECKING:
    from tests.random_models.parts import Encoder

FAR = 2**62


def changed(e: Encoder, stream: Stream, q: str, k: str, v: str) -> tuple[str, str, str]:
    """Queries, keys and values [B, heads, S, D] of one stream, as attention takes them."""
    b, size = e.b, e.hidden // e.heads
    kind = b.pick("as they are", "as they are", "as they are", "rotated", "pairs rotated", "normed", "normed, rotated")
    if "normed" in kind:
        q, k = (rms_normalized(b, x, size, 4) for x in (q, k))
    if "rotated" in kind and size % 2 == 0:
        angles = _angles(e, stream, size)
        q, k = (_rotated(e, x, angles, pairs="pairs" in kind) for x in (q, k))
    if e.heads % 2 == 0 and b.pick("own keys", "own keys", "own keys", "shared keys") == "shared keys":
        k, v = (_shared(e, stream, x, size) for x in (k, v))
    return q, k, v


def _angles(e: Encoder, stream: Stream, size: int) -> tuple[str, str]:
    """Cosines and sines: [S, D], [1, S, D] or [1, 1, S, D]."""
    b = e.b
    here = b.unsqueeze(b.cast(e.positions(stream)), 1)
    speeds = b.const(np.tile(0.5 ** np.arange(size // 2), 2)[None])
    phase = b.op("Mul", here, speeds) if b.maybe() else b.op("MatMul", here, speeds)
    lead = b.pick("two axes", "three axes", "four axes", part=False)
    found = [b.op(kind, phase) for kind in ("Cos", "Sin")]
    if lead != "two axes":
        found = [b.unsqueeze(x, *((0,) if lead == "three axes" else (0, 1))) for x in found]
    return found[0], found[1]


def _rotated(e: Encoder, x: str, angles: tuple[str, str], *, pairs: bool) -> str:
    b, size = e.b, e.hidden // e.heads
    if pairs:
        even, odd = b.slice(x, 0, FAR, 3, 2), b.slice(x, 1, FAR, -1, 2)
        turned = b.op("Concat", b.unsqueeze(b.op("Neg", odd), 4), b.unsqueeze(even, 4), axis=-1)
        turned = b.reshape(turned, 0, e.heads, -1, size)
    else:
        low, high = b.slice(x, 0, size // 2, 3), b.slice(x, size // 2, FAR, -1)
        turned = b.op("Concat", b.op("Neg", high), low, axis=-1 if b.maybe() else 3)
    return b.both("Add", b.both("Mul", x, angles[0]), b.both("Mul", turned, angles[1]))


def _shared(e: Encoder, stream: Stream, x: str, size: int) -> str:
    """The first half of the heads, each of them twice."""
    b, groups = e.b, e.heads // 2
    few = b.unsqueeze(b.slice(x, 0, groups, 1), 2)
    if b.maybe():
        twice = b.op("Expand", few, b.ints(1, 1, 2, 1, 1))
    else:
        sizes = [b.size(stream.ids, 0), b.ints(groups, 2), b.size(stream.ids, 1), b.ints(size)]
        twice = b.op("Expand", few, b.op("Concat", *sizes, axis=0))
    return b.reshape(twice, 0, e.heads, -1, size)
