"""Run one cleaning pass on a graph given as text, with everything checked that every pass promises."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.passes.support import check_invariants, equivalent, graph, parse, run
from turbo_onnx import pipeline
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport


def cleaned_by(step: Pass, *steps: Pass, model: Model) -> PassReport:
    """Run the passes in a pipeline that checks that the graph is whole and that a second run changes nothing.

    Returns:
        the report of the last pass.
    """
    reports = pipeline.run(model, [step, *steps], checks=True)
    check_invariants(model)
    return reports[-1]


def rewritten(
    step: Pass,
    body: str,
    data: Mapping[str, np.ndarray],
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    tolerance: float = 0.0,
) -> tuple[Model, PassReport]:
    """The graph after the pass, proven to compute the same on the data, exactly unless a tolerance is given."""
    text = graph(body, opset=opset)
    expected = run(parse(text, weights), data)
    after = parse(text, weights)
    report = cleaned_by(step, model=after)
    equivalent(expected, after, data, tolerance)
    return after, report
