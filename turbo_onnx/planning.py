"""Make the memory plan of a model, or read the one that it carries.

To make one, the model is run as it will be served, in the file as it will be saved, and what ONNX Runtime allocates and
frees is recorded (`sequences.py`). Then an order is sought in which buffers can be stacked at any shape
(`memory/regions.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from turbo_onnx import shapes
from turbo_onnx.allocation_names import outputs_of
from turbo_onnx.errors import InputError, OutputError, Reject
from turbo_onnx.memory import regions
from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes
from turbo_onnx.memory.plan import ALIGNMENT, METADATA_KEY, MemoryPlan, Variable, Variant, from_json
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import find, plan_runs
from turbo_onnx.passes.planned_branches import Branch
from turbo_onnx.plan_sizes import SeenSizes
from turbo_onnx.sequences import RunSequence, Subject
from turbo_onnx.sequences import find as find_sequence
from turbo_onnx.serialization import writing
from turbo_onnx.serialization.metadata import artifact_of
from turbo_onnx.serialization.reading import read
from turbo_onnx.sessions import Level, library_available, runtime
from turbo_onnx.verify_inputs import InputSpec, describe
from turbo_onnx.work import Work

LEVELS: tuple[Level, ...] = ("all", "extended", "basic", "none")
"""The runtime's levels of optimization that runs are recorded at, the default first. Many models do the same at all."""

_Found = list[tuple[tuple[Level, ...], RunSequence]]
_SAMPLES = 4096
_LARGEST = {"batch": 64, "length": 512, "": 512}


def make_plan(
    model: Model,
    variables: Sequence[Variable],
    branch: Branch | None = None,
    *,
    specs: Sequence[InputSpec],
    exact: bool = False,
    scratch: Path | None = None,
) -> MemoryPlan:
    """The plan of a model that has the node that begins a run.

    Args:
        model: as it will be saved, but for the plan.
        variables: the sizes that the node sees.
        branch: the branch that begins with the node; None for the main graph.
        specs: what the model's inputs are.
        exact: look for the best order with a solver, which takes longer.
        scratch: a folder to write the model into for as long as it is recorded; None for the system's.

    Raises:
        Reject: there is no plan for it, and why.
        InputError: `exact`, and the solver is not installed.
    """
    if not library_available():
        raise Reject("the library, which records what a run allocates, cannot be registered here")
    unknown = [spec.name for spec in specs if spec.kind == "unknown"]
    if unknown:
        raise Reject("no inputs can be made for '{}' to record runs with", unknown[0])
    graph = model.graph if branch is None else branch.graph
    node = find(graph)
    assert node is not None
    seen = SeenSizes.of(node, variables, specs)
    outputs = outputs_of(model.graph) | outputs_of(graph)
    flag = None if branch is None else branch.flag
    work = Work.of(model.graph, None if branch is None else graph)
    found: _Found = []
    with _written(model, scratch) as path:
        subject = Subject(path, specs, seen, outputs, flag, work)
        for level in LEVELS:
            found = _with_level(subject, level, found)
    if not any(sequence.buffers for _, sequence in found):
        raise Reject("ONNX Runtime {} takes no allocator from a library; 1.23 does", runtime().__version__)
    if not any(buffer.kind == "planned" for _, sequence in found for buffer in sequence.buffers):
        raise Reject("a run allocates nothing whose size could be planned, but for its outputs")
    reading = found[0][1].reading
    chosen = seen.chosen(reading[0] if reading is not None else {})
    samples = sample_values(chosen.variables)
    variants = [_variant(", ".join(levels), sequence, samples, exact) for levels, sequence in found]
    return MemoryPlan(chosen.variables, tuple(variants), runtime().__version__, assumptions=chosen.assumptions)


def _with_level(subject: Subject, level: Level, found: _Found) -> _Found:
    """The sequences with that of one more level, which may be one of them. Only the first level must have one."""
    try:
        sequence = find_sequence(subject, level, [known for _, known in found])
    except Reject:
        if level == LEVELS[0]:
            raise
        return found
    if all(known is not sequence for _, known in found):
        return [*found, ((level,), sequence)]
    return [((*levels, level) if known is sequence else levels, known) for levels, known in found]


@contextmanager
def _written(model: Model, scratch: Path | None) -> Iterator[Path]:
    """The model in files that go away. The runtime maps weights in a file of their own: memory holds them once less."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(writing.scratch(scratch))
            model.write(folder, "model.onnx", external=True)
        except (OSError, OutputError) as error:
            raise Reject("the model cannot be written down to record its runs: {}", error) from None
        yield folder / "model.onnx"


def sample_values(variables: Sequence[Variable]) -> IntArray:
    """Shapes to judge orders by: corners of the usual range, and random ones, evenly by magnitude.

    Returns:
        int64 [shapes, variables]. There are at most as many tokens as batch · length.
    """
    if not variables:
        return np.zeros((1, 0), np.int64)
    random = np.random.default_rng(11)
    columns: dict[str, IntArray] = {}
    corners = np.array(list(np.ndindex(*(2,) * len(variables))), np.int64).reshape(-1, len(variables))
    for index, variable in enumerate(variables):
        most = _LARGEST.get(variable.role, 512)
        drawn = np.exp(random.uniform(0, np.log(most + 1), _SAMPLES)).astype(np.int64).clip(1, most)
        columns[variable.role or variable.name] = np.concatenate([np.where(corners[:, index] == 1, most, 1), drawn])
    if "tokens" in columns:
        padded = columns.get("batch", np.int64(64)) * columns.get("length", np.int64(512))
        share = np.concatenate([np.ones(len(corners)), random.uniform(0, 1, _SAMPLES)])
        columns["tokens"] = np.ceil(share * padded).astype(np.int64)
    return np.stack([columns[v.role or v.name] for v in variables], axis=1).reshape(-1, len(variables))


def _variant(name: str, sequence: RunSequence, samples: IntArray, exact: bool) -> Variant:
    planned = {index for index, buffer in enumerate(sequence.buffers) if buffer.kind == "planned"}
    events = tuple(event for event in sequence.events if event == 0 or event - 1 in planned)
    unordered = Variant(name, sequence.buffers, events, orders=(), exceptions=sequence.exceptions)
    return _stacked(unordered, samples, exact)


def _stacked(variant: Variant, samples: IntArray, exact: bool) -> Variant:
    """The variant with the orders in which its buffers are stacked."""
    planned = variant.planned
    lifetimes = Lifetimes.from_events(variant.events).subset(planned)
    sizes = [size for index in planned if (size := variant.buffers[index].size) is not None]
    chosen = regions.plan_orders(lifetimes, sizes, samples, ALIGNMENT, exact=exact)
    return replace(
        variant,
        orders=tuple(tuple(planned[number] for number in order) for order in chosen.orders),
        tree=tuple((planned[a], planned[b], yes, no) for a, b, yes, no in chosen.tree),
    )


def plan_of(path: Path, *, exact: bool = False) -> MemoryPlan:
    """The plan that an artifact carries, or one that is made for the model as it is.

    Args:
        path: the model.
        exact: look for the best orders with a solver, also where the artifact has some.

    Raises:
        InputError: the file is no model, no plan can be made for it, or `exact` and the solver is not installed.
    """
    model = read(path, artifacts=True)
    carried = model.metadata.get(METADATA_KEY)
    if carried is not None:
        plan = from_json(carried, str(path))
        return _ordered_anew(plan) if exact else plan
    if artifact_of(model.shell, str(path)) is not None:
        raise InputError(f"{path}: it carries no memory plan; optimize the original model again to give it one.")
    specs = describe(model)
    shapes.infer(model)
    try:
        return plan_runs(model, partial(make_plan, specs=specs, exact=exact))
    except Reject as reason:
        raise InputError(f"{path}: no memory plan can be made for it: {reason}.") from None


def _ordered_anew(plan: MemoryPlan) -> MemoryPlan:
    samples = sample_values(plan.variables)
    return replace(plan, variants=tuple(_stacked(variant, samples, exact=True) for variant in plan.variants))
