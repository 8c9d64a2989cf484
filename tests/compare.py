"""Compare two runs of a model on rows of real tokens: the one rule that tests and benchmarks share.

A row is real where the padding mask is nonzero. An output is taken to have such rows when its first axes are the
mask's, or when they are the end of the mask's (a decoder that is given a cache sees a mask longer than its input).
Every other output is compared whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

import turbo_onnx

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference between two sets of outputs, and where it is.

    Attributes:
        value: the difference; infinite where shapes, types or the places of NaN and infinity differ.
        where: the output's name, with the reason when `value` is infinite.
    """

    value: float
    where: str


def real_rows(mask: np.ndarray | None, output: np.ndarray) -> np.ndarray:
    """The part of an output [B, S, ...] that belongs to real tokens, as [T, ...]; the whole output where it has no
    such rows.

    Args:
        mask: [B, S] or longer on its second axis; nonzero at real tokens; None when the model has none.
        output: any shape.
    """
    if mask is None or mask.ndim != 2 or output.ndim < 2 or output.shape[0] != mask.shape[0]:
        return output
    length = output.shape[1]
    if length == 0 or length > mask.shape[1] or (length < mask.shape[1] and output.ndim != 3):
        return output
    real: np.ndarray = output[mask[:, -length:] != 0]
    return real


def largest_difference(mask: np.ndarray | None, expected: Arrays, actual: Arrays) -> Difference:
    """The largest absolute difference over all outputs, on rows of real tokens.

    Args:
        mask: see `real_rows`.
        expected, actual: outputs by name; every expected one must be among the actual ones.
    """
    worst = Difference(0.0, "")
    for name, reference in expected.items():
        result = actual[name]
        if result.shape != reference.shape or result.dtype != reference.dtype:
            return Difference(
                float("inf"),
                f"{name} is {result.dtype}{list(result.shape)}, not {reference.dtype}{list(reference.shape)}",
            )
        a = real_rows(mask, reference).astype(np.float64)
        b = real_rows(mask, result).astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
            return Difference(float("inf"), f"{name} has NaN or infinity at other places")
        difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
        if difference > worst.value:
            worst = Difference(difference, name)
    return worst


def run(model: bytes, inputs: dict[str, np.ndarray], *, library: bool, optimizations: bool) -> dict[str, np.ndarray]:
    """One run on one thread of the CPU; outputs by name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimizations:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        turbo_onnx.register(options)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))
