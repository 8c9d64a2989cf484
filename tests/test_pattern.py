"""The pattern language: what matches, what does not, and what the nearest miss says."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import graph, parse
from turbo_onnx.matcher import Match, Matcher, Miss
from turbo_onnx.model import Model
from turbo_onnx.pattern import Expression, bind, constant, number, op, operators, optional, variable, variables

Pattern = Expression | tuple[Expression, ...]


def search(
    pattern: Pattern, model: Model, root: str | None = None, at_least: int = 1
) -> tuple[list[Match], Miss | None]:
    """Every match at the node that computes `root` (the graph's first output), and the nearest miss there."""
    matcher = Matcher(pattern if isinstance(pattern, tuple) else (pattern,), model.graph, model.opset)
    node = model.graph.outputs[0].inputs[0]
    found = list(matcher.matches(node)) if matcher.can_start(node) else []
    return found, matcher.miss(node)


def found(pattern: Pattern, body: str, **options: Any) -> Match:
    matches, miss = search(pattern, parse(graph(body, **options)))
    assert matches, miss
    return matches[0]


def sentence(pattern: Pattern, body: str, **options: Any) -> str:
    matches, miss = search(pattern, parse(graph(body, **options)))
    assert not matches
    assert miss is not None
    return miss.sentence


X = "(float[N,4] x) => (float[N,4] y)"
XZ = "(float[N,4] x, float[N,4] z) => (float[N,4] y)"


def test_a_variable_is_one_tensor_wherever_it_occurs() -> None:
    x = variable("x")
    assert found(op.Relu(x) + x, f"g {X} {{r = Relu(x) y = Add(r, x)}}").x.name == "x"
    assert sentence(op.Relu(x) + x, f"g {XZ} {{r = Relu(x) y = Add(r, z)}}") == "z and x should be the same tensor"


def test_an_expression_used_twice_is_one_tensor() -> None:
    x = variable("x")
    relu = op.Relu(x)
    shared = f"g {X} {{r = Relu(x) y = Mul(r, r)}}"
    separate = f"g {X} {{r = Relu(x) s = Relu(x) y = Mul(r, s)}}"
    assert found(relu * relu, shared)
    assert sentence(relu * relu, separate) == "s and r should be the same tensor"
    for body in (shared, separate):
        assert found(op.Relu(x) * op.Relu(x), body)


def test_variables_of_different_names_may_be_the_same_tensor() -> None:
    a, b = variables("a b")
    match = found(a + b, f"g {X} {{y = Add(x, x)}}")
    assert match.a is match.b


@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_commutative_operators_are_tried_both_ways(operator: str) -> None:
    x, z = variables("x z")
    pattern = getattr(op, operator)(op.Relu(x), z)
    assert found(pattern, f"g {XZ} {{r = Relu(x) y = {operator}(r, z)}}").z.name == "z"
    assert found(pattern, f"g {XZ} {{r = Relu(x) y = {operator}(z, r)}}").z.name == "z"


def test_other_operators_are_not_turned_round() -> None:
    x, z = variables("x z")
    body = f"g {XZ} {{r = Relu(x) y = Sub(z, r)}}"
    assert sentence(op.Relu(x) - z, body) == "expected Relu, but z is an input of the graph"


def test_commutative_choices_are_taken_back_when_they_lead_nowhere() -> None:
    x, z = variables("x z")
    pattern = (op.Relu(x) + op.Relu(z)) * op.Exp(z)  # the first try binds x and z the wrong way round
    body = f"g {XZ} {{a = Relu(z) b = Relu(x) s = Add(a, b) e = Exp(z) y = Mul(s, e)}}"
    assert found(pattern, body).x.name == "x"


def test_a_chain_that_meets_again_matches_without_outside_readers() -> None:
    x = variable("x")
    mean = op.ReduceMean(x, axes=[-1])
    centered = x - mean
    pattern = centered / op.Sqrt(op.ReduceMean(centered * centered, axes=[-1]))
    body = f"""g {X} {{m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) s = Mul(d, d) v = ReduceMean<axes=[1]>(s)
        q = Sqrt(v) y = Div(d, q)}}"""
    assert len(found(pattern, body).nodes) == 6


def test_alternatives_are_tried_in_order_and_flatten() -> None:
    x = variable("x")
    pattern = op.Relu(op.Exp(x) | op.Log(x) | x)
    assert found(pattern, f"g {X} {{e = Exp(x) y = Relu(e)}}").x.name == "x"
    assert found(pattern, f"g {X} {{e = Log(x) y = Relu(e)}}").x.name == "x"
    assert found(pattern, f"g {X} {{e = Abs(x) y = Relu(e)}}").x.name == "e"


def test_an_alternative_that_is_read_outside_gives_way_to_the_next() -> None:
    x = variable("x")
    pattern = op.Relu(op.Exp(x) | x)
    body = "g (float[N] x) => (float[N] y, float[N] z) {e = Exp(x) y = Relu(e) z = Abs(e)}"
    match = found(pattern, body)
    assert match.x.name == "e"
    assert len(match.nodes) == 1


def test_several_roots_are_anchored_by_their_types() -> None:
    x = variable("x")
    matcher = Matcher((op.Relu(x) | operators("other").Gelu(x) | x + 1.0,), gs.Graph(), 17)
    assert matcher.anchors == {(None, "Relu"), ("other", "Gelu"), (None, "Add")}


def test_every_way_to_match_is_given() -> None:
    a, b = variables("a b")
    matches, _ = search(a + b, parse(graph(f"g {XZ} {{y = Add(x, z)}}")))
    assert [(match.a.name, match.b.name) for match in matches] == [("x", "z"), ("z", "x")]


class TestNumbers:
    @pytest.mark.parametrize(
        "value", ["float half = {0.5}", "float[1] half = {0.5}", "float[1,4] half = {0.5,0.5,0.5,0.5}"]
    )
    def test_every_shape_is_the_same_number(self, value: str) -> None:
        assert found(variable("x") * 0.5, f"g {X} <{value}> {{y = Mul(x, half)}}")

    def test_digits_that_exporters_cut_off_are_tolerated(self) -> None:
        assert found(variable("x") / 2**0.5, f"g {X} <float r = {{1.4142}}> {{y = Div(x, r)}}")

    def test_another_number_is_named(self) -> None:
        said = sentence(variable("x") / 2**0.5, f"g {X} <float r = {{1.414}}> {{y = Div(x, r)}}")
        assert said == "r is 1.41400003, not 1.41421356"

    def test_a_number_may_have_a_tolerance_of_its_own(self) -> None:
        assert found(variable("x") / number(2**0.5, 1e-3), f"g {X} <float r = {{1.414}}> {{y = Div(x, r)}}")

    def test_a_narrower_type_may_round(self) -> None:
        model = parse(graph("g (float16[4] x) => (float16[4] y) {y = Mul(x, r)}"), {"r": np.float16(0.044715)})
        assert search(variable("x") * 0.044715, model)[0]

    @pytest.mark.parametrize("value", ["float[1,1,1] half = {0.5}", "float[2,1] half = {0.5, 0.5}"])
    def test_a_number_that_changes_the_shape_is_refused(self, value: str) -> None:
        body = f"g (float[1,4] x) => (float y) <{value}> {{m = Mul(x, half) y = ReduceSum<keepdims=0>(m)}}"
        said = sentence(op.ReduceSum(variable("x") * 0.5), body)
        assert said.startswith("half [")
        assert said.endswith("may change the shape of x")

    def test_several_numbers_are_not_one(self) -> None:
        said = sentence(variable("x") * 0.5, f"g {X} <float[4] h = {{0.5, 0.5, 0.5, 1}}> {{y = Mul(x, h)}}")
        assert said == "h should be the number 0.5"

    def test_a_number_can_be_bound(self) -> None:
        match = found(variable("x") + bind("epsilon"), f"g {X} <float[1] e = {{0.25}}> {{y = Add(x, e)}}")
        assert match.epsilon == 0.25

    def test_a_bound_number_is_the_same_everywhere(self) -> None:
        pattern = (variable("x") + bind("e")) * bind("e")
        assert found(pattern, f"g {X} <float a = {{2}}, float b = {{2}}> {{s = Add(x, a) y = Mul(s, b)}}")
        assert not search(
            pattern, parse(graph(f"g {X} <float a = {{2}}, float b = {{3}}> {{s = Add(x, a) y = Mul(s, b)}}"))
        )[0]


class TestOperands:
    def test_a_constant_is_no_computed_tensor(self) -> None:
        pattern = op.MatMul(variable("x"), constant("w"))
        body = "g (float[N,2] x, float[2,2] z) => (float[N,2] y) <float[2,2] w = {1,2,3,4}>"
        assert found(pattern, f"{body} {{y = MatMul(x, w)}}").w.name == "w"
        assert sentence(pattern, f"{body} {{y = MatMul(x, z)}}") == "z is not a constant"

    def test_an_optional_operand_may_be_left_out(self) -> None:
        pattern = op.LayerNormalization(variable("x"), constant("scale"), optional("bias"))
        rows = "<float[4] s = {1,2,3,4}, float[4] b = {1,2,3,4}>"
        assert found(pattern, f"g {X} {rows} {{y = LayerNormalization(x, s, b)}}").bias.name == "b"
        assert found(pattern, f"g {X} {rows} {{y = LayerNormalization(x, s)}}").bias is None

    def test_an_operand_that_is_not_optional_has_to_be_there(self) -> None:
        pattern = op.LayerNormalization(*variables("x scale bias"))
        said = sentence(pattern, f"g {X} <float[4] s = {{1,2,3,4}}> {{y = LayerNormalization(x, s)}}")
        assert said == "the operand bias is absent"

    def test_further_operands_have_to_be_absent(self) -> None:
        pattern = op.LayerNormalization(*variables("x scale"))
        body = f"g {X} <float[4] s = {{1,2,3,4}}> {{[norm] y = LayerNormalization(x, s, s)}}"
        assert sentence(pattern, body) == "norm has more operands than it should"

    def test_none_stands_for_an_absent_operand(self) -> None:
        pattern = op.Clip(variable("x"), None, bind("high"))
        body = "g (float[N] x) => (float[N] y) <float high = {1}>"
        assert found(pattern, f'{body} {{y = Clip(x, "", high)}}').high == 1.0
        assert not search(pattern, parse(graph(f"{body} {{y = Clip(x, high, high)}}")))[0]


class TestAttributes:
    SOFTMAX = "g (float[A,B,C] x) => (float[A,B,C] y) {y = Softmax(x)}"

    def test_a_default_depends_on_the_opset(self) -> None:
        pattern = op.Softmax(variable("x"), axis=-1)
        assert found(pattern, self.SOFTMAX, opset=13)
        assert sentence(pattern, self.SOFTMAX, opset=11) == "Softmax of y works on axis 1, not the last"

    def test_the_last_axis_may_be_written_as_a_number(self) -> None:
        assert found(op.Softmax(variable("x"), axis=-1), self.SOFTMAX.replace("(x)}", "<axis=2>(x)}"))

    def test_axes_may_be_an_attribute_or_an_input(self) -> None:
        pattern = op.ReduceMean(variable("x"), axes=[-1], keepdims=1)
        head = "g (float[A,B,4] x) => (float[A,B,1] y)"
        assert found(pattern, f"{head} {{y = ReduceMean<axes=[2]>(x)}}", opset=17)
        assert found(pattern, f"{head} <int64[1] a = {{-1}}> {{y = ReduceMean(x, a)}}", opset=18)

    def test_axes_that_are_computed_are_not_known(self) -> None:
        body = "g (float[A,4] x, int64[1] a) => (float[A,B] y) {[mean] y = ReduceMean(x, a)}"
        said = sentence(op.ReduceMean(variable("x"), axes=[-1]), body, opset=18)
        assert said == "mean computes its axes at run time"

    def test_a_wrong_axis_is_named(self) -> None:
        body = "g (float[A,B,4] x) => (float[A,1,4] y) {[ReduceMean_1] y = ReduceMean<axes=[1]>(x)}"
        said = sentence(op.ReduceMean(variable("x"), axes=[-1]), body)
        assert said == "ReduceMean_1 reduces axis 1, not the last"

    def test_a_wrong_attribute_is_named(self) -> None:
        body = f"g {X} {{[unit] y = Elu<alpha=2.0>(x)}}"
        assert sentence(op.Elu(variable("x"), alpha=1.0), body) == "unit has alpha 2.0, not 1.0"

    def test_an_attribute_can_be_bound(self) -> None:
        match = found(op.Elu(variable("x"), alpha=bind("alpha")), f"g {X} {{y = Elu<alpha=2.0>(x)}}")
        assert match.alpha == 2.0
        assert found(op.Elu(variable("x"), alpha=bind("alpha")), f"g {X} {{y = Elu(x)}}").alpha == 1.0


class TestOutside:
    BODY = "g (float[N] x) => (float[N] y, float[N] z) {[exponential] e = Exp(x) y = Relu(e) [other] z = Abs(e)}"

    def test_a_tensor_inside_must_not_be_read_outside(self) -> None:
        assert sentence(op.Relu(op.Exp(variable("x"))), self.BODY) == "e is also read by other"

    def test_a_tensor_that_is_returned_may_be(self) -> None:
        inner = op.Exp(variable("x"))
        match = found((op.Relu(inner), inner), self.BODY)
        assert [tensor.name for tensor in match.outputs if tensor is not None] == ["y", "e"]
        assert match.is_read_outside(match.outputs[1])  # type: ignore[arg-type]

    def test_a_tensor_inside_must_not_be_an_output_of_the_graph(self) -> None:
        body = "g (float[N] x) => (float[N] y, float[N] e) {e = Exp(x) y = Relu(e)}"
        assert sentence(op.Relu(op.Exp(variable("x"))), body) == "e is also an output of the graph"

    @pytest.mark.parametrize("branch", ["t () => (float[N] e) {i = Identity(x)}", "t () => (float[N] i) {i = Abs(e)}"])
    def test_a_tensor_inside_must_not_be_read_in_a_branch(self, branch: str) -> None:
        branch = branch.replace("=> (float[N] e) {i = Identity(x)}", "=> (float[N] i) {i = Identity(e)}")
        body = f"""g (float[N] x, bool c) => (float[N] y, float[N] z) {{e = Exp(x) y = Relu(e)
            z = If (c) <then_branch = {branch}, else_branch = f () => (float[N] j) {{j = Identity(x)}}>}}"""
        assert "e is also" in sentence(op.Relu(op.Exp(variable("x"))), body)

    def test_a_second_output_is_part_of_its_node(self) -> None:
        split = op.Split(variable("x"))
        head = "g (float[N,4] x) => (float[N,2] y)"
        assert found(split * split[1], f"{head} {{a, b = Split<axis=1>(x) y = Mul(a, b)}}", opset=13)
        assert not search(
            split * split[1], parse(graph(f"{head} {{a, b = Split<axis=1>(x) y = Mul(a, a)}}", opset=13))
        )[0]
        said = sentence(
            op.Relu(split),
            f"{head} {{a, b = Split<axis=1>(x) y = Relu(b)}}",
            opset=13,
        )
        assert said.startswith("b is not the output of Split")


def test_labels_give_inner_tensors() -> None:
    x = variable("x")
    match = found(op.Relu((op.Exp(x) | op.Log(x)).named("inner")), f"g {X} {{e = Log(x) y = Relu(e)}}")
    assert match.inner.name == "e"
    assert match.nothing is None


def test_operators_of_another_domain_are_others() -> None:
    model = parse(graph(f"g {X} {{y = Relu(x)}}"))
    model.graph.nodes[0].domain = "other"
    assert search(op.Relu(variable("x")), model) == ([], None)
    assert search(operators("other").Relu(variable("x")), model)[0]


def test_the_deepest_miss_is_told() -> None:
    x = variable("x")
    pattern = op.Relu(op.Exp(x) + op.Log(op.Abs(x))) | op.Relu(op.Neg(x))
    body = f"g {X} {{e = Exp(x) n = Neg(x) l = Log(n) s = Add(l, e) y = Relu(s)}}"
    model = parse(graph(body))
    _, miss = search(pattern, model)
    assert miss is not None
    assert miss.sentence == "expected Abs, but n is computed by Neg (Neg of n)"
    assert miss.operators == {"Relu", "Add", "Log"}


def test_names_do_not_matter() -> None:
    pattern = op.Relu(op.Exp(variable("x")))
    for name in ("LayerNorm", "bert/encoder", "1"):
        model = parse(graph(f"g {X} {{e = Exp(x) y = Relu(e)}}"))
        model.graph.nodes[0].name = model.graph.nodes[1].name = name
        assert search(pattern, model)[0]


def test_twenty_thousand_nodes_are_searched_in_seconds() -> None:
    x = gs.Variable("x", np.float32, ["N", 4])
    tensor, nodes = x, []
    half = gs.Constant("half", np.array(0.5, np.float32))
    for index in range(20_000):
        result = gs.Variable(f"t{index}", np.float32, ["N", 4])
        operator = ("Add", "Mul", "Erf", "Div")[index % 4]
        nodes.append(
            gs.Node(operator, f"n{index}", inputs=[tensor] if operator == "Erf" else [tensor, half], outputs=[result])
        )
        tensor = result
    value = variable("x")
    error = op.Erf(value / 2**0.5 | value * 0.5**0.5) + 1.0
    matcher = Matcher(
        (value * (error * 0.5) | (value * error) * 0.5 | (value * 0.5) * error,), gs.Graph(nodes, [x], [tensor]), 17
    )
    started = time.process_time()
    matches = sum(1 for node in nodes if matcher.can_start(node) for _ in matcher.matches(node))
    assert matches == 0
    assert time.process_time() - started < 4.0
