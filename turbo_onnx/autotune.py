"""Measure on the GPU of this machine which tiles, warps and stages a model's kernels run fastest with.

Each kernel is timed by itself, in the node that launches it, on a ragged batch. What gives other results than the
kernel's own choice, beyond rounding, is never chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from turbo_onnx import node_timing, nvidia, optimizer
from turbo_onnx.custom_ops.cuda import samples, targets
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.samples import Array
from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.custom_ops.cuda.tuning import Choice, Tuning, candidates, choice
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN
from turbo_onnx.errors import InputError, PassError, Reject
from turbo_onnx.graph import subgraphs
from turbo_onnx.passes.embed_kernels import use_of
from turbo_onnx.precision import Precision

MARGIN = 0.03
"""How much faster than its own choice a kernel has to be with another, as a share: more than timings vary by."""

BATCH = samples.ragged(sequences=32, longest=384)
_UNITS = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # allowed difference, of the largest value


class Bench(Protocol):
    """What runs kernels: a device, or in tests what stands for one."""

    def outputs(self, use: Use, variants: Sequence[Variant]) -> list[Array]:
        """What the node gives with these kernels. Raises PassError if one cannot be compiled, InputError if run."""

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        """How long the node takes, measured several times."""


class DeviceBench:
    """The GPU of this machine.

    Args:
        capability: the GPU's.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def outputs(self, use: Use, variants: Sequence[Variant]) -> list[Array]:
        """See `Bench`."""
        archive = node_timing.archive(variants, self._capability)
        return node_timing.outputs_of(use, samples.sample(use, BATCH), archive)

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        """See `Bench`."""
        archive = node_timing.archive(variants, self._capability)
        return node_timing.seconds_of(use, samples.sample(use, BATCH), archive)


@dataclass(frozen=True)
class Tuned:
    """What was found for one kernel.

    Attributes:
        key: the kernel.
        own, best: seconds of its node with the kernel's own choice, and with the best one.
        chosen: the best one; None where that is the kernel's own.
        tried: how many there were, its own among them.
        wrong: how many gave other results.
    """

    key: str
    own: float
    best: float
    chosen: Choice | None
    tried: int
    wrong: int


def autotune(
    models: Sequence[Path],
    *,
    target: str | None = None,
    precision: Precision = "fp16",
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Tuning, list[Tuned]]:
    """Tune every kernel of the models for the GPU of this machine.

    Args:
        models: files as they were exported.
        target: `cuda:sm_NN`, as a check: it must be this GPU's. None for whatever it is.
        precision: as for `optimize`.
        progress: called with what is done next.

    Returns:
        the tuning for `optimize`, and what was measured.

    Raises:
        InputError: there is no GPU, or another one than the target names; a model is not usable.
    """
    device = nvidia.first_device()
    capability = _capability(device, target)
    node_timing.require_provider()
    uses: dict[tuple[str, ...], Use] = {}
    for path in models:
        progress(f"read {path}")
        result = optimizer.optimize(
            path, target=targets.spell((capability,)), precision=precision, verify=False, packing="on"
        )
        for use in _uses(result.optimized.graph):
            uses.setdefault(tuple(variant.key for variant in variants_of(use, capability)), use)
    found = list(tune(uses.values(), capability, DeviceBench(capability), progress))
    choices = {sm(capability): {one.key: one.chosen for one in found if one.chosen is not None}}
    measured = {"device": str(device), "kernels": {one.key: [one.own, one.best] for one in found}}
    return Tuning(choices, measured), found


def _capability(device: nvidia.Device, target: str | None) -> int:
    if device.capability < targets.OLDEST:
        raise InputError(f"the GPU here is {device}; {sm(targets.OLDEST)} is the oldest that is supported.")
    if target is not None and targets.parse(target) != (device.capability,):
        raise InputError(f"target is '{target}', but the GPU here is {device}; leave the target out.")
    return device.capability


def _uses(graph: object) -> Iterator[Use]:
    for node in graph.nodes:  # type: ignore[attr-defined]  # graphsurgeon has no types
        if node.domain == CUDA_DOMAIN:
            yield use_of(node)
        for subgraph in subgraphs(node):
            yield from _uses(subgraph)


def tune(
    uses: Iterable[Use], capability: int, bench: Bench, progress: Callable[[str], None] = lambda _: None
) -> Iterator[Tuned]:
    """Tune every kernel of these nodes, each once.

    A kernel that no run of the sample launches is as fast with every choice, and keeps its own.
    """
    done: set[str] = set()
    for use in uses:
        own = variants_of(use, capability)
        for index, variant in enumerate(own):
            if variant.key in done:
                continue
            done.add(variant.key)
            progress(variant.key)
            try:
                yield _tune_one(use, own, index, capability, bench)
            except Reject:  # no inputs can be made for it
                continue


def _tune_one(use: Use, own: Sequence[Variant], index: int, capability: int, bench: Bench) -> Tuned:
    offered = candidates(use.operator, own[index], capability)
    expected = bench.outputs(use, own)
    seconds = {0: statistics.median(bench.seconds(use, own))}
    wrong = 0
    for number, candidate in enumerate(offered[1:], 1):
        variants = [*own[:index], candidate, *own[index + 1 :]]
        try:
            if not same(use, bench.outputs(use, variants), expected):
                wrong += 1
                continue
            seconds[number] = statistics.median(bench.seconds(use, variants))
        except (PassError, InputError):  # too much shared memory or too many registers for this device
            continue
    # Once more at the end: a device that slowed down or warmed up must not decide.
    seconds[0] = min(seconds[0], statistics.median(bench.seconds(use, own)))
    best = min(seconds, key=lambda number: seconds[number])
    if seconds[best] > (1 - MARGIN) * seconds[0]:
        best = 0
    chosen = choice(offered[best]) if best else None
    return Tuned(own[index].key, seconds[0], seconds[best], chosen, len(offered), wrong)


def same(use: Use, actual: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Whether two results differ by rounding only: integers not at all."""
    unit = max((_UNITS[element] for element in use.types.values() if element in _UNITS), default=0.0)
    return all(_same(a, e, unit) for a, e in zip(actual, expected, strict=True))


def _same(actual: Array, expected: Array, unit: float) -> bool:
    if actual.shape != expected.shape or expected.dtype.kind != "f":
        return bool(np.array_equal(actual, expected))
    largest = float(np.abs(expected).max(initial=0.0, where=np.isfinite(expected)))
    return bool(np.allclose(actual, expected, rtol=2 * unit, atol=unit * largest, equal_nan=True))


def table(found: Sequence[Tuned]) -> list[str]:
    """What was found, a line for each kernel."""
    lines = []
    for one in found:
        gain = one.own / one.best if one.best > 0 else 1.0
        picked = "its own" if one.chosen is None else _spelt(one.chosen)
        refused = f", {one.wrong} of them wrong" if one.wrong else ""
        lines.append(f"{one.key}: {1e6 * one.own:.1f} µs, {gain:.2f} times faster with {picked}; {one.tried} tried"
                     f"{refused}")  # fmt: skip
    return lines


def _spelt(chosen: Mapping[str, object]) -> str:
    return f"{chosen['num_warps']} warps, {chosen['num_stages']} stages, tile {chosen['tile']}"
