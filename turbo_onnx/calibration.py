"""How large the numbers of a graph get: its tensors' magnitudes on inputs, measured in ONNX Runtime on the CPU.

The inputs are those that verification makes (random ids, ragged masks), and the caller's own. Random ids need not reach
the outliers that real text does: whoever has real inputs should give some.

Every tensor is reduced to one number inside the graph, so that memory holds no more of them than in a plain run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper, numpy_helper

from turbo_onnx.emulation import emulated, uses_bfloat16
from turbo_onnx.errors import InputError
from turbo_onnx.model import Model
from turbo_onnx.serialization import writing
from turbo_onnx.sessions import open_session
from turbo_onnx.verify import run_cases
from turbo_onnx.verify_inputs import Feed, InputSpec, with_binary_inputs

_PREFIX = "turbo_onnx.calibration"


@dataclass(frozen=True)
class Samples:
    """What a model is run on.

    Attributes:
        specs: what its inputs are, for those that are made.
        cases: the caller's own inputs, by name.
        seed: for the inputs that are made.
    """

    specs: Sequence[InputSpec]
    cases: Mapping[str, Feed] = field(default_factory=dict)
    seed: int = 0


def magnitudes(
    model: Model, tensors: Sequence[gs.Variable], samples: Samples, scratch: Path | None = None
) -> dict[str, float]:
    """The largest finite |x| of each tensor over all inputs, by the tensor's name; 0 where it was always empty.

    Args:
        model: any that ONNX Runtime runs; operators of ours run by their function bodies.
        tensors: float32 tensors of its graph.
        samples: the inputs.
        scratch: a folder to write the model into for as long as it is run; None for the system's.

    Raises:
        InputError: ONNX Runtime is not installed, or there are no inputs that the model runs on.
        OutputError: the model cannot be written down to run it.
    """
    if not tensors:
        return {}
    proto, weights = emulated(model) if uses_bfloat16(model) else model.without_weights()
    names = [tensor.name for tensor in tensors]
    _expose(proto.graph, names)
    with writing.scratch(scratch) as folder:
        writing.write_model(folder, "model.onnx", proto, weights, external=True)  # which the runtime maps
        session = open_session(folder / "model.onnx", level="none")
        skipped: list[str] = []
        specs = with_binary_inputs(samples.specs, model)
        cases = run_cases(session, specs, samples.cases, samples.seed, skipped)
    if not cases:
        why = skipped[0] if skipped else "there are no inputs"
        raise InputError(
            f"{model.name}: the range of its numbers cannot be measured: {why}; give inputs with --inputs."
        )
    return {name: max(float(case.expected[_output(i)]) for case in cases) for i, name in enumerate(names)}


def _output(index: int) -> str:
    return f"{_PREFIX}.{index}"


def _expose(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Let the graph compute nothing but the magnitudes of the named tensors."""
    constants: dict[str, Any] = {
        "flat": np.array([-1], np.int64),
        "zero": np.zeros(1, np.float32),
        "infinity": np.array(np.inf, np.float32),
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{_PREFIX}.{name}"))
    del graph.output[:]
    for index, name in enumerate(names):
        graph.node.extend(_magnitude(name, _output(index)))
        graph.output.append(helper.make_tensor_value_info(_output(index), onnx.TensorProto.FLOAT, []))


def _magnitude(tensor: str, output: str) -> Iterator[NodeProto]:
    """Nodes for the largest finite |x|. A zero more makes it right for tensors without elements."""
    steps = (
        ("Reshape", (tensor, f"{_PREFIX}.flat"), "elements"),
        ("Concat", ("elements", f"{_PREFIX}.zero"), "some"),
        ("Abs", ("some",), "sizes"),
        ("Less", ("sizes", f"{_PREFIX}.infinity"), "finite"),
        ("Where", ("finite", "sizes", f"{_PREFIX}.zero"), "numbers"),
    )
    own = {name: f"{output}.{name}" for _, _, name in steps}
    for operator, operands, result in steps:
        attributes: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
        yield helper.make_node(operator, [own.get(name, name) for name in operands], [own[result]], **attributes)
    yield helper.make_node("ReduceMax", [own["numbers"]], [output], keepdims=0)
