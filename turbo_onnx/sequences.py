"""What runs of a model allocate, found by recording some: one sequence of events for all shapes, sizes as formulas.

The sequence must not depend on the shape, but for tensors without elements, which are not allocated. What is recorded
at small shapes is checked at others that no formula was made from.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from json import JSONDecodeError
from pathlib import Path

import numpy as np

from turbo_onnx import allocation_names
from turbo_onnx.allocation_names import Allocation
from turbo_onnx.errors import PassError, Reject
from turbo_onnx.memory.formula import Formula, fit_all, monomials
from turbo_onnx.memory.plan import Buffer, Kind
from turbo_onnx.recording import Recording, record
from turbo_onnx.sessions import Level, Session, explain, open_session
from turbo_onnx.verify import find_layout
from turbo_onnx.verify_inputs import InputSpec, Layout, Pattern, Recipe, make

_SPARE_SAMPLES = 6
_FEW = 3
_WHERE_NOTHING_VARIES = 2
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


Reading = tuple[Layout, int]
"""What the dynamic dimensions are, and what lengths are a multiple of."""


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
        axes: for each size of the plan, which of the extents that a recording has is its value.
        outputs: the outputs of each node, by what the runtime calls the node.
    """

    path: Path
    specs: Sequence[InputSpec]
    axes: Sequence[int]
    outputs: Mapping[str, Sequence[str]]

    def values(self, recording: Recording) -> tuple[int, ...]:
        """What the plan's sizes were in a run."""
        return tuple(recording.extents[axis] for axis in self.axes)


def find(subject: Subject, level: Level, known: Sequence[RunSequence] = ()) -> RunSequence:
    """The sequence of all runs at one level of the runtime's optimizations.

    Args:
        subject: the model.
        level: the level.
        known: the sequences of other levels; where one of them explains a few runs, it is the answer.

    Raises:
        Reject: there is no one sequence, or the model does not run on inputs that are made for it.
    """
    with _folder() as folder:
        session = _open(subject, level, threads=_THREADS, profile=folder / "profile")
        runs = _Runs(session, subject, known[0].reading if known else None)
        few = runs.record(_recipes(len(subject.axes)), _FEW) if known else []
        same = [one for one in known if all(explains(one, sample, subject.values(sample)) for sample in few)]
        if same:
            session.end_profiling()
            return same[0]
        samples = runs.record(_recipes(len(subject.axes)), _needed(len(subject.axes)))
        alike = _most_common(samples)
        sizes = _formulas(subject, alike)
        edges = runs.record(_EDGES, len(_EDGES)) if subject.axes else []
        start = session.get_profiling_start_time_ns()
        named = allocation_names.name(alike, Path(session.end_profiling()), start, subject.outputs)
    if any(allocation.scratch for allocation in named):
        sizes = _regardless_of_threads(subject, level, alike, sizes, runs.reading)
    alive = alike[0].outputs
    buffers = tuple(_buffer(a, size, k in alive) for k, (a, size) in enumerate(zip(named, sizes, strict=True)))
    found = RunSequence(buffers, alike[0].events, reading=runs.reading)
    others = [sample for sample in (*samples, *edges) if not explains(found, sample, subject.values(sample))]
    return replace(found, exceptions=tuple(subject.values(sample) for sample in others))


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


def _needed(variables: int) -> int:
    return len(monomials(variables)) + _SPARE_SAMPLES if variables else _WHERE_NOTHING_VARIES


def _recipes(variables: int) -> list[Recipe]:
    """Small batches in general position, more than are needed: a model may not take all of them."""
    patterns: tuple[Pattern, ...] = ("holes", "mixed")
    sizes = np.random.default_rng(7).integers(2, (6, 10, 7), (2 * _needed(variables), 3)).tolist()
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

    Raises:
        Reject: the model does not run on inputs that are made for it.
    """

    def __init__(self, session: Session, subject: Subject, reading: Reading | None) -> None:
        self.session = session
        self.subject = subject
        self.refusal = ""
        if reading is None:
            reading, self.refusal = find_layout(session, subject.specs, seed=0)
        if reading is None:
            raise Reject("the model runs on none of the inputs made for it: {}", self.refusal)
        self.reading = reading

    def record(self, recipes: Sequence[Recipe], count: int) -> list[Recording]:
        """The first so many of these batches that the model takes."""
        recordings: list[Recording] = []
        for recipe in recipes:
            if len(recordings) == count:
                break
            feed = make(self.subject.specs, self._stretched(recipe), *self.reading, seed=0)
            try:
                recordings.append(record(self.session, feed))
            except PassError:
                raise
            except Exception as error:  # the runtime's: the model does not take such a batch
                self.refusal = explain(error)
        if not recordings:
            raise Reject("the model runs on none of the inputs made for it: {}", self.refusal)
        return recordings

    def _stretched(self, recipe: Recipe) -> Recipe:
        """Where lengths are rounded up to a multiple, one of several multiples."""
        multiple = self.reading[1]
        return replace(recipe, length=(1 + recipe.length % _MULTIPLES) * multiple) if multiple > 1 else recipe


def _most_common(samples: Sequence[Recording]) -> list[Recording]:
    """The recordings of the sequence that nearly all batches have."""
    events, count = Counter(sample.events for sample in samples).most_common(1)[0]
    if count < _LEAST_SHARE * len(samples):
        raise Reject("what a run allocates depends on more than sizes: {} of {} runs are alike", count, len(samples))
    return [sample for sample in samples if sample.events == events]


def _formulas(subject: Subject, samples: Sequence[Recording]) -> list[Formula | None]:
    values = np.array([subject.values(sample) for sample in samples], np.int64).reshape(len(samples), -1)
    return fit_all(values, np.array([sample.sizes for sample in samples], np.int64).reshape(len(samples), -1))


def _regardless_of_threads(
    subject: Subject, level: Level, alike: Sequence[Recording], sizes: Sequence[Formula | None], reading: Reading
) -> list[Formula | None]:
    """The sizes that are the same whatever the number of threads, where scratch memory may depend on it."""
    runs = _Runs(_open(subject, level, threads=_OTHER_THREADS), subject, reading)
    kept = list(sizes)
    recorded = {sample.extents: sample for sample in alike}
    for sample in runs.record(_recipes(len(subject.axes)), _SPARE_SAMPLES):
        same = recorded.get(sample.extents)
        if same is None:
            continue
        if sample.events != same.events:
            raise Reject("what a run allocates depends on the number of threads")
        for k, (size, other) in enumerate(zip(sample.sizes, same.sizes, strict=True)):
            if size != other:
                kept[k] = None
    return kept
