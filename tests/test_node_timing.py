"""The models by which nodes are timed: right by the operators' references, on the CPU."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cuda.uses import uses
from turbo_onnx import node_timing, runtime, sessions
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.archive import pack
from turbo_onnx.custom_ops.cuda.samples import ragged, sample
from turbo_onnx.errors import InputError

BATCH = ragged(sequences=3, longest=9)
TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


@pytest.mark.parametrize("element", list(TOLERANCES))
def test_every_node_gives_what_its_reference_says(element: str) -> None:
    for use in uses(element, widths=(48,), heads=((3, 16),)):
        inputs = sample(use, BATCH)
        proto = node_timing.model(use, inputs, pack([]), nodes=3, copies=2)
        onnx.checker.check_model(proto)
        session = runtime.InferenceSession(proto.SerializeToString(), ort.SessionOptions())
        feeds = {tensor.name: inputs[tensor.name.rpartition(".")[0]] for tensor in session.get_inputs()}
        actual = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))
        declared = spec(use.operator)
        given = [inputs.get(operand.name) for operand in declared.inputs]
        expected = declared.reference(given, use.attributes)
        named = {o.name: value for o, value in zip(declared.outputs, expected, strict=True) if o.name in actual}
        assert named.keys() == actual.keys()
        for name, value in named.items():
            scale = max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(actual[name], value, rtol=0, atol=TOLERANCES[element] * scale)


def test_libraries_of_cuda_are_loaded_without_a_word(monkeypatch, capsys) -> None:
    loaded = []

    def preload() -> None:
        loaded.append("libraries")
        print("Failed to load a library")
        raise OSError

    monkeypatch.setattr(sessions, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(ort, "preload_dlls", preload, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    sessions.require_provider()
    assert loaded == ["libraries"]
    assert capsys.readouterr().out == ""


def test_a_runtime_without_the_provider_is_refused_in_one_sentence() -> None:
    if sessions.PROVIDER in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(InputError, match="has no CUDA provider"):
        sessions.require_provider()
