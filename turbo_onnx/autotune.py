"""Measure on the GPU of this machine which tiles, warps and stages a model's kernels run fastest with.

Each kernel is timed by itself, in the node that launches it, on a ragged batch. What gives other results than the
kernel's own choice, beyond rounding, is never chosen. All ways are compiled first, on all cores.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from turbo_onnx import node_timing, nvidia, optimizer, sessions
from turbo_onnx.custom_ops.cuda import compiler, samples, targets
from turbo_onnx.custom_ops.cuda.archive import Code, pack
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.samples import Array
from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.custom_ops.cuda.tuning import Choice, Tuning, candidates, choice
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN
from turbo_onnx.errors import InputError, PassError, Reject
from turbo_onnx.passes.embed_kernels import use_of
from turbo_onnx.passes.limit_forms import ours
from turbo_onnx.precision import Precision

MARGIN = 0.03
"""How much faster than its own choice a kernel has to be with another, as a share: more than timings vary by."""

BATCH = samples.ragged(sequences=128, longest=512)
"""Enough that every kernel takes several times as long as its launch, and that no cache holds what it reads."""

_UNITS = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # allowed difference, of the largest value


SPILLS = "spills registers"


class Bench(Protocol):
    """What runs kernels: a device, or in tests what stands for one."""

    def compile(self, variants: Sequence[Variant]) -> list[str | None]:
        """Make kernels ready to run. For each None, or what is wrong with it; what `SPILLS` can be run all the same."""

    def outputs(self, use: Use, variants: Sequence[Variant]) -> list[Array]:
        """What the node gives with these kernels. Raises InputError if it cannot be run."""

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        """How long the node takes, measured several times."""


class DeviceBench:
    """The GPU of this machine.

    Args:
        capability: the GPU's.
    """

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self._codes: dict[str, tuple[Code, ...]] = {}
        self._use: Use | None = None
        self._inputs: Mapping[str, Array] = {}
        self._values: Mapping[str, node_timing.OrtValue] = {}

    def compile(self, variants: Sequence[Variant]) -> list[str | None]:
        """See `Bench`."""
        reasons: list[str | None] = []
        for variant, one in zip(variants, compiler.try_kernels(variants, self._capability), strict=True):
            if isinstance(one, str):
                reasons.append(one)
                continue
            self._codes[repr(variant)] = one.codes
            spills = one.resources.spills or one.codes[0].num_warps != variant.num_warps
            reasons.append(SPILLS if spills else None)
        return reasons

    def outputs(self, use: Use, variants: Sequence[Variant]) -> list[Array]:
        """See `Bench`."""
        self._load(use)
        return node_timing.outputs_of(use, self._inputs, self._archive(variants), self._values)

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        """See `Bench`."""
        self._load(use)
        return node_timing.seconds_of(use, self._inputs, self._archive(variants), self._values)

    def _archive(self, variants: Sequence[Variant]) -> bytes:
        return pack(code for variant in variants for code in self._codes[repr(variant)])

    def _load(self, use: Use) -> None:
        """Put the node's inputs on the device, in place of the last one's: they are up to a gigabyte."""
        if self._use != use:
            self._use, self._values = None, {}
            self._inputs = samples.sample(use, BATCH)
            self._values = node_timing.on_device(use, self._inputs)
            self._use = use


@dataclass(frozen=True)
class Tuned:
    """What was found for one kernel.

    Attributes:
        key: the kernel.
        own, best: seconds of its node with the kernel's own choice, and with the best one.
        chosen: the best one; None where that is the kernel's own.
        tried: how many there were, its own among them.
        refused: how many of them were not timed, by what is wrong with them: "gives other results".
    """

    key: str
    own: float
    best: float
    chosen: Choice | None
    tried: int
    refused: Mapping[str, int]


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
    sessions.require_provider()
    uses: dict[tuple[str, ...], Use] = {}
    for path in models:
        progress(f"read {path}")
        result = optimizer.optimize(
            path, target=targets.spell((capability,)), precision=precision, verify=False, packing="on"
        )
        for use in (use_of(node) for node in ours(result.optimized.graph) if node.domain == CUDA_DOMAIN):
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


@dataclass(frozen=True)
class _Ways:
    """The ways to run one of a node's kernels: in `offered`, its own first."""

    use: Use
    own: Sequence[Variant]
    index: int
    offered: Sequence[Variant]


def tune(
    uses: Iterable[Use], capability: int, bench: Bench, progress: Callable[[str], None] = lambda _: None
) -> Iterator[Tuned]:
    """Tune every kernel of these nodes, each once, if there is more than one way to run it.

    A kernel that no run of the sample launches is as fast with every choice, and keeps its own. One that cannot be run
    here is left out.

    Raises:
        PassError: a kernel cannot be compiled as it is by itself: a bug.
    """
    ways = list(_ways(uses, capability))
    distinct = {repr(variant): variant for one in ways for variant in (*one.own, *one.offered)}
    progress(f"compile {len(distinct)} kernels")
    wrong = dict(zip(distinct, bench.compile(list(distinct.values())), strict=True))
    for one in ways:
        progress(one.own[one.index].key)
        for variant in one.own:
            if wrong[repr(variant)] not in (None, SPILLS):
                raise PassError(f"the kernel {variant.key} for {sm(capability)} {wrong[repr(variant)]}; this is a bug.")
        try:
            yield _tune_one(one, [wrong[repr(variant)] for variant in one.offered], bench)
        except (InputError, Reject) as error:  # no inputs can be made for it; what others are measured to be is kept
            progress(f"{one.own[one.index].key} is not tuned: {error}")


def _ways(uses: Iterable[Use], capability: int) -> Iterator[_Ways]:
    done: set[str] = set()
    for use in uses:
        own = variants_of(use, capability)
        for index, variant in enumerate(own):
            offered = candidates(use.operator, variant, capability)
            if variant.key not in done and len(offered) > 1:
                done.add(variant.key)
                yield _Ways(use, own, index, offered)


def _tune_one(ways: _Ways, wrong: Sequence[str | None], bench: Bench) -> Tuned:
    use, own, index = ways.use, ways.own, ways.index
    expected = bench.outputs(use, own)
    seconds = {0: statistics.median(bench.seconds(use, own))}
    refused: Counter[str] = Counter()
    for number in range(1, len(ways.offered)):
        reason = wrong[number]
        if reason is None:
            variants = [*own[:index], ways.offered[number], *own[index + 1 :]]
            try:
                if same(use, bench.outputs(use, variants), expected):
                    seconds[number] = statistics.median(bench.seconds(use, variants))
                else:
                    reason = "gives other results"
            except InputError:  # the device may have less than other devices of its architecture
                reason = "cannot be run here"
        if reason is not None:
            refused[reason] += 1
    # Once more at the end: a device that slowed down or warmed up must not decide.
    seconds[0] = min(seconds[0], statistics.median(bench.seconds(use, own)))
    best = min(seconds, key=lambda number: seconds[number])
    if seconds[best] > (1 - MARGIN) * seconds[0]:
        best = 0
    chosen = choice(ways.offered[best]) if best else None
    return Tuned(own[index].key, seconds[0], seconds[best], chosen, len(ways.offered), refused)


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
        refused = "".join(f", {count} {reason}" for reason, count in sorted(one.refused.items()))
        lines.append(f"{one.key}: {1e6 * one.own:.1f} µs, {gain:.2f} times faster with {picked}; {one.tried} tried"
                     f"{refused}")  # fmt: skip
    return lines


def _spelt(chosen: Mapping[str, object]) -> str:
    return f"{chosen['num_warps']} warps, {chosen['num_stages']} stages, tile {chosen['tile']}"
