"""Whole models that were exported in half precision: fused and packed like their float32 originals, and as exact."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import turbo_onnx
from tests.command_line import runner
from tests.corpus import CorpusGraph, graphs
from tests.half_models import STYLES, Style, halved
from tests.passes.support import graph, parse
from tests.small_models import encoder, save
from turbo_onnx.comparison import compare_files
from turbo_onnx.errors import InputError
from turbo_onnx.inspection import inspect
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.own_precision import coarsest_result, computes_in_half, learn_types, own_precision
from turbo_onnx.precision import BFLOAT16, FLOAT16, HALF_TYPES, HalfType
from turbo_onnx.report_text import headline
from turbo_onnx.serialization.reading import read

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no compiler for CUDA kernels")

NAMES = "bert-tiny__ts17 distilbert-tiny__dy20 t5-encoder-tiny__ts17"
EXPORTS = [export for export in graphs() if export.name in NAMES.split()]


def optimized(proto: onnx.ModelProto, **options: Any) -> dict[str, Any]:
    return turbo_onnx.optimize(proto, skip_passes=["plan-memory"], **options).report.to_dict()


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.name)
def test_exports_in_half_precision_are_fused_and_packed_as_in_float32_and_verified(export: CorpusGraph) -> None:
    proto = export.load()
    original = optimized(proto, verify=False)
    for style in STYLES:
        report = optimized(halved(proto, style))
        assert report["attention"] == original["attention"]
        assert report["packed"] == original["packed"]
        assert report["verify"]["ok"]
        assert report["precision"]["type"] == "fp32"
        assert report["precision"]["original"] == "fp16"


def test_exports_in_bfloat16_which_the_cpu_does_not_run_are_verified_as_emulated() -> None:
    (export,) = (export for export in EXPORTS if export.name == "bert-tiny__ts17")
    report = optimized(halved(export.load(), half=BFLOAT16))
    assert report["packed"] is True
    assert report["verify"]["cases"] > 5
    assert 0 < report["verify"]["max_rel"] < 2.0**-7


def test_what_cannot_be_emulated_is_refused_in_one_sentence() -> None:
    text = (
        "g (bool c, bfloat16[N] x) => (bfloat16[N] y) { y = If (c)"
        " <then_branch = t () => (bfloat16[N] r) { r = Neg(x) },"
        " else_branch = e () => (bfloat16[N] s) { s = Abs(x) }> }"
    )
    with pytest.raises(InputError, match=r"cannot be emulated to verify it: .*; leave that out with --no-verify"):
        turbo_onnx.optimize(parse(graph(text)).to_proto())


def test_local_functions_in_half_precision_stay_as_they_are() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float16[N] x) => (float16[N] y)'
        " { a = Exp(x) b = own.Twice(a) y = Tanh(b) }"
        ' <opset_import: ["": 17], domain: "own"> Twice (p) => (q) { q = Add(p, p) }'
    )
    report = turbo_onnx.optimize(model).report
    assert report.verify.ok
    why = [rejection.sentence for rejection in report.rejected if rejection.rule == "widen-precision"]
    assert why[0].startswith("the types of what Twice of domain own reads and gives are not all known")


def test_a_result_in_bfloat16_whose_runs_cannot_be_recorded_says_so() -> None:
    report = turbo_onnx.optimize(halved(encoder(), half=BFLOAT16)).report
    (why,) = (rejection.sentence for rejection in report.rejected if rejection.rule == "plan-memory")
    assert why == "the output hidden is bfloat16, and runs that give it cannot be recorded"


@pytest.mark.parametrize("style", STYLES)
def test_two_runs_give_the_same_bytes(style: Style) -> None:
    first, second = (turbo_onnx.optimize(halved(encoder(), style)).model.SerializeToString() for _ in range(2))
    assert first == second


def test_the_memory_of_a_widened_model_is_planned() -> None:
    report = turbo_onnx.optimize(halved(encoder())).report
    assert "memory_plan" in report.facts or not turbo_onnx.library_path()


def test_the_report_says_that_weights_take_twice_the_bytes(tmp_path: Path) -> None:
    source = save(halved(encoder()), tmp_path / "half.onnx")
    result = turbo_onnx.optimize(source, output=tmp_path / "out.onnx")
    line = "Precision: float32 in 6 nodes that were in half precision, with twice the bytes of weights."
    assert line in headline(result.report)
    proto = onnx.load(tmp_path / "out.onnx")
    assert [value.type.tensor_type.elem_type for value in proto.graph.output] == [TensorProto.FLOAT16]
    assert compare_files(source, tmp_path / "out.onnx").ok


def test_a_wrong_result_is_found_at_the_tolerance_of_half_precision(tmp_path: Path) -> None:
    wrong = halved(encoder())
    (weight,) = (tensor for tensor in wrong.graph.initializer if tensor.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float16(1.5), "weight"))
    source, other = save(halved(encoder()), tmp_path / "half.onnx"), save(wrong, tmp_path / "wrong.onnx")
    assert compare_files(source, source).ok
    assert compare_files(source, other).ok is False


def test_a_decision_by_the_result_keeps_the_model_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = halved(encoder())
    proto.graph.node.append(helper.make_node("ArgMax", ["hidden"], ["class"], name="choose", axis=-1))
    proto.graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, ["batch", "tokens", 1]))
    result = turbo_onnx.optimize(proto, skip_passes=["plan-memory"])
    assert result.report.verify.ok
    assert result.report.precision["half_precision_kept"] > 0
    outcome = runner(capsys, "explain")(save(proto, tmp_path / "m.onnx"), "--pass", "widen-precision")
    assert "ArgMax could decide otherwise" in " ".join(outcome.out.split())


# -- what a model computes in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALF_TYPES.values(), ids=lambda half: half.name)
def test_what_a_model_computes_in_is_the_type_of_its_products(half: HalfType) -> None:
    model = Model.from_proto(halved(encoder(), half=half))
    learn_types(model)
    assert own_precision(model) == coarsest_result(model) == half.precision
    assert computes_in_half(model)


def test_weights_that_are_only_stored_in_half_precision_do_not_make_the_model_one() -> None:
    proto = encoder()
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name in ("table", "weight"):
                node.input[index] = f"{name}_full"
    casts = [helper.make_node("Cast", [n], [f"{n}_full"], to=TensorProto.FLOAT) for n in ("table", "weight")]
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = Model.from_proto(proto)
    learn_types(model)
    assert (own_precision(model), computes_in_half(model)) == ("fp32", False)


def test_without_a_precision_gpus_get_the_models_own_and_the_cpu_float32() -> None:
    gpu, cpu = Options(target="cuda:sm_80"), Options()
    assert gpu.for_model("bf16").precision == "bf16"
    assert cpu.for_model("fp16").precision == "fp32"
    assert Options(target="cuda:sm_80", precision="fp32").for_model("fp16").precision == "fp32"
    assert cpu.recorded()["precision"] == "fp32"


def test_the_models_types_are_left_alone_where_widening_is() -> None:
    report = optimized(halved(encoder()), passes=["raise-gelu"])
    assert report["precision"] == {"type": "fp32", "original": "fp16"}
    assert "MatMul" in report["ops_after"]


def test_files_in_bfloat16_are_read_and_inspected(tmp_path: Path) -> None:
    path = save(halved(encoder(), half=BFLOAT16), tmp_path / "m.onnx")
    assert read(path).graph.nodes
    found = inspect(path)
    assert (found.precision, found.inputs["ids"]) == ("bf16", "int64[batch, tokens]")
    assert inspect(save(encoder(), path)).precision == "fp32"


@needs_compiler
def test_for_cuda_a_model_goes_back_to_its_own_type_without_casts(tmp_path: Path) -> None:
    source = save(halved(encoder()), tmp_path / "half.onnx")
    result = turbo_onnx.optimize(source, output=tmp_path / "out.onnx", target="cuda:sm_80")
    assert result.report.precision["type"] == "fp16"
    proto = onnx.load(tmp_path / "out.onnx")
    stored = {tensor.data_type for tensor in proto.graph.initializer}
    assert TensorProto.FLOAT not in stored
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(properties["turbo_onnx.options"])["precision"] == "fp16"
    assert compare_files(source, tmp_path / "out.onnx").ok
    wide = turbo_onnx.optimize(source, target="cuda:sm_80", precision="fp32")
    assert not any(tensor.data_type == FLOAT16.element_type for tensor in wide.model.graph.initializer)
