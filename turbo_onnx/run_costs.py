"""Measure what runs of a model take on this machine, for whoever puts batches together: `turbo-onnx cost`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turbo_onnx.emulation import fed
from turbo_onnx.errors import InputError
from turbo_onnx.made_runs import find_layout
from turbo_onnx.runtime.cost import TERMS, CostModel, fit
from turbo_onnx.serialization.reading import read
from turbo_onnx.sessions import explain, library_available, open_session
from turbo_onnx.verify_inputs import Feed, InputSpec, Recipe, describe, make, with_binary_inputs

BATCHES = (
    *(Recipe(f"1 x {length}", 1, length, "full", past=0) for length in (8, 32, 128, 384)),
    *(Recipe(f"{count} x {length}", count, length, "full", past=0) for count, length in ((4, 32), (8, 128), (16, 48))),
    *(
        Recipe(f"{count} to {length}", count, length, "mixed", past=0)
        for count, length in ((8, 64), (16, 128), (4, 384))
    ),
)
"""What is run: one sequence, several of one length, and several of mixed lengths with padding."""
ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """The times of some runs, and what explains them.

    Attributes:
        cost: fitted to them.
        runs: milliseconds by the lengths of a run's sequences: the least of all rounds, since what else a machine does
            only adds to them.
        skipped: why other runs were not timed, one sentence each.
    """

    cost: CostModel
    runs: dict[tuple[int, ...], float]
    skipped: tuple[str, ...] = ()

    def render(self) -> RenderableType:
        """What was measured, and what it costs by the fitted prices, for a terminal."""
        table = Table(title="Runs", title_justify="left", header_style="bold")
        for column in ("sequences", "longest", "tokens", "measured, ms", "by the cost model, ms"):
            table.add_column(column, justify="right")
        for lengths, milliseconds in self.runs.items():
            sizes = (str(size) for size in (len(lengths), max(lengths), sum(lengths)))
            table.add_row(*sizes, f"{milliseconds:.2f}", f"{self.cost.milliseconds(lengths):.2f}")
        prices = ", ".join(
            f"{price:.3g} for each {term.replace('_', ' ')}"
            for term, price in zip(TERMS, self.cost.prices, strict=True)
            if price
        )
        return Group(table, Text(f"Milliseconds: {prices}."), *(Text(f"Not run: {line}.") for line in self.skipped))


def measure_cost(
    model: str | Path,
    *,
    threads: int | None = None,
    batches: Sequence[Recipe] | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Run a model on batches of several shapes on the CPU, and fit a cost model to the times.

    Args:
        model: a file, optimized or not.
        threads: to compute with; None for ONNX Runtime's choice. The costs hold for as many.
        batches: what to run; None: `BATCHES`.
        rounds: how often each is timed; batches take turns.
        progress: called with what is done next.

    Raises:
        InputError: the model runs on none of the batches, or no inputs can be made for it; there are not as many cores
            as threads; or there is no round, or no batch.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise InputError(f"{threads} threads cannot compute at once on the {cores} cores of this machine.")
    batches = BATCHES if batches is None else batches
    if rounds < 1 or not batches:
        raise InputError("something must be run, at least once, to measure what it costs.")
    say = progress or (lambda _: None)
    say("read")
    path = Path(model)
    loaded = read(path, artifacts=True)
    specs = fed(with_binary_inputs(describe(loaded), loaded))
    unknown = [spec.name for spec in specs if spec.kind == "unknown"]
    if unknown:
        raise InputError(f"{path}: no inputs can be made for '{unknown[0]}', so that it cannot be run.")
    session = open_session(path, library=library_available(), threads=threads)
    found, refusal = find_layout(session, specs, 0)
    if found is None:
        raise InputError(f"{path}: it ran on none of the inputs that were made for it: {refusal}.")
    feeds: dict[tuple[int, ...], Feed] = {}
    skipped = []
    for recipe in batches:
        feed = _with_one_mask(make(specs, recipe, *found, 0), specs)
        try:
            session.run(None, feed)
        except Exception as error:
            skipped.append(f"{recipe.name}: {explain(error)}")
        else:
            feeds[_lengths(feed, specs, recipe)] = feed
    if not feeds:
        raise InputError(f"{path}: it runs on none of the batches: {skipped[0]}.")
    say("measure")
    times: dict[tuple[int, ...], list[float]] = {lengths: [] for lengths in feeds}
    for _ in range(rounds):
        for lengths, feed in feeds.items():
            session.run(None, feed)  # the first run of another shape takes longer
            start = time.perf_counter()
            session.run(None, feed)
            times[lengths].append(1000 * (time.perf_counter() - start))
    runs = {lengths: min(some) for lengths, some in times.items()}
    return Measured(fit(runs), runs, tuple(skipped))


def _with_one_mask(feed: Feed, specs: Sequence[InputSpec]) -> Feed:
    """The same inputs, but all masks [batch, length] say the same: which of them is read for padding is not known."""
    masks = [spec for spec in specs if spec.kind == "mask" and len(spec.shape) == 2]
    same = [spec for spec in masks if feed[spec.name].shape == feed[masks[0].name].shape]
    return feed | {spec.name: feed[masks[0].name].astype(spec.dtype) for spec in same}


def _lengths(feed: Feed, specs: Sequence[InputSpec], recipe: Recipe) -> tuple[int, ...]:
    """The lengths of a batch's sequences, the longest first: by its mask, if it has one."""
    mask = next((feed[spec.name] for spec in specs if spec.kind == "mask" and len(spec.shape) == 2), None)
    if mask is None:
        ids = (feed[spec.name] for spec in specs if spec.kind == "ids" and len(spec.shape) == 2)
        others = (feed[spec.name] for spec in specs if len(spec.shape) >= 2)
        first = next(itertools.chain(ids, others), None)
        batch, length = (recipe.batch, recipe.length) if first is None else first.shape[:2]
        return (int(length),) * int(batch)
    counted = np.count_nonzero(mask, axis=1)
    return tuple(sorted((int(n) for n in counted), reverse=True))
