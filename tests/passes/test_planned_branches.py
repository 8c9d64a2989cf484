"""Where a model is one If, each branch begins a run and has a plan; what runs beside it is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.branch_models import branches, merged_decoder
from tests.passes.support import check_invariants, graph, parse, sentences
from turbo_onnx import shapes
from turbo_onnx.custom_ops.begin_run import BEGIN_RUN, PLAN_ATTRIBUTE, PLAN_DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import METADATA_KEY, Buffer, MemoryPlan, Variable, Variant, from_json
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import PlanMemory, find
from turbo_onnx.passes.planned_branches import Branch

BOTH = """y = If(flag) <then_branch = a () => (float[N,4] b) { b = Add(x, z) },
    else_branch = c () => (float[N,4] d) { d = Neg(x) }>"""


class Maker:
    """Makes a plan of one buffer in the sizes that are seen, whose size tells the branch; refuses one branch."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.seen: dict[str, tuple[bool, list[str]]] = {}

    def __call__(self, model: Model, variables: Sequence[Variable], branch: Branch | None) -> MemoryPlan:
        assert branch is not None
        assert [find(graph) is not None for graph in branches(model)] == [True, True]
        if branch.name == self.refuses:
            raise Reject("what a run allocates depends on the weather")
        self.seen[branch.name] = branch.flag, [variable.name for variable in variables]
        size = Formula.constant(64 if branch.flag else 128, len(variables))
        buffers = (Buffer("a", size, "planned"), Buffer("y", size, "output"))
        return MemoryPlan(tuple(variables), (Variant("all", buffers, (0, 0, 1), ((0,),)),), "1.31.1")


def model(nodes: str = BOTH, inputs: str = "float[N,4] x, float[N,4] z, bool flag") -> Model:
    made = parse(graph(f"g ({inputs}) => (float[N,4] y) {{ {nodes} }}"))
    shapes.infer(made)
    return made


def content(subject: Model) -> bytes:
    return bytes(subject.to_proto().SerializeToString(deterministic=True))


def refusal(subject: Model) -> str:
    """What the pass says of a model that it must leave alone."""
    before = content(subject)
    maker = Maker()
    report = PlanMemory(maker).run(subject)
    assert (report.applied, maker.seen) == (0, {})
    assert content(subject) == before
    (sentence,) = sentences(report)
    return sentence


def test_each_branch_begins_a_run_with_as_many_operands_as_the_other() -> None:
    subject = model()
    maker = Maker()
    report = PlanMemory(maker).run(subject)
    check_invariants(subject)
    assert report.applied == 1
    assert [[node.op for node in branch.nodes] for branch in branches(subject)] == [
        [BEGIN_RUN, "Add"],
        [BEGIN_RUN, "Neg"],
    ]
    first, second = (branch.nodes[0] for branch in branches(subject))
    assert [tensor.name for tensor in first.inputs] == ["x", "z"]
    assert [tensor.name for tensor in second.inputs] == ["x", "x"]
    for branch in branches(subject):
        begin, work = branch.nodes
        assert len({tensor.name for tensor in begin.outputs}) == 2
        assert all(tensor in begin.outputs for tensor in work.inputs)
    assert maker.seen == {"then_branch": (True, ["N"]), "else_branch": (False, ["N"])}


def test_one_definition_serves_the_nodes_of_all_branches() -> None:
    subject = model()
    PlanMemory(Maker()).run(subject)
    (function,) = [one for one in subject.to_proto().functions if one.domain == PLAN_DOMAIN]
    assert len(function.input) == len(function.output) == 2


def test_each_node_has_its_plan_and_the_metadata_has_both() -> None:
    subject = model()
    report = PlanMemory(Maker()).run(subject)
    texts = [branch.nodes[0].attrs[PLAN_ATTRIBUTE] for branch in branches(subject)]
    carried = from_json(subject.metadata[METADATA_KEY], "the model")
    assert [variant.branch for variant in carried.variants] == ["then_branch", "else_branch"]
    for text, variant in zip(texts, carried.variants, strict=True):
        assert MemoryPlan(carried.variables, (variant,)).text() == text
    facts = report.facts["memory_plan"]
    assert isinstance(facts, dict)
    assert (facts["planned"], facts["outputs"], facts["branches"]) == (2, 2, ["then_branch", "else_branch"])


def test_a_model_whose_branches_begin_runs_is_left_alone() -> None:
    subject = model()
    PlanMemory(Maker()).run(subject)
    before = content(subject)
    assert PlanMemory(Maker()).run(subject).applied == 0
    assert content(subject) == before


@pytest.mark.parametrize("refuses", ["then_branch", "else_branch"])
@pytest.mark.parametrize("made", [model, merged_decoder], ids=["small", "decoder"])
def test_a_branch_without_a_plan_leaves_the_model_byte_for_byte_as_it_was(made: type, refuses: str) -> None:
    subject = made()
    shapes.infer(subject)
    before = content(subject)
    report = PlanMemory(Maker(refuses)).run(subject)
    assert (report.applied, sentences(report)) == (0, ["what a run allocates depends on the weather"])
    assert content(subject) == before
    check_invariants(subject)


def test_what_comes_behind_the_branches_may_be_there() -> None:
    subject = model(BOTH.replace("y = If", "w = If") + " y = Tanh(w)")
    assert PlanMemory(Maker()).run(subject).applied == 1


def test_what_does_not_wait_for_the_branches_is_refused() -> None:
    subject = model(BOTH.replace("y = If", "w = If") + " v = Exp(x) y = Mul(w, v)")
    for node in subject.graph.nodes:
        node.name = node.op
    assert refusal(subject) == "Exp 'Exp' does not wait for If 'If', whose branches begin a run"


def test_a_flag_that_is_computed_is_refused() -> None:
    subject = model("flag = Not(other) " + BOTH, "float[N,4] x, float[N,4] z, bool other")
    subject.graph.nodes[1].name = "inner"
    assert refusal(subject) == "the flag of If 'inner', flag, is no input with at most one axis"


def test_a_flag_that_inputs_would_be_made_for_as_for_a_mask_is_refused() -> None:
    subject = model(BOTH, "float[N,4] x, float[N,4] z, bool[1,1] flag")
    subject.graph.nodes[0].name = "inner"
    assert refusal(subject) == "the flag of If 'inner', flag, is no input with at most one axis"


def test_several_ifs_are_refused() -> None:
    subject = model(
        BOTH.replace("y = If", "w = If")
        + " y = If(flag) <then_branch = e () => (float[N,4] f) { f = Neg(w) },"
        + " else_branch = h () => (float[N,4] i) { i = Tanh(w) }>"
    )
    subject.graph.nodes[0].name = "first"
    assert refusal(subject) == "what If 'first' allocates depends on more than sizes"


def test_an_if_inside_of_a_branch_is_refused() -> None:
    inner = """If(flag) <then_branch = e () => (float[N,4] f) { f = Tanh(x) },
        else_branch = h () => (float[N,4] i) { i = Neg(x) }>"""
    subject = model(BOTH.replace("Neg(x)", inner))
    assert "allocates depends on more than sizes" in refusal(subject)


def test_a_branch_that_reads_nothing_from_outside_is_refused() -> None:
    nothing = "d = ConstantOfShape<value = float[1] {2}>(shape)"
    body = BOTH.replace("d = Neg(x)", nothing)
    subject = parse(
        graph(f"g (float[3,4] x, float[3,4] z, bool flag) => (float[3,4] y) <int64[2] shape = {{3, 4}}> {{ {body} }}")
    )
    shapes.infer(subject)
    assert refusal(subject) == "the model reads no inputs"
