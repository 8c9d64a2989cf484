"""How near to the lower bound buffers of fixed sizes are placed.

    python -m benchmarks.minimalloc [FOLDER] [--seconds SECONDS] [--json FILE]

FOLDER has instances in the form of MiniMalloc's benchmarks, such as the eleven of ASPLOS 2024 in its repository
(github.com/google/minimalloc, benchmarks/asplos2024), which are not copied here: they are allocation problems of
accelerators' compilers that its authors found hard. Without a folder, instances are cut from a full block
(`memory/minimalloc.py`), whose optimum is the lower bound, too.

Each placement is checked by the validator, which shares no code with the planner.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import JSON
from benchmarks.machine import describe
from turbo_onnx.errors import InputError
from turbo_onnx.memory.local_search import improve
from turbo_onnx.memory.minimalloc import Instance, generate, read
from turbo_onnx.memory.placement import place, stacking_order
from turbo_onnx.memory.validator import validate_placement

_UNLIMITED = 10**9


@dataclass(frozen=True)
class Result:
    """One instance: its lower bound, and the bytes and seconds of the greedy placement and after local search."""

    title: str
    buffers: int
    bound: int
    greedy: int
    peak: int
    seconds: float


def measure(title: str, instance: Instance, seconds: float) -> Result:
    """Place one instance: greedily, and then by local search until the bound is met or the time is over."""
    lifetimes, sizes = instance.lifetimes, instance.sizes
    start = time.perf_counter()
    greedy = place(lifetimes, sizes, 1)
    left = max(seconds - (time.perf_counter() - start), 0.0)
    best = improve(lifetimes, stacking_order(greedy.offsets), sizes, 1, steps=_UNLIMITED, seconds=left)
    taken = time.perf_counter() - start
    buffers = list(zip(lifetimes.first.tolist(), lifetimes.last.tolist(), sizes.tolist(), strict=True))
    peak = validate_placement(buffers, best.offsets, names=instance.names)
    return Result(title, len(sizes), int(lifetimes.lower_bound(sizes, 1)), greedy.peak, peak, taken)


def instances(folder: Path | None) -> Iterator[tuple[str, Instance]]:
    """Those of the folder, or generated ones.

    Raises:
        InputError: the folder has none, or one of them is not as it should be.
    """
    if folder is None:
        for seed, count in enumerate((50, 100, 200, 300, 400)):
            yield f"cut into {count}", generate(seed, count)
        return
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise InputError(f"{folder}: there are no tables (*.csv) in it.")
    for path in paths:
        yield path.name.split(".")[0], read(path)


@click.command()
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", default=9.0, show_default=True, help="How long to search on each instance.")
@JSON
def main(folder: Path | None, seconds: float, json_path: Path | None) -> None:
    """Place the instances of FOLDER, and compare with their lower bounds."""
    source = f"instances of {folder}" if folder is not None else "generated instances: no folder was given"
    table = Table(title=f"Placement, {source}")
    for column in ("instance", "buffers", "lower bound", "greedy", "peak", "ratio", "seconds"):
        table.add_column(column, justify="left" if column == "instance" else "right")
    results: list[Result] = []
    try:
        for title, instance in instances(folder):
            result = measure(title, instance, seconds)
            results.append(result)
            numbers = (result.buffers, result.bound, result.greedy, result.peak)
            ratio = f"{result.peak / max(result.bound, 1):.3f}"
            table.add_row(title, *map(str, numbers), ratio, f"{result.seconds:.1f}")
    except InputError as error:
        raise click.ClickException(str(error)) from None
    Console().print(table)
    ratios = [result.peak / max(result.bound, 1) for result in results]
    greedy = [result.greedy / max(result.bound, 1) for result in results]
    mean = sum(ratios) / len(ratios)
    print(f"Mean ratio {mean:.3f}; greedy alone {sum(greedy) / len(greedy):.3f}.")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(), "mean": mean, "results": [asdict(result) for result in results]}
        json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
