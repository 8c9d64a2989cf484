"""Run Triton kernels in Triton's interpreter on raw memory, as a driver would be asked to.

Only in a process that was started with TRITON_INTERPRET=1: Triton decides at import whether kernels are interpreted.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from tests.cuda import interpreter_cost
from turbo_onnx.custom_ops.cuda.variant import Variant

_NUMBERS: dict[str, tuple[Any, Any, Any]] = {
    "i32": (ctypes.c_int32, np.int32, tl.int32),
    "i64": (ctypes.c_int64, np.int64, tl.int64),
    "fp32": (ctypes.c_float, np.float32, tl.float32),
}


def _to_float32(handle: TensorHandle) -> Any:
    """The numbers of a tensor; the interpreter keeps bfloat16 as bits."""
    if handle.dtype.scalar != tl.bfloat16:
        return handle.data.astype(np.float32)
    return (handle.data.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(data: Any) -> Any:
    """Bits of the nearest bfloat16, ties to even, as devices round."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype(np.uint16)


class _BFloat16:
    """The interpreter's own casts to bfloat16 cut bits off, and its products multiply bits. These are right."""

    cast_impl = InterpreterBuilder.cast_impl
    create_dot = InterpreterBuilder.create_dot

    @staticmethod
    def cast(builder: Any, source: TensorHandle, kind: Any) -> TensorHandle:
        before, after = source.dtype.scalar, kind.scalar
        if before == after or tl.bfloat16 not in (before, after):
            return _BFloat16.cast_impl(builder, source, kind)
        number = _to_float32(source)
        if after == tl.bfloat16:
            return TensorHandle(_to_bfloat16(number), after)
        return _BFloat16.cast_impl(builder, TensorHandle(number, tl.float32), kind)

    @staticmethod
    def dot(builder: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, *rest: Any) -> TensorHandle:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (TensorHandle(_to_float32(x), tl.float32) for x in (a, b))
        return _BFloat16.create_dot(builder, a, b, d, *rest)


InterpreterBuilder.cast_impl = _BFloat16.cast
InterpreterBuilder.create_dot = _BFloat16.dot


def interpret(variant: Variant, grid: Sequence[int], parameters: Sequence[int]) -> None:
    """Run every program of the grid, one after the other.

    Args:
        variant: what to run.
        grid: how many programs along x, y and z.
        parameters: the addresses of the values of the run-time arguments, as `cuLaunchKernel` takes them.
    """
    function = getattr(importlib.import_module(variant.module), variant.function)
    values = {
        name: _value(kind, address) for (name, kind), address in zip(variant.arguments.items(), parameters, strict=True)
    }
    interpreter_cost.begin_launch()
    with np.errstate(all="ignore"):  # devices compute with infinity and NaN without a word
        function[tuple(grid)](**values, **variant.constants)


def _value(kind: str, address: int) -> Any:
    """The argument at this address as Triton's interpreter has it."""
    if kind.startswith("*"):
        pointer = ctypes.c_uint64.from_address(address).value
        type_ = tl.pointer_type(tl.str_to_ty(kind[1:], None))
        return tl.tensor(TensorHandle(np.array([pointer], np.uint64), type_), type_)
    read, dtype, type_ = _NUMBERS[kind]
    return tl.tensor(TensorHandle(np.array([read.from_address(address).value], dtype), type_), type_)
