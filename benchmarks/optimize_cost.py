"""What optimizing costs: wall time and peak memory of the command line, without verification.

    python -m benchmarks.optimize_cost [--json FILE]

Each model is optimized by a fresh process; its memory is the largest resident set that the system saw, interpreter and
libraries included, and is compared with the size of the model file. The models are made by other processes, because a
new process counts what the one that started it held.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import JSON
from benchmarks.machine import describe

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        title: how it is called in the table.
        recipe: the module that makes it, and what its command line gets besides the file's name.
        most_seconds: the promised wall time, or None.
        most_memory: the promised peak memory as a multiple of the file's size, or None.
    """

    title: str
    recipe: tuple[str, ...]
    most_seconds: float | None = None
    most_memory: float | None = None


CASES = (
    Case("BERT-base", ("models.untrained",), most_seconds=15.0, most_memory=2.5),
    Case("MiniLM", ("models.minilm", "--seeded")),
    Case("20,000 nodes", ("models.deep", "--nodes", "20000"), most_seconds=60.0),
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
    module, *arguments = case.recipe
    subprocess.run([sys.executable, "-m", module, str(source), *arguments], check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "turbo_onnx.cli", "optimize", str(source), "--no-verify", "--report"]
    command.append(str(folder / "report.json"))
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"optimizing {case.title} failed with exit code {process.returncode}")
    nodes = json.loads((folder / "report.json").read_text())["nodes"]["before"]
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
@JSON
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
