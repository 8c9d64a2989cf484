"""How much faster a decoder with a cache of keys and values is on the CPU, in its first step and in those that follow.

    python -m benchmarks.decoder_cpu [--model NAME] [--rounds N] [--threads N]

Four sides take turns in one process, all in ONNX Runtime with all its optimizations: the model as exported; the same,
quantized by ONNX Runtime's own tool; ours in float32; ours with `--precision int8`. A step reads some new tokens of
each sequence and the cache of earlier ones, and gives logits and the longer cache. Ratios are the exported model's time
over a side's: above one means that the side is faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np
import onnxruntime as ort
from rich.table import Table

from benchmarks.command_line import ROUNDS, THREADS, models, open_console
from benchmarks.encoder_cpu import run_all
from benchmarks.encoder_int8 import EXPORTED, sessions
from benchmarks.timing import alternate, ratio
from models import untrained

MODELS = {"gpt2": "gpt2-cache__ts17", "smollm": "smollm-cache__dy20"}


@dataclass(frozen=True)
class Step:
    """One run.

    Attributes:
        sequences: in the batch.
        new: tokens of each that are read.
        past: tokens of each that are in the cache.
    """

    sequences: int
    new: int
    past: int

    def __str__(self) -> str:
        return f"{self.sequences} x {self.new}, {self.past} in the cache"

    def feed(self, session: ort.InferenceSession) -> dict[str, np.ndarray]:
        """Seeded inputs, all of real tokens; what has four axes is taken for a cache [batch, heads, past, size]."""
        generator = np.random.default_rng(0)
        total = self.past + self.new
        feed: dict[str, np.ndarray] = {
            "input_ids": generator.integers(0, 10_000, (self.sequences, self.new)),
            "attention_mask": np.ones((self.sequences, total), np.int64),
            "position_ids": np.tile(np.arange(self.past, total), (self.sequences, 1)),
        }
        for entry in session.get_inputs():
            if len(entry.shape) == 4:
                shape = (self.sequences, entry.shape[1], self.past, entry.shape[3])
                feed[entry.name] = generator.standard_normal(shape, dtype=np.float32)
        return feed


STEPS = (Step(1, 128, 0), Step(4, 64, 0), Step(1, 1, 64), Step(1, 1, 512), Step(8, 1, 256))


def check(runs: dict[str, ort.InferenceSession], feed: dict[str, np.ndarray]) -> None:
    """Compare all outputs of the two sides in float32, so that nothing wrong is ever timed.

    Raises:
        click.ClickException: they differ by more than 1e-4 of their standard deviation.
    """
    outputs = (runs[side].run(None, feed) for side in (EXPORTED, "ours, float32"))
    for expected, found in zip(*outputs, strict=True):
        difference = float(np.abs(expected - found).max() / expected.std())
        if not difference <= 1e-4:
            raise click.ClickException(f"our outputs differ by {difference:.1e} of their deviation: nothing was timed")


def add_rows(table: Table, runs: dict[str, ort.InferenceSession], step: Step, rounds: int) -> None:
    """Time one step on all sides."""
    feed = step.feed(runs[EXPORTED])
    check(runs, feed)
    seconds = alternate({name: run_all(session, [feed]) for name, session in runs.items()}, rounds)
    for name, times in seconds.items():
        table.add_row(
            str(step) if name == EXPORTED else "",
            name,
            f"{1000 * float(np.median(times)):.1f}",
            "" if name == EXPORTED else str(ratio(seconds[EXPORTED], times)),
        )


@click.command()
@models(MODELS)
@ROUNDS
@THREADS
def main(names: tuple[str, ...], rounds: int, threads: int) -> None:
    """Compare steps of decoders as exported, quantized and optimized."""
    console = open_console(f"threads {threads}")
    console.print("Ratios are the exported model's time over a side's: median (quartiles).")
    for name in names or MODELS:
        runs = sessions(untrained.load(MODELS[name]), threads)
        table = Table("step", "side", "ms", "ratio", title=f"{name}, {threads} threads")
        for step in STEPS:
            add_rows(table, runs, step, rounds)
        console.print(table)


if __name__ == "__main__":
    main()
