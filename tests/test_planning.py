"""Plans are made of recordings, are read by the library, and are the same each time; without it there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import turbo_onnx
from tests.recorded_models import model, needs_recorder
from tests.small_models import encoder, save
from turbo_onnx import planning, sequences, shapes
from turbo_onnx.errors import InputError, Reject
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, Variable, from_json
from turbo_onnx.memory.run_layout import peaks
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import PLAN_ATTRIBUTE, begin_runs, find
from turbo_onnx.planning import LEVELS, make_plan, plan_of, sample_values
from turbo_onnx.sequences import RunSequence, Subject
from turbo_onnx.serialization.reading import read
from turbo_onnx.sessions import Level, open_session
from turbo_onnx.verify_inputs import describe
from turbo_onnx.work import Work

CHAIN = """g (float[N,4] x) => (float[N,4] y) {
    a = MatMul(x, w) b = Add(a, v) c = Concat<axis = 1>(b, a) d = MatMul(c, u) e = Tanh(d) y = Neg(e)
}"""
WEIGHTS = {
    "w": np.eye(4, dtype=np.float32),
    "v": np.ones(4, np.float32),
    "u": np.ones((8, 4), np.float32),
}


def planned(body: str = CHAIN, weights: dict[str, np.ndarray] | None = None, *, exact: bool = False) -> MemoryPlan:
    made = model(body, WEIGHTS if weights is None else weights)
    specs = describe(made)
    shapes.infer(made)
    return make_plan(made, begin_runs(made), specs=specs, exact=exact)


def carried(proto: onnx.ModelProto) -> MemoryPlan | None:
    found = [entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY]
    return from_json(found[0], "the model") if found else None


@needs_recorder
def test_the_plan_holds_what_runs_do_at_every_level() -> None:
    plan = planned()
    assert sorted(", ".join(one.name for one in plan.variants).split(", ")) == sorted(LEVELS)
    assert plan.variants[0].name.startswith("all")
    assert plan.names == ["N"]
    assert plan.runtime
    last = next(one for one in plan.variants if "none" in one.name)
    sizes = {buffer.name: buffer.size.text(["N"]) for buffer in last.buffers if buffer.size is not None}
    assert sizes == {"a": "16·N", "b": "16·N", "c": "32·N", "d": "16·N", "y": "16·N"}
    assert [buffer.name for buffer in last.buffers if buffer.kind == "output"] == ["y"]


@needs_recorder
def test_variants_hold_together() -> None:
    for one in planned().variants:
        assert one.events.count(0) == len(one.buffers)
        assert sorted(event - 1 for event in one.events if event) == list(one.planned)
        assert all(sorted(order) == list(one.planned) for order in one.orders)


@needs_recorder
def test_the_library_reads_the_plan() -> None:
    made = model(CHAIN, WEIGHTS)
    specs = describe(made)
    shapes.infer(made)
    variables = begin_runs(made)
    text = make_plan(made, variables, specs=specs).text()
    node = find(made.graph)
    assert node is not None
    for plan in (text, text + " 0", text.rsplit(" ", 1)[0]):
        node.attrs[PLAN_ATTRIBUTE] = plan
        content = made.to_proto().SerializeToString()
        if plan == text:
            open_session(content, library=True).run(None, {"x": np.ones((3, 4), np.float32)})
        else:
            with pytest.raises(Exception, match="the memory plan is damaged"):
                open_session(content, library=True)


@needs_recorder
def test_the_same_model_has_the_same_plan() -> None:
    assert planned() == planned()


@needs_recorder
def test_a_solver_makes_no_worse_plan() -> None:
    try:
        exact = planned(exact=True)
    except InputError as error:
        pytest.skip(str(error))
    usual = planned()
    shapes_tried = np.arange(1, 50).reshape(-1, 1)
    assert [one.buffers for one in exact.variants] == [one.buffers for one in usual.variants]
    for number in range(len(usual.variants)):
        assert (peaks(exact, shapes_tried, number).peak <= peaks(usual, shapes_tried, number).peak).all()


@needs_recorder
def test_where_runs_are_much_work_the_default_level_is_planned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    body = CHAIN.replace("float[N,", "float[3,")
    assert [one.name for one in planned(body).variants] != ["all"]
    monkeypatch.setattr(Work, "of_run", lambda self, feed: 3 * 10**12)
    assert [one.name for one in planned(body).variants] == ["all"]
    with pytest.raises(Reject, match="a run that has to be recorded takes 3000 billion multiply-adds"):
        planned()


@needs_recorder
def test_what_is_recorded_has_its_weights_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime holds two copies of those that are in the model's own file."""
    files: list[set[str]] = []

    def find_sequence(subject: Subject, level: Level, known: list[RunSequence]) -> RunSequence:
        files.append({path.name for path in subject.path.parent.iterdir()})
        return sequences.find(subject, level, known)

    monkeypatch.setattr(planning, "find_sequence", find_sequence)
    wide = model(CHAIN.replace("float[N,4] y", "float[N,64] y"), {**WEIGHTS, "u": np.ones((8, 64), np.float32)})
    made = read(wide.to_proto())
    shapes.infer(made)
    make_plan(made, begin_runs(made), specs=describe(made))
    assert files == [{"model.onnx", "model.onnx.data"}] * len(LEVELS)


# -- what cannot be planned


def test_without_the_library_there_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "library_available", lambda: False)
    with pytest.raises(Reject, match="the library, which records what a run allocates, cannot be registered here"):
        planned()


def test_without_the_library_a_model_is_optimized_all_the_same_and_the_report_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "library_available", lambda: False)
    result = turbo_onnx.optimize(encoder(), verify=False)
    assert carried(result.model) is None
    assert not any(node.op_type == "BeginRun" for node in result.model.graph.node)
    assert not any(function.name == "BeginRun" for function in result.model.functions)
    assert result.report.to_dict()["memory_plan"] is None
    sentences = [rejection.sentence for rejection in result.report.rejected if rejection.rule == "plan-memory"]
    assert sentences == ["the library, which records what a run allocates, cannot be registered here"]
    skipped = turbo_onnx.optimize(encoder(), verify=False, skip_passes=["plan-memory"])
    assert skipped.model.graph == result.model.graph


@needs_recorder
def test_inputs_that_cannot_be_made_are_named() -> None:
    made = model("g (float[N,4] x, uint64[N] odd) => (float[N,4] y) { y = Neg(x) }")
    specs = describe(made)
    shapes.infer(made)
    variables = begin_runs(made)
    made.graph.inputs[1].dtype = np.dtype(np.complex64)
    with pytest.raises(Reject, match="no inputs can be made for 'odd' to record runs with"):
        make_plan(made, variables, specs=[specs[0], describe(made)[1]])


@needs_recorder
def test_a_model_that_allocates_only_its_outputs_has_no_plan() -> None:
    with pytest.raises(Reject, match="allocates nothing whose size could be planned, but for its outputs"):
        planned("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")


@needs_recorder
def test_a_runtime_that_asks_for_no_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_sequence", lambda *arguments: RunSequence((), ()))
    with pytest.raises(Reject, match=r"ONNX Runtime [0-9.]+ takes no allocator from a library; 1\.23 does"):
        planned()


@needs_recorder
def test_a_level_without_a_sequence_is_left_out_and_the_default_must_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: set[Level] = {"basic", "none"}

    def choosy(subject: sequences.Subject, level: Level, known: list[RunSequence]) -> RunSequence:
        if level in refused:
            raise Reject("not at this level")
        return sequences.find(subject, level, known)

    monkeypatch.setattr(planning, "find_sequence", choosy)
    levels = ", ".join(one.name for one in planned().variants)
    assert set(levels.split(", ")) == {"all", "extended"}
    refused.add("all")
    with pytest.raises(Reject, match="not at this level"):
        planned()


@needs_recorder
def test_a_folder_that_cannot_be_written_to_refuses_the_plan(tmp_path: Path) -> None:
    made = model(CHAIN, WEIGHTS)
    specs = describe(made)
    shapes.infer(made)
    with pytest.raises(Reject, match="the model cannot be written down to record its runs"):
        make_plan(made, begin_runs(made), specs=specs, scratch=tmp_path / "missing")


# -- plans of files


@needs_recorder
def test_the_plan_of_an_artifact_is_the_one_that_it_carries(tmp_path: Path) -> None:
    turbo_onnx.optimize(encoder(), output=tmp_path / "m.onnx", verify=False)
    proto = onnx.load(tmp_path / "m.onnx")
    assert plan_of(tmp_path / "m.onnx") == carried(proto)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"onnxruntime": "of another day"})
    save(proto, tmp_path / "other.onnx")
    assert plan_of(tmp_path / "other.onnx").runtime == "of another day"


@needs_recorder
def test_a_model_without_a_plan_is_planned_as_it_is(tmp_path: Path) -> None:
    path = save(encoder(), tmp_path / "plain.onnx")
    before = path.read_bytes()
    plan = plan_of(path)
    assert plan.names == ["batch", "tokens"]
    assert [v.role for v in plan.variables] == ["batch", "length"]
    assert any(one.planned for one in plan.variants)
    assert path.read_bytes() == before


@needs_recorder
def test_an_artifact_without_its_metadata_is_planned_anew_and_alike(tmp_path: Path) -> None:
    turbo_onnx.optimize(encoder(), output=tmp_path / "m.onnx", verify=False)
    proto = onnx.load(tmp_path / "m.onnx")
    kept = carried(proto)
    del proto.metadata_props[:]
    again = plan_of(save(proto, tmp_path / "bare.onnx"))
    assert kept is not None
    assert [one.events for one in again.variants] == [one.events for one in kept.variants]


def test_a_file_that_cannot_be_planned_is_refused_with_the_reason(tmp_path: Path) -> None:
    body = "g (float[N] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Neg(w) }"
    path = save(model(body).to_proto(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx: no memory plan can be made for it: the model reads no inputs\."):
        plan_of(path)


# -- shapes that orders are judged by


def test_shapes_are_corners_and_the_range_between_them() -> None:
    variables = [Variable("b", "batch", 0, 0), Variable("s", "length", 0, 1), Variable("t", "tokens", 1, 0)]
    samples = sample_values(variables)
    batch, length, tokens = samples.T
    assert samples.min() >= 1
    assert (batch.max(), length.max()) == (64, 512)
    assert (tokens <= batch * length).all()
    assert (64, 512, 64 * 512) in {tuple(row) for row in samples.tolist()}
    assert (1, 1, 1) in {tuple(row) for row in samples.tolist()}
    assert len(np.unique(batch)) > 20
    np.testing.assert_array_equal(samples, sample_values(variables))


def test_variables_of_one_role_go_together_and_others_on_their_own() -> None:
    variables = [
        Variable("a", "batch", 0, 0),
        Variable("b", "batch", 1, 0),
        Variable("c", "", 1, 1),
        Variable("d", "", 1, 2),
    ]
    a, b, c, d = sample_values(variables).T
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(c, d)


def test_without_sizes_there_is_one_shape() -> None:
    assert sample_values([]).shape[1] == 0
    assert len(sample_values([])) == 1


@needs_recorder
def test_a_model_without_sizes_that_vary_is_planned(tmp_path: Path) -> None:
    fixed = CHAIN.replace("[N,", "[3,")
    plan = planned(fixed)
    assert plan.variables == ()
    assert plan.variants[0].planned
    made = Model.from_proto(model(fixed, WEIGHTS).to_proto())
    result = turbo_onnx.optimize(made.to_proto())
    assert carried(result.model) is not None
