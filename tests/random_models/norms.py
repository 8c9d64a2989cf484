"""RMS normalization in the spellings of several exporters."""

from __future__ import annotations

from tests.random_models.builder import Builder


def rms_normalized(b: Builder, x: str, size: int, rank: int) -> str:
    """Rows of `size`, of a tensor with that many axes, over the root of their mean square, and scaled."""
    scale = b.const(1 + 0.2 * b.random.standard_normal(size))
    if b.opset >= 23 and b.maybe():
        return b.op("RMSNormalization", x, scale, epsilon=1e-5)
    square = b.op("Mul", x, x) if b.maybe() else b.op("Pow", x, b.const(2.0))
    shifted = b.both("Add", b.reduce("Mean", square, -1 if b.maybe() else rank - 1), b.const(1e-5))
    spelling = b.pick("divided", "reciprocal", "one over", "power", part=False)
    if spelling == "power":
        return b.both("Mul", b.both("Mul", x, b.op("Pow", shifted, b.const(-0.5))), scale)
    root = b.op("Sqrt", shifted)
    if spelling == "divided":
        return b.both("Mul", b.op("Div", x, root), scale)
    inverse = b.op("Reciprocal", root) if spelling == "reciprocal" else b.op("Div", b.const(1.0), root)
    return b.both("Mul", b.both("Mul", x, inverse), scale)
