"""Whether a service's memory stays flat: threads run random shapes on several sessions for half an hour.

    python -m benchmarks.soak [--minutes 30] [--model NAME] [--policy POLICY]

The work comes in rounds of a minute. In each, new threads run batches of random shapes on sessions that all of them
share; now and then a new session is opened in another's place, while threads may still be running on the old one. Half
of the batches come from a small set whose outputs were computed beforehand, alone, and are compared bit by bit; the
other half have shapes that were not seen before. When a round's threads have ended, it is seen how much memory is
resident, how much of it the arena holds, and so what the rest is. Nothing is trimmed meanwhile.

At the end, straight lines are fitted through the second half of the rounds. Memory is flat unless a line rises by more
than one per cent of the resident memory in an hour, and by more than twice its standard error. Then all sessions are
closed and everything is trimmed, the C library's memory too: what is left over what the process had in the same state
at the beginning was lost.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

import turbo_onnx
from benchmarks.command_line import JSON, open_console
from benchmarks.machine import describe
from benchmarks.memory import MIB, MODELS
from benchmarks.memory_process import (
    LONGEST,
    SHORT,
    VOCABULARY,
    Peak,
    give_back_free_memory,
    own_memory,
    random_lengths,
    session,
)
from models.batches import Batch, padded_batch

MOST_GROWTH = 0.01
"""Of the resident memory, in an hour."""
FEWEST_ROUNDS = 3
"""That say anything about growth: with two, every line fits."""


@dataclass(frozen=True)
class Round:
    """What was seen when one round's threads had ended. Memory in bytes.

    Attributes:
        minutes: since the first round began.
        runs: in this round.
        peak: the most resident memory in this round.
        resident: memory of the process, without files.
        arena: what of it the arena holds, for sessions' weights and for later runs.
    """

    minutes: float
    runs: int
    peak: int
    resident: int
    arena: int

    @property
    def rest(self) -> int:
        """Everything else: what sessions, the interpreter and the C library hold, and what is lost."""
        return self.resident - self.arena


@dataclass(frozen=True)
class Slope:
    """How fast a quantity grows: bytes in an hour, with the standard error (infinite if there are too few rounds)."""

    per_hour: float
    error: float

    def flat(self, level: float) -> bool:
        """Whether it is growth neither beyond doubt nor of any size, for memory of this many bytes."""
        return not (self.per_hour > MOST_GROWTH * level and self.per_hour > 2 * self.error)

    def __str__(self) -> str:
        return f"{self.per_hour / MIB:+.1f} ± {self.error / MIB:.1f} MiB/hour"


def fit(minutes: list[float], numbers: list[int]) -> Slope:
    """The straight line with the least squares through these points.

    Args:
        minutes: when.
        numbers: bytes, as many.
    """
    if len(minutes) < 2:
        return Slope(0.0, float("inf"))
    hours, values = np.array(minutes) / 60, np.array(numbers, np.float64)
    hours -= hours.mean()
    spread = float(hours @ hours)
    slope = float(hours @ values) / spread
    left = values - values.mean() - slope * hours
    degrees = len(minutes) - 2
    return Slope(slope, float(np.sqrt(left @ left / degrees / spread)) if degrees else float("inf"))


def digest(outputs: list[Any]) -> bytes:
    """Of the bits of all outputs."""
    state = hashlib.blake2b(digest_size=16)
    for output in outputs:
        state.update(np.ascontiguousarray(output).data)
    return state.digest()


class Service:
    """Sessions that are shared by threads.

    Attributes:
        runs: how many there were so far.
        opened: how many sessions were opened in the place of others.
        wrong: how many runs gave other bits than the same batch alone.
        failures: what was raised.
    """

    def __init__(self, model: Path, policy: str, sessions: int, most_tokens: int, known: int) -> None:
        """`known` batches are run alone first."""
        self._model, self._policy, self._most_tokens = model, policy, most_tokens
        self._sessions = [session(model, policy, threads=1) for _ in range(sessions)]
        self._known: list[tuple[Batch, bytes]] = []
        for seed, lengths in enumerate(random_lengths(known, most_tokens, seed=0)):
            batch = padded_batch(lengths, VOCABULARY, seed)
            self._known.append((batch, digest(self._sessions[0].run(None, batch))))
        self._lock = threading.Lock()
        self._seeds = np.random.SeedSequence(1)
        self.runs = self.opened = self.wrong = 0
        self.failures: list[str] = []

    def work(self, threads: int, seconds: float, reopen: float) -> int:
        """Let new threads run, and open sessions anew meanwhile, one after the other.

        Sessions are opened on this thread. The C library has a heap for each of several threads, and keeps in it what
        opening a session needs for a while: spread over all threads that hides everything else.

        Args:
            threads: how many.
            seconds: until they begin no more runs.
            reopen: seconds between two sessions.

        Returns:
            How many runs that made. All threads have ended.

        Raises:
            click.ClickException: a run failed.
        """
        before, end = self.runs, time.monotonic() + seconds
        seeds = self._seeds.spawn(threads)
        callers = [threading.Thread(target=self._guarded, args=(np.random.default_rng(seed), end)) for seed in seeds]
        for caller in callers:
            caller.start()
        while (left := end - time.monotonic()) > 0 and not self.failures:
            time.sleep(min(left, reopen))
            if left > reopen:
                self._open_anew()
        for caller in callers:
            caller.join()
        if self.failures:
            raise click.ClickException(self.failures[0])
        return self.runs - before

    def close(self) -> int:
        """Close all sessions: how much memory the process has then, trimmed."""
        self._sessions.clear()
        self._known.clear()
        return left_over()

    def _guarded(self, generator: np.random.Generator, end: float) -> None:
        try:
            while time.monotonic() < end and not self.failures:
                self._run(generator)
        except Exception as error:
            self.failures.append(f"a run failed: {error}")

    def _open_anew(self) -> None:
        fresh = session(self._model, self._policy, threads=1)
        with self._lock:
            self._sessions[self.opened % len(self._sessions)] = fresh
            self.opened += 1

    def _run(self, generator: np.random.Generator) -> None:
        with self._lock:
            chosen: ort.InferenceSession = self._sessions[generator.integers(len(self._sessions))]
        expected = None
        if self._known and generator.random() < 0.5:
            batch, expected = self._known[generator.integers(len(self._known))]
        else:
            seed = int(generator.integers(1, 2**31))
            batch = padded_batch(random_lengths(1, self._most_tokens, seed)[0], VOCABULARY, seed)
        wrong = digest(chosen.run(None, batch)) != expected and expected is not None
        with self._lock:
            self.runs += 1
            self.wrong += wrong


def arena_memory() -> int:
    """Bytes that the arena holds while nothing runs."""
    counts = turbo_onnx.arena_stats()
    return counts.block_bytes_held + counts.heap_bytes_in_use + counts.heap_bytes_cached + counts.heap_bytes_reserved


def round_of(service: Service, threads: int, seconds: float, reopen: float, start: float) -> Round:
    """One round of work, and what is there after it."""
    before = own_memory()
    with Peak() as peak:
        runs = service.work(threads, seconds, reopen)
    minutes = (time.monotonic() - start) / 60
    return Round(minutes, runs, before + peak.bytes, own_memory(), arena_memory())


def left_over() -> int:
    """Memory of the process once everything has been given back that can be."""
    turbo_onnx.trim()
    give_back_free_memory()
    return own_memory()


def verdict(console: Console, rounds: list[Round]) -> bool:
    """Print how memory grew over the second half, and say whether it is flat."""
    half = rounds[len(rounds) // 2 :]
    minutes = [entry.minutes for entry in half]
    level = float(np.mean([entry.resident for entry in half]))
    lines = {
        "resident": fit(minutes, [entry.resident for entry in half]),
        "without the arena": fit(minutes, [entry.rest for entry in half]),
    }
    for name, line in lines.items():
        console.print(f"{name}: {line}")
    flat = len(half) >= FEWEST_ROUNDS and all(line.flat(level) for line in lines.values())
    said = "[green]OK[/]" if flat else "[red]NOT FLAT[/]" if len(half) >= FEWEST_ROUNDS else "[red]too short to say[/]"
    console.print(f"{len(half)} rounds of {level / MIB:.0f} MiB: {said}")
    return flat


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long.")
@click.option("--round", "round_seconds", default=60.0, show_default=True, help="Seconds of a round.")
@click.option("--model", "name", default="minilm", show_default=True, type=click.Choice(list(MODELS)))
@click.option("--sessions", default=3, show_default=True, help="How many sessions are open.")
@click.option("--threads", default=4, show_default=True, help="How many threads run at the same time.")
@click.option("--most-tokens", default=4096, show_default=True, type=click.IntRange(min=LONGEST))
@click.option("--policy", default="trim", show_default=True, help="What turbo_onnx.arena is set to.")
@click.option("--known", default=50, show_default=True, help="How many batches are run alone first, and compared.")
@click.option("--reopen", default=5.0, show_default=True, help="Seconds after which a session is opened anew.")
@JSON
def main(
    minutes: float,
    round_seconds: float,
    name: str,
    sessions: int,
    threads: int,
    most_tokens: int,
    policy: str,
    known: int,
    reopen: float,
    json_path: Path | None,
) -> None:
    """Run random shapes on several sessions and threads for a while, and see whether memory stays flat."""
    console = open_console()
    console.print(
        f"{name}, {policy}: {sessions} sessions of one thread each, {threads} callers, at most {most_tokens} positions"
        f" in a batch, {known} batches compared"
    )
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        proto: onnx.ModelProto = MODELS[name]()
        turbo_onnx.optimize(proto, verify=False).save(model)
        del proto
        session(model, policy, threads=1).run(None, padded_batch(SHORT, VOCABULARY))
        first, before = left_over(), turbo_onnx.arena_stats()
        service = Service(model, policy, sessions, most_tokens, known)
        start = time.monotonic()
        console.print("MiB when all is quiet; peak: the most in the round")
        while (passed := (time.monotonic() - start)) < minutes * 60:
            entry = round_of(service, threads, min(round_seconds, minutes * 60 - passed), reopen, start)
            rounds.append(entry)
            console.print(
                f"minute {entry.minutes:5.1f}: {entry.runs:5} runs, resident {entry.resident / MIB:7.1f}, of that the"
                f" arena's {entry.arena / MIB:6.1f}, rest {entry.rest / MIB:7.1f}, peak {entry.peak / MIB:7.1f}"
            )
    flat = verdict(console, rounds)
    counts = turbo_onnx.arena_stats()
    console.print(
        f"{service.runs} runs, {service.opened} sessions opened meanwhile, {service.wrong} wrong outputs;"
        f" {counts.runs_kept - before.runs_kept} of {counts.runs_announced - before.runs_announced} runs kept to their"
        f" plan, {counts.runs_mismatched - before.runs_mismatched} mismatched"
    )
    lost = service.close() - first
    console.print(
        f"With all sessions closed and everything trimmed: {lost / MIB:+.1f} MiB over the beginning,"
        f" the arena's {arena_memory() / MIB:.1f} MiB"
    )
    if json_path is not None:
        document = {"machine": describe(), "rounds": [asdict(entry) for entry in rounds], "flat": flat, "lost": lost}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if service.wrong or not flat:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
