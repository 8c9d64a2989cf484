"""What optimizing costs: wall time and peak memory of the command line, without verification.

    python -m benchmarks.optimize_cost [--json FILE]

Each model is optimized by a fresh process; its memory is the largest resident set that the system saw, interpreter and
libraries included, and is compared with the size of the model file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from models import bert_base, deep, minilm

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        title: how it is called in the table.
        load: makes it.
        most_seconds: the promised wall time, or None.
        most_memory: the promised peak memory as a multiple of the file's size, or None.
    """

    title: str
    load: Callable[[], onnx.ModelProto]
    most_seconds: float | None = None
    most_memory: float | None = None


CASES = (
    Case("BERT-base", bert_base.load, most_seconds=15.0, most_memory=2.5),
    Case("MiniLM", lambda: minilm.load(real=False)),
    Case("20,000 nodes", lambda: deep.load(20_000), most_seconds=60.0),
)


@dataclass(frozen=True)
class Cost:
    """What one optimization cost: seconds of wall time and bytes of memory."""

    title: str
    nodes: int
    file: int
    seconds: float
    memory: int


def measure(case: Case, folder: Path) -> Cost:
    """Optimize one model in a process of its own.

    Raises:
        click.ClickException: the process failed.
    """
    source = folder / "model.onnx"
    model = case.load()
    nodes = len(model.graph.node)
    onnx.save(model, source)
    del model
    command = [sys.executable, "-m", "turbo_onnx.cli", "optimize", str(source), "--no-verify", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"optimizing {case.title} failed with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(case.title, nodes, source.stat().st_size, seconds, usage.ru_maxrss * unit)


def row(case: Case, cost: Cost) -> tuple[str, ...]:
    """One line of the table; what was promised stands behind what was measured."""
    seconds, multiple = f"{cost.seconds:.1f}", cost.memory / cost.file
    memory = f"{cost.memory / MIB:.0f}"
    if case.most_seconds is not None:
        seconds += f" [{'green' if cost.seconds <= case.most_seconds else 'red'}](< {case.most_seconds:.0f})[/]"
    if case.most_memory is not None:
        memory += f" = [{'green' if multiple <= case.most_memory else 'red'}]{multiple:.2f} x (< {case.most_memory})[/]"
    return case.title, str(cost.nodes), f"{cost.file / MIB:.0f}", seconds, memory


@click.command()
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers here.")
def main(json_path: Path | None) -> None:
    """Measure what optimizing costs."""
    table = Table(title="Cost of turbo-onnx optimize --no-verify")
    for column in ("model", "nodes", "file, MiB", "seconds", "peak memory, MiB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    costs = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            costs.append(measure(case, Path(folder)))
        table.add_row(*row(case, costs[-1]))
    Console().print(table)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(), "costs": [asdict(cost) for cost in costs]}
        json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
