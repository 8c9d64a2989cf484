"""Whole models in half precision: right on real exports, measured before, and refused where they differ."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import turbo_onnx
from tests.compare import real_rows, run
from tests.corpus import CorpusGraph, graphs
from tests.passes.support import graph as text
from tests.passes.support import normal, parse
from tests.small_models import encoder, save
from turbo_onnx import pipeline
from turbo_onnx.calibration import Samples, magnitudes
from turbo_onnx.comparison import compare_files
from turbo_onnx.counted import Counted
from turbo_onnx.emulation import emulated, runnable_on_cpu
from turbo_onnx.errors import InputError, VerificationError
from turbo_onnx.inspection import inspect
from turbo_onnx.model import Model
from turbo_onnx.options import Options, Packing
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.precision import HALF_TYPES, Precision
from turbo_onnx.report_text import headline
from turbo_onnx.sessions import open_session
from turbo_onnx.tolerances import COARSE_TOLERANCES, Tolerance, deviation, difference_of
from turbo_onnx.verify import Case, Verification, deviations_of, verify
from turbo_onnx.verify_inputs import InputSpec, describe

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no compiler for CUDA kernels")

NAMES = """
    bert-tiny__ts17 albert-tiny__dy20 roberta-tiny__ts17 distilbert-tiny__dy20 mpnet-tiny__ts17 modernbert-tiny__ts17
    longformer-tiny-cat__dy20 t5-encoder-tiny__dy20 minilm-l6__ts17 minilm-l6-pooled__dy20
""".split()
EXPORTS = [export for export in graphs() if export.name in NAMES]


@dataclass
class Converted:
    """One export, optimized and then converted, with what the original computes."""

    graph: CorpusGraph
    model: Model
    report: PassReport
    expected: dict[str, np.ndarray]


def convert(export: CorpusGraph, precision: Precision, options: Options | None = None) -> Converted:
    model = Model.from_proto(export.load())
    specs = describe(model)
    expected = run(export.load().SerializeToString(), export.inputs, library=False, optimizations=False)
    pipeline.run(model, pipeline.select(options or Options()))
    measure = partial(magnitudes, samples=Samples(specs))
    (report,) = pipeline.run(model, [ConvertPrecision(precision, measure)], checks=True)
    return Converted(export, model, report, expected)


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda export: export.name)
def in_float16(request: pytest.FixtureRequest) -> Converted:
    return convert(request.param, "fp16")


def outputs(model: bytes | Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """On the CPU, by the function bodies and without the runtime's optimizations, which fail on some in float16."""
    session = open_session(model, level="none")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def check_within(converted: Converted, actual: dict[str, np.ndarray], precision: Precision) -> None:
    for name, before in converted.expected.items():
        left, right = (real_rows(converted.graph.mask, array) for array in (before, actual[name]))
        assert right.dtype == left.dtype
        limits, spread = COARSE_TOLERANCES[precision], deviation(left.astype(np.float64).reshape(-1))
        difference, _, bound = difference_of(left, right, limits, spread=spread)
        assert (difference <= bound).all(), (name, float(difference.max()), spread)


def test_exports_in_float16_compute_the_same_by_their_bodies(in_float16: Converted) -> None:
    assert in_float16.report.applied > 10
    actual = outputs(in_float16.model.to_proto().SerializeToString(), in_float16.graph.inputs)
    check_within(in_float16, actual, "fp16")


def test_no_number_is_cast_there_and_back_or_twice_alike(in_float16: Converted) -> None:
    casts = [node for node in in_float16.model.graph.nodes if node.op == "Cast"]
    floats = [node for node in casts if node.inputs[0].dtype.kind == "f"]
    assert not any(giver.op == "Cast" and giver in floats for node in floats for giver in node.inputs[0].inputs)
    kinds = [(node.inputs[0].name, node.outputs[0].dtype) for node in casts]
    assert len(kinds) == len(set(kinds))


def test_weights_take_half_the_bytes() -> None:
    (export,) = (item for item in EXPORTS if item.name == "bert-tiny__ts17")
    stored, original = (
        sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
        for proto in (convert(export, "fp16").model.to_proto(), export.load())
    )
    assert stored < 0.52 * original


@pytest.mark.parametrize(
    "export", [e for e in EXPORTS if e.name in (NAMES[0], NAMES[1], NAMES[-2])], ids=lambda e: e.name
)
def test_exports_in_bfloat16_compute_the_same_as_emulated(export: CorpusGraph) -> None:
    converted = convert(export, "bf16")
    with runnable_on_cpu(converted.model, b"") as path:
        check_within(converted, outputs(path, export.inputs), "bf16")


@pytest.mark.parametrize(
    ("name", "precision", "packing"),
    [
        ("mpnet-tiny__ts17", "bf16", "auto"),
        ("t5-encoder-tiny__ts17", "fp16", "auto"),
        ("t5-encoder-tiny__dy20", "bf16", "auto"),
        ("bert-tiny-eager-hf4__ts17", "fp16", "off"),
    ],
)
def test_attention_with_a_bias_beyond_the_range_and_all_products_compute_in_half_precision(
    name: str, precision: Precision, packing: Packing
) -> None:
    (export,) = (item for item in graphs() if item.name == name)
    converted = convert(export, precision, Options(packing=packing))
    nodes = converted.model.graph.nodes
    attention = [node for node in nodes if node.op == "VarlenAttention"]
    products = [node for node in nodes if node.op in ("MatMul", "Gemm")]
    half = HALF_TYPES[precision].dtype
    assert attention
    assert {np.dtype(node.outputs[0].dtype) for node in [*attention, *products]} == {half}
    assert {np.dtype(node.inputs[5].dtype).name for node in attention} == {"float32"}
    with runnable_on_cpu(converted.model, converted.model.to_proto().SerializeToString()) as path:
        check_within(converted, outputs(path, export.inputs), precision)


# -- measuring --------------------------------------------------------------------------------------------------------


def test_the_largest_finite_number_of_each_tensor_is_found() -> None:
    model = parse(
        text("g (float[N,2] x) => (float[N,2] y, float[N,2] z) <float m = {-3}> { y = Mul(x, m) z = Log(x) }")
    )
    feeds = {"some": {"x": np.float32([[1, 2]])}, "more": {"x": np.float32([[0, np.e], [-1, 0.5]])}}
    tensors = [node.outputs[0] for node in model.graph.nodes]
    found = magnitudes(model, tensors, Samples([InputSpec("x", None, (), "unknown")], feeds))
    assert found == {"y": pytest.approx(3 * np.e), "z": pytest.approx(1.0)}


def test_a_tensor_without_elements_measures_nothing() -> None:
    model = parse(text("g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }"))
    unknown = [InputSpec("x", None, (), "unknown")]
    samples = Samples(unknown, {"nothing": {"x": np.zeros((0, 2), np.float32)}})
    assert magnitudes(model, [model.graph.nodes[0].outputs[0]], samples) == {"y": 0.0}


def test_a_model_that_no_inputs_can_be_made_for_is_refused_until_some_are_given() -> None:
    model = parse(text("g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }"))
    samples = Samples([InputSpec("x", None, (), "unknown")])
    with pytest.raises(InputError, match=r"cannot be measured: no inputs can be made for 'x'; give .* --inputs"):
        magnitudes(model, [model.graph.nodes[0].outputs[0]], samples)


def test_without_a_runtime_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    model = Model.from_proto(encoder())
    with pytest.raises(InputError, match="ONNX Runtime is not installed"):
        magnitudes(model, [model.graph.nodes[0].outputs[0]], Samples(describe(model)))


# -- emulating bfloat16 -----------------------------------------------------------------------------------------------


def test_the_emulation_rounds_operands_weights_and_results() -> None:
    model = parse(text("g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) y = Relu(a) }"), {"w": normal(8, 8)})
    pipeline.run(model, [ConvertPrecision("bf16", lambda *_: {})])
    x = normal(16, 8, seed=1)

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(ml_dtypes.bfloat16).astype(np.float32)

    with runnable_on_cpu(model, b"") as path:
        (y,) = outputs(path, {"x": x}).values()
    exact = rounded(x).astype(np.float64) @ rounded(normal(8, 8))
    np.testing.assert_array_equal(y, rounded(np.maximum(exact, 0).astype(np.float32)))
    proto, _ = emulated(model)
    assert not any(value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in proto.graph.value_info)


def test_a_model_without_bfloat16_runs_as_it_is() -> None:
    with runnable_on_cpu(Model.from_proto(encoder()), b"content") as candidate:
        assert candidate == b"content"


# -- comparing --------------------------------------------------------------------------------------------------------


def test_differences_are_measured_in_deviations_of_the_output_over_all_cases() -> None:
    counted = Counted()
    cases = [Case("a", {}, {"y": np.float32([1, 3])}, counted), Case("b", {}, {"y": np.float32([5, np.inf])}, counted)]
    assert deviations_of(cases) == {"y": pytest.approx(np.std([1, 3, 5]))}


def test_fills_of_masks_do_not_widen_the_tolerance() -> None:
    numbers = normal(1000).astype(np.float64)
    filled = np.concatenate([numbers, np.full(100, -1e9)])
    assert deviation(filled) == deviation(numbers) == pytest.approx(np.std(numbers))
    assert deviation(np.float64([0, 0, 0, 1])) == pytest.approx(np.std([0, 0, 0, 1]))
    assert deviation(np.zeros(0)) == 0.0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_tolerance_is_a_share_of_the_deviation_and_four_roundings(precision: Precision) -> None:
    before = np.float32([0.0, 8.0])
    _, _, bound = difference_of(before, before, COARSE_TOLERANCES[precision], spread=1.0)
    noise = {"fp16": 0.02, "bf16": 0.16}[precision]
    np.testing.assert_allclose(bound, [noise, noise + 32 * HALF_TYPES[precision].roundoff])


def off_by(deviations: float) -> Verification:
    """Verify, as if converted to float16, an encoder whose outputs are off by so many of their deviations."""

    def shifted(amount: float) -> bytes:
        proto = encoder()
        proto.graph.node[-1].op_type = "Identity"
        proto.graph.node[-1].output[0] = "plain"
        proto.graph.node.append(helper.make_node("Add", ["plain", "amount"], ["hidden"], name="shift"))
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(amount), "amount"))
        return bytes(proto.SerializeToString())

    specs = describe(Model.from_proto(encoder()))
    values = np.concatenate([case["hidden"].ravel() for case in _runs(shifted(0.0), specs)])
    return verify(shifted(0.0), shifted(deviations * float(np.std(values))), specs, precision="fp16")


def _runs(model: bytes, specs: Any) -> list[dict[str, np.ndarray]]:
    from turbo_onnx.verify import run_cases

    return [case.expected for case in run_cases(open_session(model), specs, {}, 0, [])]


def test_what_differs_by_more_than_the_noise_of_half_precision_is_found() -> None:
    assert off_by(0.015).ok
    assert off_by(0.2).ok is False


def test_a_tolerance_of_the_callers_goes_first() -> None:
    original = encoder().SerializeToString()
    specs = describe(Model.from_proto(encoder()))
    assert verify(original, original, specs, tolerance=Tolerance(0, 0, "one"), precision="fp16").ok


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_for_the_cpu_is_refused(precision: Precision) -> None:
    with pytest.raises(InputError, match=f"precision {precision} is for target cuda") as caught:
        Options(precision=precision)
    assert caught.value.exit_code == 2


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="precision is 'int4'; choose one of fp32, fp16, bf16, int8"):
        Options(precision="int4")  # type: ignore[arg-type]


def test_the_conversion_runs_behind_all_lowering_and_can_be_skipped() -> None:
    options = Options(precision="fp16", target="cuda:sm_80", passes=("raise-gelu",))
    steps = pipeline.names(pipeline.select(options))
    assert steps.index("convert-precision") == 1 + steps.index(pipeline.LOWER[-1].name)
    skipped = Options(precision="fp16", target="cuda:sm_80", skip_passes=("convert-precision",))
    assert "convert-precision" not in pipeline.names(pipeline.select(skipped))


@needs_compiler
@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_from_option_to_artifact_and_back(tmp_path: Path, precision: Precision, kind: int) -> None:
    source, target = save(encoder(), tmp_path / "m.onnx"), tmp_path / "half.onnx"
    result = turbo_onnx.optimize(source, output=target, target="cuda:sm_80", precision=precision)
    assert result.report.verify.ok
    proto = onnx.load(target)
    assert [value.type.tensor_type.elem_type for value in proto.graph.output] == [TensorProto.FLOAT]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(properties["turbo_onnx.options"])["precision"] == precision
    assert kind in {tensor.data_type for tensor in proto.graph.initializer}
    counts = result.report.to_dict()["precision"]
    assert counts == {"type": precision, "original": "fp32", "half_precision_nodes": 4, "float32_nodes": 1}
    assert f"Precision: {precision} in 4 nodes; 1 stay in float32." in headline(result.report)
    assert compare_files(source, target).ok
    assert inspect(target).to_json()


@needs_compiler
def test_a_conversion_that_changes_the_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COARSE_TOLERANCES, "fp16", Tolerance(0, 1e-6, "deviation"))
    with pytest.raises(VerificationError):
        turbo_onnx.optimize(encoder(), output=tmp_path / "m.onnx", target="cuda:sm_80", precision="fp16")
    assert list(tmp_path.iterdir()) == []
