"""The node that begins a run stands where it has to, what cannot be planned is left as it was, and sizes are named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tests.passes import padded_graphs
from tests.passes.support import apply, check_invariants, graph, operators, parse, sentences
from tests.small_models import encoder, feed
from turbo_onnx import shapes
from turbo_onnx.custom_ops.begin_run import BEGIN_RUN, MOST_OPERANDS, PLAN_ATTRIBUTE, PLAN_DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import METADATA_KEY, Buffer, MemoryPlan, Variable, Variant, from_json
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import PlanMemory, begin_runs, find, remove
from turbo_onnx.passes.planned_branches import Branch
from turbo_onnx.sessions import open_session

BEGIN = f"{PLAN_DOMAIN}.{BEGIN_RUN}"
SIMPLE = "g (float[N,4] x, float[N,4] z) => (float[N,4] y) { a = Tanh(x) b = Add(a, z) y = Mul(b, x) }"
PACKED = f"""
    t, c, m, p = turbo_onnx.RemovePadding(mask) {padded_graphs.EMBEDDING}
    flat_ids = Reshape(h0, flat) rows = Gather(flat_ids, t) moved = Tanh(rows)
    y = turbo_onnx.RestorePadding(moved, t, mask)
"""


class Maker:
    """Makes a plan of one buffer, or refuses; remembers what it was asked for."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.variables: list[Variable] = []
        self.seen: list[str] = []

    def __call__(self, model: Model, variables: Sequence[Variable], branch: Branch | None = None) -> MemoryPlan:
        self.variables, self.seen = list(variables), operators(model)
        if self.error is not None:
            raise self.error
        formula = Formula.constant(64, len(variables))
        buffers = (Buffer("a", formula, "planned"), Buffer("y", formula, "output"), Buffer("odd", None, "unknown"))
        return MemoryPlan(tuple(variables), (Variant("all", buffers, (0, 0, 0, 1), ((0,),)),), "1.31.1")


def small(body: str = SIMPLE) -> Model:
    model = parse(graph(body))
    shapes.infer(model)
    return model


def packed(nodes: str = PACKED, **options: str) -> Model:
    model = padded_graphs.model(nodes, **options)
    shapes.infer(model)
    return model


def the_node(model: Model) -> gs.Node:
    node = find(model.graph)
    assert node is not None
    return node


def names(tensors: Sequence[gs.Variable]) -> list[str]:
    return [tensor.name for tensor in tensors]


def read_by_others(model: Model) -> set[str]:
    return {tensor.name for node in model.graph.nodes if node.op != BEGIN_RUN for tensor in node.inputs}


def refusal(model: Model) -> str:
    """What the pass says of a model that it must leave alone, and may not even make a plan for."""
    before = model.to_proto().SerializeToString(deterministic=True)
    maker = Maker()
    report = PlanMemory(maker).run(model)
    assert (report.applied, maker.seen) == (0, [])
    assert model.to_proto().SerializeToString(deterministic=True) == before
    (sentence,) = sentences(report)
    return sentence


def test_the_node_stands_first_and_everything_reads_the_inputs_through_it() -> None:
    model = small()
    assert apply(PlanMemory(Maker()), model).applied == 1
    assert operators(model) == [BEGIN, "Tanh", "Add", "Mul"]
    assert names(the_node(model).inputs) == ["x", "z"]
    assert not read_by_others(model) & {"x", "z"}
    assert [(t.dtype, t.shape) for t in the_node(model).outputs] == [(t.dtype, t.shape) for t in model.graph.inputs]


def test_what_finds_the_real_tokens_stands_in_front_and_its_results_pass_too() -> None:
    model = packed()
    assert apply(PlanMemory(Maker()), model).applied == 1
    kinds = operators(model)
    assert kinds.index("turbo_onnx.RemovePadding") < kinds.index(BEGIN) < kinds.index("Gather")
    assert kinds.index(BEGIN) == 1
    assert set(names(the_node(model).inputs)) == {"ids", "mask", "t"}
    assert not read_by_others(model) & {"ids", "t"}
    restore = next(node for node in model.graph.nodes if node.op == "RestorePadding")
    assert all(tensor in the_node(model).outputs for tensor in restore.inputs[1:])


def test_a_mask_that_is_computed_from_the_ids_is_computed_in_front() -> None:
    nodes = "same = Equal(ids, pad) real = Not(same)" + PACKED.replace("(mask)", "(real)").replace(" mask)", " real)")
    model = packed(nodes, inputs="int64[B,S] ids")
    apply(PlanMemory(Maker()), model)
    kinds = operators(model)
    assert kinds[:4] == ["Equal", "Not", "turbo_onnx.RemovePadding", BEGIN]
    assert set(names(the_node(model).inputs)) == {"ids", "t", "real"}


def test_a_mask_that_is_computed_with_products_is_part_of_the_plan() -> None:
    nodes = "hot = MatMul(x, wq) real = Greater(hot, zero) m2 = Cast<to = 7>(real)" + PACKED.replace("mask", "m2")
    model = packed(nodes, inputs="int64[B,8] ids, float[B,8] x")
    maker = Maker()
    apply(PlanMemory(maker), model)
    assert operators(model)[0] == BEGIN
    assert set(names(the_node(model).inputs)) == {"ids", "x"}
    assert [v.name for v in maker.variables] == ["B"]


def test_all_that_finds_real_tokens_stands_in_front_where_there_are_two() -> None:
    again = PACKED.replace("mask", "other").replace("ids)", "ids2)").replace("words", "words2")
    for name in ("h0", "flat_ids", "rows", "moved", "t", "c", "m", "p", "y"):
        again = again.replace(f" {name} ", f" {name}2 ").replace(f" {name},", f" {name}2,")
        again = again.replace(f"({name},", f"({name}2,").replace(f"({name})", f"({name}2)")
    model = packed(
        PACKED + again,
        inputs="int64[B,S] ids, int64[B,S] mask, int64[B,R] ids2, int64[B,R] other",
        outputs="float[B,S,8] y, float[B,R,8] y2",
    )
    maker = Maker()
    apply(PlanMemory(maker), model)
    kinds = operators(model)
    assert kinds[:3] == ["turbo_onnx.RemovePadding", "turbo_onnx.RemovePadding", BEGIN]
    assert [node.op for node in model.graph.nodes].count("RestorePadding") == 2
    assert {t.name for t in the_node(model).inputs} >= {"t", "t2"}
    assert [v.role for v in maker.variables].count("tokens") == 1


def test_an_output_that_is_an_input_stays_the_input() -> None:
    model = small("g (float[N,4] x, float[N,4] z) => (float[N,4] x, float[N,4] y) { y = Add(x, z) }")
    apply(PlanMemory(Maker()), model)
    assert model.graph.outputs[0] is model.graph.inputs[0]
    assert not read_by_others(model) & {"x", "z"}


def test_an_input_that_nothing_reads_does_not_pass() -> None:
    model = small("g (float[N,4] x, float[M,4] unread) => (float[N,4] y) { y = Tanh(x) }")
    maker = Maker()
    apply(PlanMemory(maker), model)
    assert names(the_node(model).inputs) == ["x"]
    assert maker.variables == [Variable("N", "", 0, 0)]


def test_a_tensor_that_a_node_reads_twice_is_replaced_twice() -> None:
    model = small("g (float[N,4] x) => (float[N,4] y) { y = Mul(x, x) }")
    apply(PlanMemory(Maker()), model)
    assert all(tensor is the_node(model).outputs[0] for tensor in model.graph.nodes[1].inputs)


def test_the_library_and_people_are_told_the_same_plan() -> None:
    model = small()
    report = PlanMemory(Maker()).run(model)
    proto = model.to_proto()
    (carried,) = [entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY]
    (node,) = [node for node in proto.graph.node if node.op_type == BEGIN_RUN]
    assert from_json(carried, "the model").text() == onnx.helper.get_node_attr_value(node, PLAN_ATTRIBUTE).decode()
    assert (
        report.facts["memory_plan"].items()
        >= {
            "sizes": ["N"],
            "planned": 1,
            "unknown": 1,
            "outputs": 1,
            "orders": 1,
        }.items()
    )


def test_a_model_that_has_the_node_is_left_alone() -> None:
    model = small()
    PlanMemory(Maker()).run(model)
    before = model.to_proto().SerializeToString(deterministic=True)
    again = Maker()
    report = PlanMemory(again).run(model)
    assert (report.applied, report.rejected, again.seen) == (0, [], [])
    assert model.to_proto().SerializeToString(deterministic=True) == before


def test_without_anything_that_makes_plans_nothing_happens() -> None:
    model = small()
    before = model.to_proto().SerializeToString(deterministic=True)
    assert PlanMemory().run(model).applied == 0
    assert model.to_proto().SerializeToString(deterministic=True) == before


LATE_FIRST = PACKED.replace("t, c, m, p = turbo_onnx.RemovePadding(mask)", "").replace(
    "flat_ids", "t, c, m, p = turbo_onnx.RemovePadding(mask) flat_ids", 1
)
"""The real tokens are found after the first nodes of the plan."""


@pytest.mark.parametrize("nodes", [PACKED, LATE_FIRST], ids=["early first", "late first"])
def test_a_model_whose_plan_cannot_be_made_is_byte_for_byte_as_it_was(nodes: str) -> None:
    model = packed(nodes)
    before = model.to_proto().SerializeToString(deterministic=True)
    maker = Maker(Reject("what a run allocates depends on the weather"))
    report = PlanMemory(maker).run(model)
    assert BEGIN in maker.seen
    assert (report.applied, sentences(report)) == (0, ["what a run allocates depends on the weather"])
    assert "memory_plan" not in report.facts
    assert model.to_proto().SerializeToString(deterministic=True) == before
    check_invariants(model)


def test_an_error_while_a_plan_is_made_leaves_the_model_as_it_was() -> None:
    model = packed()
    before = model.to_proto().SerializeToString(deterministic=True)
    with pytest.raises(KeyboardInterrupt):
        PlanMemory(Maker(KeyboardInterrupt())).run(model)
    assert model.to_proto().SerializeToString(deterministic=True) == before


def test_the_node_can_be_taken_out_of_a_model_that_was_saved_with_it() -> None:
    model = small()
    before = operators(model)
    PlanMemory(Maker()).run(model)
    loaded = Model.from_proto(model.to_proto())
    remove(loaded)
    assert operators(loaded) == before
    assert read_by_others(loaded) >= {"x", "z"}
    assert find(loaded.graph) is None


LOOP = """g (float[4] x, int64 count, bool go) => (float[4] y) {
    y = Loop(count, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] r)
        { d = Identity(c) r = Tanh(s) }>
}"""
SCAN = """g (float[N,4] x, float[4] s) => (float[4] e, float[N,4] y) {
    e, y = Scan<num_scan_inputs = 1, body = b (float[4] u, float[4] v) => (float[4] w, float[4] z)
        { w = Add(u, v) z = Tanh(w) }>(s, x)
}"""


@pytest.mark.parametrize(("body", "operator"), [(LOOP, "Loop"), (SCAN, "Scan")])
def test_bodies_of_loops_are_refused(body: str, operator: str) -> None:
    model = small(body)
    model.graph.nodes[0].name = "inner"
    assert refusal(model) == f"what {operator} 'inner' allocates depends on more than sizes"


def test_inputs_of_text_are_refused() -> None:
    model = small("g (string[N] words) => (int64[R] y) { y = Size(words) }".replace("int64[R]", "int64"))
    assert refusal(model) == "the input words is no tensor of numbers with known axes"


def test_inputs_of_unknown_rank_are_refused() -> None:
    model = small()
    model.graph.inputs[1].shape = None
    assert refusal(model) == "the input z is no tensor of numbers with known axes"


def test_inputs_that_are_sequences_of_tensors_are_refused() -> None:
    x = onnx.helper.make_tensor_sequence_value_info("xs", onnx.TensorProto.FLOAT, ["N", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [])
    node = onnx.helper.make_node("SequenceLength", ["xs"], ["y"])
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
    assert refusal(Model.from_proto(proto)) == "the input xs is no tensor of numbers with known axes"


def many_inputs(count: int) -> Model:
    inputs = ", ".join(f"float[N] x{i}" for i in range(count))
    return small(f"g ({inputs}) => (float[N] y) {{ y = Sum({', '.join(f'x{i}' for i in range(count))}) }}")


def test_more_inputs_than_may_share_memory_are_refused() -> None:
    said = refusal(many_inputs(MOST_OPERANDS + 1))
    assert said == f"the model has {MOST_OPERANDS + 1} inputs, and a plan is made for at most {MOST_OPERANDS}"
    assert apply(PlanMemory(Maker()), many_inputs(MOST_OPERANDS)).applied == 1


def test_a_model_that_reads_no_inputs_is_refused() -> None:
    model = small("g (float[N] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Neg(w) }")
    assert refusal(model) == "the model reads no inputs"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("float[N,4] x, float[N,M] z", [("N", 0, 0), ("M", 1, 1)]),
        ("float[4,4] x, float[4,4] z", []),
        ("float[4,N] x, float[N,N] z", [("N", 0, 1)]),
    ],
)
def test_each_size_is_read_where_it_is_seen_first(inputs: str, expected: list[tuple[str, int, int]]) -> None:
    model = small(f"g ({inputs}) => (float[R,C] y) {{ y = MatMul(x, z) }}")
    assert [(v.name, v.input, v.axis) for v in begin_runs(model)] == expected


def test_a_size_without_a_name_gets_one() -> None:
    model = small()
    model.graph.inputs[0].shape = [None, 4]
    model.graph.inputs[1].shape = [-1, 4]
    shapes.infer(model)
    found = begin_runs(model)
    assert 1 <= len(found) <= 2
    assert all(v.name for v in found)
    assert (found[0].input, found[0].axis) == (0, 0)


def test_a_sum_is_a_size_of_its_own_only_where_its_parts_are_not_seen() -> None:
    model = small()
    model.graph.inputs[0].shape = ["P + S", 4]
    model.graph.inputs[1].shape = ["P", "S"]
    assert [v.name for v in begin_runs(model)] == ["P", "S"]
    model = small()
    model.graph.inputs[0].shape = ["P + S", 4]
    model.graph.inputs[1].shape = ["P", 4]
    assert [(v.name, v.input) for v in begin_runs(model)] == [("P", 1), ("P + S", 0)]


def test_sizes_of_a_packed_model_have_the_roles_of_what_they_count() -> None:
    roles = {v.role: v for v in begin_runs(packed())}
    assert set(roles) == {"batch", "length", "tokens"}
    assert (roles["batch"].name, roles["length"].name) == ("B", "S")


def test_sizes_of_a_padded_model_have_roles_by_its_ids() -> None:
    model = small(
        "g (int64[many,wide] ids, float[other,4] x) => (float[R] y) <int64[1] z = {0}> {"
        " a = Cast<to = 1>(ids) b = ReduceSum<keepdims = 0>(a) c = Mul(x, b)"
        " y = ReduceSum<keepdims = 0>(c, z) }"
    )
    assert [(v.name, v.role) for v in begin_runs(model)] == [("many", "batch"), ("wide", "length"), ("other", "")]


def test_numbers_alone_have_no_roles() -> None:
    assert [v.role for v in begin_runs(small())] == [""]


@pytest.mark.parametrize("level", ["all", "none"])
def test_a_stock_runtime_computes_the_same_bits(level: str) -> None:
    plain, planned = (Model.from_proto(encoder()) for _ in range(2))
    shapes.infer(planned)
    assert PlanMemory(Maker()).run(planned).applied == 1
    for batch, length in ((1, 1), (3, 7), (0, 5)):
        inputs = {key: array[:batch] for key, array in feed(max(batch, 1), length).items()}
        before, after = (
            open_session(model.to_proto().SerializeToString(), level=level).run(None, inputs)  # type: ignore[arg-type]
            for model in (plain, planned)
        )
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_inputs_of_every_type_pass_the_body_unchanged() -> None:
    kinds = ["float", "double", "float16", "int64", "int32", "uint8", "bool"]
    inputs = ", ".join(f"{kind}[N] x{i}" for i, kind in enumerate(kinds))
    nodes = " ".join(f"s{i} = Cast<to = 11>(x{i})" for i in range(len(kinds)))
    model = small(f"g ({inputs}) => (double[N] y) {{ {nodes} y = Sum({', '.join(f's{i}' for i in range(7))}) }}")
    PlanMemory(Maker()).run(model)
    types = ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
    arrays = {f"x{i}": (np.arange(5) % 2).astype(dtype) for i, dtype in enumerate(types)}
    (y,) = open_session(model.to_proto().SerializeToString()).run(None, arrays)
    assert y.tolist() == [0.0, 7.0, 0.0, 7.0, 0.0]
