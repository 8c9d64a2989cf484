"""Every operator of ours gets its compiled kernels, or runs by its function body; ONNX Runtime runs both."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import turbo_onnx
from tests.corpus import graphs
from turbo_onnx import inspection, invariants, optimizer, pipeline, shapes
from turbo_onnx.custom_ops.cuda import cache, compiler
from turbo_onnx.custom_ops.cuda.archive import Code, Rule, unpack
from turbo_onnx.custom_ops.cuda.compiler import Compiled, Resources
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.custom_ops.specification import BODY_DOMAIN, CUDA_DOMAIN, DOMAIN
from turbo_onnx.errors import InputError, Reject
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes import embed_kernels
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.embed_kernels import ARCHIVE, EmbedKernels, use_of
from turbo_onnx.serialization.checking import nodes_of

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
Compiler = list[tuple[dict[int, list[Variant]], tuple[int, ...]]]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """What the compiler was asked for; it gives one byte for each kernel."""
    calls: Compiler = []

    def compile_kernels(kernels: dict[int, list[Variant]], targets: tuple[int, ...]) -> list[Compiled]:
        calls.append((kernels, targets))
        return [
            Compiled(
                (Code(v.key, target, Rule.EXACT, True, "f", "", 4, 0, (1, 1, 1), bytes([number])),),
                Resources(1, 0, 0, 0),
            )
            for number, v in enumerate({v.key: v for v in kernels[80]}.values())
            for target in targets
        ]

    def variants(use: Use, capability: int) -> list[Variant]:
        width = use.size("x", -1)
        if width is None:
            raise Reject("the width of {} is not known", "x")
        key = f"{use.operator};{use.types['x']};{width};{use.has('bias')}"
        return [Variant(key, "m", "f", {}, {"CAPABILITY": capability})]

    monkeypatch.setattr(compiler, "compile_kernels", compile_kernels)
    monkeypatch.setattr(embed_kernels, "variants_of", variants)
    return calls


def gelus(*nodes: onnx.NodeProto, element: str = "float32", opset: int = 17, width: int | str = 4) -> onnx.ModelProto:
    """A model of nodes that read `x` and `bias`."""
    kind = TYPES[element]
    inputs = [
        helper.make_tensor_value_info("x", kind, ["N", width]),
        helper.make_tensor_value_info("bias", kind, [width]),
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], kind, ["N", width]) for node in nodes]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def gelu(output: str, inputs: Sequence[str] = ("x", "bias"), **attributes: str) -> onnx.NodeProto:
    return helper.make_node("BiasGelu", list(inputs), [output], name=f"make_{output}", domain=DOMAIN, **attributes)


def embed(proto: onnx.ModelProto, *capabilities: int) -> tuple[Model, PassReport]:
    model = Model.from_proto(proto)
    shapes.infer(model)
    report = EmbedKernels(capabilities or (80, 90)).run(model)
    invariants.check(model)
    return model, report


def test_all_nodes_share_one_archive_as_their_last_declared_input(compiled: Compiler) -> None:
    model, report = embed(gelus(gelu("a"), gelu("b"), gelu("c", ["x"])))
    assert report.applied == 3
    assert [node.domain for node in model.graph.nodes] == [CUDA_DOMAIN] * 3
    archives = {id(node.inputs[2]): node.inputs[2] for node in model.graph.nodes}
    (archive,) = archives.values()
    assert (archive.name, archive.dtype, len(archive.shape)) == (ARCHIVE, np.uint8, 1)
    assert [tensor.name for tensor in model.graph.nodes[2].inputs] == ["x", "", ARCHIVE]
    assert [(code.key, code.capability) for code in unpack(archive.values.tobytes())] == [
        (f"BiasGelu;float32;4;{bias}", capability) for bias in (False, True) for capability in (80, 90)
    ]
    proto = model.to_proto()
    assert [tensor.name for tensor in proto.graph.initializer] == [ARCHIVE]
    assert {entry.domain for entry in proto.opset_import} == {"", CUDA_DOMAIN}


def test_everything_is_compiled_at_once_for_each_architecture_and_the_fallback(compiled: Compiler) -> None:
    embed(gelus(gelu("a"), gelu("c", ["x"])), 90, 100)
    ((kernels, targets),) = compiled
    assert targets == (90, 100)
    assert {c: [v.constants["CAPABILITY"] for v in variants] for c, variants in kernels.items()} == {
        80: [80, 80], 90: [90, 90], 100: [100, 100]
    }  # fmt: skip


def test_what_was_done_is_reported(compiled: Compiler) -> None:
    _, report = embed(gelus(gelu("a"), gelu("c", ["x"])))
    facts = dict(report.facts["kernels"])  # type: ignore[call-overload]
    assert facts.pop("bytes") > 0
    assert facts == {"count": 2, "architectures": ["sm_80", "sm_90"]}
    assert "nodes_run_by_body" not in report.facts


def test_a_second_run_changes_nothing(compiled: Compiler) -> None:
    model, _ = embed(gelus(gelu("a"), gelu("c", ["x"])))
    before = invariants.fingerprint(model)
    assert EmbedKernels((80,)).run(model).applied == 0
    assert invariants.fingerprint(model) == before


def test_a_graph_without_our_operators_is_left_alone(compiled: Compiler) -> None:
    model, report = embed(gelus(helper.make_node("Add", ["x", "bias"], ["y"])))
    assert (report.applied, compiled) == (0, [])
    assert not model.to_proto().graph.initializer


def test_a_node_for_which_no_kernel_can_be_made_runs_by_its_body(compiled: Compiler) -> None:
    model, report = embed(gelus(gelu("a"), width="H"))
    assert model.graph.nodes[0].domain == BODY_DOMAIN
    assert [(entry.node, entry.sentence) for entry in report.rejected] == [("make_a", "the width of x is not known")]
    assert report.facts == {"nodes_run_by_body": ["make_a"]}
    assert compiled == []


def test_a_type_that_no_cuda_kernel_takes_runs_by_its_body(compiled: Compiler) -> None:
    model, report = embed(gelus(gelu("a"), element="float64"))
    assert model.graph.nodes[0].domain == BODY_DOMAIN
    assert report.rejected[0].sentence == "x is float64, and CUDA kernels take float32 or float16 or bfloat16"


def test_operands_of_different_types_run_by_the_body(compiled: Compiler) -> None:
    proto = gelus(gelu("a"))
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    model = Model.from_proto(proto)
    shapes.infer(model)
    report = EmbedKernels((80,)).run(model)
    assert report.rejected[0].sentence == "bias is float16, and other operands are float32"


@pytest.mark.parametrize(
    ("bias", "sentence"),
    [
        (np.float16, None),
        (np.float32, None),
        (np.float64, "attention_bias is float64, and CUDA kernels take float32 or float16 or bfloat16"),
        (TensorProto.BFLOAT16, "attention_bias is bfloat16, and must be float16 or float32"),
    ],
)
def test_an_attention_bias_is_of_the_others_type_or_float32(bias: object, sentence: str | None) -> None:
    query, output = (gs.Variable(name, np.float16, ("B", "S", 12)) for name in ("query", "output"))
    added = gs.Variable("added", bias, ("B", 1, 1, "S"))
    empty = gs.Variable.empty()
    node = gs.Node("VarlenAttention", domain=DOMAIN, inputs=[query, empty, empty, empty, empty, added])
    node.outputs = [output]
    if sentence is None:
        assert use_of(node).types["attention_bias"] == np.dtype(bias).name  # type: ignore[call-overload]
    else:
        with pytest.raises(Reject, match=sentence):
            use_of(node)


def test_nodes_inside_branches_have_kernels_too(compiled: Compiler) -> None:
    def branch(output: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 4])
        node = gelu(output)
        return helper.make_graph([node], output, [], [value])

    node = helper.make_node("If", ["which"], ["y"], then_branch=branch("p"), else_branch=branch("q"))
    proto = gelus(gelu("a"))
    proto.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4]))
    proto.graph.node.append(node)
    model, report = embed(proto)
    result = model.to_proto()
    assert report.applied == 3
    # Shapes are not inferred inside of branches, so nothing is known of the operands there that the file does not say.
    assert {n.domain for n in nodes_of(result.graph) if n.op_type.startswith("BiasGelu")} <= {CUDA_DOMAIN, BODY_DOMAIN}
    assert [tensor.name for tensor in result.graph.initializer] == [ARCHIVE]
    session = ort.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((2, 4), np.float32), "bias": np.ones(4, np.float32), "which": np.array(True)}
    first, second = session.run(None, feed)
    np.testing.assert_array_equal(first, second)


def test_a_use_says_all_that_is_known_of_a_node() -> None:
    x = gs.Variable("x", np.float16, ["N", 4])
    y = gs.Variable("y", np.float16, ["N", 4])
    bias = gs.Constant("b", np.zeros(4, np.float16))
    node = gs.Node("BiasGelu", inputs=[x, bias], outputs=[y], domain=DOMAIN)
    use = use_of(node)
    assert use == Use(
        "BiasGelu",
        {"x": "float16", "bias": "float16", "output": "float16"},
        {"x": ("N", 4), "bias": (4,), "output": ("N", 4)},
        {"approximate": "none"},
    )
    node.inputs[1] = gs.Variable.empty()
    assert not use_of(node).has("bias")
    x.dtype = y.dtype = TensorProto.BFLOAT16
    assert use_of(node).types == {"x": "bfloat16", "output": "bfloat16"}
    x.dtype = None
    with pytest.raises(Reject, match="the type of x is not known"):
        use_of(node)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("element", ["float32", "float16"])
def test_stock_onnx_runtime_runs_both_kinds_of_nodes(compiled: Compiler, opset: int, element: str) -> None:
    nodes = [gelu("a"), gelu("b", ["x"]), gelu("c"), gelu("d", ["x", ""])]
    original = gelus(*nodes, element=element, opset=opset)
    model, _ = embed(original)
    for node, operands in zip(model.graph.nodes[1:3], (1, 2), strict=True):
        node.domain = BODY_DOMAIN
        while len(node.inputs) > operands:
            node.inputs.pop()
    proto = model.to_proto()
    assert [(f.domain, f.name) for f in proto.functions] == [
        (CUDA_DOMAIN, "BiasGelu"),
        (BODY_DOMAIN, "BiasGelu"),
        (BODY_DOMAIN, "BiasGelu_2"),
        (CUDA_DOMAIN, "BiasGelu_2"),
    ]
    onnx.checker.check_model(proto)
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(size).astype(element) for name, size in (("x", (3, 4)), ("bias", 4))}
    expected = run(Model.from_proto(original).to_proto(), feed)
    for before, after in zip(expected, run(proto, feed), strict=True):
        np.testing.assert_array_equal(before, after)


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def test_the_pass_is_last_for_cuda_whatever_else_is_chosen_and_never_for_the_cpu() -> None:
    assert "embed-kernels" not in pipeline.names(pipeline.select(Options()))
    for options in (Options(target="cuda"), Options(target="cuda", passes=("raise-gelu",))):
        assert pipeline.names(pipeline.select(options))[-1] == "embed-kernels"
    last = pipeline.select(Options(target="cuda:sm_90"))[-1]
    assert isinstance(last, EmbedKernels)
    assert last.capabilities == (90,)
    assert "embed-kernels" not in pipeline.names(
        pipeline.select(Options(target="cuda", skip_passes=("embed-kernels",)))
    )


def test_without_triton_nothing_is_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(optimizer, "read", lambda _: pytest.fail("read"))
    with pytest.raises(InputError, match=r'needs Triton.*pip install "turbo-onnx\[cuda\]"') as refusal:
        turbo_onnx.optimize("model.onnx", target="cuda")
    assert refusal.value.exit_code == 2


@needs_triton
def test_a_real_encoder_is_optimized_for_cuda_verified_and_inspected(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    export = next(entry for entry in graphs() if entry.name == "bert-tiny__ts17")
    result = turbo_onnx.optimize(export.load(), target="cuda:sm_90", output=tmp_path / "after.onnx", checks=True)
    assert result.report.verify.ok
    assert result.report.packed is True
    assert result.report.first_token_pooling
    domains = {node.domain for node in result.optimized.graph.nodes if node.domain}
    assert domains == {CUDA_DOMAIN}
    again = turbo_onnx.optimize(export.load(), target="cuda:sm_90a", verify=False)
    assert again.model == result.model
    found = inspection.inspect(tmp_path / "after.onnx")
    assert found.kernels is not None
    assert found.kernels["architectures"] == ["sm_90", "sm_80 and later (PTX)"]
    assert found.kernels["count"] == result.report.facts["kernels"]["count"]
    with pytest.raises(InputError, match="has already optimized this model"):
        turbo_onnx.optimize(tmp_path / "after.onnx", target="cuda")
