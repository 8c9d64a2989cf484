"""What is read off the hidden states in the end: rows, pooled rows, and tensors that no rule was made for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.random_models.builder import Kind, Stream
from tests.random_models.mixers import FAR, masked_mean
from tests.random_models.parts import Encoder

CLASSES = 3
Part = Callable[[Encoder, Stream], str]


def of_tokens(e: Encoder, s: Stream) -> tuple[str, Kind]:
    """An output with one row for each token."""
    part = e.b.pick(*TOKENS)
    kinds: dict[str, Kind] = {"flat logits": "flat", "swapped logits": "swapped", "swapped flat": "swapped flat"}
    return TOKENS[part](e, s), kinds.get(part, "token")


def of_sequences(e: Encoder, s: Stream) -> tuple[str, Kind]:
    """An output with one row for each sequence."""
    return SEQUENCES[e.b.pick(*SEQUENCES, "first", "masked mean")](e, s), "sequence"


def of_anything(e: Encoder, s: Stream) -> tuple[str, Kind]:
    """An output that is compared whole, since it means something at padding too."""
    part = e.b.pick(*ANYTHING)
    return ANYTHING[part](e, s), "batch" if part in ("backwards", "similarity", "running", "norms") else "whole"


def _logits(e: Encoder, x: str) -> str:
    return e.b.linear(x, e.hidden, CLASSES)


TOKENS: dict[str, Part] = {
    "hidden": lambda e, s: e.b.op("Identity", s.x),
    "logits": lambda e, s: _logits(e, s.x),
    "labels": lambda e, s: e.b.op("ArgMax", _logits(e, s.x), axis=-1, keepdims=0),
    "probabilities": lambda e, s: e.b.op("LogSoftmax", _logits(e, s.x), axis=-1 if e.b.opset >= 13 else 2),
    "span": lambda e, s: e.b.squeeze(e.b.slice(e.b.linear(s.x, e.hidden, 2), 1, 2, -1), 2),
    "signs": lambda e, s: e.b.cast(e.b.op("Greater", s.x, e.b.const(0.0)), TensorProto.UINT8),
    "token scores": lambda e, s: e.b.op(
        "Softmax", e.b.squeeze(e.b.op("MatMul", s.x, e.b.weight(e.hidden, 1)), 2), axis=1
    ),
    "flat logits": lambda e, s: _logits(e, e.b.reshape(s.x, -1, e.hidden)),
    "swapped logits": lambda e, s: _logits(e, e.b.transpose(s.x, 1, 0, 2)),
    "swapped flat": lambda e, s: _logits(e, e.b.reshape(e.b.transpose(s.x, 1, 0, 2), -1, e.hidden)),
}


def _first(e: Encoder, s: Stream) -> str:
    b, h = e.b, e.hidden
    b.takes_first = True
    picked = b.maybe()
    first = b.op("Gather", s.x, b.const(0, np.int64), axis=1) if picked else b.squeeze(b.slice(s.x, 0, 1, 1), 1)
    return b.op("Tanh", b.linear(first, h, h)) if b.maybe() else first


def _masked_mean(e: Encoder, s: Stream) -> str:
    b, mean = e.b, masked_mean(e, s)
    if b.maybe():
        return mean
    norm = b.op("Sqrt", b.reduce("Sum", b.op("Mul", mean, mean), 1))
    return b.op("Div", mean, b.op("Max", norm, b.const([1e-6])))


def _masked_largest(e: Encoder, s: Stream) -> str:
    low = e.b.const(-1e9 if e.b.maybe() else -np.inf)
    return e.b.reduce("Max", e.b.op("Where", e.column(s, "bool"), s.x, low), 1, keepdims=0)


def _root_of_mean(e: Encoder, s: Stream) -> str:
    b = e.b
    square = b.reduce("Mean", b.op("Mul", b.both("Mul", s.x, e.column(s)), s.x), 1, keepdims=0)
    return b.op("Sqrt", b.op("Add", b.op("Abs", square), b.const(0.01)))


def _pooled_by_attention(e: Encoder, s: Stream) -> str:
    b = e.b
    scores = b.linear(s.x, e.hidden, 1)
    if b.maybe(0.7):
        scores = b.op("Where", e.column(s, "bool"), scores, b.const(-1e9))
    return b.reduce("Sum", b.both("Mul", s.x, b.op("Softmax", scores, axis=1)), 1, keepdims=0)


def _last(e: Encoder, s: Stream) -> str:
    b = e.b
    at = b.op("Sub", b.reduce("Sum", b.cast(s.mask, TensorProto.INT64), 1), b.ints(1))
    at = at if b.opset < 12 else b.op("Max", at, b.ints(0))
    where = b.op("Expand", b.unsqueeze(at, 2), b.op("Concat", b.size(s.x, 0), b.ints(1, e.hidden), axis=0))
    return b.op("GatherElements", s.x, where, axis=1)


def _by_ids(e: Encoder, s: Stream) -> str:
    special = e.b.unsqueeze(e.b.cast(e.b.op("Less", s.ids, e.b.const(6, np.int64))), 2)
    return e.b.reduce("Sum", e.b.both("Mul", s.x, special), 1, keepdims=0)


def _weighted(e: Encoder, s: Stream) -> str:
    here = e.b.unsqueeze(e.b.cast(e.positions(s)), 1)
    return e.b.reduce("Sum", e.b.both("Mul", e.b.both("Mul", s.x, e.column(s)), here), 1, keepdims=0)


def _lengths(e: Encoder, s: Stream) -> str:
    summed = np.dtype(s.mask_type).name in ("int32", "int64", "float32")
    return e.b.reduce("Sum", s.mask if summed else e.mask_as(s, "float"), 1)


SEQUENCES: dict[str, Part] = {
    "first": _first,
    "masked mean": _masked_mean,
    "masked sum": lambda e, s: e.b.reduce("Sum", e.b.both("Mul", s.x, e.column(s)), 1, keepdims=int(e.b.maybe())),
    "masked largest": _masked_largest,
    "largest of masked": lambda e, s: e.b.reduce("Max", e.b.both("Mul", s.x, e.column(s)), 1, keepdims=0),
    "root of mean": _root_of_mean,
    "plain mean": lambda e, s: e.b.reduce("Mean", s.x, 1, keepdims=0),
    "plain largest": lambda e, s: e.b.reduce("Max", s.x, 1, keepdims=0),
    "pooled by attention": _pooled_by_attention,
    "last": _last,
    "by ids": _by_ids,
    "weighted": _weighted,
    "lengths": _lengths,
}


def _running(e: Encoder, s: Stream) -> str:
    return e.b.op("CumSum", s.x, e.b.const(1, np.int64))


def _mean_of_batch(e: Encoder, s: Stream) -> str:
    e.b.mixes_batch = True
    return e.b.reduce("Mean", s.x, 0)


ANYTHING: dict[str, Part] = {
    "backwards": lambda e, s: e.b.op("Tanh", e.b.slice(s.x, -1, -FAR, 1, -1)),
    "similarity": lambda e, s: e.b.op("MatMul", s.x, e.b.transpose(s.x, 0, 2, 1)),
    "shape": lambda e, s: e.b.op("Shape", s.x),
    "bias": lambda e, s: e.additive(s),
    "mean of batch": _mean_of_batch,
    "mask": lambda e, s: e.b.op("Identity", e.mask_as(s, "float")),
    "running": _running,
    "norms": lambda e, s: e.b.reduce("L2", _running(e, s), 2),
}
