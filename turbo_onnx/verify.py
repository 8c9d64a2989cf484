"""Prove on inputs that two models compute the same: the gate before anything is written.

The reference is the original in ONNX Runtime with all of its optimizations off. The candidate runs as it will in
production, with the runtime's optimizations: with our library, and by its function bodies without it. One session is
open at a time, so that memory holds one model.

A candidate in half precision is for a GPU, and what is proved here are its numbers: it runs with the runtime's
optimizations off, since those for the CPU fail on some graphs in float16 (1.31 crashes on a product that reads a
transposed tensor). An original in half precision is run so, too; the numbers of both then differ by its roundings.

Where padding was removed only rows of real tokens are compared: rows of padding hold numbers that no caller can use.
So it is with what the model pools from the first position of a sequence that begins with padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from turbo_onnx import nvidia
from turbo_onnx.counted import Counted
from turbo_onnx.errors import InputError, VerificationError
from turbo_onnx.made_runs import MadeRuns, run
from turbo_onnx.padding_mask import ReadMask
from turbo_onnx.precision import Precision
from turbo_onnx.sessions import Level, Session, explain, library_available, open_on_gpu, open_session
from turbo_onnx.tolerances import COARSE_TOLERANCES, TOLERANCES, Tolerance, deviation, difference_of
from turbo_onnx.verify_inputs import RECIPES, RECIPES_OF_DECODERS, Feed, InputSpec, telling, with_flags

Array = np.ndarray[Any, Any]
_VISIBLE = 1e-3  # the noise from which on outputs are not called equal
BODIES_FACTOR = 10.0
"""What the function bodies are allowed more, and GPUs: they add in another order than the kernels for the CPU."""


@dataclass
class Verification:
    """What came out.

    Attributes:
        ok: whether all compared outputs agree; None if nothing could be compared.
        max_abs: the largest difference.
        max_rel: the largest difference in proportion to the largest magnitude of its output.
        noise: the largest root mean square of an output's differences in a case, in proportion to its deviation.
        cases: how many cases were compared.
        skipped: why others were not, one sentence each.
        failures: where the outputs differ, one sentence each.
        gpu: the GPU that the candidate ran on, too; None: on none.
        not_on_gpu: why it did not, if it is for GPUs.
    """

    ok: bool | None = None
    max_abs: float = 0.0
    max_rel: float = 0.0
    noise: float = 0.0
    cases: int = 0
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    gpu: str | None = None
    not_on_gpu: str | None = None

    @property
    def agreement(self) -> str:
        """For sentences: outputs are equal but for roundings, or close where a coarse type moves them."""
        return "equal" if self.noise < _VISIBLE else "close"

    @property
    def where(self) -> str:
        """For sentences about the cases: which GPU they were run on, too."""
        return "" if self.gpu is None else f", on the CPU and on {self.gpu}"


@dataclass
class Case:
    """Inputs, what the original computes from them, and what of it counts."""

    name: str
    feed: Feed
    expected: dict[str, Array] = field(default_factory=dict)
    counted: Counted = field(default_factory=Counted)


@dataclass(frozen=True)
class Reference:
    """What the original computes, to compare any number of candidates with.

    Attributes:
        cases: those that it runs.
        skipped: why others are not among them, one sentence each.
    """

    cases: list[Case]
    skipped: list[str]


def refer(
    before: Path | bytes, specs: Sequence[InputSpec], own_cases: Mapping[str, Feed] | None = None, seed: int = 0
) -> Reference:
    """Run the original on ragged inputs; `verify` says what the arguments are."""
    skipped: list[str] = []
    cases = run_cases(open_session(before, level="none"), specs, own_cases or {}, seed, skipped)
    return Reference(cases, skipped)


def verify(
    before: Path | bytes | Reference,
    after: Path | bytes,
    specs: Sequence[InputSpec],
    *,
    mask: str | ReadMask | None = None,
    first_token: bool = False,
    own_cases: Mapping[str, Feed] | None = None,
    tolerance: Tolerance | None = None,
    precision: Precision = "fp32",
    level: Level | None = None,
    on_gpu: Path | bytes | None = None,
    seed: int = 0,
) -> Verification:
    """Run both models on ragged inputs and compare their outputs.

    Args:
        before: the original, or what it computes; then `own_cases` and `seed` say nothing more.
        after: the candidate.
        specs: what the original's inputs are.
        mask: the input that says which tokens are real, or what computes it, if padding was removed; None: everything
            is compared.
        first_token: whether the result pools the first token of each sequence, which is then the first real one.
        own_cases: inputs of the caller's, by the name of the case.
        tolerance: for every floating-point type, instead of `TOLERANCES` and `COARSE_TOLERANCES`.
        precision: the coarsest type that either model computes in.
        level: of the runtime's optimizations for the candidate; None: all, or none where the precision is a half.
        on_gpu: the candidate as it is served on GPUs, if it is for them. It runs there, too, where there is one.
        seed: for the inputs that are made.
    """
    known = before if isinstance(before, Reference) else refer(before, specs, own_cases, seed)
    result = Verification(skipped=list(known.skipped))
    cases = [replace(case, counted=Counted.of(case.feed, specs, mask, first_token)) for case in known.cases]
    if not cases:
        return result
    tolerance = tolerance or COARSE_TOLERANCES.get(precision)
    deviations = deviations_of(cases)
    level = level or ("all" if precision == "fp32" else "none")
    variants = [("", False)] if not library_available() else [("", True), ("without the library: ", False)]
    for label, library in variants:
        factor = BODIES_FACTOR if not library and len(variants) > 1 and precision == "fp32" else 1.0
        try:
            session = open_session(after, level=level, library=library)
        except Exception as error:
            result.failures.append(f"{label}ONNX Runtime refuses the optimized model: {explain(error)}")
            continue
        for case in cases:
            _compare_case(session, case, deviations, tolerance, factor, label, result)
        del session
    if on_gpu is not None:
        _verify_on_gpu(on_gpu, cases, deviations, tolerance, BODIES_FACTOR if precision == "fp32" else 1.0, result)
    result.cases = len(cases)
    result.ok = not result.failures
    return result


def _verify_on_gpu(
    model: Path | bytes,
    cases: Sequence[Case],
    deviations: Mapping[str, float],
    tolerance: Tolerance | None,
    factor: float,
    result: Verification,
) -> None:
    """Run the candidate on a GPU if that can be: one that cannot run here may be for other machines."""
    try:
        session = open_on_gpu(model)
    except Exception as error:
        result.not_on_gpu = explain(error)
        return
    result.gpu = str(nvidia.first_device())
    for case in cases:
        _compare_case(session, case, deviations, tolerance, factor, "on the GPU: ", result)


def require(result: Verification, name: str, hint: str = "") -> None:
    """Raises VerificationError, with the first difference and the hint, if the models differ."""
    if result.ok is False:
        more = f" (and {len(result.failures) - 1} more)" if len(result.failures) > 1 else ""
        raise VerificationError(
            f"{name}: the optimized model differs from the original: {result.failures[0]}{more}; nothing was"
            f" written{hint}."
        )


def load_cases(path: Path, specs: Sequence[InputSpec]) -> dict[str, Feed]:
    """The caller's inputs from an `.npz` file: arrays named as the inputs are, with or without `in_` before it.

    Raises:
        InputError: the file cannot be read, or lacks an input.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror or error}; check the path.") from None
    except (ValueError, EOFError, AttributeError, TypeError, BadZipFile):
        raise InputError(f"{path}: it is no .npz file of arrays; make one with numpy.savez.") from None
    feed: Feed = {}
    for spec in specs:
        value = found.get(spec.name, found.get(f"in_{spec.name}"))
        if value is None:
            there = ", ".join(found) or "none"
            raise InputError(f"{path}: it has no array for the input '{spec.name}'; it has {there}.")
        if isinstance(spec.dtype, np.dtype) and value.dtype != spec.dtype:
            if not np.can_cast(value.dtype, spec.dtype, "same_kind"):
                raise InputError(f"{path}: the array for '{spec.name}' is {value.dtype}, and must be {spec.dtype}.")
            value = value.astype(spec.dtype)
        feed[spec.name] = value
    return {path.name: feed}


def run_cases(
    session: Session, specs: Sequence[InputSpec], own_cases: Mapping[str, Feed], seed: int, skipped: list[str]
) -> list[Case]:
    """The cases that a model can run, with what it computes.

    Args:
        session: of the model.
        specs: what its inputs are.
        own_cases: inputs of the caller's, by the name of the case.
        seed: for the inputs that are made.
        skipped: why others are not among them; added to.

    Raises:
        InputError: the model does not run on the caller's inputs.
    """
    cases = []
    for name, feed in own_cases.items():
        case = Case(name, feed)
        try:
            case.expected = run(session, feed)
        except Exception as error:
            raise InputError(f"{name}: the original model cannot run on these inputs: {explain(error)}.") from None
        cases.append(case)
    unknown = [spec.name for spec in specs if spec.kind == "unknown"]
    if unknown:
        skipped.append(f"no inputs can be made for '{unknown[0]}'; give some with --inputs")
        return cases
    return cases + _made_cases(session, specs, seed, skipped)


def _made_cases(session: Session, specs: Sequence[InputSpec], seed: int, skipped: list[str]) -> list[Case]:
    runs = MadeRuns(session, specs, seed)
    found, refusal = runs.find_layout()
    if found is None:
        skipped.append(f"the original model ran on none of the inputs made for it: {refusal}")
        return []
    cases = []
    roles = set(found[0].values())
    recipes = telling((*RECIPES, *(RECIPES_OF_DECODERS if "past" in roles else ())), specs, roles)
    for recipe in (variant for one in recipes for variant in with_flags(one, specs)):
        try:
            cases.append(Case(recipe.name, *runs.run(recipe, found)))
        except Exception as error:
            skipped.append(f"{recipe.name}: the original model does not run on it: {explain(error)}")
    return cases


def _compare_case(
    session: Session,
    case: Case,
    deviations: Mapping[str, float],
    tolerance: Tolerance | None,
    factor: float,
    label: str,
    result: Verification,
) -> None:
    try:
        actual = run(session, case.feed)
    except Exception as error:
        result.failures.append(f"{label}{case.name}: the optimized model fails: {explain(error)}")
        return
    for name, expected in case.expected.items():
        if name not in actual:
            result.failures.append(f"{label}output '{name}' is missing")
            continue
        what = f"{label}{case.name}: output '{name}'"
        spread = deviations.get(name, 0.0)
        _compare(expected, actual[name], case.counted, tolerance, spread, factor, what, result)


def _compare(
    before: Any,
    after: Any,
    counted: Counted,
    tolerance: Tolerance | None,
    spread: float,
    factor: float,
    what: str,
    result: Verification,
) -> None:
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        if repr(before) != repr(after):
            result.failures.append(f"{what} differs")
        return
    if before.shape != after.shape or before.dtype != after.dtype:
        result.failures.append(
            f"{what} was {before.dtype} {list(before.shape)} and is {after.dtype} {list(after.shape)}"
        )
        return
    selected = counted.of_output(before.shape)
    left, right = before[selected], after[selected]
    limits = TOLERANCES.get(before.dtype.name)
    if limits is None:
        if not np.array_equal(left, right):
            result.failures.append(f"{what} differs in {int(np.sum(left != right))} of {left.size} elements")
        return
    limits = tolerance or limits
    difference, magnitude, bound = difference_of(left, right, limits, factor, spread)
    if not difference.size:
        return
    worst = float(np.max(difference))
    scale = float(np.max(magnitude)) or 1.0
    if np.isfinite(worst):
        result.max_abs = max(result.max_abs, worst)
        result.max_rel = max(result.max_rel, worst / scale)
    noise = float(np.sqrt(np.mean(difference**2)))
    if spread > 0.0 and np.isfinite(noise):
        result.noise = max(result.noise, noise / spread)
    beyond = ~(difference <= bound)
    if limits.noise is not None and spread > 0.0 and not noise <= limits.noise * spread:
        result.failures.append(f"{what} differs by {noise:.3g} (root mean square) where values vary by {spread:.3g}")
    elif beyond.any():
        result.failures.append(
            f"{what} differs by {worst:.3g} where values are up to {scale:.3g}, in {int(beyond.sum())} of"
            f" {difference.size} elements"
        )


def deviations_of(cases: Sequence[Case]) -> dict[str, float]:
    """The standard deviation of what counts of each floating-point output, over all cases together."""
    values: dict[str, list[Array]] = {}
    for case in cases:
        for name, output in case.expected.items():
            if isinstance(output, np.ndarray) and output.dtype.name in TOLERANCES:
                numbers = output[case.counted.of_output(output.shape)].astype(np.float64).reshape(-1)
                values.setdefault(name, []).append(numbers[np.isfinite(numbers)])
    return {name: deviation(np.concatenate(parts)) for name, parts in values.items()}
