"""Small models in files, with the node that begins a run, and what is known of them to record their runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from turbo_onnx import shapes
from turbo_onnx.allocation_names import outputs_of
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import begin_runs, find
from turbo_onnx.plan_sizes import SeenSizes
from turbo_onnx.sequences import Subject
from turbo_onnx.sessions import Session, library_available, open_session, runtime
from turbo_onnx.verify_inputs import describe


def _records() -> bool:
    version = tuple(int(part) for part in runtime().__version__.split(".")[:2])
    return library_available() and version >= (1, 23)


needs_recorder = pytest.mark.skipif(not _records(), reason="no library, or a runtime that takes no allocator from it")


def model(body: str, weights: Mapping[str, np.ndarray] | None = None, opset: int = 17) -> Model:
    """From ONNX text without its head."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "turbo_onnx": 1]>\n{body}')
    for name, value in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return Model.from_proto(proto)


def subject(model: Model, folder: Path) -> Subject:
    """The model with the node, in a file of the folder."""
    specs = describe(model)
    shapes.infer(model)
    variables = begin_runs(model)
    node = find(model.graph)
    assert node is not None
    model.write(folder, "model.onnx", None)
    return Subject(
        folder / "model.onnx",
        specs,
        SeenSizes.of(node, variables, specs),
        outputs_of(model.graph),
    )


def session(model: Model, folder: Path, **options: object) -> Session:
    """A session that can be recorded, of the model with the node."""
    return open_session(
        subject(model, folder).path,
        **{"level": "none", "library": True, "threads": 1, "reuse": True} | options,  # type: ignore[arg-type]
    )
