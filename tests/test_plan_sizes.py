"""A plan is made for the sizes that vary by themselves; what it assumes of the others is checked when a run begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import turbo_onnx
from tests.arena.counted import counted
from tests.recorded_models import model, needs_recorder
from tests.test_planned_models import session, with_plan
from turbo_onnx.errors import InputError, Reject
from turbo_onnx.memory.plan import Assumption, MemoryPlan, Variable
from turbo_onnx.plan_sizes import MOST_VARIABLES, SeenSizes
from turbo_onnx.runtime.arena import arena_stats
from turbo_onnx.verify_inputs import Layout, Recipe, describe, make, own_size

LAYOUT: Layout = {"B": "batch", "N": "batch", "S": "length", "T": "length + past", "P": "past", "Q": "past"}


def seen(*names: str, computed: int = 0) -> SeenSizes:
    """Sizes of inputs, each the first axis of one, and of what is computed from them."""
    declared = [(name,) for name in names] + [()] * computed
    variables = [Variable("".join(one) or f"n{number}", "", number, 0) for number, one in enumerate(declared)]
    return SeenSizes(tuple(variables), tuple(range(len(variables))), tuple(declared))


def test_sizes_of_one_role_are_one_variable_and_the_sum_of_two_is_none() -> None:
    chosen = seen("B", "N", "S", "T", "P", "Q").chosen(LAYOUT)
    assert [(v.name, v.role) for v in chosen.variables] == [("B", ""), ("S", ""), ("P", "past")]
    assert chosen.axes == (0, 2, 4)
    assert chosen.assumptions == (
        Assumption("N", 1, 0, (0,)),
        Assumption("T", 3, 0, (1, 2)),
        Assumption("Q", 5, 0, (2,)),
    )
    plan = MemoryPlan(chosen.variables, (), assumptions=chosen.assumptions)
    assert plan.assumed == ["N = B", "T = S + past", "Q = past"]


def test_a_sum_varies_by_itself_where_its_parts_are_not_seen() -> None:
    chosen = seen("B", "S", "T").chosen(LAYOUT)
    assert [v.name for v in chosen.variables] == ["B", "S", "T"]
    assert not chosen.assumptions


def test_what_is_computed_varies_by_itself() -> None:
    assert [v.name for v in seen("B", "N", computed=2).chosen(LAYOUT).variables] == ["B", "n2", "n3"]
    sentence = "6 sizes vary \\(B, n1, n2, n3, n4, n5\\), and a plan is made for at most 5"
    with pytest.raises(Reject, match=sentence):
        seen("B", computed=MOST_VARIABLES).chosen(LAYOUT)


def test_sizes_are_apart_where_the_model_lets_them_be() -> None:
    def takes_n_apart(layout: Layout) -> bool:
        return layout["Q"] == "past" and layout["T"] == "length + past"

    sizes = seen("B", "N", "S", "T", "P", "Q")
    layout = sizes.drawn_apart(LAYOUT, takes_n_apart)
    assert layout == LAYOUT | {"N": own_size("N")}
    assert [v.name for v in sizes.chosen(layout).variables] == ["B", "N", "S", "P"]
    assert sizes.drawn_apart(LAYOUT, lambda _: False) == LAYOUT


def test_sizes_of_a_role_that_are_too_many_stay_together() -> None:
    caches = {f"P{layer}": "past" for layer in range(8)}
    assert seen("B", "S", *caches).drawn_apart(LAYOUT | caches, lambda _: True) == LAYOUT | caches


def test_a_size_apart_differs_from_all_others() -> None:
    specs = describe(model("g (float[A,B] x, float[C] y) => (float[A,B] z) { z = Neg(x) }"))
    layout = {"A": "batch", "B": "length", "C": own_size("C")}
    drawn = set()
    for number in range(20):
        feed = make(specs, Recipe(f"case {number}", 4, 7, "full", past=3), layout, 1, 0)
        drawn |= set(feed["y"].shape)
    assert len(drawn) > 5
    assert not drawn & {1, 3, 4, 7, 10}


# Nothing says that sizes of the second input are those of the first: only its elements are counted.
REGROUPED = """g (float[B,S] x, float[N,M] z) => (float[B,S] y) {
    a = Tanh(x) b = Tanh(z) s = Shape(a) c = Reshape(b, s) d = Add(a, c) e = Tanh(d) y = Neg(e)
}"""
APART = """g (float[B,4] x, float[N,4] z) => (float[R,4] y) {
    a = Tanh(x) b = Tanh(z) c = Concat<axis = 0>(a, b) d = Tanh(c) y = Neg(d)
}"""


@pytest.fixture
def optimized(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    result = turbo_onnx.optimize(model(request.param).to_proto())
    assert "memory_plan" in result.report.facts, result.report.rejected
    result.save(path)
    return path


def numbers(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)


@needs_recorder
@pytest.mark.parametrize("optimized", [APART], indirect=True)
def test_what_varies_by_itself_is_asked_for_and_what_is_promised_is_taken(optimized: Path) -> None:
    subject = session(optimized.read_bytes())
    for rows, others in ((3, 500), (500, 3), (7, 7), (1, 2000)):
        with counted() as run:
            (y,) = subject.run(None, {"x": numbers(rows), "z": numbers(others)})
        expected = -np.tanh(np.tanh(np.concatenate([numbers(rows), numbers(others)])))
        np.testing.assert_allclose(y, expected, atol=1e-6)
        assert run.stats.runs_kept == run.stats.runs_announced == 1
        block = arena_stats().block_bytes_held
        promised = turbo_onnx.peak_bytes(optimized, B=rows, N=others) - y.nbytes
        assert 0 < promised <= block
    with pytest.raises(InputError, match="the plan needs the size N"):
        turbo_onnx.peak_bytes(optimized, B=3)


@needs_recorder
@pytest.mark.parametrize("optimized", [REGROUPED], indirect=True)
def test_a_run_of_which_the_assumptions_do_not_hold_is_right_and_uses_the_heap(optimized: Path) -> None:
    subject = session(optimized.read_bytes())
    x = np.random.default_rng(0).standard_normal((12, 200)).astype(np.float32)

    def run(*shape: int) -> tuple[int, int, int]:
        with counted() as seen:
            (y,) = subject.run(None, {"x": x, "z": x.reshape(shape) + 1})
        np.testing.assert_allclose(y, -np.tanh(np.tanh(x) + np.tanh(x + 1)), atol=1e-6)
        return seen.stats.runs_announced, seen.stats.runs_kept, seen.stats.runs_mismatched

    assert run(12, 200) == (1, 1, 0)
    assert turbo_onnx.peak_bytes(optimized, B=12, S=200) - x.nbytes <= arena_stats().block_bytes_held
    for broken in ((200, 12), (1, 2400), (2400, 1)):
        assert run(*broken) == (1, 0, 1)
        assert run(12, 200) == (1, 1, 0)  # whatever came before
    with pytest.raises(InputError, match=r"no size 'N'; its sizes are B, S \(and N = B, M = S\)"):
        turbo_onnx.peak_bytes(optimized, N=12)


@needs_recorder
@pytest.mark.parametrize(
    ("name", "assumed"),
    [
        ("llama-tiny-past__dy20", []),  # each past key and value has a length of its own in the file
        ("gpt2-tiny-past__ts17", ["total_sequence = length + past"]),
    ],
)
def test_a_decoder_is_planned_by_its_batch_length_and_past(name: str, assumed: list[str]) -> None:
    plan = with_plan(name).plan
    assert [variable.role for variable in plan.variables] == ["batch", "length", "past"]
    assert plan.assumed == assumed
    assert turbo_onnx.peak_bytes(plan, batch=2, length=3, past=50) < turbo_onnx.peak_bytes(
        plan, batch=2, length=3, past=500
    )
