"""Whole models in 8 bits: near what they were, proved before they are rounded, refused where that is too coarse."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import turbo_onnx
from tests import shared
from tests.command_line import Run, runner
from tests.corpus import CorpusGraph, graphs
from tests.passes.support import normal
from tests.small_models import encoder, save
from turbo_onnx import optimizer, pipeline, proof, runtime
from turbo_onnx.comparison import compare_files
from turbo_onnx.custom_ops.functions import operator_name
from turbo_onnx.custom_ops.quantized_mat_mul.layout import COLUMNS, DEPTH
from turbo_onnx.errors import InputError, VerificationError
from turbo_onnx.inspection import inspect
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.quantize_linear import SMALLEST
from turbo_onnx.report_text import headline, to_text
from turbo_onnx.tolerances import COARSE_TOLERANCES, Tolerance, difference_of
from turbo_onnx.verify import Reference, Verification, refer, verify
from turbo_onnx.verify_inputs import describe

LAYERS = {
    "bert-tiny__ts17": 9,  # two times: queries, keys and values; attention's output; up; down; and the pooler
    "bert-tiny-noMask__ts17": 8,
    "llama-tiny__dy20": 11,
    "mpnet-tiny__ts17": 12,
    "minilm-l6__ts17": 24,
}
"""Exports, and how many products with constant weights they have: packed, without a mask, causal, in part, and real."""

EXPORTS = [export for export in graphs() if export.name in LAYERS]
WORDS, WIDTH = 50, 64


@dataclass(frozen=True)
class Quantized:
    """An export in 8 bits and how it is reported; how it is in float32, and the shapes of its constant weights."""

    graph: CorpusGraph
    artifact: bytes
    report: dict[str, Any]
    plain_report: dict[str, Any]
    plain_weights: list[tuple[int, ...]]


def quantize(export: CorpusGraph) -> Quantized:
    def make(_: object) -> tuple[Any, ...]:
        plain = turbo_onnx.optimize(export.load(), verify=False, skip_passes=("plan-memory",))
        result = turbo_onnx.optimize(export.load(), precision="int8")
        artifact = result.model.SerializeToString()
        return artifact, result.report.to_dict(), plain.report.to_dict(), weights(plain.model, "MatMul", "Gemm")

    return Quantized(export, *shared.once(f"int8 {export.name}", make))


@pytest.fixture(scope="module", params=EXPORTS, ids=lambda export: export.name)
def quantized(request: pytest.FixtureRequest) -> Quantized:
    return quantize(request.param)


def weights(model: onnx.ModelProto, *operators: str) -> list[tuple[int, ...]]:
    """The shapes [K, N] of the constant weights of all nodes of these types, once for each node."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    read = [node for node in model.graph.node if node.op_type in operators and len(shapes.get(node.input[1], ())) == 2]
    return sorted(shapes[node.input[1]][:: -1 if transposes(node) else 1] for node in read)


def quantized_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Under each of their names."""
    return [node for node in model.graph.node if operator_name(node.op_type) == "QuantizedMatMul"]


def tiles(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The shapes [N / 16, K / 64] of the blocks of the weights of all quantized products, once for each node."""
    shapes = {tensor.name: tuple(tensor.dims[:2]) for tensor in model.graph.initializer}
    return sorted(shapes[node.input[1]] for node in quantized_products(model))


def tiles_of(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return sorted((-(-columns // COLUMNS), -(-rows // DEPTH)) for rows, columns in shapes)


def transposes(node: onnx.NodeProto) -> bool:
    """Whether it is a Gemm whose weight is stored as its transpose."""
    return any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)


# -- real exports -----------------------------------------------------------------------------------------------------


def test_exports_verify_and_are_packed_and_fused_as_in_float32(quantized: Quantized) -> None:
    found = quantized.report
    assert found["verify"]["ok"]
    assert found["verify"]["cases"] == 9
    assert not found["verify"]["skipped"]
    for key in ("packed", "attention"):
        assert found[key] == quantized.plain_report[key]


def test_every_layer_with_a_constant_weight_is_quantized_and_nothing_else(quantized: Quantized) -> None:
    before = [shape for shape in quantized.plain_weights if min(shape) >= SMALLEST]
    proto = onnx.load_from_string(quantized.artifact)
    assert tiles(proto) == tiles_of(before)
    assert not [shape for shape in weights(proto, "MatMul", "Gemm") if min(shape) >= SMALLEST]
    precision = quantized.report["precision"]
    assert (precision["type"], precision["int8_layers"]) == ("int8", LAYERS[quantized.graph.name])
    assert len(before) == precision["int8_layers"]


def test_the_noise_is_below_what_is_tolerated_and_above_that_of_float32(quantized: Quantized) -> None:
    most = COARSE_TOLERANCES["int8"].noise
    assert most is not None
    assert 1e-3 < quantized.report["verify"]["noise"] < most / 2


def test_a_sequence_has_the_same_bits_alone_and_among_others(quantized: Quantized) -> None:
    session = runtime.InferenceSession(quantized.artifact)
    names = [output.name for output in session.get_outputs()]
    feeds, mask = quantized.graph.inputs, quantized.graph.mask
    together = dict(zip(names, session.run(names, feeds), strict=True))
    batch = len(next(iter(feeds.values())))
    for row in range(batch):
        real = slice(None) if mask is None else np.flatnonzero(mask[row])
        alone = {name: value[[row]][:, real] for name, value in feeds.items()}
        for name, expected in zip(names, session.run(names, alone), strict=True):
            among = together[name][[row]]
            np.testing.assert_array_equal(among[:, real] if among.ndim == 3 else among, expected, name)


def test_weights_take_a_quarter_of_the_bytes() -> None:
    (export,) = (item for item in EXPORTS if item.name == "bert-tiny__ts17")
    proto = onnx.load_from_string(quantize(export).artifact)
    stored = {tensor.name: len(tensor.raw_data) for tensor in proto.graph.initializer}
    read = {node.input[1] for node in quantized_products(proto)}
    blocks = sum(rows * columns for rows, columns in tiles(proto))
    assert sum(stored[name] for name in read) == blocks * COLUMNS * DEPTH
    assert sum(stored.values()) < sum(len(tensor.raw_data) for tensor in export.load().graph.initializer)


def test_two_runs_give_the_same_bytes() -> None:
    (export,) = (item for item in EXPORTS if item.name == "bert-tiny-noMask__ts17")
    again = turbo_onnx.optimize(export.load(), precision="int8", verify=False).model.SerializeToString()
    assert again == quantize(export).artifact


# -- small models -----------------------------------------------------------------------------------------------------


def layers(*, outlier: float = 1.0, shift: float = 0.0) -> onnx.ModelProto:
    """ids [batch, tokens] -> y [batch, tokens, 64]: a lookup, two layers, and a shift.

    One column of the table is as many times larger as `outlier` says, and hardly counts in the first product.
    """
    table, up, down = normal(WORDS, WIDTH), normal(WIDTH, WIDTH, seed=1), normal(WIDTH, WIDTH, seed=2)
    table[:, 0] *= outlier
    up[0] /= outlier
    values = {"table": table, "up": up, "bias": normal(WIDTH, seed=3), "down": down, "shift": np.float32(shift)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="look_up"),
        helper.make_node("MatMul", ["rows", "up"], ["first"], name="multiply_up"),
        helper.make_node("Add", ["first", "bias"], ["biased"], name="add"),
        helper.make_node("Relu", ["biased"], ["activated"], name="bend"),
        helper.make_node("MatMul", ["activated", "down"], ["second"], name="multiply_down"),
        helper.make_node("Add", ["second", "shift"], ["y"], name="move"),
    ]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Spoil(Pass):
    """Makes one weight a thousandth larger."""

    name = "spoil"
    summary = "For tests."

    def run(self, model: Model) -> PassReport:
        for node in model.graph.nodes:
            if node.name == "multiply_down":
                node.inputs[1].values = node.inputs[1].values * np.float32(1.001)
        return PassReport(self.name, 1)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    select = pipeline.select
    monkeypatch.setattr(pipeline, "select", lambda options: [Spoil(), *select(options)])


@pytest.mark.usefixtures("spoilt")
def test_a_mistake_that_the_noise_would_hide_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VerificationError, match=r"output 'y' differs by .*; nothing was written") as caught:
        turbo_onnx.optimize(layers(), output=tmp_path / "m.onnx", precision="int8")
    assert "fp32" not in str(caught.value)  # which would not help
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(optimizer, "_verify_in_float32", lambda *_: None)
    assert turbo_onnx.optimize(layers(), precision="int8").report.verify.ok


def test_a_model_that_is_too_coarse_in_8_bits_is_not_written(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    hint = "; nothing was written; --precision fp32 keeps its numbers."
    with pytest.raises(VerificationError, match=r"differs by .* \(root mean square\) where values vary by") as caught:
        turbo_onnx.optimize(layers(outlier=1000.0), output=target, precision="int8")
    assert str(caught.value).endswith(hint)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []
    turbo_onnx.optimize(layers(outlier=1000.0), output=target, precision="fp32")
    assert target.is_file()


def test_what_is_done_before_is_verified_in_float32_first_and_only_where_anything_is() -> None:
    def steps(**options: Any) -> list[str]:
        said: list[str] = []
        turbo_onnx.optimize(layers(), progress=said.append, **options)
        return said

    plain, said = steps(precision="fp32"), steps(precision="int8")
    at = said.index("verify in float32")
    assert said[at + 1] == "quantize-linear"
    assert [*said[:at], *said[at + 1 :]] == plain  # every pass once, and all but quantization as in float32
    assert "verify in float32" not in steps(precision="int8", skip_passes=["quantize-linear"])
    assert "verify in float32" not in steps(precision="int8", verify=False)
    assert "verify in float32" not in steps(precision="fp32")


def test_the_original_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []

    def counted(*arguments: Any) -> Reference:
        runs.append(arguments)
        return refer(*arguments)

    monkeypatch.setattr(proof, "refer", counted)
    assert turbo_onnx.optimize(layers(), precision="int8").report.verify.cases == 9
    assert len(runs) == 1


def test_inputs_of_the_callers_are_compared_in_both(tmp_path: Path) -> None:
    given = {"ids": np.array([[3, 1, 4, 1, 5]])}
    report = turbo_onnx.optimize(layers(), precision="int8", inputs=given).report
    without = turbo_onnx.optimize(layers(), precision="int8").report
    assert report.verify.cases == without.verify.cases + 1


def test_an_artifact_in_which_nothing_was_quantized_is_not_said_to_be_in_8_bits(tmp_path: Path) -> None:
    target = tmp_path / "plain.onnx"
    report = turbo_onnx.optimize(layers(), output=target, precision="int8", skip_passes=["quantize-linear"]).report
    assert report.precision["type"] == "fp32"
    properties = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert json.loads(properties["turbo_onnx.options"])["precision"] == "fp32"


def test_from_option_to_artifact_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = save(layers(), tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    result = turbo_onnx.optimize(source, output=target, precision="int8")
    assert result.report.to_dict()["precision"] == {"type": "int8", "original": "fp32", "int8_layers": 2}
    properties = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert json.loads(properties["turbo_onnx.options"])["precision"] == "int8"
    assert inspect(target).precision == "int8"
    assert inspect(source).precision == "fp32"

    compared = compare_files(source, target)
    assert compared.ok
    assert compared.noise == pytest.approx(result.report.verify.noise)
    assert compare_files(source, target, rtol=1e-5, atol=1e-5).ok is False
    monkeypatch.setitem(COARSE_TOLERANCES, "int8", Tolerance(0.05, 2.5, "deviation", noise=compared.noise / 2))
    found = compare_files(source, target)
    assert not found.ok
    assert all("(root mean square)" in failure for failure in found.failures)


def test_the_report_says_how_many_layers_and_how_far_the_outputs_move() -> None:
    report = turbo_onnx.optimize(layers(), precision="int8").report
    line = (
        r"Precision: products of 8-bit integers in 2 layers, which moves the outputs by 0\.0\d+ of their standard dev"
    )
    assert any(re.match(line, sentence) for sentence in headline(report))
    unverified = turbo_onnx.optimize(layers(), precision="int8", verify=False).report
    sentence = "Precision: products of 8-bit integers in 2 layers; float32 elsewhere."
    assert sentence in headline(unverified)


def test_a_model_of_small_layers_stays_in_float32_and_says_why() -> None:
    result = turbo_onnx.optimize(encoder(), precision="int8")
    assert result.report.precision["int8_layers"] == 0
    assert result.report.verify.noise < 1e-5
    assert "weight has shape [8, 8], which is too small to gain anything" in " ".join(to_text(result.report).split())
    assert not quantized_products(result.model)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def test_the_command_line_quantizes_reports_and_verifies(run: Run, tmp_path: Path) -> None:
    source, target = save(layers(), tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    found = run("optimize", source, "-o", target, "--precision", "int8")
    assert (found.code, found.err) == (0, "")
    assert "Precision: products of 8-bit integers in 2 layers" in " ".join(found.out.split())
    as_json = run("optimize", source, "-o", target, "--precision", "int8", "--json")
    assert json.loads(as_json.out)["precision"]["int8_layers"] == 2
    assert json.loads(as_json.out)["verify"]["noise"] > 1e-3
    assert run("verify", source, target).code == 0


def test_the_command_line_refuses_int8_for_gpus_in_one_sentence(run: Run, tmp_path: Path) -> None:
    source = save(layers(), tmp_path / "m.onnx")
    found = run("optimize", source, "--precision", "int8", "--target", "cuda:sm_80")
    assert found.code == 2
    assert len(found.err.strip().splitlines()) == 1
    assert "precision int8 is for target cpu: there are no kernels for GPUs; choose fp16 or bf16." in found.err
    assert list(tmp_path.iterdir()) == [source]


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "target", "sentence"),
    [
        ("int8", "cuda", "precision int8 is for target cpu"),
        ("int8", "cuda:sm_90", "precision int8 is for target cpu"),
        ("fp16", "cpu", "precision fp16 is for target cuda"),
    ],
)
def test_a_precision_is_refused_where_there_are_no_kernels_for_it(precision: Any, target: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Options(precision=precision, target=target)
    assert caught.value.exit_code == 2


def test_layers_are_quantized_behind_all_lowering_and_can_be_left_out() -> None:
    names = pipeline.names(pipeline.select(Options(precision="int8", passes=("raise-gelu",))))
    assert names.index("quantize-linear") > names.index(pipeline.LOWER[-1].name)
    skipped = Options(precision="int8", skip_passes=("quantize-linear",))
    assert "quantize-linear" not in pipeline.names(pipeline.select(skipped))
    report = turbo_onnx.optimize(layers(), precision="int8", skip_passes=("quantize-linear",)).report
    assert report.precision["type"] == "fp32"


# -- comparing --------------------------------------------------------------------------------------------------------


def off_by(deviations: float, precision: Any = "int8") -> Verification:
    """Compare two models whose outputs are that many of their deviations apart, everywhere."""
    ids = np.random.default_rng(0).integers(0, WORDS, (8, 99))
    plain = layers().SerializeToString()
    (values,) = runtime.InferenceSession(plain).run(None, {"ids": ids})
    moved = layers(shift=deviations * float(np.std(values))).SerializeToString()
    return verify(plain, moved, describe(Model.from_proto(layers())), precision=precision, level="all")


def test_noise_is_the_root_mean_square_in_deviations_of_the_output() -> None:
    found = off_by(0.1)
    assert found.ok
    assert found.noise == pytest.approx(0.1, rel=0.2)
    most = COARSE_TOLERANCES["int8"].noise
    assert most is not None
    assert off_by(0.75 * most).ok
    too_much = off_by(1.5 * most)
    assert too_much.ok is False
    assert "(root mean square) where values vary by" in too_much.failures[0]


def test_single_numbers_may_be_farther_off_than_all_of_them() -> None:
    before = np.float32([0.0, 8.0])
    _, _, bound = difference_of(before, before, COARSE_TOLERANCES["int8"], spread=2.0)
    np.testing.assert_allclose(bound, [5.0, 5.4])
