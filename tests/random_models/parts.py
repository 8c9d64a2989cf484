"""The parts of which random encoders are drawn: embeddings, attention, feed-forward, what mixes tokens, and heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from tests.random_models import split_heads
from tests.random_models.builder import LONGEST, LOWEST, VOCABULARY, Builder, Stream
from tests.random_models.norms import rms_normalized


@dataclass
class Encoder:
    """Draws parts for one model.

    Attributes:
        b: the graph.
        hidden, heads: sizes.
        other: a second stream of tokens, or None.
        same_length: whether its sequences are as long as those of the first.
        rms: whether its layers normalize without taking the mean off.
    """

    b: Builder
    hidden: int
    heads: int
    other: Stream | None = None
    same_length: bool = True
    rms: bool = False

    # Masks

    def mask_as(self, stream: Stream, dtype: str) -> str:
        """The mask as "float" or "bool" [B, S], spelled in some way."""
        b = self.b
        if dtype == "float":
            return stream.mask if stream.mask_type == np.float32 and b.maybe() else b.cast(stream.mask)
        if stream.mask_type == np.bool_:
            return stream.mask
        spelling = b.pick("cast", "not equal", "greater", part=False)
        if spelling == "cast":
            return b.cast(stream.mask, TensorProto.BOOL)
        zero = b.const(0, stream.mask_type.type)
        if spelling == "greater" and stream.mask_type != np.bool_:
            return b.op("Greater", stream.mask, zero)
        return b.op("Not", b.op("Equal", stream.mask, zero))

    def column(self, stream: Stream, dtype: str = "float") -> str:
        """The mask as [B, S, 1]."""
        return self.b.unsqueeze(self.mask_as(stream, dtype), 2)

    def _lifted(self, stream: Stream, dtype: str) -> str:
        """The mask as [B, 1, 1, S]."""
        b = self.b
        if b.maybe():
            return b.unsqueeze(self.mask_as(stream, dtype), 1, 2)
        return b.unsqueeze(b.unsqueeze(self.mask_as(stream, dtype), 1), 2)

    def additive(self, stream: Stream, *, one_sided: bool = False) -> str:
        """A float bias [B, 1, 1|S, S] that hides the padding keys."""
        b = self.b
        spellings = ("-10000", "lowest", "where", "where inf", "expand", "both sides")
        spelling = b.pick(*spellings[: 4 if one_sided else 6])
        low = b.const(-10000.0 if spelling == "-10000" else LOWEST)
        if spelling in ("-10000", "lowest"):
            return b.both("Mul", b.op("Sub", b.const(1.0), self._lifted(stream, "float")), low)
        keep = self._lifted(stream, "bool")
        if spelling == "both sides":
            rows = b.unsqueeze(self.mask_as(stream, "bool"), 1, 3)
            keep = b.op("And", keep, rows)
        if spelling == "expand":
            batch, length = b.size(stream.ids, 0), b.size(stream.ids, 1)
            keep = b.op("Expand", keep, b.op("Concat", batch, b.ints(1), length, length, axis=0))
        hidden = b.const(-np.inf) if spelling == "where inf" else low
        return b.op("Where", keep, b.const(0.0), hidden)

    # Attention

    def project(self, x: str, count: int) -> list[str]:
        b, h = self.b, self.hidden
        if count == 3 and b.maybe(0.3):
            packed = b.linear(x, h, 3 * h)
            if b.opset < 13 or b.maybe():
                return [b.slice(packed, k * h, (k + 1) * h, 2) for k in range(3)]
            b.op("Split", packed, b.ints(h, h, h), results=3, axis=-1)
            return list(b.nodes[-1].output)
        return [b.linear(x, h, h) for _ in range(count)]

    def split(self, x: str) -> str:
        """[B, S, H] as [B, heads, S, D]."""
        b, size = self.b, self.hidden // self.heads
        if b.maybe():
            wide = b.reshape(x, 0, 0, self.heads, size)
        else:
            shape = [b.size(x, 0), b.size(x, 1), b.ints(self.heads), b.ints(size)]
            wide = b.op("Reshape", x, b.op("Concat", *shape, axis=0))
        return b.transpose(wide, 0, 2, 1, 3)

    def merge(self, x: str) -> str:
        b = self.b
        flat = b.transpose(x, 0, 2, 1, 3)
        if b.maybe():
            return b.reshape(flat, 0, 0, self.hidden)
        return b.op("Reshape", flat, b.op("Concat", b.size(flat, 0), b.size(flat, 1), b.ints(self.hidden), axis=0))

    def attention(self, stream: Stream) -> str:
        """Self-attention over the stream, or attention to the other one; with its output projection."""
        b = self.b
        keys, masked = stream, stream
        where = b.pick("self", "self", "self", "self", "self", "cross", "other mask", "unmasked", usual=5)
        if self.other is not None and where == "cross":
            keys = masked = self.other
        elif self.other is not None and where == "other mask" and self.same_length:
            masked = self.other
        if keys is stream:
            q, k, v = self.project(stream.x, 3)
        else:
            (q,), (k, v) = self.project(stream.x, 1), self.project(keys.x, 2)
        square = keys is stream or self.same_length
        core = (
            b.pick("four axes", "four axes", "four axes", "three axes", "einsum", "operator") if square else "four axes"
        )
        unmasked = where == "unmasked"
        if core == "operator" and b.opset >= 23:
            return b.linear(self._operator(q, k, v, masked, unmasked=unmasked), self.hidden, self.hidden)
        if core == "einsum" and b.opset >= 12:
            return b.linear(self._einsum(q, k, v, masked, unmasked=unmasked), self.hidden, self.hidden)
        if core == "three axes":
            return b.linear(self._three_axes(q, k, v, masked, unmasked=unmasked), self.hidden, self.hidden)
        q, k, v = (self.split(part) for part in (q, k, v))
        if keys is stream:
            q, k, v = split_heads.changed(self, stream, q, k, v)
        placed = b.pick("query", "scores", "divided", "both", part=False)
        q, k = (self._scaled(part, 0.5) if placed == "both" else part for part in (q, k))
        if placed == "query":
            q = self._scaled(q)
        scores = b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2))
        if placed == "scores":
            scores = self._scaled(scores)
        elif placed == "divided":
            scores = b.op("Div", scores, b.const(np.sqrt(self.hidden // self.heads)))
        scores = self._masked(scores, masked, unmasked=unmasked, square=square)
        p = self._softmax(scores, masked)
        return b.linear(self.merge(b.op("MatMul", p, v)), self.hidden, self.hidden)

    def _scaled(self, x: str, power: float = 1.0) -> str:
        scale = float(self.hidden // self.heads) ** (-0.5 * power)
        return self.b.both("Mul", x, self.b.const([scale] if self.b.maybe(0.2) else scale))

    def _softmax(self, scores: str, masked: Stream) -> str:
        b = self.b
        p = b.op("Softmax", scores, axis=-1 if b.opset >= 13 or b.maybe() else 3)
        extra = b.pick("plain", "plain", "plain", "plain", "guard", "masked after", usual=5)
        if extra == "guard":
            return b.op("Where", b.op("IsNaN", p), b.const(0.0), p)
        return b.both("Mul", p, self._lifted(masked, "float")) if extra == "masked after" else p

    def _operator(self, q: str, k: str, v: str, masked: Stream, *, unmasked: bool) -> str:
        """The standard operator, on four axes (onnx 1.23 infers a wrong shape for three)."""
        b = self.b
        attributes: dict[str, object] = {"is_causal": int(not b.plain and b.maybe(0.3))}
        if b.maybe(0.3):
            attributes["scale"] = 0.4
        bias: list[str] = []
        if not unmasked:
            lifted = self._lifted(masked, "bool")
            length = b.size(masked.ids, 1)
            square = b.op("Concat", b.size(masked.ids, 0), b.ints(1), length, length, axis=0)
            # Where a causal row sees nothing but -3.4e38, onnxruntime's operator gives zeros, against its definition.
            truth = attributes["is_causal"] or b.maybe()
            bias = [b.op("Expand", lifted if truth else self.additive(masked, one_sided=True), square)]
        return self.merge(b.op("Attention", self.split(q), self.split(k), self.split(v), *bias, **attributes))

    def _einsum(self, q: str, k: str, v: str, masked: Stream, *, unmasked: bool) -> str:
        b, size = self.b, self.hidden // self.heads
        q, k, v = (b.reshape(part, 0, 0, self.heads, size) for part in (self._scaled(q), k, v))
        scores = b.op("Einsum", q, k, equation="bqhd,bkhd->bhqk")
        p = self._softmax(self._masked(scores, masked, unmasked=unmasked), masked)
        return b.reshape(b.op("Einsum", p, v, equation="bhqk,bkhd->bqhd"), 0, 0, self.hidden)

    def _three_axes(self, q: str, k: str, v: str, masked: Stream, *, unmasked: bool) -> str:
        """Batch and heads in one axis for the products, apart for the mask."""
        b, size = self.b, self.hidden // self.heads
        length = b.size(q, 1)
        q, k, v = (self._joined(part) for part in (q, k, v))
        scores = b.op("MatMul", self._scaled(q), b.transpose(k, 0, 2, 1))
        wide = b.op("Concat", b.ints(-1), b.ints(self.heads), length, length, axis=0)
        scores = self._masked(b.op("Reshape", scores, wide), masked, unmasked=unmasked)
        p = self._softmax(scores, masked)
        p = b.op("Reshape", p, b.op("Concat", b.ints(-1), length, length, axis=0))
        output = b.op("MatMul", p, v)
        apart = b.op("Concat", b.ints(-1), b.ints(self.heads), length, b.ints(size), axis=0)
        return self.merge(b.op("Reshape", output, apart))

    def _joined(self, x: str) -> str:
        """[B, S, H] as [B*heads, S, D]."""
        b, length = self.b, self.b.size(x, 1)
        return b.op(
            "Reshape", self.split(x), b.op("Concat", b.ints(-1), length, b.ints(self.hidden // self.heads), axis=0)
        )

    def _masked(self, scores: str, stream: Stream, *, unmasked: bool, square: bool = True) -> str:
        b = self.b
        if unmasked:
            return scores
        kinds = (*["only"] * 4, "causal and mask", "relative", "causal", "near", "by length", "head bias")
        extra = b.pick(*kinds, usual=5)
        if extra in ("relative", "causal", "causal and mask", "near") and not square:
            extra = "only"
        if extra == "causal and mask":
            b.from_left = b.from_left or b.maybe()
            seen = b.op("And", self._near(stream) if b.maybe(0.3) and not b.from_left else self._causal(stream),
                        self._lifted(stream, "bool"))  # fmt: skip
            hidden = b.const(-np.inf if b.from_left else LOWEST)
            return b.both("Add", scores, b.op("Where", seen, b.const(0.0), hidden))
        if extra == "relative":
            scores = b.both("Add", scores, self._relative(stream))
        elif extra == "causal":
            b.from_left = b.from_left or b.maybe()
            scores = b.op("Where", self._causal(stream), scores, b.const(-np.inf if b.from_left else LOWEST))
        elif extra == "near":
            scores = b.op("Where", self._near(stream), scores, b.const(LOWEST))
        elif extra == "head bias":
            scores = b.both("Add", scores, b.const(b.random.standard_normal((1, self.heads, 1, 1))))
        elif extra == "by length":
            counted = b.reduce("Sum", self.mask_as(stream, "float"), 1)
            scores = b.op("Div", scores, b.unsqueeze(b.op("Max", counted, b.const([1.0])), 1, 2))
        if b.maybe(0.3):
            keep = self._lifted(stream, "bool")
            if b.maybe():
                return b.op("Where", keep, scores, b.const(-1e9 if b.maybe() else -np.inf))
            return b.op("Where", b.op("Not", keep), b.const(-1e9 if b.maybe() else -np.inf), scores)
        return b.both("Add", scores, self.additive(stream, one_sided=not square))

    def positions(self, stream: Stream) -> str:
        """0, 1, … S-1 as [S]."""
        b = self.b
        length = b.size(stream.ids, 1, scalar=True)
        return b.op("Range", b.const(0, np.int64), length, b.const(1, np.int64))

    def _causal(self, stream: Stream) -> str:
        b, here = self.b, self.positions(stream)
        return b.op("Not", b.op("Greater", b.unsqueeze(here, 0), b.unsqueeze(here, 1)))

    def _near(self, stream: Stream) -> str:
        """[S, S]: whether two positions are less than three apart, or one is as little before the other."""
        b, here = self.b, self.positions(stream)
        row, column = b.unsqueeze(here, 1), b.unsqueeze(here, 0)
        if b.maybe():
            three = b.const(3, np.int64)
            return b.op("Less", b.op("Abs", b.op("Sub", row, column)), three)
        recent = b.op("Greater", column, b.op("Sub", row, b.const(3, np.int64)))
        return b.op("And", recent, b.op("Not", b.op("Less", row, column)))

    def _relative(self, stream: Stream) -> str:
        """[1, heads, S, S] from the difference of positions."""
        b, here = self.b, self.positions(stream)
        away = b.op("Sub", b.unsqueeze(here, 0), b.unsqueeze(here, 1))
        if b.opset < 12:  # which has no Clip of integers
            away = b.cast(b.op("Clip", b.cast(away), b.const(-3), b.const(3)), TensorProto.INT64)
        else:
            away = b.op("Clip", away, b.const(-3, np.int64), b.const(3, np.int64))
        near = b.op("Add", away, b.const(3, np.int64))
        return b.unsqueeze(b.transpose(b.op("Gather", b.weight(7, self.heads), near), 2, 0, 1), 0)

    # What stands around attention

    def normalize(self, x: str) -> str:
        b = self.b
        if self.rms:
            return rms_normalized(b, x, self.hidden, 3)
        scale, shift = b.const(1 + 0.2 * b.random.standard_normal(self.hidden)), b.weight(self.hidden)
        if b.opset >= 17 and b.maybe():
            return b.op("LayerNormalization", x, scale, shift, axis=-1 if b.maybe() else 2)
        away = b.op("Sub", x, b.reduce("Mean", x, -1))
        square = b.op("Pow", away, b.const(2.0)) if b.maybe() else b.op("Mul", away, away)
        deviation = b.op("Sqrt", b.op("Add", b.reduce("Mean", square, -1), b.const(1e-5)))
        return b.both("Add", b.both("Mul", b.op("Div", away, deviation), scale), shift)

    def feed_forward(self, x: str) -> str:
        b, h = self.b, self.hidden
        form = b.pick("plain", "plain", "halves", "two products", usual=2)
        if form == "halves":
            wide = b.linear(x, h, 4 * h)
            halves = [b.slice(wide, 0, 2 * h, -1), b.slice(wide, 2 * h, 4 * h, -1)]
            gate, up = halves if b.maybe() else halves[::-1]
            inner = b.both("Mul", self._activation(gate), up)
        elif form == "two products":
            inner = b.both("Mul", self._activation(b.linear(x, h, 2 * h)), b.linear(x, h, 2 * h))
        else:
            inner = self._activation(b.linear(x, h, 2 * h))
        return b.linear(inner, 2 * h, h)

    def _activation(self, x: str) -> str:
        b = self.b
        kind = b.pick("erf", "silu", "relu", "gelu", "sigmoid", part=False)
        if kind in ("relu", "sigmoid"):
            return b.op(kind.capitalize(), x)
        if kind == "gelu" and b.opset >= 20:
            return b.op("Gelu", x)
        if kind == "silu":
            return b.op("Mul", x, b.op("Sigmoid", x))
        gate = b.op("Add", b.op("Erf", b.op("Div", x, b.const(np.sqrt(2)))), b.const(1.0))
        return b.op("Mul", b.op("Mul", x, gate), b.const(0.5))

    def embed(self, stream: Stream, types: str | None, given: str | None) -> str:
        """Word, type and position rows, in their sum."""
        b, h = self.b, self.hidden
        ids = b.cast(stream.ids, TensorProto.INT32) if b.maybe(0.15) else stream.ids
        total = b.op("Gather", b.weight(VOCABULARY, h, scale=4.0), ids)
        if types is not None:
            total = b.both("Add", total, b.op("Gather", b.weight(2, h), types))
        spelling = b.pick("no positions", "range", "slice", "table slice", "running", "given", "sines")
        if spelling == "range":
            at = b.op("Gather", b.weight(LONGEST, h), self.positions(stream))
            total = b.both("Add", total, b.unsqueeze(at, 0) if b.maybe() else at)
        elif spelling == "slice":
            row = b.const(np.arange(LONGEST)[None], np.int64)
            at = b.op("Slice", row, b.ints(0), b.size(stream.ids, 1), b.ints(1))
            total = b.both("Add", total, b.op("Gather", b.weight(LONGEST, h), at))
        elif spelling == "table slice":
            at = b.op("Slice", b.weight(LONGEST, h), b.ints(0), b.size(stream.ids, 1), b.ints(0))
            total = b.both("Add", total, at)
        elif spelling == "running":
            mask = b.cast(stream.mask, TensorProto.INT64)
            at = b.op("Mul", b.op("CumSum", mask, b.const(1, np.int64)), mask)
            total = b.both("Add", total, b.op("Gather", b.weight(LONGEST + 1, h), at))
        elif spelling == "given" and given is not None:
            total = b.both("Add", total, b.op("Gather", b.weight(LONGEST, h), given))
        elif spelling == "sines":
            here = b.cast(self.positions(stream))
            angles = b.op("Mul", b.unsqueeze(here, 1), b.const(0.3 + b.random.random((1, h))))
            total = b.both("Add", total, b.op("Sin", angles))
        return total

    def layer(self, stream: Stream) -> str:
        b, x = self.b, stream.x
        before = b.maybe(0.3)
        inner = Stream(stream.ids, stream.mask, stream.mask_type, self.normalize(x) if before else x)
        x = b.both("Add", x, self.attention(inner))
        x = x if before else self.normalize(x)
        if b.maybe(0.2):
            x = b.both("Mul", x, self.column(stream))
        return self._after(x, before=before)

    def _after(self, x: str, *, before: bool) -> str:
        if self.b.maybe(0.2):
            return x
        if before:
            return self.b.both("Add", x, self.feed_forward(self.normalize(x)))
        return self.normalize(self.b.both("Add", x, self.feed_forward(x)))
