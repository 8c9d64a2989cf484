"""ConvertConstants: every spelling of Constant becomes a constant of the graph, what cannot stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.passes.clean_graphs import cleaned_by, rewritten
from tests.passes.support import count, graph, parse
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_constants import ConvertConstants

X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}

SPELLINGS = {
    "value": "Constant<value = float[2] {1, 2}>()",
    "value of no axes": "Constant<value = float {3}>()",
    "value_float": "Constant<value_float = 1.5>()",
    "value_floats": "Constant<value_floats = [1.5, 2.5]>()",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_becomes_a_constant(name: str) -> None:
    after, report = rewritten(
        ConvertConstants(), f"g (float[B,2] x) => (float[B,2] y) {{ c = {SPELLINGS[name]} y = Add(x, c) }}", X
    )
    assert count(after) == {"Add": 1}
    assert report.applied == 1


@pytest.mark.parametrize("spelling", ["value_int = 1", "value_ints = [1]", "value = int64[1] {1}"])
def test_integers_are_of_64_bits(spelling: str) -> None:
    after, _ = rewritten(
        ConvertConstants(),
        f"g (float[B,2] x) => (float[B,C] y) {{ c = Constant<{spelling}>() y = Gather<axis = 1>(x, c) }}".replace(
            "[B,C]", "[B]" if "value_int =" in spelling else "[B,1]"
        ),
        X,
    )
    assert after.graph.nodes[0].inputs[1].dtype == np.int64


def test_all_readers_and_operands_read_the_one_constant() -> None:
    after, report = rewritten(
        ConvertConstants(),
        "g (float[B,2] x) => (float[B,2] y, float[B,2] z) "
        "{ c = Constant<value = float[2] {1, 2}>() d = Mul(c, c) y = Add(x, d) z = Sub(x, c) }",
        X,
    )
    assert report.applied == 1
    first, second = after.graph.nodes[0].inputs
    assert first is second
    assert after.graph.nodes[2].inputs[1] is first


def test_branches_read_the_constant_from_outside() -> None:
    after, _ = rewritten(
        ConvertConstants(),
        "g (float[B,2] x, bool flag) => (float[B,2] y) { c = Constant<value = float[2] {1, 2}>() "
        "y = If(flag)<then_branch = t () => (float[B,2] a) { a = Add(x, c) }, "
        "else_branch = e () => (float[B,2] s) { s = Sub(x, c) }> }",
        X | {"flag": np.array(False)},
    )
    assert count(after) == {"If": 1}


def test_a_constant_that_is_an_output_stays() -> None:
    after, report = rewritten(
        ConvertConstants(),
        "g (float[B,2] x) => (float[B,2] y, float[2] c) { c = Constant<value = float[2] {1, 2}>() y = Add(x, c) }",
        X,
    )
    assert (report.applied, count(after)) == (0, {"Constant": 1, "Add": 1})


def test_strings_and_sparse_tensors_stay() -> None:
    words = parse(graph('g () => (string[2] y) { c = Constant<value_strings = ["a", "b"]>() y = Identity(c) }'))
    assert cleaned_by(ConvertConstants(), model=words).applied == 0
    values = onnx.helper.make_tensor("values", onnx.TensorProto.FLOAT, [1], [2.0])
    indices = onnx.helper.make_tensor("indices", onnx.TensorProto.INT64, [1], [1])
    node = onnx.helper.make_node(
        "Constant", [], ["c"], sparse_value=onnx.helper.make_sparse_tensor(values, indices, [3])
    )
    proto = onnx.parser.parse_model(graph("g (float[3] x) => (float[3] y) { y = Add(x, c) }"))
    proto.graph.node.insert(0, node)
    model = Model.from_proto(proto)
    assert ConvertConstants().run(model).applied == 0
    assert count(model) == {"Constant": 1, "Add": 1}
