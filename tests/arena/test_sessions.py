"""Planned models in ONNX Runtime: what runs get from their plan, and that they are right whatever becomes of it."""

from __future__ import annotations

import gc
import mmap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace

import numpy as np
import onnxruntime as ort
import pytest

from tests.arena.counted import counted
from tests.arena.planned_models import (
    ALLOCATED,
    BEGUN,
    EXTENT,
    FREED,
    feed,
    model,
    plan,
    record,
    session,
    variant,
    with_allocators,
    wrong,
)
from tests.arena.stacking import offsets_of
from turbo_onnx import runtime
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import Assumption, Buffer
from turbo_onnx.runtime.arena import arena_stats, trim

pytestmark = with_allocators


@pytest.fixture(scope="module")
def recorded():
    return variant(session(model()))


@pytest.fixture(scope="module")
def planned(recorded) -> bytes:
    return model(plan(recorded))


@pytest.fixture(scope="module")
def reference() -> ort.InferenceSession:
    """On ONNX Runtime's own memory."""
    return session(model(), "off")


def assert_right(subject, reference, n: int, pick: int = 0, seed: int = 0) -> None:
    inputs = feed(n, pick, seed)
    for actual, expected in zip(subject.run(None, inputs), reference.run(None, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_every_planned_allocation_of_a_run_comes_from_its_block(recorded, planned, reference):
    subject = session(planned)
    with counted() as seen:
        for n in (8, 1, 1000, 24, 8):
            assert_right(subject, reference, n)
    assert seen.stats.runs_announced == seen.stats.runs_kept == 5
    assert seen.stats.allocations_served == 5 * len(recorded.planned)
    assert seen.stats.allocations_outputs == 5 * 2
    assert seen.stats.allocations_off_plan == seen.stats.runs_mismatched == 0
    assert arena_stats().block_bytes_in_use == 0


def test_a_block_takes_what_the_plan_says(recorded, planned):
    trim()
    subject = session(planned)
    subject.run(None, feed(4000))
    stacked, _ = offsets_of(recorded, [4000])
    assert arena_stats().block_bytes_held == -(-stacked // mmap.PAGESIZE) * mmap.PAGESIZE
    assert arena_stats().blocks == 1


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_the_inputs_pass_the_marker_without_a_copy(level):
    subject = session(model(), graph_optimization_level=getattr(ort.GraphOptimizationLevel, level))
    events = record(subject, feed(5))
    assert [event[:3] for event in events[:4]] == [(BEGUN, 0, -1), (EXTENT, 5, -1), (EXTENT, 16, -1), (EXTENT, 1, -1)]
    assert events[4][0] == ALLOCATED
    assert events[4][1] in (4, 5 * 16 * 4)  # the first real operator


def test_a_recording_says_what_a_run_allocates_and_frees_and_when(planned):
    subject = session(planned)
    with counted() as seen:
        events = record(subject, feed(7))
    assert seen.stats.runs_kept == seen.stats.allocations_served == 0
    allocated = [number for kind, _, number, _ in events if kind == ALLOCATED]
    freed = [number for kind, _, number, _ in events if kind == FREED]
    assert allocated == list(range(len(allocated)))
    assert len(freed) == len(set(freed)) == len(allocated) - 2
    sizes = {number: size for kind, size, number, _ in events if kind == ALLOCATED}
    assert all(sizes[number] == size for kind, size, number, _ in events if kind == FREED)
    times = [when for *_, when in events]
    assert times == sorted(times)


def warnings(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if "does not follow its memory plan" in line]


def test_a_run_that_does_not_follow_its_plan_is_right_and_said_once(recorded, reference, capfd):
    subject = session(model(plan(wrong(recorded))))
    with counted() as seen:
        for n in (8, 24, 8):
            assert_right(subject, reference, n)
    number = recorded.planned[3]
    assert seen.stats.runs_announced == seen.stats.runs_mismatched == 3
    assert seen.stats.allocations_off_plan == 3 * (len(recorded.buffers) - number)
    assert arena_stats().block_bytes_in_use == 0
    said = warnings(capfd)
    assert len(said) == 1
    assert f"where buffer {number} is to be allocated with 32772 bytes, " in said[0]
    assert " bytes are allocated" in said[0]


def test_after_a_mismatch_the_next_run_tries_the_next_variant(recorded, reference, capfd):
    subject = session(model(plan(wrong(recorded), wrong(recorded, 1), recorded)))
    with counted() as seen:
        for _ in range(6):
            assert_right(subject, reference, 8)
    assert (seen.stats.runs_mismatched, seen.stats.runs_kept) == (2, 4)
    assert not warnings(capfd)  # that is how the variant is found


def test_where_no_variant_is_right_it_is_said_once_all_were_tried(recorded, reference, capfd):
    subject = session(model(plan(wrong(recorded), wrong(recorded, 1), wrong(recorded, 2))))
    assert_right(subject, reference, 8)
    assert_right(subject, reference, 8)
    assert not warnings(capfd)
    for _ in range(4):
        assert_right(subject, reference, 8)
    assert len(warnings(capfd)) == 1


def test_a_run_that_leaves_the_variant_to_which_others_kept_is_said_at_once(recorded, reference, capfd):
    number = recorded.planned[3]
    right = recorded.buffers[number]
    buffers = list(recorded.buffers)
    buffers[number] = Buffer("right at 8", Formula.of([((2,), right.size.evaluate([8]) // 64)]), "planned")
    subject = session(model(plan(replace(recorded, buffers=tuple(buffers)), wrong(recorded))))
    assert_right(subject, reference, 8)
    assert not warnings(capfd)
    assert_right(subject, reference, 24)
    assert len(warnings(capfd)) == 1


def test_runs_of_which_an_assumption_does_not_hold_are_said_once_and_say_nothing_of_the_variant(
    recorded, reference, capfd
):
    width = Assumption("width", 0, 1, (0,))  # which is 16
    subject = session(model(plan(recorded, wrong(recorded), assumptions=[width])))
    with counted() as seen:
        for n in (8, 16, 24, 8, 16, 16):
            assert_right(subject, reference, n)
    assert (seen.stats.runs_announced, seen.stats.runs_kept, seen.stats.runs_mismatched) == (6, 3, 3)
    said = warnings(capfd)
    assert len(said) == 1
    assert "axis 1 of input 0 is 16, and the plan is made for runs in which it is 8" in said[0]


@pytest.mark.parametrize(
    ("assumption", "kept"),
    [
        (Assumption("no such input", 7, 0, (0,)), 0),
        (Assumption("no such axis", 0, 2, (0,)), 0),
        (Assumption("twice n", 0, 1, (0, 0)), 1),
    ],
)
def test_what_is_assumed_of_inputs_that_are_not_there_does_not_hold(recorded, reference, assumption, kept):
    subject = session(model(plan(recorded, assumptions=[assumption])))
    with counted() as seen:
        assert_right(subject, reference, 8)
    assert (seen.stats.runs_kept, seen.stats.runs_mismatched) == (kept, 1 - kept)


def test_a_run_that_fails_does_not_make_the_next_ones_try_another_variant(recorded, reference):
    subject = session(model(plan(wrong(recorded), recorded)))
    ort.set_default_logger_severity(4)
    with counted() as seen:
        for pick in (0, 0, 0, 999, 0, 0, 999, 0):
            if pick:
                with pytest.raises(Exception, match="out of data bounds"):
                    subject.run(None, feed(8, pick))
            else:
                assert_right(subject, reference, 8)
    ort.set_default_logger_severity(2)
    assert seen.stats.runs_kept == 5
    assert (seen.stats.runs_mismatched, seen.stats.runs_abandoned) == (1, 2)


def test_outputs_that_the_caller_brings_do_not_leave_the_plan(planned, reference):
    subject, inputs = session(planned), feed(8)
    binding = subject.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    y, picked = np.zeros((8, 16), np.float32), np.zeros((1, 16), np.float32)
    for name, value in (("y", y), ("picked", picked)):
        binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
    with counted() as seen:
        subject.run_with_iobinding(binding)
    assert seen.stats.runs_kept == 1
    for actual, expected in zip((y, picked), reference.run(None, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_run_in_which_an_operator_fails_leaves_nothing_behind(planned, reference):
    subject = session(planned)
    ort.set_default_logger_severity(4)
    with counted() as seen:
        for _ in range(3):
            with pytest.raises(Exception, match="indices element out of data bounds"):
                subject.run(None, feed(8, pick=99))
            assert_right(subject, reference, 8)
    ort.set_default_logger_severity(2)
    assert seen.stats.runs_kept == 3
    assert (seen.stats.runs_mismatched, seen.stats.runs_abandoned) == (0, 3)
    assert seen.stats.allocations_off_plan == 0
    assert arena_stats().block_bytes_in_use == 0


def test_parallel_execution_is_right_and_leaves_nothing_behind(planned, reference):
    subject = session(planned, execution_mode=ort.ExecutionMode.ORT_PARALLEL, inter_op_num_threads=3)
    for i in range(40):
        assert_right(subject, reference, 1 + i * 7)
    outputs = subject.run(None, feed(8))
    del subject, outputs
    gc.collect()
    session(planned).run(None, feed(8))
    assert arena_stats().block_bytes_in_use == 0


def test_sessions_of_all_policies_run_come_and_go_at_the_same_time(planned, recorded, reference):
    contents = [planned, model(plan(wrong(recorded))), planned, model()]
    policies = ["trim", "grow", "limit:40000", "off"]
    shared = [session(content, policy) for content, policy in zip(contents, policies, strict=True)]
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        barrier.wait()
        for i in range(60):
            subject = shared[(number + i) % 4] if i % 5 else session(planned, policies[i % 4])
            assert_right(subject, reference, 1 + (i * 37 + number) % 300, seed=number)

    with ThreadPoolExecutor(4) as pool, counted() as seen:
        list(pool.map(work, range(4)))
    assert min(seen.stats.runs_kept, seen.stats.runs_mismatched, seen.stats.runs_over_limit) > 0
    assert arena_stats().block_bytes_in_use == 0


def test_runs_beyond_the_limit_use_the_heap(planned, recorded, reference):
    subject = session(planned, "limit:100000")
    with counted() as seen:
        assert_right(subject, reference, 10)
        assert_right(subject, reference, 5000)
        assert_right(subject, reference, 10)
    assert (seen.stats.runs_kept, seen.stats.runs_over_limit) == (2, 1)
    assert seen.stats.allocations_off_plan == len(recorded.buffers)


def test_switched_off_the_library_leaves_memory_to_onnx_runtime(planned, reference):
    subject = session(planned, "off")
    with counted() as seen:
        assert_right(subject, reference, 50)
    assert set(astuple(seen.stats)) == {0}


def test_options_that_say_something_about_allocators_are_left_alone(planned, reference):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "0")
    subject = runtime.InferenceSession(planned, options)
    with counted() as seen:
        assert_right(subject, reference, 50)
    assert seen.stats.runs_announced == seen.stats.heap_bytes_in_use == 0
    assert options.get_session_config_entry("session.use_env_allocators") == "0"


def test_a_policy_that_there_is_not_is_refused_when_registering(planned):
    with pytest.raises(
        Exception, match=r"turbo_onnx\.arena is 'sometimes', but must be off, grow, trim or limit:BYTES"
    ):
        session(planned, "sometimes")


def test_a_damaged_plan_is_refused_when_the_session_is_made(planned, recorded):
    ort.set_default_logger_severity(4)
    with pytest.raises(Exception, match=r"BeginRun: the memory plan is damaged: it ends where the number of decisions"):
        session(model(plan(recorded).rsplit(" ", 1)[0]))
    ort.set_default_logger_severity(2)


def test_a_plan_for_inputs_that_the_model_does_not_have_is_of_no_use_and_no_harm(recorded, reference):
    text = plan(recorded).replace("turbo_onnx_plan 1 64 1 0 0 ", "turbo_onnx_plan 1 64 1 7 0 ")
    subject = session(model(text))
    with counted() as seen:
        assert_right(subject, reference, 8)
    assert (seen.stats.runs_announced, seen.stats.runs_mismatched) == (1, 1)


def test_threads_that_end_leave_nothing_behind(planned):
    subject = session(planned)
    ort.set_default_logger_severity(4)

    def work(pick: int) -> None:
        try:
            subject.run(None, feed(8, pick))
        except Exception:
            assert pick

    for i in range(20):
        thread = threading.Thread(target=work, args=(99 * (i % 2),))
        thread.start()
        thread.join()
    ort.set_default_logger_severity(2)
    assert arena_stats().block_bytes_in_use == 0
