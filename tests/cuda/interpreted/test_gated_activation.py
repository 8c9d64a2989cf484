"""GatedActivation on CUDA: every number of half precision as a gate, and widths at the edges of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import ELEMENTS, by_device
from tests.cuda.interpreted.test_bias_gelu import UNITS, WIDTH, every_number
from tests.custom_ops.single_node import Case, assert_equal, rounded
from turbo_onnx.custom_ops.activations import ACTIVATIONS


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, for numbers that are not finite
@pytest.mark.parametrize("activation", ["silu", "relu", "sigmoid"])
@pytest.mark.parametrize("element", list(UNITS))
def test_every_number_of_half_precision_is_right_to_its_last_place(element: str, activation: str) -> None:
    """Gelu's are tested with BiasGelu, which has the same function."""
    x = every_number(element).reshape(-1, WIDTH)
    case = Case("GatedActivation", [x, np.ones_like(x)], {"activation": activation})
    actual, expected = by_device(case, element)[0].reshape(-1), activation_of(x, activation).reshape(-1)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    # Half of the last place for storing the result, a hundredth for computing it, and what is lost of e^-x's overflow.
    least = {"float16": -24, "bfloat16": -133}[element]
    places = np.ldexp(1.0, np.maximum(np.frexp(expected[finite])[1] - UNITS[element], least))
    assert (np.abs(actual[finite] - expected[finite]) - 3e-37 <= 0.51 * places).all()


def activation_of(x: np.ndarray, activation: str) -> np.ndarray:
    """In float64, and as the definition has it where x is infinite."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        share = 1 / (1 + np.exp(-wide))
        return {"silu": wide * share, "relu": np.maximum(wide, 0), "sigmoid": share}[activation]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("element", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 129])
def test_every_form_at_the_edges_of_blocks(width: int, element: str, activation: str) -> None:
    random = np.random.default_rng(width)
    unit = 1e-5 if element == "float32" else 2 * 2.0**-11
    for rows, joined, last, biased in (
        (1, True, 0, True),
        (5, True, 1, False),
        (33, True, 1, True),
        (9, False, 0, True),
    ):
        x, up, bias = (
            random.standard_normal(shape).astype(np.float32) for shape in ((rows, width), (rows, width), 2 * width)
        )
        inputs = [np.concatenate([x, up], axis=1) if joined else x, None if joined else up, bias if biased else None]
        case = Case("GatedActivation", inputs, {"activation": activation, "gate_last": last})
        case = rounded(case, ELEMENTS[element])
        assert_equal(by_device(case, element), case.expected(), unit)
