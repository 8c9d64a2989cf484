"""A graph that grows node by node, with random weights, at any opset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, LONGEST = 23, 16
LOWEST = float(np.finfo(np.float32).min)
Kind = Literal["token", "flat", "swapped", "swapped flat", "sequence", "batch", "whole"]
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64,
         np.dtype(np.int32): TensorProto.INT32, np.dtype(np.bool_): TensorProto.BOOL}  # fmt: skip


@dataclass
class Builder:
    """A graph that grows; `op` adds a node and returns its result's name."""

    random: np.random.Generator
    opset: int
    plain: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    takes_first: bool = False
    from_left: bool = False  # whether padding on the left would make tokens that see nothing, and so NaN
    mixes_batch: bool = False
    _count: int = 0

    def name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def op(self, kind: str, *operands: str, results: int = 1, **attributes: object) -> str:
        names = [self.name() for _ in range(results)]
        self.nodes.append(helper.make_node(kind, list(operands), names, name=f"n{self._count}", **attributes))
        return names[0]

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = self.name()
        array = np.asarray(value, dtype=dtype)
        if self.maybe(0.15):
            attribute = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"n{self._count}", value=attribute))
        else:
            self.weights.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(list(values), np.int64)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        size = scale / np.sqrt(shape[0]) if len(shape) > 1 else 0.3 * scale
        return self.const(self.random.standard_normal(shape) * size)

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.random.random() < chance)

    def pick(self, *choices: str, part: bool = True, usual: int = 0) -> str:
        """One of the choices; in plain models one of the first `usual`, where that is given."""
        choices = choices[:usual] if usual and self.plain else choices
        choice = choices[self.random.integers(len(choices))]
        if part:
            self.parts.append(choice)
        return choice

    # Operators whose axes moved from an attribute to an operand.

    def _axes(self, kind: str, since: int, x: str, axes: tuple[int, ...], **attributes: object) -> str:
        if self.opset < since:
            return self.op(kind, x, axes=list(axes), **attributes)
        return self.op(kind, x, self.ints(*axes), **attributes)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self._axes("Unsqueeze", 13, x, axes)

    def squeeze(self, x: str, *axes: int) -> str:
        return self._axes("Squeeze", 13, x, axes)

    def reduce(self, kind: str, x: str, *axes: int, keepdims: int = 1) -> str:
        return self._axes(f"Reduce{kind}", 13 if kind == "Sum" else 18, x, axes, keepdims=keepdims)

    def cast(self, x: str, to: int = TensorProto.FLOAT) -> str:
        return self.op("Cast", x, to=to)

    def reshape(self, x: str, *target: int) -> str:
        return self.op("Reshape", x, self.ints(*target))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=list(order))

    def slice(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def size(self, x: str, axis: int, *, scalar: bool = False) -> str:
        return self.op("Gather", self.op("Shape", x), self.const(axis, np.int64) if scalar else self.ints(axis))

    def both(self, kind: str, a: str, b: str) -> str:
        """A commutative operator with its operands in either order."""
        return self.op(kind, a, b) if self.maybe() else self.op(kind, b, a)

    def linear(self, x: str, rows: int, columns: int) -> str:
        spelling = self.pick("matmul", "matmul", "gemm", part=False)
        if spelling == "gemm":
            flat = self.reshape(x, -1, rows)
            product = self.op("Gemm", flat, self.weight(columns, rows, scale=1.2), self.weight(columns), transB=1)
            shape = self.op("Concat", self.op("Shape", x), axis=0)
            lead = self.op("Slice", shape, self.ints(0), self.ints(-1), self.ints(0))
            return self.op("Reshape", product, self.op("Concat", lead, self.ints(columns), axis=0))
        product = self.op("MatMul", x, self.weight(rows, columns, scale=1.2))
        return self.both("Add", product, self.weight(columns)) if self.maybe(0.9) else product


@dataclass
class Stream:
    """Tokens on their way through the encoder.

    Attributes:
        ids: [B, S].
        mask: [B, S], nonzero at tokens, of any type.
        mask_type: its NumPy type.
        x: the hidden states [B, S, H].
    """

    ids: str
    mask: str
    mask_type: np.dtype
    x: str = ""
