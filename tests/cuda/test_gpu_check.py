"""How `make gpu-check` runs its steps, seen without a GPU."""

from __future__ import annotations

import sys
import time

import pytest

from tests.gpu import check

TALKS = "print('== 3 passed, 1 skipped in 0.05s =='); print('========= ERROR SUMMARY: 0 errors')"
WAITS = """
import subprocess, sys, time
try:
    print("begun", flush=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL)
    time.sleep(60)
except KeyboardInterrupt:
    print("1 passed in 0.01s", flush=True)
"""
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"


def test_what_a_step_prints_is_shown_and_summed_up(monkeypatch, capsys) -> None:
    monkeypatch.setattr(check, "command", lambda *_: [sys.executable, "-c", TALKS])
    outcome = check.run("tests", None, 60)
    assert (outcome.ok, outcome.result) == (True, "3 passed, 1 skipped in 0.05s; ERROR SUMMARY: 0 errors")
    assert "== tests\n== 3 passed" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "patience", "said"), [(WAITS, 15, "; 1 passed in 0.01s"), (DEAF, 0.5, "")])
def test_a_step_that_is_out_of_time_ends_with_all_of_its_processes(
    monkeypatch, code: str, patience: float, said: str
) -> None:
    monkeypatch.setattr(check, "PATIENCE", patience)
    start = time.perf_counter()
    ended = check.execute([sys.executable, "-c", code], {}, 8.0)
    assert time.perf_counter() - start < 40
    assert ended.stopped
    assert ended.lines[0] == "begun\n"
    assert check.summary(ended) == f"stopped, out of time{said}"


def test_without_the_tool_or_without_time_a_step_is_not_run() -> None:
    assert check.run("memcheck", None, 100).result == "not run: compute-sanitizer is not installed"
    assert not check.run("tests", None, 5).ok


def test_a_tool_runs_few_of_the_tests_on_kernels() -> None:
    arguments = check.command("racecheck", "/tool")
    assert arguments[:3] == ["/tool", "--tool", "racecheck"]
    assert arguments[-3:-1] == [check.KERNELS, "-k"]
    assert check.command("tests", None)[-1] == "tests/gpu"
