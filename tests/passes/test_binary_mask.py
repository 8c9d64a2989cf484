"""Masks of other numbers than 0 and 1 are refused where the original computes with them, and else taken as they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import BIAS, EMBEDDING, MEAN, layer, model, pack, session, sessions
from turbo_onnx.model import Model

INVERTED = "b4 = Unsqueeze(mask, axes12) bf = Cast<to = 1>(b4) bias = Mul(bf, lowest)"
TRUTH = "r = Cast<to = 9>(mask) r4 = Unsqueeze(r, axes12) bias = Where(r4, zero, lowest)"
SPELLINGS = {"weighed": BIAS, "inverted": INVERTED}
KINDS = {
    "int64": (2, -1), "int32": (2, -1), "int8": (2, -1), "uint8": (2, 255), "uint64": (2, 2**64 - 1),
    "float": (0.5, 2, -1, np.nan, np.inf, -np.inf, 1e-40), "float16": (0.5, 2, np.nan, 6e-8),
    "double": (1 + 2**-40, 1e-300),
}  # fmt: skip
TYPES = {"float": "float32", "double": "float64"}


def feeds(value: float, kind: str) -> dict[str, np.ndarray]:
    mask = np.array([[1, 1, 0], [1, 1, 1]]).astype(TYPES.get(kind, kind))
    mask[1, 2] = value
    return {"ids": np.array([[1, 2, 3], [4, 5, 6]]), "mask": mask}


def load(bias: str, kind: str, rest: str = "", output: str = "float[B,S,8] h1") -> Model:
    return model(EMBEDDING + bias + layer(1) + rest, output, inputs=f"int64[B,S] ids, {kind}[B,S] mask")


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_other_numbers_than_zeros_and_ones_are_refused(kind: str, name: str) -> None:
    after = load(SPELLINGS[name], kind)
    assert pack(after).facts["packed"] is True
    for candidate, sentence in zip(sessions(after), ("mask_must_hold_0_and_1_only", r"mask has \S+ at"), strict=False):
        candidate.run(None, feeds(1, kind))
        candidate.run(None, feeds(0, kind))
        for value in KINDS[kind]:
            with pytest.raises(Exception, match=sentence):
                candidate.run(None, feeds(value, kind))


def test_the_sentence_names_the_input_its_number_and_its_place() -> None:
    after = load(BIAS, "float")
    pack(after)
    candidates = sessions(after)
    if len(candidates) < 2:
        pytest.skip("the library is not built")
    with pytest.raises(Exception, match=r"mask has 0\.5 at \[1, 2\], but this model was optimized for zeros and ones"):
        candidates[1].run(None, feeds(0.5, "float"))


NOT_ZERO = {
    "cast to truth": TRUTH,
    "compared with zero": "e = Equal(mask, nought) e4 = Unsqueeze(e, axes12) bias = Where(e4, infinite, zero)",
    "moved, then cast": "m4 = Unsqueeze(mask, axes12) r4 = Cast<to = 9>(m4) bias = Where(r4, zero, lowest)",
    "counted besides": TRUTH + "at = CumSum(mask, one_axis)",
    "measured besides": TRUTH + "sizes = Shape(mask)",
}


@pytest.mark.parametrize("name", NOT_ZERO)
@pytest.mark.parametrize("kind", ["int64", "float"])
def test_any_number_is_a_token_where_the_graph_only_asks_what_is_zero(kind: str, name: str) -> None:
    extra = {"counted besides": f"{kind}[B,S] at", "measured besides": "int64[2] sizes"}.get(name)
    both = []
    for _ in range(2):
        both.append(
            model(
                EMBEDDING + NOT_ZERO[name] + layer(1),
                "float[B,S,8] h1" + (f", {extra}" if extra else ""),
                inputs=f"int64[B,S] ids, {kind}[B,S] mask",
                constants=f", {kind} nought = {{0}}, int64 one_axis = {{1}}",
            )
        )
    before, after = both
    assert pack(after).facts["packed"] is True
    for value in (2, -1, 0.5, np.nan) if kind == "float" else (2, -1):
        data = feeds(value, kind)
        expected = session(before.to_proto()).run(None, data)
        for candidate in sessions(after):
            actual = candidate.run(None, data)
            np.testing.assert_allclose(actual[0][data["mask"] != 0], expected[0][data["mask"] != 0], 1e-5, 1e-5)
            for one, other in zip(actual[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(one, other)


COMPUTED_WITH = {
    "a mean": (MEAN.replace("last", "h1"), "float[B,8] y"),
    "a product": ("u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) y = Mul(h1, f)", "float[B,S,8] y"),
    "a comparison with one": ("e = Equal(mask, unit) u = Unsqueeze(e, axis2) y = Where(u, h1, zero)", "float[B,S,8] y"),
    "a comparison of order": (
        "e = Greater(mask, pad) u = Unsqueeze(e, axis2) y = Where(u, h1, zero)",
        "float[B,S,8] y",
    ),
}


@pytest.mark.parametrize("name", COMPUTED_WITH)
def test_what_the_heads_make_of_a_mask_counts_too(name: str) -> None:
    nodes, output = COMPUTED_WITH[name]
    after = model(EMBEDDING + TRUTH + layer(1) + nodes, output, constants=", int64 unit = {1}")
    assert pack(after).facts["packed"] is True
    for candidate in sessions(after):
        candidate.run(None, feeds(1, "int64"))
        with pytest.raises(Exception, match="mask"):
            candidate.run(None, feeds(2, "int64"))


def test_what_is_positive_is_what_is_not_zero_for_numbers_without_sign() -> None:
    nodes = "r = Greater(mask, nought) r4 = Unsqueeze(r, axes12) bias = Where(r4, zero, lowest)" + layer(1)
    inputs = "int64[B,S] ids, uint8[B,S] mask"
    after = model(EMBEDDING + nodes, "float[B,S,8] h1", inputs=inputs, constants=", uint8 nought = {0}")
    assert pack(after).facts["packed"] is True
    for candidate in sessions(after):
        expected = candidate.run(None, feeds(1, "uint8"))
        np.testing.assert_array_equal(candidate.run(None, feeds(255, "uint8")), expected)
