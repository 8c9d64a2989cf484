"""Passes run in the order of the lists, are checked, and never fail in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.corpus import graphs
from tests.small_models import encoder
from turbo_onnx import optimizer, pipeline
from turbo_onnx.errors import InputError, PassError, VerificationError
from turbo_onnx.graph import Editor
from turbo_onnx.invariants import fingerprint
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.raised import RAISED_DOMAIN

BY_NAME = {graph.name: graph for graph in graphs()}


class Scripted(Pass):
    """A pass that does what its test wants."""

    name = "scripted"
    summary = "For tests."

    def __init__(self, action: str) -> None:
        self.action = action

    def run(self, model: Model) -> PassReport:
        getattr(self, self.action)(model)
        return PassReport(self.name)

    def nothing(self, model: Model) -> None:
        """Leave the graph as it is."""

    def crash(self, model: Model) -> None:
        raise IndexError("out of range")

    def unsort(self, model: Model) -> None:
        model.graph.nodes.reverse()

    def dangle(self, model: Model) -> None:
        node = model.graph.nodes[1]
        node.inputs[0] = Editor(model.graph).variable("nobody", np.dtype(np.float32), ["batch", "tokens", 8])

    def grow(self, model: Model) -> None:
        edit = Editor(model.graph)
        last = model.graph.nodes[-1]
        last.inputs[0] = edit.node("Identity", [last.inputs[0]])
        edit.sort()

    def leave_raised(self, model: Model) -> None:
        model.graph.nodes[-1].op, model.graph.nodes[-1].domain = "Gelu", RAISED_DOMAIN

    def spoil(self, model: Model) -> None:
        model.graph.nodes[-1].op = "Sin"


def run(action: str, *, checks: bool = True) -> list[PassReport]:
    return pipeline.run(Model.from_proto(encoder()), [Scripted(action)], checks=checks)


def test_a_sound_pass_is_timed_and_reported() -> None:
    (report,) = run("nothing")
    assert report.name == "scripted"
    assert report.seconds > 0


def test_an_unexpected_exception_names_the_pass() -> None:
    with pytest.raises(PassError, match=r"the pass scripted failed \(IndexError: out of range\)") as caught:
        run("crash", checks=False)
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("unsort", "nothing before it computes"),
        ("dangle", "reads 'nobody'"),
        ("grow", "second run changed the graph"),
    ],
)
def test_a_broken_graph_is_found_after_the_pass_that_broke_it(action: str, why: str) -> None:
    with pytest.raises(PassError, match=f"the pass scripted broke the graph: .*{why}"):
        run(action)


def test_a_raised_operator_never_gets_out() -> None:
    with pytest.raises(PassError, match=r"raised operators were left in the graph: Gelu \(squash\)"):
        run("leave_raised", checks=False)


def test_a_pass_that_changes_the_result_is_caught_by_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "select", lambda _: [Scripted("spoil")])
    with pytest.raises(VerificationError, match="output 'hidden' differs"):
        optimizer.optimize(encoder())


class Watched(Pass):
    """Another pass, which may not change the graph without saying so."""

    def __init__(self, step: Pass) -> None:
        self.step, self.name, self.summary = step, step.name, step.summary

    def run(self, model: Model) -> PassReport:
        before = fingerprint(model)
        report = self.step.run(model)
        assert report.applied or fingerprint(model) == before, self.name
        return report


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert-tiny__ts17", {}),
        ("gpt2-tiny-past__ts17", {}),
        ("funnel-tiny-factorized__dy20", {}),
        ("modernbert-tiny-eager__dy20", {"target": "cuda:sm_90"}),
    ],
)
def test_a_pass_that_applied_nothing_left_the_graph_as_it_was(name: str, options: dict[str, Any]) -> None:
    """So that what was inferred before it need not be inferred again."""
    steps = pipeline.select(Options(**options, skip_passes=pipeline.LAST))
    pipeline.run(Model.from_proto(BY_NAME[name].load()), [Watched(step) for step in steps])


def test_shapes_are_inferred_again_only_where_a_pass_did_something(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(pipeline.shapes, "infer", lambda model: calls.append(model))
    pipeline.run(Model.from_proto(encoder()), [Scripted("nothing")] * 3)
    assert len(calls) == 2  # before the first, and of the result


def test_names_of_passes_are_unique_within_a_stage_or_repeat_the_same_pass() -> None:
    kinds = {step.name: type(step) for step in pipeline.passes()}
    assert all(kinds[step.name] is type(step) for step in pipeline.passes())
    assert all(step.summary.endswith(".") for step in pipeline.passes())


def test_only_the_chosen_passes_run_and_those_that_lower_and_name() -> None:
    names = pipeline.names(pipeline.select(Options(passes=("raise-gelu",))))
    assert names == ["raise-gelu", *pipeline.names((*pipeline.LOWER, *pipeline.NAME))]


def test_a_skipped_pass_does_not_run_but_lowering_does() -> None:
    every = pipeline.names(pipeline.select(Options()))[:-1]
    skipped = pipeline.names(pipeline.select(Options(skip_passes=("raise-gelu", "lower-gelu"))))
    assert skipped == [*(name for name in every if name != "raise-gelu"), "plan-memory"]


def test_gate_and_up_are_computed_by_one_product_for_gpus_or_where_it_is_asked_for() -> None:
    def merges(**options: Any) -> bool:
        return "merge-gated-projections" in pipeline.names(pipeline.select(Options(**options)))

    assert not merges()
    assert merges(target="cuda:sm_90")
    assert merges(passes=("merge-gated-projections",))
    assert not merges(target="cuda:sm_90", skip_passes=("merge-gated-projections",))


def test_no_packing_leaves_out_the_passes_that_pack() -> None:
    names = pipeline.names(pipeline.select(Options(packing="off")))
    assert not set(names) & set(pipeline.names(pipeline.PACK))


def test_an_unknown_pass_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(InputError, match=r"there is no pass 'fuse-all'; the passes are .*raise-gelu"):
        pipeline.select(Options(skip_passes=("fuse-all",)))


@pytest.mark.parametrize("options", [{"packing": "maybe"}, {"target": "abacus"}])
def test_an_unknown_value_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="choose one of"):
        Options(**options)  # type: ignore[arg-type]


def test_operators_are_counted_in_branches_too_and_named_with_their_domain() -> None:
    model = Model.from_proto(encoder())
    model.graph.nodes[-1].domain = "com.microsoft"
    assert pipeline.operator_counts(model)["com.microsoft.Tanh"] == 1


def test_memory_is_planned_last_and_for_the_cpu_only() -> None:
    def last(**options: Any) -> str:
        return pipeline.names(pipeline.select(Options(**options)))[-1]

    assert last() == "plan-memory"
    assert last(passes=("plan-memory",)) == "plan-memory"
    assert last(skip_passes=("plan-memory",)) != "plan-memory"
    assert last(passes=("raise-gelu",)) != "plan-memory"
    assert last(target="cuda:sm_90") == "embed-kernels"
