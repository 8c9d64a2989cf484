"""The types that a model can compute in: what `--precision` may say, and what each half-precision type can hold.

| | float16 | bfloat16 | float32 |
|---|---|---|---|
| largest | 65504 | 3.39e38 | 3.40e38 |
| smallest normal | 6.1e-5 | 1.2e-38 | 1.2e-38 |
| unit roundoff | 2^-11 | 2^-8 | 2^-24 |
| integers are exact up to | 2048 | 256 | 16777216 |

int8 is for layers with constant weights alone: their products are of 8-bit integers, all else is in float32.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from turbo_onnx.errors import InputError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
"""From the finest to the coarsest."""


@dataclass(frozen=True)
class HalfType:
    """A floating-point type of 16 bits.

    Attributes:
        precision: as `--precision` names it.
        name: as ONNX and NumPy name it.
        element_type: its number in ONNX.
        largest: its largest finite number.
        smallest_normal: below it, numbers are multiples of it and twice the `roundoff`, and lose precision.
        roundoff: the largest relative error of rounding a number of its normal range to it.
        integers: the integers up to this one are exact.
    """

    precision: Precision
    name: str
    element_type: int
    largest: float
    smallest_normal: float
    roundoff: float
    integers: int

    @property
    def onnx_type(self) -> str:
        """As schemas name it."""
        return f"tensor({self.name})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type.

        Raises:
            InputError: NumPy has none here, since a package is missing or too old.
        """
        if self.name == "float16":
            return np.dtype(np.float16)
        try:
            dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
            known = onnx.helper.np_dtype_to_tensor_dtype(dtype) == self.element_type
        except (ImportError, KeyError, ValueError):
            known = False
        if not known:
            raise InputError("precision bf16 needs onnx 1.19 or newer, with ml_dtypes; upgrade onnx, or use fp16.")
        return dtype


FLOAT16 = HalfType("fp16", "float16", onnx.TensorProto.FLOAT16, 65504.0, 2.0**-14, 2.0**-11, 1 << 11)
BFLOAT16 = HalfType(
    "bf16", "bfloat16", onnx.TensorProto.BFLOAT16, (2.0 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-8, 1 << 8
)
HALF_TYPES = {half.precision: half for half in (FLOAT16, BFLOAT16)}


def half_type(dtype: Any) -> HalfType | None:
    """Which of the two a tensor's type is: a NumPy type, an ONNX element type, or None where it is not known."""
    if dtype is None:
        return None
    if isinstance(dtype, (int, np.integer)):
        return next((half for half in HALF_TYPES.values() if half.element_type == int(dtype)), None)
    name = np.dtype(dtype).name
    return next((half for half in HALF_TYPES.values() if half.name == name), None)
