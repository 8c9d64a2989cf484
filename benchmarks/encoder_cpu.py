"""How much faster an optimized encoder is than the same model as exported, both in ONNX Runtime on the CPU.

    python -m benchmarks.encoder_cpu [--model NAME] [--all-workloads] [--json FILE]

The other side is ONNX Runtime at its best: all its optimizations, the same threads, and besides the padded batch the
two ways to avoid padding by hand, one sequence at a time and groups of four sorted by length. All sides take turns in
one process. A ratio above one means that the optimized model is faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.table import Table

import turbo_onnx
from benchmarks.command_line import JSON, ROUNDS, THREADS, models, open_console
from benchmarks.machine import describe
from benchmarks.operators_cpu import session
from benchmarks.timing import Ratio, alternate, ratio
from models import minilm, untrained
from models.batches import Batch, padded_batch, sorted_groups

VOCABULARY = 30522
OPTIMIZED = "optimized"


@dataclass(frozen=True)
class Workload:
    """One batch of sequences.

    Attributes:
        title: how it is called in the table.
        lengths: real tokens in each sequence.
        targets: the ratio that is promised against a side ("padded", or "by hand": the better of the other two).
    """

    title: str
    lengths: tuple[int, ...]
    targets: dict[str, float]

    @property
    def ragged(self) -> bool:
        """Whether the lengths differ, so that there is padding to avoid."""
        return len(set(self.lengths)) > 1


def _uniform(count: int, longest: int) -> tuple[int, ...]:
    return tuple(int(n) for n in np.random.default_rng(0).integers(1, longest + 1, count))


def _lognormal(count: int, longest: int) -> tuple[int, ...]:
    lengths = np.random.default_rng(0).lognormal(3.0, 0.8, count)
    return tuple(int(n) for n in np.clip(lengths, 1, longest))


WORKLOADS = (
    Workload("16, uniform 1-128", _uniform(16, 128), {"padded": 2.0, "by hand": 1.15}),
    Workload("8 x 128", (128,) * 8, {"padded": 0.98}),
    Workload("1 x 16", (16,), {"padded": 0.98}),
)
MORE_WORKLOADS = (
    Workload("16, lognormal", _lognormal(16, 128), {}),
    Workload("8, uniform 1-384", _uniform(8, 384), {}),
    Workload("32, lognormal up to 384", _lognormal(32, 384), {}),
)
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "minilm": lambda: minilm.load(real=minilm.package_folder() is not None),
    "bert-base": untrained.load,
    "modernbert-base": lambda: untrained.load("modernbert-base__dy20"),
    "deberta-v3-base": lambda: untrained.load("deberta-v3-base__ts17"),
}


def check(original: ort.InferenceSession, optimized: ort.InferenceSession, batch: Batch) -> float:
    """The largest difference on rows of real tokens, so that nothing wrong is ever timed.

    Raises:
        click.ClickException: the two differ by more than 1e-4.
    """
    real = batch["attention_mask"] != 0
    difference = float(np.abs(original.run(None, batch)[0][real] - optimized.run(None, batch)[0][real]).max())
    if not difference <= 1e-4:
        raise click.ClickException(f"the optimized model's outputs differ by {difference:.1e}: nothing was timed")
    return difference


def run_all(encoder: ort.InferenceSession, batches: list[Batch]) -> Callable[[], None]:
    """Something to call that runs the batches, one after the other."""

    def call() -> None:
        for batch in batches:
            encoder.run(None, batch)

    return call


def measure(original: ort.InferenceSession, optimized: ort.InferenceSession, work: Workload, rounds: int) -> Any:
    """Times and ratios of one workload, as a record for the table and for JSON."""
    inputs = {entry.name for entry in original.get_inputs()}
    batch = {name: array for name, array in padded_batch(work.lengths, VOCABULARY).items() if name in inputs}

    sides: dict[str, Callable[[], object]] = {
        OPTIMIZED: lambda: optimized.run(None, batch),
        "padded": lambda: original.run(None, batch),
    }
    if work.ragged:
        sides["single"] = run_all(original, sorted_groups(batch, 1))
        sides["sorted4"] = run_all(original, sorted_groups(batch, 4))
    difference = check(original, optimized, batch)
    seconds = alternate(sides, rounds)
    ratios = {name: ratio(times, seconds[OPTIMIZED]) for name, times in seconds.items() if name != OPTIMIZED}
    if work.ragged:
        ratios["by hand"] = min(ratios["single"], ratios["sorted4"], key=lambda r: r.median)
    return {
        "workload": work.title,
        "tokens": {"real": sum(work.lengths), "padded": len(work.lengths) * max(work.lengths)},
        "milliseconds": {name: 1000 * float(np.median(times)) for name, times in seconds.items()},
        "ratios": ratios,
        "met": {name: ratios[name].median >= target for name, target in work.targets.items()},
        "targets": work.targets,
        "difference": difference,
    }


def table_of(title: str, records: list[Any]) -> Table:
    """The table that is printed for one model."""
    table = Table(title=title)
    table.add_column("workload", no_wrap=True)
    for column in ("real / padded tokens", "optimized, ms", "padded batch", "one at a time", "sorted by four"):
        table.add_column(column, justify="right")
    table.add_column("promised")
    for record in records:
        ratios: dict[str, Ratio] = record["ratios"]
        promised = [
            f"[{'green' if record['met'][name] else 'red'}]{target} {name}[/]"
            for name, target in record["targets"].items()
        ]
        table.add_row(
            record["workload"],
            f"{record['tokens']['real']} / {record['tokens']['padded']}",
            f"{record['milliseconds'][OPTIMIZED]:.1f}",
            *(str(ratios.get(side, "")) for side in ("padded", "single", "sorted4")),
            ", ".join(promised),
        )
    return table


@click.command()
@models(MODELS)
@click.option("--all-workloads", is_flag=True, help="Also lognormal lengths and longer sequences.")
@ROUNDS
@THREADS
@JSON
def main(names: tuple[str, ...], all_workloads: bool, rounds: int, threads: int, json_path: Path | None) -> None:
    """Compare optimized encoders with the same models as exported."""
    console = open_console(f"threads {threads}")
    console.print("Ratios are the other side's time over the optimized model's: median (quartiles).")
    works = WORKLOADS + MORE_WORKLOADS if all_workloads else WORKLOADS
    results = {}
    for name in names or MODELS:
        proto = MODELS[name]()
        original = session(proto.SerializeToString(), threads, library=False)
        artifact = turbo_onnx.optimize(proto, verify=False).model.SerializeToString()
        optimized = session(artifact, threads, library=True)
        del proto
        results[name] = [measure(original, optimized, work, rounds) for work in works]
        console.print(table_of(f"{name}, {threads} threads, float32", results[name]))
    if json_path is not None:
        document = {"machine": describe(), "threads": threads, "rounds": rounds, "models": results}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1, default=vars) + "\n")


if __name__ == "__main__":
    main()
