"""What is written down of a run is what the runtime allocated, freed and gave back, and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.recorded_models import model, needs_recorder, session
from tests.small_models import encoder, feed
from turbo_onnx import recording
from turbo_onnx.errors import PassError
from turbo_onnx.recording import Recording, record
from turbo_onnx.sessions import Session, open_session

CHAIN = """g (float[N,4] x) => (float[N,2] y) {
    a = Concat<axis = 1>(x, x) b = Concat<axis = 1>(a, x) c = MatMul(b, w) d = Neg(c) y = Neg(d)
}"""
WEIGHTS = {"w": np.ones((12, 2), np.float32)}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return session(model(CHAIN, WEIGHTS), tmp_path_factory.mktemp("chain"))


def x(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((rows, 4), np.float32)}


@needs_recorder
def test_a_run_is_its_allocations_in_order_and_what_was_freed_in_between(chain: Session) -> None:
    found = record(chain, x(3))
    assert found.extents == (3, 4)
    assert found.sizes == (3 * 8 * 4, 3 * 12 * 4, 3 * 2 * 4, 3 * 2 * 4, 3 * 2 * 4)
    assert found.events == (0, 0, 1, 0, 2, 0, 3, 0, 4)
    assert found.outputs == {4}
    assert list(found.times) == sorted(found.times)
    assert len(found.times) == len(found.sizes)


@needs_recorder
def test_allocations_are_far_enough_apart_for_a_profile_in_microseconds_to_tell_their_nodes(chain: Session) -> None:
    assert np.diff(record(chain, x(3)).times).min() >= 5000


@needs_recorder
def test_every_run_is_written_down_for_itself(chain: Session) -> None:
    runs = [record(chain, x(rows)) for rows in (3, 1, 7, 3)]
    assert [run.extents[0] for run in runs] == [3, 1, 7, 3]
    assert len({run.events for run in runs}) == 1
    assert runs[0].sizes == runs[3].sizes
    assert runs[2].sizes == tuple(7 * size // 3 for size in runs[0].sizes)


@needs_recorder
def test_nothing_is_allocated_for_tensors_without_elements(chain: Session) -> None:
    found = record(chain, x(0))
    assert (found.extents, found.sizes, found.events, found.outputs) == ((0, 4), (), (), frozenset())


@needs_recorder
def test_only_chosen_outputs_are_computed_and_alive_at_the_end(tmp_path: Path) -> None:
    body = "g (float[N,4] x) => (float[N,8] y, float[N,4] z) { y = Concat<axis = 1>(x, x) z = Neg(x) }"
    both = session(model(body), tmp_path)
    assert record(both, x(2)).outputs == {0, 1}
    only = record(both, x(2), ["z"])
    assert [only.sizes[number] for number in only.outputs] == [32]


@needs_recorder
def test_runs_of_other_threads_are_not_written_down(chain: Session) -> None:
    alone = record(chain, x(3))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            chain.run(None, x(50))

    other = threading.Thread(target=work)
    other.start()
    try:
        runs = [record(chain, x(3)) for _ in range(50)]
    finally:
        stop.set()
        other.join()
    assert {(run.sizes, run.events) for run in runs} == {(alone.sizes, alone.events)}


@needs_recorder
def test_a_recording_may_be_longer_than_the_room_that_was_first_made(
    chain: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = record(chain, x(3))
    monkeypatch.setattr(recording, "_ROOM", 2)
    again = record(chain, x(3))
    assert (again.sizes, again.events, again.extents) == (whole.sizes, whole.events, whole.extents)


@needs_recorder
def test_a_model_without_the_node_cannot_be_recorded() -> None:
    plain = open_session(encoder().SerializeToString(), library=True, threads=1)
    with pytest.raises(PassError, match="ONNX Runtime did not ask the library for memory"):
        record(plain, feed())


@needs_recorder
def test_a_run_that_fails_raises_what_the_runtime_says_and_ends_the_recording(chain: Session) -> None:
    with pytest.raises(Exception, match="Got invalid dimensions"):
        record(chain, {"x": np.ones((3, 5), np.float32)})
    assert record(chain, x(3)).extents == (3, 4)


def test_what_was_there_before_the_run_and_memory_of_others_is_left_out() -> None:
    rows = [
        (1, 100, 0, 10),  # before the run begins
        (3, 0, -1, 11),
        (4, 7, -1, 12),
        (4, 2, -1, 13),
        (2, 100, 0, 14),  # freed in the run, and not its own
        (1, 64, 1, 15),
        (1, 32, 2, 16),
        (2, 64, 1, 17),
        (1, 16, 3, 18),
    ]
    found = recording._parse(np.array(rows, np.int64))
    assert found == Recording((7, 2), (64, 32, 16), (15, 16, 18), (0, 0, 1, 0))
    assert found.outputs == {1, 2}


def test_of_two_runs_the_last_is_taken() -> None:
    rows = [(3, 0, -1, 1), (4, 7, -1, 2), (1, 64, 0, 3), (3, 0, -1, 4), (4, 9, -1, 5), (1, 32, 1, 6)]
    assert recording._parse(np.array(rows, np.int64)) == Recording((9,), (32,), (6,), (0,))


def test_a_recording_without_a_run_is_refused() -> None:
    with pytest.raises(PassError, match="cannot be recorded"):
        recording._parse(np.zeros((0, recording._FIELDS), np.int64))
