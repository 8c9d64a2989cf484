"""A few processes that each do one job after the other, and whose death is one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from turbo_onnx.custom_ops.cuda.toolchain import Toolchain

_JOBS_EACH = 2  # fewer are not worth another process, which takes a second to start


class JobError(Exception):
    """A job failed. `index` says which, the message why."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


Job = Mapping[str, Any]
Answer = dict[str, Any]


def run(
    module: str,
    jobs: Sequence[Job],
    tools: Toolchain,
    done: Callable[[int, Answer], None],
    failed: Callable[[JobError], None] | None = None,
) -> None:
    """Do the jobs, on all cores.

    Args:
        module: what each process runs; it reads jobs from stdin and writes answers to stdout, as JSON, one a line.
        jobs: as JSON objects.
        tools: makes the environment.
        done: called with each job's index and its answer as soon as there is one, from several threads.
        failed: called in the same way for a job that failed; the others go on. None: the first such is raised.

    Raises:
        JobError: a process ended without an answer, or answered that it failed. No process is left.
    """
    if not jobs:
        return
    crew = _Crew(module, jobs, tools, done, failed)
    count = min(os.cpu_count() or 1, -(-len(jobs) // _JOBS_EACH))
    with (
        TemporaryDirectory(prefix="turbo-onnx-", ignore_cleanup_errors=True) as name,
        ThreadPoolExecutor(count) as pool,  # a thread for each process, which only waits for it
    ):
        try:
            for served in as_completed([pool.submit(crew.serve, Path(name, str(n))) for n in range(count)]):
                served.result()
        finally:  # also where the user interrupts
            crew.dismiss()


class _Crew:
    def __init__(
        self,
        module: str,
        jobs: Sequence[Job],
        tools: Toolchain,
        done: Callable[[int, Answer], None],
        failed: Callable[[JobError], None] | None,
    ) -> None:
        self._done = done
        self._failed = failed
        self._command = [sys.executable, "-P", "-m", module]
        self._jobs = jobs
        self._tools = tools
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(jobs)):
            self._waiting.put(index)
        self._over = threading.Event()
        self._processes: list[subprocess.Popen[str]] = []

    def serve(self, folder: Path) -> None:
        """Give one process jobs until there are no more, and another one its place if it dies and that is allowed.

        It may write to the folder.
        """
        folder.mkdir()
        process = self._start(folder)
        try:
            while not self._over.is_set():
                index = self._waiting.get_nowait()
                if process.poll() is not None:
                    process.communicate()
                    process = self._start(folder)
                try:
                    answer = self._answer(process, index, folder / "log")
                except JobError as error:
                    if self._failed is None:
                        raise
                    self._failed(error)
                else:
                    self._done(index, answer)
        except queue.Empty:
            pass
        finally:
            process.kill()
            process.communicate()

    def _start(self, folder: Path) -> subprocess.Popen[str]:
        with (folder / "log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._tools.environment(folder),
                encoding="utf-8",
            )
        self._processes.append(process)
        return process

    def dismiss(self) -> None:
        """End all processes, and with them what waits for their answers."""
        self._over.set()
        for process in self._processes:
            process.kill()

    def _answer(self, process: subprocess.Popen[str], index: int, log: Path) -> Answer:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the end of stdout tells
            process.stdin.write(json.dumps(self._jobs[index]) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise JobError(index, f"the compiler ended with {process.wait()}: {_last_words(log)}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise JobError(index, answer["error"])
        return answer


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[-1] if lines else "it said nothing")
