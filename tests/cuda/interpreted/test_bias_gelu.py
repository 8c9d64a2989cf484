"""BiasGelu on CUDA: every number of half precision, and widths at the edges of blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.cuda.device import ELEMENTS, by_device
from tests.custom_ops.single_node import Array, Case, assert_equal, rounded

WIDTH = 512
UNITS = {"float16": 11, "bfloat16": 8}  # bits of the mantissa


def every_number(element: str) -> Array:
    """All 2^16 values of the type as float32, infinities and NaN among them."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16) if element == "float16" else (bits.astype(np.uint32) << 16).view(np.float32)
    return np.where(np.isnan(values), np.nan, values).astype(np.float32)


def gelu(x: Array, approximate: str) -> Array:
    """In float64, without the loss of small results for large negative numbers that 1 + erf has."""
    with np.errstate(all="ignore"):
        if approximate == "tanh":
            return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x * np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, for numbers that are not finite
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("element", list(UNITS))
def test_every_number_of_half_precision_is_right_to_its_last_place(element: str, approximate: str) -> None:
    x = every_number(element)
    case = Case("BiasGelu", [x.reshape(-1, WIDTH), None], {"approximate": approximate})
    actual = by_device(case, element)[0].reshape(-1)
    expected = gelu(x.astype(np.float64), approximate)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(actual[x == np.inf], [np.inf])
    assert np.isnan(actual[np.isnan(x)]).all()
    # Half of the last place for storing the result, and a hundredth for computing it; far from 0 also what is lost of
    # the tail, which is less than 1e-8.
    places = np.ldexp(1.0, np.maximum(np.frexp(expected[finite])[1] - UNITS[element], -24))
    error = np.abs(actual[finite] - expected[finite]) - 1e-8
    assert (error <= 0.51 * places).all()


@pytest.mark.parametrize("element", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 127, 128, 129, 300, 768, 1025])
def test_every_width_and_number_of_rows_at_the_edges_of_blocks(width: int, element: str) -> None:
    random = np.random.default_rng(width)
    for rows in (1, 5, 33):
        x, bias = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, width), (width,)))
        case = rounded(Case("BiasGelu", [x, bias]), ELEMENTS[element])
        unit = 2.0 ** -UNITS.get(element, 17)
        assert_equal(by_device(case, element), case.expected(), 1e-5 if element == "float32" else 2 * unit)
