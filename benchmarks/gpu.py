"""What the benchmarks on a GPU share: the device's ceilings, clocks on the device, and where results go."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe
from turbo_onnx import nvidia, sessions
from turbo_onnx.errors import InputError

RESULTS = Path(__file__).parent / "results"
_COPY = 1 << 30  # bytes: many times what any cache holds
_SIDE = 8192  # of the matrices whose product is the ceiling


@dataclass(frozen=True)
class Spread:
    """Times in microseconds, over rounds: the median and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}-{self.high:.1f})"


def spread(seconds: list[float]) -> Spread:
    """Of times in seconds."""
    micro = [1e6 * value for value in seconds]
    if len(micro) < 2:
        return Spread(micro[0], micro[0], micro[0])
    low, median, high = statistics.quantiles(micro, n=4, method="inclusive")
    return Spread(median, low, high)


class NotHereError(click.ClickException):
    """There is nothing to measure on."""

    exit_code = 2


def require_gpu() -> nvidia.Device:
    """The GPU, with PyTorch and ONNX Runtime ready to use it.

    Raises:
        NotHereError: what is missing.
    """
    try:
        device = nvidia.first_device()
        import torch  # before ONNX Runtime looks for CUDA's libraries: PyTorch brings them

        if not torch.cuda.is_available():
            raise InputError(f"PyTorch {torch.__version__} as it is installed cannot use the GPU.")
        sessions.require_provider()
    except InputError as error:
        raise NotHereError(f"nothing was measured: {error}") from None
    except ModuleNotFoundError as error:
        raise NotHereError(f"nothing was measured: {error.name} is not installed; pip install {error.name}") from None
    return device


def use_stream() -> None:
    """Let PyTorch work on a stream of its own from here on: ONNX Runtime takes no default stream from a caller."""
    import torch

    torch.cuda.set_stream(torch.cuda.Stream())


def on_device(run: Callable[[], object], rounds: int, repeats: int = 5) -> list[float]:
    """Seconds that one call takes between two events on PyTorch's current stream, for each round."""
    import torch

    seconds = []
    for _ in range(rounds):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        run()
        first.record()
        for _ in range(repeats):
            run()
        last.record()
        last.synchronize()
        seconds.append(first.elapsed_time(last) / 1e3 / repeats)
    return seconds


def copy_bandwidth() -> float:
    """Bytes read plus bytes written in a second, by a copy on the device."""
    import torch

    source = torch.randint(0, 255, (_COPY,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPY / statistics.median(on_device(lambda: target.copy_(source), 11))


def matrix_peak() -> float:
    """Floating-point operations in a second, by a large product of random float16 matrices."""
    import torch

    a, b = (torch.randn(_SIDE, _SIDE, dtype=torch.float16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * _SIDE**3 / statistics.median(on_device(lambda: torch.matmul(a, b, out=out), 11))


def one_line(error: Exception) -> str:
    """What went wrong, short enough for a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def environment(device: nvidia.Device) -> dict[str, object]:
    """What the numbers were measured on and with."""
    import torch

    versions = {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "commit": _commit()}
    return {"gpu": str(device), **describe(), **versions, "date": _today()}


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return "unknown"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def result_path(benchmark: str, device: nvidia.Device) -> Path:
    """`benchmarks/results/BENCHMARK-GPU-DATE.json`."""
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return RESULTS / f"{benchmark}-{name}-{_today()}.json"


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, default=vars) + "\n")
