"""Edits of the graph: by identity, stable in their order, and linear in what they touch."""

from __future__ import annotations

import time

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import check_invariants, equivalent, graph, operators, parse, run
from turbo_onnx.graph import (
    Editor,
    constant_value,
    consumers,
    input_or_none,
    integers,
    is_op,
    produced_by,
    producer,
    scalar_value,
    subgraphs,
    topological_order,
)
from turbo_onnx.model import Model

BRANCHES = (
    "g (float[N] x, bool flag) => (float[N] y) { n = Neg(x) a = Abs(n) "
    "y = If(flag)<then_branch = t () => (float[N] p) { p = Neg(a) }, "
    "else_branch = e () => (float[N] q) { q = Abs(n) }> }"
)


def chain(nodes: str, outputs: str = "float[N] y") -> Model:
    return parse(graph(f"g (float[N] x) => ({outputs}) <float one = {{1}}> {{ {nodes} }}"))


def named(model: Model, name: str) -> gs.Variable:
    for node in model.graph.nodes:
        for tensor in node.outputs:
            if tensor.name == name:
                return tensor
    return next(tensor for tensor in model.graph.inputs if tensor.name == name)


def test_readers_are_listed_once_and_producers_found() -> None:
    model = chain("a = Neg(x) b = Mul(a, a) c = Abs(a) y = Add(b, c)")
    a = named(model, "a")
    assert [node.op for node in consumers(a)] == ["Mul", "Abs"]
    assert producer(a) is model.graph.nodes[0]
    assert producer(named(model, "x")) is None
    assert produced_by(a, "Abs", "Neg") is model.graph.nodes[0]
    assert produced_by(a, "Abs") is None


def test_operators_are_told_apart_by_domain() -> None:
    node = gs.Node("Gelu", domain="turbo_onnx.raised")
    assert not is_op(node, "Gelu")
    assert is_op(node, "Gelu", domain="turbo_onnx.raised")
    assert is_op(gs.Node("Gelu", domain="ai.onnx"), "Gelu")
    assert not is_op(None, "Gelu")


def test_constants_are_read() -> None:
    scalar, same, mixed = (gs.Constant("c", np.array(v, np.float32)) for v in (2, [3, 3], [1, 2]))
    assert (scalar_value(scalar), scalar_value(same), scalar_value(mixed)) == (2, 3, None)
    assert scalar_value(gs.Constant("large", np.zeros(5000, np.float32))) is None
    assert scalar_value(gs.Constant("empty", np.zeros(0, np.float32))) is None
    assert scalar_value(gs.Constant("nan", np.array([np.nan, np.nan]))) is None
    assert integers(gs.Constant("i", np.array([1, -2]))) == [1, -2]
    assert integers(gs.Constant("i", np.array(5))) == [5]
    assert integers(gs.Constant("i", np.array([[1]]))) is None
    assert integers(same) is None
    assert integers(None) is None
    assert constant_value(gs.Variable("v")) is None


def test_an_operand_left_out_is_none() -> None:
    model = chain("y = Clip(x, , one)")
    node = model.graph.nodes[0]
    assert input_or_none(node, 1) is None
    assert input_or_none(node, 2) is not None
    assert input_or_none(node, 3) is None


def test_names_are_new_everywhere_and_in_branches_too() -> None:
    model = parse(graph(BRANCHES))
    edit = Editor(model.graph)
    names = [edit.unique_name(hint) for hint in ("p", "n", "p", "fresh", "fresh", "")]
    assert names == ["p_1", "n_1", "p_2", "fresh", "fresh_1", "_1"]


def test_every_reader_is_given_the_replacement_in_every_operand() -> None:
    model = chain("a = Neg(x) b = Abs(x) c = Mul(a, a) d = Sub(a, c) y = Neg(d)")
    Editor(model.graph).replace(named(model, "a"), named(model, "b"))
    assert [[t.name for t in node.inputs] for node in model.graph.nodes[2:4]] == [["b", "b"], ["b", "c"]]
    assert not consumers(named(model, "a"))


def test_a_branch_reads_the_replacement() -> None:
    model = parse(graph(BRANCHES))
    edit = Editor(model.graph)
    edit.replace(named(model, "a"), named(model, "n"))
    edit.remove_unused()
    assert operators(model) == ["Neg", "If"]
    check_invariants(model)
    (y,) = run(model, {"x": np.array([1.0, -2.0], np.float32), "flag": np.array(True)})
    assert y.tolist() == [1, -2]


OUTPUTS = {
    "what is computed": ("a = Neg(x) b = Abs(x) y = Abs(a) z = Neg(b)", "y", "b", ["Abs", "Neg"]),
    "an input": ("y = Neg(x) z = Abs(x)", "y", "x", ["Abs", "Identity"]),
    "another output": ("y = Neg(x) z = Abs(x)", "y", "z", ["Abs", "Identity"]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_keep_names_and_order_whatever_replaces_them(name: str) -> None:
    nodes, old, new, left = OUTPUTS[name]
    model = chain(nodes, "float[N] y, float[N] z")
    data = {"x": np.array([1.0, -2.0], np.float32)}
    source = chain(nodes, f"float[N] {new}") if new != "x" else None
    expected = run(source, data)[0] if source is not None else data["x"]
    edit = Editor(model.graph)
    edit.replace(named(model, old), named(model, new))
    edit.remove_unused()
    edit.sort()
    assert [tensor.name for tensor in model.graph.outputs] == ["y", "z"]
    assert operators(model) == left
    check_invariants(model)
    np.testing.assert_array_equal(run(model, data)[0], expected)


def test_nothing_is_replaced_by_itself() -> None:
    model = chain("y = Neg(x)")
    edit = Editor(model.graph)
    edit.replace(named(model, "y"), named(model, "y"))
    assert not edit.modified


def test_new_nodes_leave_trailing_operands_out() -> None:
    model = chain("y = Neg(x)")
    edit = Editor(model.graph)
    x, one = named(model, "x"), edit.constant(np.array(1, np.float32))
    full = edit.node("Clip", [x, None, one], dtype=np.float32, shape=["N"])
    short = edit.node("Clip", [x, one, None], hint="short")
    assert [len(tensor.inputs[0].inputs) for tensor in (full, short)] == [3, 2]
    assert (full.dtype, full.shape, short.name) == (np.float32, ["N"], "short_output")
    target = edit.variable("target")
    assert edit.node("Abs", [full], outputs=[target]) is target


def test_what_nothing_reads_goes_with_all_that_only_it_read() -> None:
    model = chain("a = Neg(x) b = Abs(a) c = Mul(b, x) d = Abs(x) y = Neg(d)")
    edit = Editor(model.graph)
    assert edit.remove_unused() == 3
    assert operators(model) == ["Abs", "Neg"]
    assert [node.op for node in consumers(named(model, "x"))] == ["Abs"]
    assert edit.remove_unused() == 0


def test_what_a_branch_reads_stays_until_the_branches_go() -> None:
    model = parse(graph(BRANCHES))
    edit = Editor(model.graph)
    assert edit.remove_unused() == 0
    n = named(model, "n")
    edit.replace(named(model, "y"), n)
    assert edit.remove_unused() == 2
    assert operators(model) == ["Neg"]
    assert consumers(producer(model.graph.outputs[0]).outputs[0]) == []


def test_nodes_that_could_come_next_keep_their_order() -> None:
    model = chain("a = Neg(x) b = Abs(x) c = Add(a, b) d = Exp(x) y = Mul(c, d)")
    nodes = list(model.graph.nodes)
    assert topological_order(nodes) == nodes
    shuffled = [nodes[4], nodes[2], nodes[1], nodes[3], nodes[0]]
    assert [node.op for node in topological_order(shuffled)] == ["Abs", "Exp", "Neg", "Add", "Mul"]


def test_branches_come_after_what_they_read() -> None:
    model = parse(graph(BRANCHES))
    before = parse(graph(BRANCHES))
    model.graph.nodes.reverse()
    Editor(model.graph).sort()
    assert operators(model) == ["Neg", "Abs", "If"]
    equivalent(before, model, {"x": np.ones(3, np.float32), "flag": np.array(False)})


def test_a_cycle_is_refused() -> None:
    model = chain("a = Neg(x) y = Abs(a)")
    model.graph.nodes[0].inputs[0] = named(model, "y")
    with pytest.raises(ValueError, match="cycle"):
        topological_order(model.graph.nodes)


def test_branches_are_listed() -> None:
    model = parse(graph(BRANCHES))
    assert [len(list(subgraphs(node))) for node in model.graph.nodes] == [0, 0, 2]


def test_a_long_chain_is_sorted_and_cleared_in_linear_time() -> None:
    length = 20_000
    x = gs.Variable("x", np.float32, ["N"])
    nodes, last = [], x
    for number in range(length):
        result = gs.Variable(f"t{number}")
        nodes.append(gs.Node("Neg", inputs=[last], outputs=[result]))
        last = result
    target = gs.Graph(nodes[::-1], [x], [nodes[length // 2].outputs[0]])
    start = time.process_time()
    edit = Editor(target)
    edit.sort()
    removed = edit.remove_unused()
    seconds = time.process_time() - start
    assert target.nodes[0] is nodes[0]
    assert removed == length // 2 - 1
    assert seconds < 5  # quadratic work would take minutes
