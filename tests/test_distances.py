"""Comparisons of positions are known for what they are, whichever way they are written."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.passes.support import graph, parse, run
from turbo_onnx import shapes
from turbo_onnx.distances import AtLeast, compared, stretches
from turbo_onnx.model import Model

OPERATORS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
SIDES = [
    ("row", "column"),
    ("column", "row"),
    ("row_shifted", "column"),
    ("column", "row_shifted"),
    ("away", "three"),
    ("three", "away"),
    ("size_away", "three"),
    ("three", "size_away"),
    ("size_shifted", "three"),
    ("three", "size_turned"),
]


def load(result: str) -> Model:
    model = parse(
        graph(
            f"""g (float[S] x) => (bool[A,B] y) <int64 first = {{0}}, int64 step = {{1}}, int64 three = {{3}},
            int64[1] axis0 = {{0}}, int64[1] axis1 = {{1}}, int64[1] begin = {{0}}> {{
                sh = Shape(x) size = Gather(sh, first) at = Range(first, size, step) row = Unsqueeze(at, axis1)
                column = Unsqueeze(at, axis0) row_shifted = Sub(row, three) away = Sub(row, column)
                doubled = Add(column, column) x2 = Unsqueeze(x, axis0)
                size_away = Abs(away) shifted = Add(away, step) size_shifted = Abs(shifted)
                turned = Sub(column, row_shifted) size_turned = Abs(turned)
                y = {result}
            }}"""
        )
    )
    shapes.infer(model)
    return model


@pytest.mark.parametrize(("operator", "sides"), list(product(OPERATORS, SIDES)), ids=lambda value: str(value))
def test_a_comparison_is_what_it_is_said_to_be(operator: str, sides: tuple[str, str]) -> None:
    model = load(f"{operator}({', '.join(sides)})")
    found = compared(model.graph.nodes[-1], shapes.infer(model))
    assert found is not None
    assert {(view.row, view.column) for view in found.views} == {(-2, -1)}
    (expected,) = run(model, {"x": np.zeros(9, np.float32)})
    distance = np.arange(9)[:, None] - np.arange(9)
    index = tuple((distance >= view.least).astype(int) for view in found.views)
    np.testing.assert_array_equal(found.table[index], expected)


OTHERS = {
    "equality": "Equal(row, column)",
    "one position with a number": "Less(row, three)",
    "positions of different steps": "Less(row, doubled)",
    "a position with the size": "Less(row, size)",
    "a position with itself": "Less(row, row)",
    "a distance with a position": "Less(size_away, column)",
    "numbers that are not positions": "Less(x2, x2)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_comparisons_are_not_known(name: str) -> None:
    model = load(OTHERS[name])
    assert compared(model.graph.nodes[-1], shapes.infer(model)) is None


def test_stretches_hold_every_distance_once_and_agree_with_the_comparisons() -> None:
    comparisons = [AtLeast(-2, -1, 0), AtLeast(-2, -1, 5), AtLeast(-2, -1, -3), AtLeast(-2, -1, 0)]
    parts = list(stretches(comparisons))
    assert len(parts) == 4
    for distance in range(-9, 10):
        (part,) = [part for part in parts if part.includes(distance)]
        assert part.holds == tuple(int(distance >= comparison.least) for comparison in comparisons)
