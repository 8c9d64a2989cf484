"""What runs of a model allocate, found by recording some: one sequence of events for all shapes, sizes as formulas.

The sequence must not depend on the shape, but for tensors without elements, which are not allocated. What is recorded
at small shapes is checked at others that no formula was made from.

Where sizes are fixed and large, a run takes long. Then no more runs are recorded than a plan needs, and all together no
more than a fixed amount of work (`work.py`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from json import JSONDecodeError
from pathlib import Path

import numpy as np

from turbo_onnx import allocation_names
from turbo_onnx.allocation_names import Allocation
from turbo_onnx.errors import PassError, Reject
from turbo_onnx.made_runs import Reading, find_layout
from turbo_onnx.memory.formula import Formula, fit_all, monomials
from turbo_onnx.memory.plan import Buffer, Kind
from turbo_onnx.plan_sizes import SUM, SeenSizes
from turbo_onnx.recording import Recording, record
from turbo_onnx.sessions import Level, Session, explain, open_session
from turbo_onnx.verify_inputs import RECIPES, Feed, InputSpec, Pattern, Recipe, layouts, make
from turbo_onnx.work import Budget, Work

_MUCH_WORK = 10**10
"""Multiply-adds of a run from which on runs are spared: some tenths of a second."""
_THREADS = 2
_LEAST_SHARE = 0.8
_MULTIPLES = 4
_OTHER_THREADS = 3
_EDGES = (
    Recipe("one token", 1, 1, "full"),
    Recipe("one sequence", 1, 9, "full"),
    Recipe("one position", 4, 1, "full"),
    Recipe("longer", 2, 41, "mixed"),
    Recipe("wider", 13, 5, "mixed", past=1),
)


@dataclass(frozen=True)
class RunSequence:
    """What every run allocates and frees.

    Attributes:
        buffers: in the order of their allocation.
        events: 0 is the next allocation, k + 1 frees buffer k, whatever its kind.
        exceptions: the values of the sizes at which another sequence was seen.
        reading: how inputs were made that the model runs on; None where that is not known.
    """

    buffers: tuple[Buffer, ...]
    events: tuple[int, ...]
    exceptions: tuple[tuple[int, ...], ...] = ()
    reading: Reading | None = None


@dataclass(frozen=True)
class Subject:
    """The model whose runs are recorded.

    Attributes:
        path: its file, with the node that begins a run.
        specs: its inputs.
        seen: the sizes that the node sees.
        outputs: the outputs of each node, by what the runtime calls the node.
        flag: what flags are in its runs; None where there are none, or they make no difference.
        work: what a run computes.
        budget: what all runs together may compute.
    """

    path: Path
    specs: Sequence[InputSpec]
    seen: SeenSizes
    outputs: Mapping[str, Sequence[str]]
    flag: bool | None = None
    work: Work = field(default_factory=Work)
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class _Effort:
    """How many runs are recorded.

    Attributes:
        spare: beyond those that formulas are made of.
        unvarying: where no size varies.
        few: to see whether another level's sequence holds.
        other_threads: with another number of threads.
        edges: at shapes where operators may do something else.
    """

    spare: int
    unvarying: int
    few: int
    other_threads: int
    edges: int

    def samples(self, variables: int) -> int:
        """How many runs make a sequence with formulas in so many sizes."""
        return len(monomials(variables)) + self.spare if variables else self.unvarying


_USUAL = _Effort(spare=6, unvarying=2, few=3, other_threads=6, edges=len(_EDGES))
_SPARING = _Effort(spare=2, unvarying=1, few=1, other_threads=1, edges=1)


def find(subject: Subject, level: Level, known: Sequence[RunSequence] = ()) -> RunSequence:
    """The sequence of all runs at one level of the runtime's optimizations.

    Args:
        subject: the model.
        level: the level.
        known: the sequences of other levels; where one of them explains a few runs, it is the answer.

    Raises:
        Reject: there is no one sequence, the model does not run on inputs that are made for it, or its runs are too
            much work.
    """
    with _folder() as folder:
        session = _open(subject, level, threads=_THREADS, profile=folder / "profile")
        runs = _Runs(session, subject, known[0].reading if known else None)
        needed = runs.effort.samples(len(runs.axes))
        few = runs.samples(min(runs.effort.few, needed)) if known else []
        same = [one for one in known if all(explains(one, sample, runs.values(sample)) for sample in few)]
        if same:
            session.end_profiling()
            return same[0]
        samples = few + runs.samples(needed - len(few))
        alike = _most_common(samples)
        values = [runs.values(sample) for sample in alike]
        sizes = _formulas(values, alike)
        edges = runs.edges() if runs.axes else []
        start = session.get_profiling_start_time_ns()
        named = allocation_names.name(alike, Path(session.end_profiling()), start, subject.outputs)
    reading, sparing, axes = runs.reading, runs.effort is _SPARING, runs.axes
    del session, runs  # and the weights that they hold
    if any(allocation.scratch for allocation in named) or sparing:
        sizes = _regardless_of_threads(subject, level, alike, sizes, named, reading)
    alive = alike[0].outputs
    buffers = tuple(_buffer(a, size, k in alive) for k, (a, size) in enumerate(zip(named, sizes, strict=True)))
    found = RunSequence(buffers, alike[0].events, reading=reading)
    others = [sample for sample in (*samples, *edges) if not explains(found, sample, _values(sample, axes))]
    return replace(found, exceptions=tuple(_values(sample, axes) for sample in others))


@contextmanager
def _folder() -> Iterator[Path]:
    """For the runtime's profile, which it cuts off without a word where the disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix="turbo-onnx-") as folder:
            yield Path(folder)
    except (OSError, JSONDecodeError) as error:
        where = tempfile.tempdir or "the folder for temporary files"
        raise Reject("a profile of the runs cannot be written to {} and read again: {}", where, error) from None


def explains(sequence: RunSequence, recording: Recording, values: Sequence[int]) -> bool:
    """Whether a run did what the sequence says: the same events and sizes, without what is empty at these values."""
    sizes = [None if buffer.size is None else buffer.size.evaluate(values) for buffer in sequence.buffers]
    number, kept = 0, []
    renamed: dict[int, int] = {}  # which allocation of the run a buffer is
    for event in sequence.events:
        buffer = event - 1 if event else number
        number += not event
        if sizes[buffer] == 0:
            continue
        if not event:
            renamed[buffer] = len(renamed)
        kept.append(renamed[buffer] + 1 if event else 0)
    if tuple(kept) != recording.events:
        return False
    return all(sizes[buffer] in (None, recording.sizes[index]) for buffer, index in renamed.items())


def _buffer(allocation: Allocation, size: Formula | None, outlives: bool) -> Buffer:
    kind: Kind = "output" if outlives else "unknown" if size is None else "planned"
    return Buffer(allocation.name, size, kind)


def _recipes(variables: int) -> list[Recipe]:
    """Small batches in general position, more than are needed: a model may not take all of them."""
    patterns: tuple[Pattern, ...] = ("holes", "mixed")
    sizes = np.random.default_rng(7).integers(2, (6, 10, 7), (2 * _USUAL.samples(variables), 3)).tolist()
    return [
        Recipe(f"sample {i}", batch, length, patterns[i % 2], past) for i, (batch, length, past) in enumerate(sizes)
    ]


def _open(subject: Subject, level: Level, threads: int, profile: Path | None = None) -> Session:
    try:
        return open_session(subject.path, level=level, library=True, threads=threads, profile=profile, reuse=True)
    except Exception as error:
        raise Reject("ONNX Runtime refuses the model with a node that begins a run: {}", explain(error)) from None


class _Runs:
    """Runs of one session.

    Attributes:
        reading: how inputs are made.
        axes: which of the extents that a recording has are the values of the plan's sizes.
        effort: how many runs should be recorded.

    Raises:
        Reject: the model does not run on inputs that are made for it.
    """

    def __init__(self, session: Session, subject: Subject, reading: Reading | None) -> None:
        self.session = session
        self.subject = subject
        self.refusal = ""
        self.reading = reading or self._find_reading()
        self.axes = subject.seen.chosen(self.reading[0]).axes
        recipes = _recipes(len(self.axes))
        self.effort = _SPARING if self._work(recipes[0]) > _MUCH_WORK else _USUAL
        self._left = iter(recipes if self.effort is _USUAL else self._cheapest_first(recipes))

    def _find_reading(self) -> Reading:
        """The way in which inputs are made that the model runs on, and in which as many sizes as can be differ.

        A branch without a past may refuse a mask that has one, and take any past beside it, which it does not read.
        """
        specs = self.subject.specs
        if not any(isinstance(dim, str) for spec in specs for dim in spec.shape):
            return next(layouts(specs))
        reading, self.refusal = find_layout(self.session, specs, seed=0)
        if reading is None:
            raise self._runs_on_nothing()
        for recipe in RECIPES[:2]:
            self.subject.budget.require(self.subject.work.of_run(make(specs, recipe, *reading, seed=0)))
        layout, multiple = reading
        if self.subject.flag is not None and not self._runs_on(reading):
            layout = {name: "length" if role == SUM else role for name, role in layout.items()}
        return self.subject.seen.drawn_apart(layout, lambda other: self._runs_on((other, multiple))), multiple

    def _runs_on(self, reading: Reading) -> bool:
        """Whether the model runs on ragged batches that are made so, as far as they are not too much work."""
        for recipe in RECIPES[:2]:
            feed = make(self.subject.specs, replace(recipe, flags=self.subject.flag), *reading, seed=0)
            if not self.subject.budget.spend(self.subject.work.of_run(feed)):
                return False
            try:
                self.session.run(None, feed)
            except Exception:  # the runtime's
                return False
        return True

    def values(self, recording: Recording) -> tuple[int, ...]:
        """What the plan's sizes were in a run."""
        return _values(recording, self.axes)

    def _work(self, recipe: Recipe) -> int:
        return self.subject.work.of_run(self._feed(recipe))

    def _cheapest_first(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """What has not been seen before what has. Of two sizes and more the small ones are not in general position."""
        shapes: Counter[tuple[tuple[int, ...], ...]] = Counter()
        order = {}
        for recipe in recipes:
            shape = tuple(array.shape for array in self._feed(recipe).values())
            order[recipe] = shapes[shape], self._work(recipe) if len(self.axes) == 1 else 0
            shapes[shape] += 1
        return sorted(recipes, key=order.__getitem__)

    def _runs_on_nothing(self) -> Reject:
        return Reject("the model runs on none of the inputs made for it: {}", self.refusal)

    def samples(self, count: int) -> list[Recording]:
        """Runs on the next so many batches that the model takes.

        Raises:
            Reject: it takes none, or they are too much work.
        """
        recordings = list(islice(self._recorded(self._left), count))
        if not recordings and count > 0:
            raise self._runs_on_nothing()
        return recordings

    def edges(self) -> list[Recording]:
        """Runs at shapes where some operators do something else, those of them that the model takes."""
        return self._afforded(self._recorded(_EDGES[: self.effort.edges]))

    def of_other_threads(self) -> list[Recording]:
        """Some of the runs that `samples` gives; others, where all have the same sizes, since values differ."""
        recipes = self._left if self.axes else islice(self._left, 1, None)
        return self._afforded(islice(self._recorded(recipes), self.effort.other_threads))

    def _recorded(self, recipes: Iterable[Recipe]) -> Iterator[Recording]:
        """Runs of these batches, but for those that the model does not take."""
        for recipe in recipes:
            feed = self._feed(recipe)
            self.subject.budget.require(self.subject.work.of_run(feed))
            try:
                recording = record(self.session, feed)
            except PassError:
                raise
            except Exception as error:  # the runtime's
                self.refusal = explain(error)
            else:
                yield recording

    @staticmethod
    def _afforded(runs: Iterator[Recording]) -> list[Recording]:
        """As many as are not too much work."""
        found: list[Recording] = []
        with suppress(Reject):
            for run in runs:
                found.append(run)
        return found

    def _feed(self, recipe: Recipe) -> Feed:
        """Where lengths are rounded up to a multiple, one of several; a single one, which may be special, is rare."""
        multiple = self.reading[1]
        if multiple > 1:
            recipe = replace(recipe, length=min(_MULTIPLES, (recipe.length + 1) // 2) * multiple)
        return make(self.subject.specs, replace(recipe, flags=self.subject.flag), *self.reading, seed=0)


def _most_common(samples: Sequence[Recording]) -> list[Recording]:
    """The recordings of the sequence that nearly all batches have."""
    events, count = Counter(sample.events for sample in samples).most_common(1)[0]
    if count < _LEAST_SHARE * len(samples):
        raise Reject("what a run allocates depends on more than sizes: {} of {} runs are alike", count, len(samples))
    return [sample for sample in samples if sample.events == events]


def _values(recording: Recording, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(recording.extents[axis] for axis in axes)


def _formulas(values: Sequence[tuple[int, ...]], samples: Sequence[Recording]) -> list[Formula | None]:
    return fit_all(
        np.array(values, np.int64).reshape(len(samples), -1),
        np.array([sample.sizes for sample in samples], np.int64).reshape(len(samples), -1),
    )


def _regardless_of_threads(
    subject: Subject,
    level: Level,
    alike: Sequence[Recording],
    sizes: Sequence[Formula | None],
    named: Sequence[Allocation],
    reading: Reading,
) -> list[Formula | None]:
    """The sizes that are the same whatever the number of threads; of scratch memory only where that was seen."""
    runs = _Runs(_open(subject, level, threads=_OTHER_THREADS), subject, reading)
    kept = list(sizes)
    recorded = {sample.extents: sample for sample in alike}
    seen = False
    for sample in runs.of_other_threads():
        same = recorded.get(sample.extents)
        if same is None:
            continue
        if sample.events != same.events:
            raise Reject(
                "runs of the same sizes with {} and {} threads do not allocate alike", _THREADS, _OTHER_THREADS
            )
        seen = True
        for k, (size, other) in enumerate(zip(sample.sizes, same.sizes, strict=True)):
            if size != other:
                kept[k] = None
    return [size if seen or not one.scratch else None for size, one in zip(kept, named, strict=True)]
