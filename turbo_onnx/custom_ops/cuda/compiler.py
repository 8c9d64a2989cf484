"""Compile Triton kernels ahead of time, to machine code for each architecture and to PTX for those to come.

The same kernels give the same bytes, in any order, from any folder, with the cache or without.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache as remember
from typing import Any

from turbo_onnx.custom_ops.cuda import cache, compile_worker, kernel_sources, toolchain, workers
from turbo_onnx.custom_ops.cuda.archive import Code, Rule
from turbo_onnx.custom_ops.cuda.targets import code_rules, compiled_for, shared_limit, sm
from turbo_onnx.custom_ops.cuda.toolchain import Toolchain
from turbo_onnx.custom_ops.cuda.variant import Variant
from turbo_onnx.errors import PassError


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses of a device.

    Attributes:
        registers: of each thread.
        stack: bytes of local memory of each thread.
        spills: bytes that each thread writes and reads for want of registers.
        shared: bytes of shared memory of each block.
    """

    registers: int
    stack: int
    spills: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """One kernel, compiled once.

    Attributes:
        codes: what of it is kept: machine code, PTX, or both.
        resources: of the machine code.
    """

    codes: tuple[Code, ...]
    resources: Resources


@dataclass(frozen=True)
class _Job:
    variant: Variant
    capability: int
    aligned: bool

    def fields(self) -> dict[str, Any]:
        """All that decides the code, for JSON."""
        return asdict(self.variant) | {"capability": self.capability, "aligned": self.aligned}

    def __str__(self) -> str:
        pointers = "" if self.aligned else " with unaligned pointers"
        return f"the kernel {self.variant.key} for {sm(self.capability)}{pointers}"


def compile_kernels(
    kernels: Mapping[int, Iterable[Variant]], targets: Iterable[int], *, unaligned: bool = True
) -> list[Compiled]:
    """Compile every kernel for every capability, each for aligned pointers and for any.

    Args:
        kernels: those to compile, by capability, for all of `targets.compiled_for(targets)`. The same one may come more
            than once.
        targets: the capabilities for which machine code is kept. PTX for later ones is always kept.
        unaligned: False leaves out the code for any pointers, without which nothing can be launched on some.

    Raises:
        InputError: Triton is not installed, or cannot compile for one of the targets.
        PassError: a kernel cannot be compiled, needs too much shared memory, or two have one key: a bug.
    """
    targets = frozenset(targets)
    jobs = [
        _Job(variant, capability, aligned)
        for capability in compiled_for(targets)
        for variant in _distinct(kernels[capability])
        for aligned in ((True, False) if unaligned else (True,))
    ]
    if not jobs:
        return []
    tools = toolchain.find(compiled_for(targets))
    digests = [_digest(job, tools) for job in jobs]
    answers = {digest: json.loads(data) for digest in digests if (data := cache.load(digest)) is not None}
    missing = {digest: job for digest, job in zip(digests, jobs, strict=True) if digest not in answers}
    answers |= _compile(missing, tools)
    return [_compiled(job, answers[digest], targets) for job, digest in zip(jobs, digests, strict=True)]


def try_kernels(variants: Iterable[Variant], capability: int) -> list[Compiled | str]:
    """Compile ways to run kernels, to find out which of them are any good: for one capability, and aligned pointers.

    Args:
        variants: any, also several of one kernel.
        capability: 10 · major + minor.

    Returns:
        for each variant, in their order, what is compiled, or what is wrong with it: "cannot be compiled", or "needs
        too much shared memory". One that would have spilled registers may have got more warps, as from
        `compile_kernels`.

    Raises:
        InputError: Triton is not installed, or cannot compile for the capability.
    """
    jobs = [_Job(variant, capability, aligned=True) for variant in variants]
    if not jobs:
        return []
    tools = toolchain.find([capability])
    digests = [_digest(job, tools) for job in jobs]
    answers = {digest: json.loads(data) for digest in digests if (data := cache.load(digest)) is not None}
    missing = {digest: job for digest, job in zip(digests, jobs, strict=True) if digest not in answers}
    answers |= _compile(missing, tools, go_on=True)
    return [_tried(job, answers.get(digest)) for job, digest in zip(jobs, digests, strict=True)]


def _tried(job: _Job, answer: Mapping[str, Any] | None) -> Compiled | str:
    if answer is None:
        return "cannot be compiled"
    if answer["shared"] > shared_limit(job.capability):
        return "needs too much shared memory"
    return _compiled(job, answer, frozenset([job.capability]))


def _distinct(variants: Iterable[Variant]) -> list[Variant]:
    """Each variant once, by key."""
    found: dict[str, Variant] = {}
    for variant in variants:
        if found.setdefault(variant.key, variant) != variant:
            raise PassError(f"two different kernels have the key {variant.key}; this is a bug in turbo-onnx.")
    return [found[key] for key in sorted(found)]


def _digest(job: _Job, tools: Toolchain) -> str:
    """Equal digests are equal code."""
    sources = _sources(job.variant.module), _sources(compile_worker.__name__)
    text = json.dumps([job.fields(), *sources, tools.identity(job.capability)])
    return hashlib.sha256(text.encode()).hexdigest()


@remember
def _sources(module: str) -> str:
    return kernel_sources.digest(module)


def _compile(jobs: Mapping[str, _Job], tools: Toolchain, *, go_on: bool = False) -> dict[str, dict[str, Any]]:
    """The workers' answers to the jobs, by digest. Each is in the cache as soon as it is there.

    Where `go_on`, jobs that fail have none.
    """
    digests = list(jobs)
    answers: dict[str, dict[str, Any]] = {}

    def keep(index: int, answer: dict[str, Any]) -> None:
        answers[digests[index]] = answer
        cache.store(digests[index], json.dumps(answer).encode())

    try:
        fields = [job.fields() for job in jobs.values()]
        workers.run(compile_worker.__name__, fields, tools, keep, (lambda _: None) if go_on else None)
    except workers.JobError as error:
        raise PassError(
            f"{jobs[digests[error.index]]} cannot be compiled by Triton {tools.triton}: {error}; this is a bug in"
            " turbo-onnx or in Triton, please report it."
        ) from None
    return answers


def _compiled(job: _Job, answer: Mapping[str, Any], targets: frozenset[int]) -> Compiled:
    resources = Resources(answer["registers"], answer["stack"], answer["spills"], answer["shared"])
    limit = shared_limit(job.capability)
    if resources.shared > limit:
        raise PassError(
            f"{job} needs {resources.shared} bytes of shared memory, and there are {limit} on some devices that it is"
            " for; this is a bug in turbo-onnx."
        )
    rules = [rule for rule in code_rules(job.capability) if rule is Rule.LATER or job.capability in targets]
    return Compiled(tuple(_code(job, answer, rule) for rule in rules), resources)


def _code(job: _Job, answer: Mapping[str, Any], rule: Rule) -> Code:
    data = base64.b64decode(answer["ptx"]) + b"\0" if rule is Rule.LATER else base64.b64decode(answer["cubin"])
    return Code(
        key=job.variant.key,
        capability=job.capability,
        rule=rule,
        aligned=job.aligned,
        symbol=answer["symbol"],
        arguments=job.variant.letters,
        num_warps=answer["num_warps"],
        shared=answer["shared"],
        tile=job.variant.tile,
        data=data,
    )
