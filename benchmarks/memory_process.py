"""One side of the comparison of memory, in a process of its own, since memory belongs to a process.

    python -m benchmarks.memory_process MODEL.onnx --side NAME [--runs N]

Prints one JSON object. Nothing is imported that the side does not need: where a model runs as it was exported, this
package's library is not even loaded. What is measured counts from a start: the session is there, has run once on a tiny
batch, and the C library has given back what loading the model left behind.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import numpy as np
import onnxruntime as ort

from models.batches import Batch, padded_batch

SIDES = {
    "planned": "trim",
    "planned, grow": "grow",
    "default arena": "off",
    "exported": None,
}
"""What `turbo_onnx.arena` is set to, by side; None: ONNX Runtime alone."""

MOMENTS = ("after the runs", "after short runs", "after trim", "after threads")
"""When it is seen what is kept: right after the runs; after 50 short ones; after `turbo_onnx.trim()`, where the library
is there; after runs of the largest shape on other threads, at the same time, which then ended, and 100 short ones."""

VOCABULARY = 30522
LONGEST = 512
MOST_SEQUENCES = 64
SHORT = (16,)
SHORT_RUNS = 50
SHORT_RUNS_AFTER_THREADS = 100
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Measures:
    """What one process measured. Memory is in bytes over the start, time in seconds.

    Attributes:
        side: of `SIDES`.
        runs: how many.
        seconds: of all runs together, without the making of inputs and the reading of outputs.
        user_seconds: the processor time of all threads meanwhile.
        system_seconds: what the operating system took of it besides, for page faults above all.
        page_faults: how often pages were put in place for the process meanwhile.
        peak: the most resident memory during the runs.
        kept: resident memory of the process itself, without files, at the moments of `MOMENTS`.
        digest: of all outputs of all runs.
        arena: the arena's counts after the runs; empty where the library is not there.
    """

    side: str
    runs: int
    seconds: float
    user_seconds: float
    system_seconds: float
    page_faults: int
    peak: int
    kept: dict[str, int]
    digest: str
    arena: dict[str, int]


def random_lengths(count: int, most_tokens: int, seed: int) -> list[tuple[int, ...]]:
    """Sequences' lengths for so many runs, every run another shape.

    The longest of a batch is from 1 to 512, evenly; the number of sequences from 1 to 64, but no more than keeps the
    padded batch within its budget; the others have from one token to the longest.

    Args:
        count: how many runs.
        most_tokens: the most positions of a padded batch, at least 512.
        seed: of all of it.
    """
    generator = np.random.default_rng(seed)
    every = []
    for longest in generator.integers(1, LONGEST + 1, count):
        most = min(MOST_SEQUENCES, most_tokens // int(longest))
        others = generator.integers(1, longest + 1, generator.integers(0, most))
        every.append((int(longest), *(int(length) for length in others)))
    return every


def positions(lengths: tuple[int, ...]) -> int:
    """How many tokens the padded batch has, padding and all."""
    return len(lengths) * max(lengths)


def own_memory() -> int:
    """Bytes of resident memory that are no file's."""
    _, resident, shared, *_ = (PROCESS / "statm").read_text().split()
    return (int(resident) - int(shared)) * resource.getpagesize()


class Peak:
    """The most memory that is resident while the block runs, over what is at its beginning: `bytes` at the end.

    The system keeps the mark itself, and is asked to begin anew. Where it does not do that, a thread looks every few
    milliseconds, and may miss what is short.
    """

    INTERVAL = 0.003

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._over, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        try:
            (PROCESS / "clear_refs").write_text("5")
            self._start = self._mark()
        except OSError:
            self._start = own_memory()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.ident is None:
            self.bytes = self._mark() - self._start
        else:
            self._over.set()
            self._thread.join()

    @staticmethod
    def _mark() -> int:
        lines = (PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

    def _watch(self) -> None:
        while not self._over.wait(self.INTERVAL):
            self.bytes = max(self.bytes, own_memory() - self._start)


def give_back_free_memory() -> None:
    """Make Python and the C library return what they no longer use, so that it is not counted as reused for nothing."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def session(model: Path, policy: str | None, threads: int) -> ort.InferenceSession:
    """A session with ONNX Runtime's own defaults but for the number of threads, and with the library unless None."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if policy is not None:
        from turbo_onnx.runtime import register

        options.add_session_config_entry("turbo_onnx.arena", policy)
        register(options)
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Runner:
    """Runs batches one after the other: the time that they take, and a digest of what comes out."""

    def __init__(self, running: ort.InferenceSession) -> None:
        self.running = running
        self.seconds = 0.0
        self.digest = hashlib.blake2b(digest_size=16)

    def run(self, batch: Batch) -> list[Any]:
        """One run. Its outputs count in the digest, whoever reads them."""
        start = time.perf_counter()
        outputs: list[Any] = self.running.run(None, batch)
        self.seconds += time.perf_counter() - start
        for output in outputs:
            self.digest.update(np.ascontiguousarray(output).data)
        return outputs


def measure(
    model: Path, side: str, every: list[tuple[int, ...]], *, threads: int, others: int, rows: Path | None
) -> Measures:
    """All of one side.

    Args:
        model: a file.
        side: of `SIDES`.
        every: the lengths of each run.
        threads: of the session.
        others: on how many other threads the largest shape is run at the end.
        rows: where to save the mean of the first tokens' rows of each run, as an array [runs, width] in float32.
    """
    runner = Runner(session(model, SIDES[side], threads))
    short = padded_batch(SHORT, VOCABULARY)
    width = runner.run(short)[0].shape[-1]
    first_rows = np.full((len(every), width), np.nan, np.float32)
    runner.seconds = 0.0
    give_back_free_memory()
    start = own_memory()
    used = resource.getrusage(resource.RUSAGE_SELF)
    with Peak() as peak:
        for number, lengths in enumerate(every):
            outputs = runner.run(padded_batch(lengths, VOCABULARY, seed=number))
            first_rows[number] = outputs[0][:, 0].mean(axis=0)
            del outputs
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds, arena = runner.seconds, arena_counts()
    kept = [own_memory() - start]
    repeat(SHORT_RUNS, lambda: runner.run(short))
    kept.append(own_memory() - start)
    if SIDES[side] is not None:
        import turbo_onnx

        turbo_onnx.trim()
    kept.append(own_memory() - start)
    on_other_threads(runner.running, max(every, key=positions), others)
    repeat(SHORT_RUNS_AFTER_THREADS, lambda: runner.run(short))
    kept.append(own_memory() - start)
    if rows is not None:
        np.save(rows, first_rows)
    return Measures(
        side=side,
        runs=len(every),
        seconds=seconds,
        user_seconds=spent.ru_utime - used.ru_utime,
        system_seconds=spent.ru_stime - used.ru_stime,
        page_faults=spent.ru_minflt - used.ru_minflt,
        peak=peak.bytes,
        kept=dict(zip(MOMENTS, kept, strict=True)),
        digest=runner.digest.hexdigest(),
        arena=arena,
    )


def arena_counts() -> dict[str, int]:
    """The library's counts, if it is loaded."""
    if "turbo_onnx.runtime" not in sys.modules:
        return {}
    import turbo_onnx

    return asdict(turbo_onnx.arena_stats())


def repeat(times: int, work: Callable[[], object]) -> None:
    """Do it so many times."""
    for _ in range(times):
        work()


def on_other_threads(running: ort.InferenceSession, lengths: tuple[int, ...], count: int) -> None:
    """Run one shape once on each of so many threads at the same time, and wait until they have ended."""
    batch = padded_batch(lengths, VOCABULARY)
    threads = [threading.Thread(target=running.run, args=(None, batch)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--side", required=True, type=click.Choice(list(SIDES)), help="How it gets its memory.")
@click.option("--runs", default=200, show_default=True, help="How many runs, each of another shape.")
@click.option("--most-tokens", default=8192, show_default=True, help="The most positions of a padded batch.")
@click.option("--seed", default=0, show_default=True, help="Of the shapes.")
@click.option("--threads", default=2, show_default=True, help="Threads of the session.")
@click.option("--others", default=4, show_default=True, help="On how many more threads the largest shape is run.")
@click.option("--rows", type=click.Path(dir_okay=False, path_type=Path), help="Write some of the outputs here (.npy).")
def main(
    model: Path, side: str, runs: int, most_tokens: int, seed: int, threads: int, others: int, rows: Path | None
) -> None:
    """Measure one side, and print what was found as JSON."""
    every = random_lengths(runs, most_tokens, seed)
    found = measure(model, side, every, threads=threads, others=others, rows=rows)
    click.echo(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
