"""ReadSizesOfInputs: sizes of inputs' axes are read there, and only where they are surely the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import apply, equivalent, graph, normal, operators, parse, run
from turbo_onnx.model import Model
from turbo_onnx.passes.merge_duplicates import MergeDuplicates
from turbo_onnx.passes.read_sizes_of_inputs import ReadSizesOfInputs

RESHAPED = " s = Shape(p) n = Gather(s, one) v = Unsqueeze(n, zero) t = Concat<axis=0>(minus, v) y = Reshape(p, t)"
PROBABILITIES = "p = Softmax(x)" + RESHAPED
JOINED = "p = Add(x, z)" + RESHAPED


def model_of(nodes: str, inputs: str = "float[B,S,4] x", output: str = "float[M,N] y") -> Model:
    constants = "int64 one = {1}, int64[1] zero = {0}, int64[1] minus = {-1}, int64[1] end = {2}, int64[1] last = {1}"
    return parse(graph(f"g ({inputs}) => ({output}) <{constants}> {{{nodes}}}"))


def sources(model: Model) -> list[str]:
    """What is asked for its shape."""
    return [node.inputs[0].name for node in model.graph.nodes if node.op == "Shape"]


def test_what_is_computed_is_not_read_for_its_size() -> None:
    model = model_of(PROBABILITIES)
    inputs = {"x": normal(2, 3, 4)}
    before = run(model, inputs)
    apply(ReadSizesOfInputs(), model)
    assert sorted(operators(model)) == ["Concat", "Gather", "Reshape", "Shape", "Softmax", "Unsqueeze"]
    assert sources(model) == ["x"]
    equivalent(before, model, inputs)


def test_a_size_that_is_read_in_several_places_is_read_once() -> None:
    chain = (
        "p{0} = Softmax({1}) s{0} = Shape(p{0}) n{0} = Gather(s{0}, one) v{0} = Unsqueeze(n{0}, zero) "
        "t{0} = Concat<axis=0>(minus, v{0}) {2} = Reshape(p{0}, t{0}) "
    )
    model = model_of(chain.format(1, "x", "y") + chain.format(2, "p1", "z"), output="float[M,N] y, float[M,N] z")
    apply(ReadSizesOfInputs(), model)
    apply(MergeDuplicates(), model)
    assert [operators(model).count(name) for name in ("Shape", "Gather", "Concat", "Reshape")] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("nodes", "inputs"),
    [
        (PROBABILITIES.replace("Shape(p)", "Shape(x)"), "float[B,S,4] x"),
        # The size of an axis that an operator made is nobody's.
        (
            "k = NonZero(x) s = Shape(k) n = Gather(s, one) v = Unsqueeze(n, zero) t = Concat<axis=0>(v, minus)"
            "c = Cast<to=1>(k) y = Reshape(c, t)",
            "float[B,S,4] x",
        ),
        # Either may be broadcast to the other.
        (JOINED, "float[B,S,4] x, float[B,T,4] z"),
    ],
)
def test_other_sizes_stay_where_they_are_read(nodes: str, inputs: str) -> None:
    model = model_of(nodes, inputs)
    before = sources(model)
    assert apply(ReadSizesOfInputs(), model).applied == 0
    assert sources(model) == before


def test_a_broadcast_size_is_computed_as_before() -> None:
    model = model_of(JOINED, "float[B,S,4] x, float[B,T,4] z")
    inputs = {"x": normal(2, 1, 4), "z": normal(2, 3, 4, seed=1)}
    before = run(model, inputs)
    ReadSizesOfInputs().run(model)
    equivalent(before, model, inputs)


def test_an_output_keeps_its_name() -> None:
    model = parse(
        graph("g (float[B,S] x) => (int64 n) <int64 one = {1}> { p = Exp(x) s = Shape(p) n = Gather(s, one) }")
    )
    assert apply(ReadSizesOfInputs(), model).applied == 0
    assert np.array_equal(run(model, {"x": normal(2, 3)})[0], 3)
