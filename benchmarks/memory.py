"""How much memory a service's runs need, and what is left of it afterwards: with a memory plan, and without one.

    python -m benchmarks.memory [--model NAME] [--runs N] [--repetitions N] [--json FILE]

Four sides run the same random shapes, each in a fresh process, and take turns: the optimized model with its plan under
the policies `trim` and `grow`; the same file on ONNX Runtime's default arena with its memory patterns
(`turbo_onnx.arena` set to `off`); and the model as exported, without our library. All memory is resident memory over
what the process had when its session was there and had run once on a tiny batch. Nothing is printed unless the first
three sides gave the same bits, and the fourth the same numbers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import turbo_onnx
from benchmarks.command_line import JSON, THREADS, models, open_console
from benchmarks.machine import describe
from benchmarks.memory_process import LONGEST, MOMENTS, SIDES, Measures, positions, random_lengths
from benchmarks.timing import Ratio, ratio
from models import minilm, untrained

MIB = 2**20
PLANNED, _, DEFAULT, EXPORTED = SIDES
TOLERANCE = 1e-4
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "minilm": lambda: minilm.load(real=minilm.package_folder() is not None),
    "bert-base": untrained.load,
}
MOST_TOKENS = {"minilm": 32768, "bert-base": 8192}
"""Positions of the largest batch: what two cores run in reasonable time."""

Found = dict[str, list[Measures]]
"""By side, one for each repetition."""


def run_side(model: Path, side: str, arguments: list[str]) -> Measures:
    """Measure one side in a process of its own.

    Raises:
        click.ClickException: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.memory_process", str(model), "--side", side, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"the side '{side}' failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    return Measures(**json.loads(done.stdout.splitlines()[-1]))


def run_all(folder: Path, sides: tuple[str, ...], repetitions: int, arguments: list[str]) -> Found:
    """All sides take turns; which one goes first changes each time. The exported model runs once: it takes longest.

    Args:
        folder: where `exported.onnx` and `optimized.onnx` are, and where some of the outputs are left.
        sides: which ones.
        repetitions: how often.
        arguments: what all processes get.
    """
    found: Found = {side: [] for side in sides}
    for number in range(repetitions):
        shift = number % len(sides)
        for side in sides[shift:] + sides[:shift]:
            exported = side == EXPORTED
            if exported and found[side]:
                continue
            model = folder / ("exported.onnx" if exported else "optimized.onnx")
            rows = folder / ("exported.npy" if exported else "optimized.npy")
            found[side].append(run_side(model, side, [*arguments, "--rows", str(rows)]))
    return found


def check(found: Found, folder: Path) -> float | None:
    """The largest difference between the exported and the optimized model, None without the former.

    Raises:
        click.ClickException: it is above the tolerance, or sides of the same model differ in any bit.
    """
    digests = {measures.digest for side, every in found.items() if side != EXPORTED for measures in every}
    if len(digests) > 1:
        raise click.ClickException("the same model gave other bits with other memory: nothing is reported")
    if not found.get(EXPORTED) or not digests:
        return None
    difference = float(np.abs(np.load(folder / "exported.npy") - np.load(folder / "optimized.npy")).max())
    if not difference <= TOLERANCE:
        raise click.ClickException(f"the optimized model's outputs differ by {difference:.1e}: nothing is reported")
    return difference


def speed(found: Found, side: str) -> Ratio | None:
    """How many times faster the planned side is than this one, repetition by repetition."""
    if not found.get(PLANNED) or not found.get(side):
        return None
    pairs = list(zip(found[side], found[PLANNED], strict=False))
    return ratio([slow.seconds for slow, _ in pairs], [fast.seconds for _, fast in pairs])


def peak_ratio(found: Found, side: str) -> Ratio | None:
    """The planned side's peak over this one's: the median, and the lowest and the highest of the repetitions."""
    if not found.get(PLANNED) or not found.get(side):
        return None
    ratios = [ours.peak / theirs.peak for ours, theirs in zip(found[PLANNED], found[side], strict=False)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def middle(numbers: list[float], unit: float = 1.0) -> str:
    """The median, and how far the lowest and the highest are apart where they are."""
    low, high = min(numbers) / unit, max(numbers) / unit
    text = f"{statistics.median(numbers) / unit:.1f}"
    return text if f"{low:.1f}" == f"{high:.1f}" else f"{text} ({low:.1f}-{high:.1f})"


def table_of(title: str, found: Found) -> Table:
    """The table that is printed for one model."""
    table = Table(title=title)
    table.add_column("MiB over the start", no_wrap=True)
    columns = ("peak", *MOMENTS, "seconds", "page faults per run", "planned over it: peak", "speed")
    for column in columns:
        table.add_column(column, justify="right")
    for side, every in found.items():
        if not every:
            continue
        table.add_row(
            side,
            middle([measures.peak for measures in every], MIB),
            *(middle([measures.kept[moment] for measures in every], MIB) for moment in MOMENTS),
            middle([measures.seconds for measures in every]),
            f"{statistics.median(measures.page_faults / measures.runs for measures in every):.0f}",
            str(peak_ratio(found, side) or "") if side != PLANNED else "",
            str(speed(found, side) or "") if side != PLANNED else "",
        )
    return table


def sentence_on_plan(measures: Measures) -> str:
    """Whether the runs of one process kept to their plan."""
    arena = measures.arena
    broken = arena["runs_mismatched"] + arena["runs_abandoned"] + arena["runs_over_limit"]
    colour = "green" if arena["runs_kept"] == arena["runs_announced"] > 0 and not broken else "red"
    return (
        f"{measures.side}: [{colour}]{arena['runs_kept']} of {arena['runs_announced']} runs kept to the plan[/],"
        f" {arena['runs_mismatched']} mismatched; allocations: {arena['allocations_served']} from the block,"
        f" {arena['allocations_outputs']} outputs, {arena['allocations_unknown']} of unknown size,"
        f" {arena['allocations_off_plan']} off the plan; the block's peak {arena['block_bytes_peak'] / MIB:.1f} MiB"
    )


def compare(name: str, sides: tuple[str, ...], repetitions: int, arguments: list[str]) -> tuple[Found, float | None]:
    """Make one model in both forms, run all sides, and check what they computed."""
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        proto = MODELS[name]()
        onnx.save(proto, folder / "exported.onnx")
        turbo_onnx.optimize(proto, verify=False).save(folder / "optimized.onnx")
        del proto
        found = run_all(folder, sides, repetitions, arguments)
        return found, check(found, folder)


def report(console: Console, name: str, found: Found, difference: float | None) -> None:
    """Print what was found about one model."""
    console.print(table_of(name, found))
    for side, every in found.items():
        if every and SIDES[side] not in (None, "off"):
            console.print(sentence_on_plan(every[0]))
    outputs = "Outputs of all sides of the optimized model have the same bits"
    if difference is not None:
        outputs += f"; the exported model's differ by {difference:.1e}"
    console.print(f"{outputs}.")


@click.command()
@models(MODELS)
@click.option("--side", "sides", multiple=True, type=click.Choice(list(SIDES)), help="Only this one; repeatable.")
@click.option("--runs", default=200, show_default=True, help="How many runs, each of another shape.")
@click.option("--repetitions", default=3, show_default=True, help="How often; once for the model as exported.")
@click.option(
    "--most-tokens",
    type=click.IntRange(min=LONGEST),
    help=f"The most positions of a padded batch.  [default: {MOST_TOKENS}]",
)
@THREADS
@click.option("--seed", default=0, show_default=True, help="Of the shapes.")
@JSON
def main(
    names: tuple[str, ...],
    sides: tuple[str, ...],
    runs: int,
    repetitions: int,
    most_tokens: int | None,
    threads: int,
    seed: int,
    json_path: Path | None,
) -> None:
    """Compare the memory of planned runs with that of ONNX Runtime's default arena."""
    console = open_console(f"threads {threads}", width=190)
    console.print(
        "Each side in fresh processes: median (lowest-highest) of the repetitions. Peak: the planned side's over this"
        " one's, below one is less memory. Speed: this side's time over the planned side's, above one is faster; median"
        " (quartiles).",
        soft_wrap=True,
    )
    results: dict[str, object] = {}
    for name in names or MODELS:
        budget = most_tokens or MOST_TOKENS[name]
        every = random_lengths(runs, budget, seed)
        real, padded = sum(map(sum, every)), sum(map(positions, every))
        shapes = (
            f"{runs} runs, 1-512 positions x 1-64 sequences, at most {budget} positions in a batch"
            f" (largest here: {max(map(positions, every))}), {real / padded:.0%} of them real"
        )
        options = {"runs": runs, "most-tokens": budget, "seed": seed, "threads": threads}
        arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        found, difference = compare(name, sides or tuple(SIDES), repetitions, arguments)
        report(console, f"{name}, float32: {shapes}", found, difference)
        sides_found = {side: [asdict(measures) for measures in all_] for side, all_ in found.items()}
        results[name] = {"options": options, "difference": difference, "sides": sides_found}
    if json_path is not None:
        document = {"machine": describe(), "repetitions": repetitions, "models": results}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
