"""What real graphs do to hidden states beside attention: some of it row by row, some of it across rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from tests.random_models.builder import LONGEST, VOCABULARY, Stream
from tests.random_models.parts import Encoder

FAR = 2**62
Part = Callable[[Encoder, Stream], str]


def row_by_row(e: Encoder, s: Stream) -> str:
    """Hidden states [B, S, H] made of each row of the old ones, and of what belongs to that row."""
    return ROW_BY_ROW[e.b.pick(*ROW_BY_ROW)](e, s)


def across_rows(e: Encoder, s: Stream) -> str:
    """Hidden states [B, S, H] in which rows have seen other rows, padding among them."""
    x = ACROSS_ROWS[e.b.pick(*ACROSS_ROWS)](e, s)
    return e.b.both("Add", x, s.x) if e.b.maybe(0.3) else x


def _hashed(e: Encoder, s: Stream, ids: str, here: str, dtype: type) -> str:
    b = e.b
    moved = b.op("Mod", b.op("Add", ids, here), b.const(VOCABULARY, dtype))
    return b.both("Add", s.x, b.op("Gather", b.weight(VOCABULARY, e.hidden), moved))


def _special_ids(e: Encoder, s: Stream) -> str:
    special = e.b.cast(e.b.op("Equal", s.ids, e.b.const(2, np.int64)))
    return e.b.both("Add", s.x, e.b.both("Mul", e.b.unsqueeze(special, 2), e.b.weight(e.hidden)))


def _narrow_positions(e: Encoder, s: Stream) -> str:
    ids, here = (e.b.cast(tensor, TensorProto.INT32) for tensor in (s.ids, e.positions(s)))
    return _hashed(e, s, ids, here, np.int32)


def _position_gate(e: Encoder, s: Stream) -> str:
    gate = e.b.op("Sigmoid", e.b.op("Gather", e.b.weight(LONGEST, 1), e.positions(s)))
    return e.b.both("Mul", s.x, e.b.unsqueeze(gate, 0))


def _by_length(e: Encoder, s: Stream) -> str:
    counted = e.b.reduce("Sum", e.mask_as(s, "float"), 1)
    return e.b.op("Div", s.x, e.b.unsqueeze(e.b.op("Sqrt", e.b.op("Max", counted, e.b.const([1.0]))), 2))


def _flat(e: Encoder, s: Stream) -> str:
    b = e.b
    flat = e.feed_forward(b.reshape(s.x, -1, e.hidden))
    return b.op("Reshape", flat, b.op("Concat", b.size(s.ids, 0), b.size(s.ids, 1), b.ints(e.hidden), axis=0))


def _halves(e: Encoder, s: Stream) -> str:
    low, high = e.b.slice(s.x, 0, e.hidden // 2, 2), e.b.slice(s.x, e.hidden // 2, FAR, -1)
    return e.b.op("Concat", high, e.b.op("Tanh", low), axis=-1)


ROW_BY_ROW: dict[str, Part] = {
    "zero by mask": lambda e, s: e.b.both("Mul", s.x, e.column(s)),
    "where zero": lambda e, s: e.b.op("Where", e.column(s, "bool"), s.x, e.b.const(0.0)),
    "where row": lambda e, s: e.b.op("Where", e.column(s, "bool"), s.x, e.b.weight(e.hidden)),
    "two rows": lambda e, s: e.b.both(
        "Add", s.x, e.b.op("Where", e.column(s, "bool"), e.b.weight(e.hidden), e.b.weight(e.hidden))
    ),
    "mask row": lambda e, s: e.b.both("Add", s.x, e.b.both("Mul", e.column(s), e.b.weight(e.hidden))),
    "mask table": lambda e, s: e.b.both(
        "Add", s.x, e.b.op("Gather", e.b.weight(2, e.hidden), e.b.cast(s.mask, TensorProto.INT64))
    ),
    "mask feature": lambda e, s: e.b.linear(
        e.b.op("Concat", s.x, e.column(s), axis=2 if e.b.maybe() else -1), e.hidden + 1, e.hidden
    ),
    "mask product": lambda e, s: e.b.both("Add", s.x, e.b.op("MatMul", e.column(s), e.b.weight(1, e.hidden))),
    "mask sigmoid": lambda e, s: e.b.both("Mul", s.x, e.b.op("Sigmoid", e.column(s))),
    "ids feature": _special_ids,
    "hashed ids": lambda e, s: _hashed(e, s, s.ids, e.positions(s), np.int64),
    "narrow positions": _narrow_positions,
    "position gate": _position_gate,
    "by length": _by_length,
    "flat": _flat,
    "halves": _halves,
    "dropout": lambda e, s: e.b.op("Dropout", s.x),
    "squeezed": lambda e, s: e.b.squeeze(e.b.op("Relu", e.b.unsqueeze(s.x, 2)), 2),
    "clipped": lambda e, s: e.b.op("Clip", s.x, e.b.const(-1.5), e.b.const(2.0)),
}


def _convolution(e: Encoder, s: Stream) -> str:
    channels = e.b.transpose(s.x, 0, 2, 1)
    return e.b.transpose(e.b.op("Conv", channels, e.b.weight(e.hidden, 1, 3), pads=[1, 1], group=e.hidden), 0, 2, 1)


def _channel_statistics(e: Encoder, s: Stream) -> str:
    b, h = e.b, e.hidden
    statistics = [b.const(1 + 0.1 * b.random.random(h)), b.weight(h), b.weight(h), b.const(0.5 + b.random.random(h))]
    return b.transpose(b.op("BatchNormalization", b.transpose(s.x, 0, 2, 1), *statistics), 0, 2, 1)


def _gather_backwards(e: Encoder, s: Stream) -> str:
    last = e.b.op("Sub", e.b.size(s.ids, 1, scalar=True), e.b.const(1, np.int64))
    return e.b.op("Gather", s.x, e.b.op("Sub", last, e.positions(s)), axis=1)


def _sorted(e: Encoder, s: Stream) -> str:
    """The rows in the order of one of their features."""
    b = e.b
    score = b.squeeze(b.slice(s.x, 0, 1, 2), 2)
    b.op("TopK", score, b.size(s.ids, 1), results=2, axis=1)
    order = b.nodes[-1].output[1]
    return b.op("GatherElements", s.x, b.op("Expand", b.unsqueeze(order, 2), b.op("Shape", s.x)), axis=1)


def _first(e: Encoder, s: Stream) -> str:
    e.b.takes_first = True
    return e.b.both("Add", s.x, e.b.slice(s.x, 0, 1, 1))


def _batch_mean(e: Encoder, s: Stream) -> str:
    e.b.mixes_batch = True
    return e.b.both("Add", s.x, e.b.reduce("Mean", s.x, 0))


def _sequence_first_flat(e: Encoder, s: Stream) -> str:
    swapped = e.b.transpose(s.x, 1, 0, 2)
    flat = e.feed_forward(e.b.reshape(swapped, -1, e.hidden))
    return e.b.transpose(e.b.op("Reshape", flat, e.b.op("Shape", swapped)), 1, 0, 2)


def _norm_of_all(e: Encoder, s: Stream) -> str:
    b = e.b
    away = b.op("Sub", s.x, b.reduce("Mean", s.x, 1, 2))
    variance = b.reduce("Mean", b.op("Mul", away, away), 1, 2)
    return b.op("Div", away, b.op("Sqrt", b.op("Add", variance, b.const(0.1))))


def _doubled(e: Encoder, s: Stream) -> str:
    long = e.b.slice(e.b.op("Concat", s.x, s.x, axis=1), 1, FAR, 1)
    return e.b.op("Slice", long, e.b.ints(0), e.b.size(s.ids, 1), e.b.ints(1))


def _branch(e: Encoder, s: Stream) -> str:
    """An If whose branches read the hidden states from outside."""
    b = e.b
    branches = []
    for kind in ("Tanh", "CumSum"):
        name = b.name()
        operands = [s.x] if kind == "Tanh" else [s.x, b.const(1, np.int64)]
        node = helper.make_node(kind, operands, [name], name=f"inner_{name}")
        shape = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None, e.hidden])
        branches.append(helper.make_graph([node], f"branch_{name}", [], [shape]))
    many = b.op("Greater", b.size(s.ids, 1, scalar=True), b.const(3, np.int64))
    return b.op("If", many, then_branch=branches[0], else_branch=branches[1])


ACROSS_ROWS: dict[str, Part] = {
    "convolution": _convolution,
    "channel statistics": _channel_statistics,
    "running sum": lambda e, s: e.b.op("Mul", e.b.op("CumSum", s.x, e.b.const(1, np.int64)), e.b.const(0.2)),
    "reverse": lambda e, s: e.b.slice(s.x, -1, -FAR, 1, -1),
    "roll": lambda e, s: e.b.op("Concat", e.b.slice(s.x, 1, FAR, 1), e.b.slice(s.x, 0, 1, 1), axis=1),
    "gather backwards": _gather_backwards,
    "sorted": _sorted,
    "mean": lambda e, s: e.b.both("Add", s.x, e.b.reduce("Mean", s.x, 1)),
    "largest": lambda e, s: e.b.both("Add", s.x, e.b.reduce("Max", s.x, 1)),
    "first": _first,
    "masked mean added": lambda e, s: e.b.both("Add", s.x, e.b.unsqueeze(masked_mean(e, s), 1)),
    "batch mean": _batch_mean,
    "sequence first": lambda e, s: e.b.transpose(e.feed_forward(e.b.transpose(s.x, 1, 0, 2)), 1, 0, 2),
    "sequence first flat": _sequence_first_flat,
    "softmax gate": lambda e, s: e.b.both(
        "Mul", s.x, e.b.op("Softmax", e.b.op("MatMul", s.x, e.b.weight(e.hidden, 1)), axis=1)
    ),
    "norm of all": _norm_of_all,
    "branch": _branch,
    "doubled": _doubled,
}


def masked_mean(e: Encoder, s: Stream) -> str:
    """The mean over real tokens [B, H], spelled in some way."""
    b, x = e.b, s.x
    spelling = b.pick("expanded", "column", "product", "where", part=False)
    if spelling == "product":
        row = b.unsqueeze(e.mask_as(s, "float"), 1)
        counted = b.squeeze(b.reduce("Sum", row, 2), 1)
        return b.op("Div", b.squeeze(b.op("MatMul", row, x), 1), b.op("Max", counted, b.const([1e-9])))
    column = e.column(s)
    if spelling == "expanded":
        column = b.op("Expand", column, b.op("Shape", x))
    if spelling == "where":
        total = b.reduce("Sum", b.op("Where", e.column(s, "bool"), x, b.const(0.0)), 1, keepdims=0)
    else:
        total = b.reduce("Sum", b.both("Mul", x, column), 1, keepdims=0)
    counted = b.reduce("Sum", column, 1, keepdims=0)
    floor = b.op("Clip", counted, b.const(1e-9)) if b.maybe() else b.op("Max", counted, b.const([1e-9]))
    return b.op("Div", total, floor)
