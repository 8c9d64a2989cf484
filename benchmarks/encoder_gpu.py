"""BERT-base in float16 on a GPU: an optimized model, ONNX Runtime without us, and PyTorch.

    python -m benchmarks.encoder_gpu [--side NAME] [--json FILE]

All sides have the same random weights, take turns in one process, and are timed by events on one stream of the device.
A side whose outputs are not those of the model in float32 is not timed. A ratio above one means that ours is faster.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import gpu
from benchmarks.command_line import JSON
from benchmarks.encoder_sides import LAYERS, OURS, SIDES, WIDTH, Inputs, Run, reference
from benchmarks.timing import Ratio, ratio
from models.batches import padded_batch

VOCABULARY = 30522
SHARES = {"PyTorch, compiled": 0.4}
"""How much of the time may be gone when a side is still prepared: one that compiles for each shape takes long."""

LARGEST_DIFFERENCE = 5e-2
"""Of what is timed, from float32, as a share of the standard deviation of the output over real tokens."""


@dataclass(frozen=True)
class Workload:
    """One batch of sequences."""

    title: str
    lengths: tuple[int, ...]

    @property
    def operations(self) -> int:
        """Multiplications and additions of all matrix products, on real tokens."""
        tokens, pairs = sum(self.lengths), sum(length**2 for length in self.lengths)
        return LAYERS * (24 * tokens * WIDTH**2 + 4 * pairs * WIDTH)

    @property
    def full(self) -> bool:
        """Whether there is no padding."""
        return len(set(self.lengths)) == 1


def _ragged(count: int, longest: int) -> tuple[int, ...]:
    """Uniform lengths, half of the longest on average; the first is the longest, so that the batch is that wide."""
    drawn = np.random.default_rng(0).integers(1, longest + 1, count)
    return (longest, *(int(length) for length in drawn[1:]))


WORKLOADS = (
    Workload("1 x 32", (32,)),
    Workload("32 x 128", (128,) * 32),
    Workload("32 x 384", (384,) * 32),
    Workload("2, 32 and 16", (32, 16)),
    Workload("32, uniform 1-128", _ragged(32, 128)),
    Workload("32, uniform 1-384", _ragged(32, 384)),
)


def prepare(
    work: Workload, names: tuple[str, ...], capability: int, deadlines: Mapping[str, float], broken: dict[str, str]
) -> tuple[dict[str, Run], dict[str, float], dict[str, str]]:
    """The sides that run this workload rightly.

    Args:
        work: the workload.
        names: of the sides.
        capability: the device's.
        deadlines: by side, after when it is not prepared any more.
        broken: by side, why it could not be made, which takes long to find out; added to.

    Returns:
        them, how far from float32 each is, and for the others why they are not timed.
    """
    import torch

    batch = padded_batch(work.lengths, VOCABULARY)
    inputs: Inputs = {name: torch.from_numpy(array).cuda() for name, array in batch.items()}
    real = inputs["attention_mask"] != 0
    expected = reference(inputs)[real]
    sides: dict[str, Run] = {}
    differences: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in names:
        if time.monotonic() > deadlines[name]:
            reasons[name] = "no time was left"
            continue
        if name in broken:
            reasons[name] = broken[name]
            continue
        try:
            run = SIDES[name](inputs, work.full, capability)
        except Exception as error:  # each side may lack something of its own
            broken[name] = reasons[name] = gpu.one_line(error)
            continue
        try:
            difference = float((run()[real] - expected).abs().max() / expected.std())
        except Exception as error:
            reasons[name] = gpu.one_line(error)
            continue
        if difference <= LARGEST_DIFFERENCE:
            sides[name], differences[name] = run, difference
        else:
            reasons[name] = f"its outputs differ by {difference:.2g} standard deviations"
    return sides, differences, reasons


def alternate(sides: Mapping[str, Run], rounds: int, reasons: dict[str, str]) -> dict[str, list[float]]:
    """Seconds on the device for each side and round; which one goes first changes from round to round.

    Args:
        sides: what to time.
        rounds: how often.
        reasons: by side, why it was not timed; added to.
    """
    names = []
    for name, run in sides.items():
        try:
            gpu.on_device(run, 2)  # load, choose algorithms, take memory
        except Exception as error:
            reasons[name] = gpu.one_line(error)
        else:
            names.append(name)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            seconds[name] += gpu.on_device(sides[name], 1)
    return seconds


def measure(
    work: Workload,
    names: tuple[str, ...],
    capability: int,
    rounds: int,
    deadlines: Mapping[str, float],
    broken: dict[str, str],
) -> dict[str, Any]:
    """One workload, as a record for the table and for JSON."""
    sides, differences, reasons = prepare(work, names, capability, deadlines, broken)
    seconds = alternate(sides, rounds, reasons)
    return {
        "workload": work.title,
        "tokens": {"real": sum(work.lengths), "padded": len(work.lengths) * max(work.lengths)},
        "operations": work.operations,
        "seconds": seconds,
        "differences": differences,
        "not_timed": reasons,
    }


def table_of(document: dict[str, Any]) -> Table:
    """The table that is printed, of a result as it is in the file."""
    table = Table(title="BERT-base, float16: microseconds of a batch, median (quartiles)")
    for column in (
        "batch",
        "real / padded tokens",
        "side",
        "microseconds",
        "ours is faster by",
        "of peak",
        "difference",
    ):
        table.add_column(column, justify="left" if column in ("batch", "side") else "right", no_wrap=True)
    for record in document["workloads"]:
        label, tokens = record["workload"], f"{record['tokens']['real']} / {record['tokens']['padded']}"
        ours = record["seconds"].get(OURS)
        for side, seconds in record["seconds"].items():
            times = gpu.spread(seconds)
            share = record["operations"] / (times.median / 1e6) / document["matrix_peak"]
            faster: Ratio | str = "" if ours is None or side == OURS else ratio(seconds, ours)
            difference = f"{record['differences'][side]:.1e}"
            table.add_row(label, tokens, side, str(times), str(faster), f"{share:.2f}", difference)
            label = tokens = ""
        for side in record["not_timed"]:
            table.add_row(label, tokens, side, "not timed")
            label = tokens = ""
        table.add_section()
    return table


def reasons_of(document: dict[str, Any]) -> list[str]:
    """Why sides were not timed, a line for each."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in document["workloads"]:
        for side, reason in record["not_timed"].items():
            found.setdefault((side, reason), []).append(record["workload"])
    return [f"{side} ({'; '.join(works)}) was not timed: {reason}" for (side, reason), works in found.items()]


@click.command()
@click.option("--side", "names", multiple=True, type=click.Choice(list(SIDES)), help="Only this one; repeatable.")
@click.option("--rounds", default=15, show_default=True, help="How often each side is timed.")
@click.option("--seconds", default=240, show_default=True, help="After these, no side is prepared any more.")
@JSON
@click.option("--show", type=click.Path(exists=True, path_type=Path), help="Print the table of an earlier result.")
def main(names: tuple[str, ...], rounds: int, seconds: int, json_path: Path | None, show: Path | None) -> None:
    """Compare ways to run BERT-base in float16."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    if show is None:
        device = gpu.require_gpu()
        gpu.use_stream()
        sides = names or tuple(SIDES)
        start = time.monotonic()
        deadlines = {name: start + seconds * SHARES.get(name, 1.0) for name in sides}
        document: dict[str, Any] = {"machine": gpu.environment(device), "rounds": rounds}
        document["matrix_peak"] = gpu.matrix_peak()
        document["workloads"] = []
        path = json_path or gpu.result_path("encoder_gpu", device)
        broken: dict[str, str] = {}
        for work in WORKLOADS:
            record = measure(work, sides, device.capability, rounds, deadlines, broken)
            document["workloads"].append(record)
            gpu.write(path, document)  # what was measured is kept, whatever happens to the rest
    else:
        document = json.loads(show.read_text())
    console.print(document["machine"])
    console.print(f"matrix products {document['matrix_peak'] / 1e12:.0f} TFLOP/s")
    console.print(table_of(document))
    for line in reasons_of(document):
        click.echo(line)


if __name__ == "__main__":
    main()
