"""What `make gpu-check` runs: the tests on a GPU, then the kernels again under compute-sanitizer, and a table last.

python -m tests.gpu.check
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turbo_onnx import nvidia
from turbo_onnx.errors import InputError

# In an environment as it is, nothing of others may decide: neither their plugins nor their warnings.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-rs", "--durations=5", "-o", "filterwarnings=default")
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
KERNELS = "tests/gpu/test_kernels.py"
TIME = 430
"""Seconds for everything."""

PATIENCE = 20
"""Seconds in which a step that is out of time can say how far it came."""


@dataclass(frozen=True)
class Step:
    """What is run.

    Attributes:
        tool: of compute-sanitizer's; None to run the tests by themselves.
        selection: which tests of `KERNELS`.
        share: how much it may take of the time that is left.
    """

    tool: str | None = None
    selection: str = ""
    share: float = 1.0


# A tool slows kernels down by one to two orders of magnitude. Shared memory is what races are looked for in.
STEPS = {
    "tests": Step(share=0.8),
    "memcheck": Step("memcheck", "the_reference_says and (float16 or float32) or not_aligned", 0.7),
    "racecheck": Step("racecheck", "the_reference_says and float16 and (VarlenAttention or SkipLayerNormalization)"),
}
FEW = {"TURBO_ONNX_TESTS_EXAMPLES": "3"}
"""Fewer random uses of each operator under a tool: opening a session takes most of the time."""


@dataclass(frozen=True)
class Outcome:
    """How a step went."""

    step: str
    ok: bool
    result: str
    seconds: float


@dataclass
class Ended:
    """A process that has ended: what it printed, its exit code, and whether it was out of time."""

    lines: list[str] = field(default_factory=list)
    code: int = 0
    stopped: bool = False


def sanitizer() -> str | None:
    """The path of compute-sanitizer, if it is there."""
    usual = "/usr/local/cuda/bin/compute-sanitizer"
    return shutil.which("compute-sanitizer") or (usual if Path(usual).exists() else None)


def command(step: str, tool: str | None) -> list[str]:
    """What runs the step."""
    chosen = STEPS[step]
    if chosen.tool is None:
        return [*PYTEST, "tests/gpu"]
    assert tool is not None
    options = ["--tool", chosen.tool, "--error-exitcode", "9"]
    # Calls of the driver that fail are no finding: a module that a device refuses is replaced by another. Processes
    # that compile run nothing on the device. Imports may take longer than the tool waits by default.
    options += ["--report-api-errors", "no", "--target-processes", "application-only", "--launch-timeout", "120"]
    return [tool, *options, *PYTEST, KERNELS, "-k", chosen.selection]


def execute(arguments: list[str], environment: Mapping[str, str], seconds: float) -> Ended:
    """Run a command and show what it prints. Out of time it is interrupted, and killed if it does not end then."""
    ended = Ended()
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None

    def stop(number: signal.Signals) -> None:
        ended.stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    timers = [
        threading.Timer(seconds, stop, [signal.SIGINT]),
        threading.Timer(seconds + PATIENCE, stop, [signal.SIGKILL]),
    ]
    for timer in timers:
        timer.start()
    with process.stdout as output:
        for line in output:
            print(line, end="", flush=True)
            ended.lines.append(line)
    ended.code = process.wait()
    for timer in timers:
        timer.cancel()
    return ended


def run(step: str, tool: str | None, left: float) -> Outcome:
    """Run a step, its output as it comes."""
    chosen = STEPS[step]
    if chosen.tool is not None and tool is None:
        return Outcome(step, True, "not run: compute-sanitizer is not installed", 0.0)
    if left < PATIENCE + 10:
        return Outcome(step, False, "not run: no time was left", 0.0)
    print(f"== {step}", flush=True)
    start = time.perf_counter()
    environment = os.environ | ENVIRONMENT | (FEW if chosen.tool is not None else {})
    ended = execute(command(step, tool), environment, chosen.share * (left - PATIENCE))
    return Outcome(step, ended.code == 0, summary(ended), time.perf_counter() - start)


def summary(ended: Ended) -> str:
    """The lines of a run that say how it went."""
    text = "".join(ended.lines)
    counts = re.findall(r"^(?=.*\b(?:passed|failed|skipped|error)).*? in [\d.:]+s.*$", text, re.MULTILINE)
    errors = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
    said = [*(line.strip("= ") for line in counts[-1:]), *errors[-1:]]
    return "; ".join([*(["stopped, out of time"] if ended.stopped else []), *said]) or f"exit code {ended.code}"


def main() -> None:
    """Run every step and say how it went."""
    try:
        device = nvidia.first_device()
    except InputError as error:
        print(f"Not run: {error}")
        return
    start, tool = time.perf_counter(), sanitizer()
    outcomes = [run(step, tool, TIME - (time.perf_counter() - start)) for step in STEPS]
    print(f"\n{device}")
    for outcome in outcomes:
        print(f"{outcome.step:10} {'ok' if outcome.ok else 'FAILED':7} {outcome.seconds:6.0f} s  {outcome.result}")
    sys.exit(0 if all(outcome.ok for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
