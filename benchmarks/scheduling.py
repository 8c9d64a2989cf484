"""How soon waiting requests of mixed lengths are done, by how they are put into batches.

    python -m benchmarks.scheduling [--model NAME] [--requests N] [--rounds N] [--threads N]

The costs of runs are measured first (`turbo_onnx.measure_cost`), for the exported model and for the optimized one. Then
all ways take turns in one process: everything padded to one batch, groups of four and of sixteen sorted by length, and
the batches of `turbo_onnx.schedule`. A ratio above one means that the optimized model, scheduled, is faster.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.table import Table

import turbo_onnx
from benchmarks.command_line import THREADS, open_console
from benchmarks.encoder_cpu import MODELS, VOCABULARY, run_all
from benchmarks.operators_cpu import session
from benchmarks.timing import alternate, ratio
from models.batches import Batch, padded_batch

MOST = 64  # sequences in a scheduled batch


def lengths_of(requests: int) -> list[int]:
    """Lengths as questions and passages have them: most short, some long."""
    drawn = np.random.default_rng(0).lognormal(3.2, 0.9, requests)
    return [int(n) for n in np.clip(drawn, 3, 384)]


def cut(batch: Batch, places: list[int], lengths: list[int]) -> Batch:
    """The sequences at these places, padded to the longest of them."""
    longest = max(lengths[place] for place in places)
    return {name: np.ascontiguousarray(array[places, :longest]) for name, array in batch.items()}


def fixed_groups(lengths: list[int], size: int) -> list[list[int]]:
    """Sorted by length, `size` at a time."""
    order = [int(place) for place in np.argsort(lengths, kind="stable")]
    return [order[start : start + size] for start in range(0, len(order), size)]


@click.command()
@click.option("--model", "name", type=click.Choice(list(MODELS)), default="minilm", show_default=True)
@click.option("--requests", default=96, show_default=True)
@click.option("--rounds", default=7, show_default=True, help="How often each way is timed.")
@THREADS
def main(name: str, requests: int, rounds: int, threads: int) -> None:
    """Compare ways to divide waiting requests into batches."""
    console = open_console(f"threads {threads}")
    lengths = lengths_of(requests)
    everything = padded_batch(lengths, VOCABULARY)
    ways: dict[str, tuple[ort.InferenceSession, list[list[int]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        exported, optimized = Path(folder, "exported.onnx"), Path(folder, "optimized.onnx")
        onnx.save(MODELS[name](), exported)
        turbo_onnx.optimize(exported, output=optimized, verify=False)
        for title, path in (("exported", exported), ("optimized", optimized)):
            measured = turbo_onnx.measure_cost(path, threads=threads)
            console.print(f"[bold]{title}[/]", measured.render())
            encoder = session(path.read_bytes(), threads, library=title == "optimized")
            for size in (requests, 4, 16):
                groups = "one batch" if size == requests else f"sorted, by {size}"
                ways[f"{title}: {groups}"] = encoder, fixed_groups(lengths, size)
            ways[f"{title}: scheduled"] = encoder, turbo_onnx.schedule(lengths, measured.cost, most_sequences=MOST)
    inputs = {entry.name for entry in encoder.get_inputs()}
    everything = {key: array for key, array in everything.items() if key in inputs}
    sides = {
        title: run_all(encoder, [cut(everything, places, lengths) for places in groups])
        for title, (encoder, groups) in ways.items()
    }
    seconds = alternate(sides, rounds)
    table = Table(
        title=f"{name}: {requests} requests of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all"
    )
    for column in ("way", "batches", "ms", "over the optimized model, scheduled"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for title, times in seconds.items():
        relative = "" if title == "optimized: scheduled" else str(ratio(times, seconds["optimized: scheduled"]))
        table.add_row(title, str(len(ways[title][1])), f"{1000 * float(np.median(times)):.0f}", relative)
    console.print(table)


if __name__ == "__main__":
    main()
