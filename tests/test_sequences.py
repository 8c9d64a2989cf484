"""The sequence of a model's runs, found from a few of them, is what every run does; what is not certain is said."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.memory.plans import formula
from tests.recorded_models import model, needs_recorder, subject
from turbo_onnx import sequences
from turbo_onnx.dims import symbol
from turbo_onnx.errors import Reject
from turbo_onnx.memory.plan import Buffer
from turbo_onnx.recording import Recording, record
from turbo_onnx.sequences import RunSequence, Subject, explains, find
from turbo_onnx.sessions import Level, Session, open_session
from turbo_onnx.verify_inputs import Feed
from turbo_onnx.work import Budget, Work

pytestmark = needs_recorder

CHAIN = """g (float[N,S,4] x, float[N,S,4] z) => (float[N,S,2] y, float[N,S,S] scores) {
    a = Concat<axis = 2>(x, z) t = Transpose<perm = [0, 2, 1]>(z) scores = MatMul(x, t) b = MatMul(a, w)
    c = Add(b, b) d = ReduceSum<keepdims = 0>(c, axes) e = Expand(d, like) y = Add(e, c)
}"""
WEIGHTS = {
    "w": np.ones((8, 2), np.float32),
    "axes": np.array([0, 1]),
    "like": np.array([1, 1, 2]),
}


def made(body: str, folder: Path, weights: dict[str, np.ndarray] | None = None) -> Subject:
    return subject(model(body, weights), folder)


def kinds(sequence: RunSequence) -> dict[str, str]:
    return {buffer.name: buffer.kind for buffer in sequence.buffers}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return made(CHAIN, tmp_path_factory.mktemp("chain"), WEIGHTS)


@pytest.fixture(scope="module")
def found(chain: Subject) -> RunSequence:
    return find(chain, "none")


def test_sizes_are_the_formulas_that_the_shapes_say(found: RunSequence) -> None:
    sizes = {buffer.name: buffer.size.text(["N", "S"]) for buffer in found.buffers if buffer.size is not None}
    assert sizes == {
        "a": "32·N·S",
        "t": "16·N·S",
        "scores": "4·N·S²",
        "b": "8·N·S",
        "c": "8·N·S",
        "d": "8",
        "e": "8",
        "y": "8·N·S",
    }
    assert not found.exceptions


def test_results_are_outputs_and_all_else_is_planned(found: RunSequence) -> None:
    assert {name for name, kind in kinds(found).items() if kind == "output"} == {"y", "scores"}
    assert set(kinds(found).values()) == {"output", "planned"}


def test_every_buffer_but_outputs_is_freed_once_after_its_allocation(found: RunSequence) -> None:
    freed = [event - 1 for event in found.events if event]
    assert sorted(freed) == [k for k, buffer in enumerate(found.buffers) if buffer.kind != "output"]
    for buffer in freed:
        allocated = [moment for moment, event in enumerate(found.events) if event == 0][buffer]
        assert allocated < found.events.index(buffer + 1)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 50), (64, 1), (3, 200), (0, 5), (5, 0), (0, 0)])
def test_the_sequence_explains_runs_of_every_shape(chain: Subject, found: RunSequence, batch: int, length: int) -> None:
    session = open_session(chain.path, level="none", library=True, threads=1, reuse=True)
    array = np.ones((batch, length, 4), np.float32)
    run = record(session, {"x": array, "z": array})
    assert [run.extents[axis] for axis in chain.seen.axes] == [batch, length]
    assert explains(found, run, (batch, length))


def test_a_level_that_does_the_same_has_the_same_sequence(chain: Subject, found: RunSequence) -> None:
    other = replace(found, events=(*found.events[:-1],))
    assert find(chain, "none", [other, found]) is found
    assert find(chain, "none", [other]) == found


LEVELS = """g (float[N,4] x) => (float[N,4] y) {
    a = MatMul(x, w) b = Add(a, v) c = MatMul(b, w) d = Add(c, v) y = Tanh(d)
}"""


def test_levels_that_fuse_differ_from_those_that_do_not(tmp_path: Path) -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.ones(4, np.float32)}
    one = made(LEVELS, tmp_path, weights)
    buffers: dict[Level, int] = {level: len(find(one, level).buffers) for level in ("all", "extended", "basic", "none")}
    assert buffers["none"] == 5
    assert max(buffers["all"], buffers["extended"], buffers["basic"]) < 5


def test_sizes_that_depend_on_values_are_not_known(tmp_path: Path) -> None:
    body = """g (float[N,4] x) => (int64[2,R] y, float[N,4] z) {
        a = Relu(x) found = NonZero(a) y = Add(found, found) b = Concat<axis = 0>(x, a) z = Slice(b, zero, n)
    }"""
    sequence = find(made(body, tmp_path, {"zero": np.array([0]), "n": np.array([1])}), "none")
    assert kinds(sequence) == {"a": "planned", "b": "planned", "z": "output", "found": "unknown", "y": "output"}
    assert {buffer.name for buffer in sequence.buffers if buffer.size is None} == {"found", "y"}


def test_scratch_memory_that_depends_on_the_number_of_threads_is_not_known(tmp_path: Path) -> None:
    body = "g (float[N,6,8,8] x) => (float[N,12,8,8] y) { a = Conv<pads = [1, 1, 1, 1]>(x, k) y = Neg(a) }"
    one = made(body, tmp_path, {"k": np.ones((12, 6, 3, 3), np.float32)})
    sequence = find(one, "none")
    assert list(kinds(sequence).values()) == ["planned", "unknown", "output"]
    assert sequence.buffers[1].name.endswith("(scratch)")
    for threads in (1, 2, 4):
        session = open_session(one.path, level="none", library=True, threads=threads, reuse=True)
        assert explains(sequence, record(session, {"x": np.ones((5, 6, 8, 8), np.float32)}), (5,))


def test_a_sequence_that_depends_on_values_is_refused(tmp_path: Path) -> None:
    body = """g (int64[N,S] mask) => (float[R,4] y) {
        real = Cast<to = 9>(mask) places = NonZero(real) columns = Gather(places, one) late = Greater(columns, four)
        found = NonZero(late) a = Cast<to = 1>(found) b = Transpose(a) y = Concat<axis = 1>(b, b)
    }"""
    with pytest.raises(Reject, match=r"depends on more than sizes: [0-9]+ of [0-9]+ runs are alike"):
        find(made(body, tmp_path, {"one": np.array([1]), "four": np.array([4])}), "none")


def test_shapes_at_which_runs_do_something_else_are_listed(tmp_path: Path) -> None:
    body = """g (float[N,S,4] x) => (float[N,S,4] y) {
        a = Einsum<equation = "nsk,ntk->nst">(x, x) b = Einsum<equation = "nst,ntk->nsk">(a, x) y = Neg(b)
    }"""
    one = made(body, tmp_path)
    sequence = find(one, "none")
    assert (1, 1) in sequence.exceptions
    session = open_session(one.path, level="none", library=True, threads=1, reuse=True)
    for values in sequence.exceptions:
        assert not explains(sequence, record(session, {"x": np.ones((*values, 4), np.float32)}), values)
    assert explains(sequence, record(session, {"x": np.ones((6, 7, 4), np.float32)}), (6, 7))


def test_a_model_that_runs_on_nothing_is_refused(tmp_path: Path) -> None:
    body = "g (float[N,S] x) => (float[P,Q,17,19] y) { a = Reshape(x, shape) y = Neg(a) }"
    with pytest.raises(Reject, match=r"the model runs on none of the inputs made for it: .*Reshape"):
        find(made(body, tmp_path, {"shape": np.array([13, -1, 17, 19])}), "none")


def test_a_file_that_the_runtime_refuses_is_refused(tmp_path: Path) -> None:
    one = made(CHAIN, tmp_path, WEIGHTS)
    one.path.write_bytes(b"no model")
    with pytest.raises(Reject, match="ONNX Runtime refuses the model with a node that begins a run"):
        find(one, "all")


def test_lengths_that_must_be_multiples_are_found_and_have_formulas(tmp_path: Path) -> None:
    body = """g (float[N,S,4] x) => (float[N,R,32] y) { a = Concat<axis = 2>(x, x) b = Reshape(a, eight) y = Neg(b) }"""
    sequence = find(made(body, tmp_path, {"eight": np.array([0, -1, 64])}), "none")
    assert [buffer.size for buffer in sequence.buffers] == [formula("32*N*S", ["N", "S"])] * 2
    assert [buffer.kind for buffer in sequence.buffers] == ["planned", "output"]


def test_without_sizes_that_vary_every_size_is_a_number(tmp_path: Path) -> None:
    sequence = find(
        made("g (float[3,4] x) => (float[3,8] y) { a = Concat<axis = 1>(x, x) y = Neg(a) }", tmp_path), "all"
    )
    assert [buffer.size for buffer in sequence.buffers] == [formula("96", [])] * 2


# -- runs that take long


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The extents of the inputs of each run that is recorded from here on."""
    extents: list[tuple[int, ...]] = []

    def recorded(session: Session, feed: Feed) -> Recording:
        run = record(session, feed)
        extents.append(run.extents)
        return run

    monkeypatch.setattr(sequences, "record", recorded)
    return extents


FIXED = "g (float[3,4] x) => (float[3,8] y) { a = Concat<axis = 1>(x, x) y = Neg(a) }"
ONE_SIZE = "g (float[N,512] x) => (float[N,1024] y) { a = Concat<axis = 1>(x, x) y = Neg(a) }"
MUCH = Work(10**12)


def test_where_nothing_varies_two_runs_are_enough_and_one_at_a_further_level(
    tmp_path: Path, runs: list[tuple[int, ...]]
) -> None:
    one = replace(made(FIXED, tmp_path), work=MUCH)
    known = find(one, "all")
    assert len(runs) == 2
    assert find(one, "none", [known]) is known
    assert len(runs) == 3


def test_where_one_size_varies_runs_are_small_and_each_of_another_size(
    tmp_path: Path, runs: list[tuple[int, ...]]
) -> None:
    one = replace(made(ONE_SIZE, tmp_path), work=Work(symbol("N") * 10**11, {"N": ("x", 0)}))
    sequence = find(one, "all")
    assert [extents[0] for extents in runs[:4]] == [2, 3, 4, 5]
    assert len(runs) <= 7
    assert [buffer.size for buffer in sequence.buffers] == [formula("4096*N", ["N"])] * 2


def test_runs_that_would_be_too_much_work_are_not_made(tmp_path: Path, runs: list[tuple[int, ...]]) -> None:
    one = replace(made(FIXED, tmp_path), work=MUCH, budget=Budget(10**12 - 1))
    with pytest.raises(Reject, match="takes 1000 billion multiply-adds, and 1000 of 1000 billion are left"):
        find(one, "all")
    with pytest.raises(Reject, match="takes 100 billion"):
        find(replace(made(ONE_SIZE, tmp_path), work=Work(10**11), budget=Budget(6 * 10**11)), "all")
    assert len(runs) == 4  # two were made to see how inputs are made


def test_scratch_memory_is_not_known_where_no_other_number_of_threads_could_be_tried(tmp_path: Path) -> None:
    body = "g (float[5,6,8,8] x) => (float[5,12,8,8] y) { a = Conv<pads = [1, 1, 1, 1]>(x, k) y = Neg(a) }"
    one = made(body, tmp_path, {"k": np.ones((12, 6, 3, 3), np.float32)})
    for most in (1, 2):
        sequence = find(replace(one, work=MUCH, budget=Budget(most * 10**12)), "none")
        assert list(kinds(sequence).values()) == ["planned", "unknown", "output"]


def test_values_that_make_runs_of_fixed_sizes_differ_are_noticed(tmp_path: Path) -> None:
    body = """g (int64[5,9] mask) => (float[P,2] y) {
        real = Cast<to = 9>(mask) places = NonZero(real) columns = Gather(places, one) late = Greater(columns, four)
        found = NonZero(late) a = Cast<to = 1>(found) b = Concat<axis = 0>(a, a) y = Transpose(b)
    }"""
    one = made(body, tmp_path, {"one": np.array([1]), "four": np.array([3])})
    sequence = find(replace(one, work=MUCH), "none")
    assert {buffer.name for buffer in sequence.buffers if buffer.size is None} >= {"places", "columns", "a"}


# -- explaining a run


SIZES = ("a", formula("8*n", ["n"])), ("b", formula("4*n - 8", ["n"])), ("c", None)
SEQUENCE = RunSequence(tuple(Buffer(name, size, "planned") for name, size in SIZES), (0, 0, 1, 0, 2, 3))


@pytest.mark.parametrize(
    ("values", "sizes", "events", "expected"),
    [
        ((3,), (24, 4, 99), (0, 0, 1, 0, 2, 3), True),
        ((3,), (24, 4, 1), (0, 0, 1, 0, 2, 3), True),  # a size that is not known may be any
        ((3,), (24, 8, 99), (0, 0, 1, 0, 2, 3), False),
        ((3,), (24, 4, 99), (0, 0, 1, 0, 3, 2), False),
        ((3,), (24, 4), (0, 0, 1, 2), False),
        ((3,), (24, 4, 99, 1), (0, 0, 1, 0, 2, 3, 0), False),
        ((2,), (16, 99), (0, 1, 0, 2), True),  # b is empty
        ((2,), (16, 0, 99), (0, 0, 1, 0, 2, 3), False),
        ((1,), (8, 4, 99), (0, 0, 1, 0, 2, 3), False),  # b would be negative
    ],
)
def test_a_run_is_explained_by_its_events_and_sizes(
    values: tuple[int, ...], sizes: tuple[int, ...], events: tuple[int, ...], expected: bool
) -> None:
    run = Recording(values, sizes, tuple(range(len(sizes))), events)
    assert explains(SEQUENCE, run, values) is expected


def test_a_profile_that_is_cut_off_is_no_crash(chain: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the disk for temporary files is full, which ONNX Runtime does not notice."""
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: read(path, *a, **k)[:3000])
    with pytest.raises(Reject, match="a profile of the runs cannot be written"):
        find(chain, "none")


def test_no_folder_for_temporary_files_is_no_crash(
    chain: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(Reject, match="absent"):
        find(chain, "none")
