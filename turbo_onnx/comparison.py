"""Compare two model files: what `turbo-onnx verify` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from turbo_onnx.emulation import fed, runnable_on_cpu
from turbo_onnx.errors import InputError, VerificationError
from turbo_onnx.own_precision import coarsest, coarsest_result, computes_in_half, learn_types
from turbo_onnx.padding_mask import computed_mask
from turbo_onnx.precision import PRECISIONS
from turbo_onnx.serialization.metadata import artifact_of
from turbo_onnx.serialization.reading import read
from turbo_onnx.tolerances import TOLERANCES, Tolerance
from turbo_onnx.verify import Verification, load_cases, verify
from turbo_onnx.verify_inputs import Feed, describe, with_binary_inputs


def compare_files(
    before: Path,
    after: Path,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    inputs: Sequence[Path] = (),
    gpu: bool = False,
) -> Verification:
    """Run both models on ragged inputs and compare their outputs.

    Where `after` says that padding was removed from it, only rows of real tokens are compared; where it says that it
    computes in half precision or 8-bit integers, or `before` does, the tolerance is that of its type.

    Args:
        before: the reference.
        after: what is compared with it.
        atol: in |after - before| <= atol + rtol · |before|; without it and `rtol`, those of the types hold.
        rtol: see `atol`.
        seed: for the inputs that are made.
        inputs: `.npz` files with further inputs.
        gpu: run `after` on a GPU, too.

    Raises:
        InputError: a file is not usable, or the models' inputs have other names; or it cannot be run on a GPU.
    """
    first, second = read(before, artifacts=True), read(after, artifacts=True)
    names, others = ([tensor.name for tensor in model.graph.inputs] for model in (first, second))
    if sorted(names) != sorted(others):
        raise InputError(
            f"{after}: its inputs are {', '.join(others)}, and those of {before} are {', '.join(names)}; compare models"
            " with the same inputs."
        )
    artifact = artifact_of(second.shell, str(after))
    facts = artifact.facts if artifact is not None else {}
    mask = str(facts["mask_input"]) if facts.get("packed") and facts.get("mask_input") is not None else None
    specs = fed(with_binary_inputs(describe(first, mask), second))
    cases: dict[str, Feed] = {}
    for path in inputs:
        cases |= load_cases(path, specs)
    tolerance = None
    if atol is not None or rtol is not None:
        usual = TOLERANCES["float32"]
        tolerance = Tolerance(usual.rtol if rtol is None else rtol, usual.atol if atol is None else atol, "one")
    made_in = artifact.options.get("precision") if artifact is not None else None
    learn_types(first)
    precision = coarsest(coarsest_result(first), next((name for name in PRECISIONS if name == made_in), "fp32"))
    learn_types(second)
    rounded = bool(facts.get("half_precision_kept"))
    with runnable_on_cpu(first, before, rounded=rounded) as original, runnable_on_cpu(second, after) as candidate:
        result = verify(
            original,
            candidate,
            specs,
            mask=computed_mask(second) if mask is not None and mask not in names else mask,
            first_token=bool(facts.get("first_token_pooling")),
            own_cases=cases,
            tolerance=tolerance,
            precision=precision,
            level="none" if computes_in_half(second) else "all",
            on_gpu=after if gpu else None,
            seed=seed,
        )
    if result.not_on_gpu is not None:
        raise InputError(f"{after}: it was not run on a GPU: {result.not_on_gpu}.")
    return result


def sentences(result: Verification) -> list[str]:
    """The result for people."""
    lines = [f"Not compared: {sentence}." for sentence in result.skipped]
    if result.ok:
        lines.append(
            f"{result.agreement.capitalize()} in {result.cases} cases{result.where}; largest difference"
            f" {result.max_abs:.2g}, {result.max_rel:.2g} of the largest value."
        )
    lines += [f"Different: {sentence}." for sentence in result.failures]
    return lines


def to_json(result: Verification) -> str:
    """The result as JSON text."""
    return json.dumps(asdict(result), indent=2) + "\n"


def require_equal(result: Verification, before: Path, after: Path) -> None:
    """Raise unless the models were compared and found equal.

    Raises:
        VerificationError: they differ.
        InputError: there was nothing to compare.
    """
    if result.ok is None:
        why = "; ".join(result.skipped)
        raise InputError(f"{before}: nothing could be compared: {why}; give inputs with --inputs.")
    if not result.ok:
        raise VerificationError(f"{after}: it differs from {before} in {len(result.failures)} outputs.")
