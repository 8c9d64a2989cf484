"""How far two models' outputs may lie apart, by the type that they compute in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Unit = Literal["largest", "deviation", "one"]


@dataclass(frozen=True)
class Tolerance:
    """|after - before| <= atol · unit + rtol · |before|, element by element.

    Attributes:
        rtol, atol: as there.
        unit: the largest |before| of the output in the case; the standard deviation of the output over all cases; or 1.
        noise: the largest root mean square of after - before, in units; None: any.
    """

    rtol: float
    atol: float
    unit: Unit = "largest"
    noise: float | None = None


TOLERANCES: Mapping[str, Tolerance] = {
    # A few roundings of each type's unit (float32: 6e-8, float16: 5e-4, bfloat16: 4e-3), carried through some tens of
    # layers. float64 keeps float32's headroom of about a hundred units. Anything else must be equal.
    "float64": Tolerance(1e-12, 1e-12),
    "float32": Tolerance(1e-5, 1e-5),
    "float16": Tolerance(4e-3, 4e-3),
    "bfloat16": Tolerance(3e-2, 3e-2),
}
COARSE_TOLERANCES: Mapping[str, Tolerance] = {
    # By the coarsest type that either model computes in. Errors of half precision are noise of about one size on all
    # elements of an output, so they are compared with how much the output varies, plus a few roundings of each number.
    # The most that real encoders show is 1.3e-2 in float16 and 0.13 in bfloat16, whose roundings are eight times as
    # large.
    "fp16": Tolerance(4 * 2.0**-11, 2e-2, "deviation"),
    "bf16": Tolerance(4 * 2.0**-8, 0.16, "deviation"),
    # The noise of 8-bit integers, from layers that have a scale for each token, is a tenth in a real encoder; single
    # elements are ten times as far off. That leaves room for mistakes, so what is quantized is verified before, too.
    "int8": Tolerance(0.05, 2.5, "deviation", noise=0.2),
}
_FILL = 1e3  # times the median: larger numbers of an output are not computed, but put there


def deviation(numbers: Array) -> float:
    """The standard deviation of numbers without the fills among them, which are larger by orders than what is typical.

    A mask's -1e9 in an output would let everything else in it pass.
    """
    sizes = np.abs(numbers)
    typical = float(np.median(sizes)) if numbers.size else 0.0
    kept = numbers[sizes <= _FILL * typical] if typical > 0.0 else numbers
    return float(np.std(kept)) if kept.size else 0.0


def difference_of(
    before: Array, after: Array, limits: Tolerance, factor: float = 1.0, spread: float = 0.0
) -> tuple[Array, Array, Array]:
    """|after - before|, |before|, and how large the first may be, element by element in float64.

    Equal infinities, and NaN in both, differ by 0; NaN or an infinity in only one of them by infinity.
    """
    left, right = before.astype(np.float64), after.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(right - left))
    difference = np.where(np.isnan(difference), np.inf, difference)
    magnitude = np.where(np.isfinite(left), np.abs(left), 0.0)
    largest = float(np.max(magnitude)) if magnitude.size else 0.0
    unit = {"largest": largest, "deviation": spread, "one": 1.0}[limits.unit]
    return difference, magnitude, factor * (limits.atol * unit + limits.rtol * magnitude)
