"""What needs a process of its own: memory that runs out in ONNX Runtime, and how processes end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.arena.planned_models import with_allocators

ROOT = Path(__file__).parents[2]
pytestmark = [with_allocators, pytest.mark.skipif(sys.platform != "linux", reason="limits address space")]


def run(program: str) -> str:
    prelude = """
        import resource, sys, threading
        import numpy as np
        import onnxruntime as ort
        from tests.arena.planned_models import feed, model, plan, session, variant
        from turbo_onnx.runtime.arena import arena_stats, trim
        ort.set_default_logger_severity(4)
        recorded = variant(session(model()))
        planned = session(model(plan(recorded)))
    """
    command = [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_run_for_which_there_is_no_memory_fails_and_the_next_one_works():
    output = run("""
        plain = session(model())
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        large = feed(4_000_000)  # 256 MB
        resource.setrlimit(resource.RLIMIT_AS, (taken + 600_000_000, -1))
        for subject in (planned, plain, planned, plain):
            for inputs in (feed(10), large, feed(10)):
                try:
                    subject.run(None, inputs)
                    print("done")
                except Exception as error:
                    print("bad_alloc" if "bad_alloc" in str(error) else error)
        trim()
        stats = arena_stats()
        print(stats.block_bytes_in_use, stats.runs_over_limit)
    """)
    assert output.split() == ["done", "bad_alloc", "done"] * 4 + ["0", "2"]


def test_a_session_for_which_there_is_no_memory_fails_and_the_next_one_works():
    output = run("""
        from onnx import TensorProto, helper
        from tests.arena.planned_models import serialized
        weight = helper.make_tensor("w", TensorProto.FLOAT, [12_000_000], np.ones(12_000_000, np.float32))
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
        nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
        content = serialized(helper.make_graph(nodes, "large", [x], [y], [weight]))
        del weight, nodes
        session(content).run(None, {"x": np.ones(1, np.float32)})
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        for room in range(0, 150_000_000, 15_000_000):
            resource.setrlimit(resource.RLIMIT_AS, (taken + room, -1))
            try:
                session(content)
            except Exception as error:
                print("failed")
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        session(content).run(None, {"x": np.ones(1, np.float32)})
        print("done", arena_stats().heap_bytes_reserved < 1_000_000)
    """)
    words = output.split()
    assert set(words[:-2]) == {"failed"}
    assert words[-2:] == ["done", "True"]


def test_a_process_may_end_while_threads_sessions_and_outputs_are_alive():
    for ending in ("", "sys.exit(0)", "import os; os._exit(0)"):
        output = run(f"""
            kept, ready = planned.run(None, feed(10)), threading.Semaphore(0)
            def work(pick):
                try:
                    planned.run(None, feed(100, pick))
                except Exception:
                    assert pick  # a run that broke off
                ready.release()
                threading.Event().wait()
            for pick in (0, 999, 0):
                threading.Thread(target=work, args=(pick,), daemon=True).start()
                ready.acquire()
            print("end", flush=True)
            {ending}
        """)
        assert output.split() == ["end"]


def test_a_process_that_forks_while_its_threads_run_goes_on_and_so_does_the_child():
    """While threads run, the child leaves sessions alone: the runtime has locks of its own, which no fork waits for."""
    assert (
        run("""
        import os, signal
        def work():
            while not over.is_set():
                planned.run(None, feed(200))
        def live_on():
            in_use = arena_stats().block_bytes_in_use
            trim()
            return in_use == 0 and arena_stats().block_bytes_held == 0
        def run_on():
            before = arena_stats()
            same = np.array_equal(planned.run(None, feed(10))[0], expected)
            other = session(model(plan(recorded))).run(None, feed(10))[0]
            served = arena_stats().runs_kept - before.runs_kept == 2
            return same and np.array_equal(other, expected) and served and live_on()
        def fork(life):
            child = os.fork()
            if child == 0:
                signal.alarm(120)
                os._exit(0 if life() else 1)
            print(os.waitpid(child, 0)[1])
        expected, over = planned.run(None, feed(10))[0], threading.Event()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(12):
            fork(live_on)
        over.set()
        for thread in threads:
            thread.join()
        fork(run_on)
        planned.run(None, feed(10))
        print(arena_stats().runs_mismatched, arena_stats().block_bytes_in_use)
    """).split()
        == ["0"] * 15
    )
