"""What `make gpu-check` runs: the tests on a GPU, then the kernels again under compute-sanitizer, and a table last.

python -m tests.gpu.check
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from turbo_onnx import nvidia
from turbo_onnx.errors import InputError

PYTEST = (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
KERNELS = "tests/gpu/test_kernels.py"
TIME = 460
"""Seconds for everything."""

# A tool slows kernels down by one to two orders of magnitude. Shared memory is what races are looked for in.
STEPS = {
    "tests": (),
    "memcheck": ("memcheck", "the_reference_says and (float16 or float32) or not_aligned"),
    "racecheck": ("racecheck", "the_reference_says and float16 and (VarlenAttention or SkipLayerNormalization)"),
}


@dataclass(frozen=True)
class Outcome:
    """How a step went."""

    step: str
    ok: bool
    result: str
    seconds: float


def sanitizer() -> str | None:
    """The path of compute-sanitizer, if it is there."""
    usual = "/usr/local/cuda/bin/compute-sanitizer"
    return shutil.which("compute-sanitizer") or (usual if Path(usual).exists() else None)


def command(step: str, tool: str | None) -> list[str]:
    """What runs the step."""
    if not STEPS[step]:
        return [*PYTEST, "tests/gpu"]
    assert tool is not None
    name, selection = STEPS[step]
    # Calls of the driver that fail are no finding: a module that a device refuses is replaced by another.
    options = ["--tool", name, "--error-exitcode", "9", "--report-api-errors", "no"]
    return [tool, *options, *PYTEST, KERNELS, "-k", selection]


def run(step: str, tool: str | None, left: float) -> Outcome:
    """Run a step, its output as it comes."""
    if STEPS[step] and tool is None:
        return Outcome(step, True, "not run: compute-sanitizer is not installed", 0.0)
    if left < 10:
        return Outcome(step, False, "not run: no time was left", 0.0)
    print(f"== {step}", flush=True)
    start, text = time.perf_counter(), ""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            command(step, tool),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=left,
            check=False,
        )
        text, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else (error.stdout or "")
        code = 124
    print(text[-6000:], flush=True)
    return Outcome(step, code == 0, summary(text, code), time.perf_counter() - start)


def summary(text: str, code: int) -> str:
    """The last lines of a run that say how it went."""
    if code == 124:
        return "stopped: out of time"
    counts = re.findall(r"^(?=.*\b(?:passed|failed|skipped|error)).*? in [\d.:]+s.*$", text, re.MULTILINE)
    errors = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
    return "; ".join([*(line.strip("= ") for line in counts[-1:]), *errors[-1:]]) or f"exit code {code}"


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
