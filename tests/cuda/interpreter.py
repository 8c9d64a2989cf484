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
from triton.runtime.interpreter import TensorHandle

from turbo_onnx.custom_ops.cuda.variant import Variant

_NUMBERS: dict[str, tuple[Any, Any, Any]] = {
    "i32": (ctypes.c_int32, np.int32, tl.int32),
    "i64": (ctypes.c_int64, np.int64, tl.int64),
    "fp32": (ctypes.c_float, np.float32, tl.float32),
}


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
