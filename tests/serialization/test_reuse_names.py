"""A written model's sizes have names by which ONNX Runtime reuses memory in place, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

from tests.passes.support import graph, parse
from tests.recorded_models import needs_recorder
from turbo_onnx import shapes
from turbo_onnx.custom_ops.begin_run import BEGIN_RUN, PLAN_DOMAIN
from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model
from turbo_onnx.passes.plan_memory import begin_runs
from turbo_onnx.recording import record
from turbo_onnx.serialization.reuse_names import _IN_PLACE, reuse_names
from turbo_onnx.sessions import open_session

MIXED = """g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
    a = MatMul(x, w) b = Tanh(a) c = Relu(b) d = MatMul(c, w) e = Softmax(d) f = MatMul(e, w) y = Neg(f)
}"""


def small(body: str) -> Model:
    model = parse(graph(body))
    shapes.infer(model)
    return model


def named(body: str) -> dict[str, list[int | str]]:
    """The names that are given to the sizes of each intermediate, by the tensor's name."""
    model = small(body)
    given = reuse_names(model.graph)
    return {t.name: given[id(t)] for node in model.graph.nodes for t in node.outputs if id(t) in given}


def test_every_intermediate_has_names_of_its_own() -> None:
    found = named(
        "g (float[N,4] x) => (float[N,4] y) { a = Softmax(x) b = LpNormalization(a) c = Identity(b) y = Neg(c) }"
    )
    assert list(found) == ["a", "b", "c"]
    assert len({shape[0] for shape in found.values()}) == 3
    assert all(isinstance(shape[0], str) and shape[1] == 4 for shape in found.values())


def test_what_may_be_computed_in_place_shares_the_names_of_its_operand() -> None:
    found = named("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Tanh(a) y = Identity(b) }")
    assert found["a"] == found["b"]


def test_a_chain_in_place_shares_names_from_end_to_end() -> None:
    found = named(
        "g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Tanh(a) c = Relu(b) d = Sigmoid(c) y = Identity(d) }"
    )
    assert found["a"] == found["b"] == found["c"] == found["d"]


def test_only_the_first_operand_is_overwritten_and_only_by_the_first_result() -> None:
    model = small("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Identity(x) c = Max(a, b) y = Neg(c) }")
    a, b, c = (model.graph.nodes[i].outputs[0] for i in range(3))
    model.graph.nodes[2].op = "SkipLayerNormalization"
    total = gs.Variable("total", a.dtype, list(a.shape))
    model.graph.nodes[2].outputs.append(total)
    given = reuse_names(model.graph)
    assert given[id(c)] == given[id(a)]
    assert len({given[id(t)][0] for t in (a, b, total)}) == 3


def test_sums_and_other_arithmetic_are_not_computed_in_place() -> None:
    found = named("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Add(a, x) c = Exp(b) y = Identity(c) }")
    assert len({shape[0] for shape in found.values()}) == 3


def test_what_two_nodes_read_is_not_overwritten() -> None:
    found = named("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Tanh(a) y = Max(a, b) }")
    assert found["a"] != found["b"]


def test_what_one_node_reads_twice_is_not_overwritten_by_it() -> None:
    found = named("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = PRelu(a, a) y = Identity(b) }")
    assert found["a"] != found["b"]


def test_inputs_and_outputs_of_the_model_are_not_renamed() -> None:
    found = named(
        "g (float[N,4] x) => (float[N,4] b, float[N,4] y) { a = Tanh(x) b = Relu(a) c = Tanh(b) y = Identity(c) }"
    )
    assert set(found) == {"a", "c"}
    assert found["a"] != found["c"]


def test_other_shapes_and_types_share_no_names() -> None:
    model = small("g (float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Relu(a) c = Relu(b) y = Identity(c) }")
    a, b, c = (model.graph.nodes[i].outputs[0] for i in range(3))
    b.shape = ["M", 4]
    c.dtype, c.shape = np.dtype(np.float64), ["M", 4]
    given = reuse_names(model.graph)
    assert len({given[id(t)][0] for t in (a, b, c)}) == 3


def test_fixed_sizes_stay_what_they_are_and_unknown_ranks_are_left_out() -> None:
    model = small("g (float[2,N] x) => (float[2,N] y) { a = Tanh(x) b = Neg(a) y = Identity(b) }")
    model.graph.nodes[1].outputs[0].shape = None
    given = reuse_names(model.graph)
    (shape,) = given.values()
    assert shape[0] == 2
    assert isinstance(shape[1], str)


def test_two_sizes_of_one_tensor_have_two_names() -> None:
    model = small("g (float[N,N] x) => (float[N,N] y) { a = MatMul(x, x) y = Neg(a) }")
    (shape,) = reuse_names(model.graph).values()
    assert len(set(shape)) == 2


def test_scalars_have_no_names_and_new_names_are_not_the_models() -> None:
    found = named(
        """g (float[size_0_0,4] x) => (float[size_0_0,4] y, float s) {
            total = ReduceSum<keepdims = 0>(x) s = Neg(total) a = Neg(x) y = Identity(a)
        }"""
    )
    assert found["total"] == []
    assert found["a"][0] != "size_0_0"


def test_every_model_is_written_with_these_names_and_inputs_and_outputs_keep_theirs() -> None:
    model = small(MIXED)
    shapes_of = {value.name: value.type.tensor_type.shape for value in model.to_proto().graph.value_info}
    assert "N" not in {shape.dim[0].dim_param for shape in shapes_of.values()}
    begin_runs(model)
    proto = model.to_proto()
    onnx.checker.check_model(proto)
    assert [d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["N", ""]
    assert [d.dim_param for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["N", ""]


def test_intermediates_of_subgraphs_have_names_of_their_own() -> None:
    model = small(
        """g (bool yes, float[N,4] x) => (float[N,4] y) {
            a = Exp(x)
            y = If(yes) <
                then_branch = one () => (float[N,4] r) { b = Exp(a) c = Relu(b) r = Neg(c) },
                else_branch = two () => (float[N,4] s) { d = Exp(a) s = Neg(d) }
            >
        }"""
    )
    given = {t.name: shape for t in tensors(model.graph) if (shape := reuse_names(model.graph).get(id(t))) is not None}
    assert set(given) == {"a", "b", "c", "d"}
    assert given["b"] == given["c"]
    assert len({given[name][0] for name in "abd"}) == 3


def tensors(graph: gs.Graph) -> Iterator[gs.Variable]:
    for node in graph.nodes:
        yield from node.outputs
        for inner in subgraphs(node):
            yield from tensors(inner)


def test_a_size_that_was_taken_for_another_costs_memory_and_not_the_run() -> None:
    model = small(
        "g (float[N,4] x, float[M,4] z) => (float[P,4] y) { a = Exp(x) b = Add(a, z) c = Exp(b) y = Add(c, b) }"
    )
    for node in model.graph.nodes[:-1]:
        assert node.outputs[0].shape[0] == "N"  # what inference takes an addition's result to be
    session = ort.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros((1, 4), np.float32), "z": np.zeros((3, 4), np.float32)})
    assert np.allclose(y, np.exp(1) + 1)
    assert y.shape == (3, 4)


def allocations(model: Model, path: Path, rows: int = 3) -> tuple[int, ...]:
    path.write_bytes(model.to_proto().SerializeToString())
    session = open_session(path, level="none", library=True, threads=1, reuse=True)
    feed = {tensor.name: np.ones((rows, 4), np.float32) for tensor in model.graph.inputs}
    return record(session, feed).sizes


@needs_recorder
def test_the_runtime_reuses_memory_in_place_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(MIXED)
    begin_runs(model)
    in_place = allocations(model, tmp_path / "in_place.onnx")
    assert len(in_place) == 4  # a with b and c in its place, d with e, f, and y

    def own(graph: object) -> dict[int, list[int | str]]:
        tensors = [t for node in model.graph.nodes for t in node.outputs if t is not model.graph.outputs[0]]
        return {id(t): [f"own_{i}", 4] for i, t in enumerate(tensors) if t not in model.graph.nodes[0].outputs}

    monkeypatch.setattr("turbo_onnx.serialization.exporting.reuse_names", own)
    assert len(allocations(model, tmp_path / "own.onnx")) == 7  # every node's result
    monkeypatch.setattr("turbo_onnx.serialization.exporting.reuse_names", lambda graph: {})
    assert len(allocations(model, tmp_path / "named.onnx")) < 4  # all are of one size by name, and take turns


@needs_recorder
def test_the_node_that_begins_a_run_allocates_nothing(tmp_path: Path) -> None:
    model = small("g (float[N,4] x, float[N,4] z) => (float[N,4] y) { y = Add(x, z) }")
    begin_runs(model)
    assert next((node.domain, node.op) for node in model.graph.nodes) == (PLAN_DOMAIN, BEGIN_RUN)
    assert allocations(model, tmp_path / "m.onnx") == (48,)


WRITTEN = {"Cast": "Cast<to = 1>(a)", "BiasGelu": "turbo_onnx.BiasGelu(a, bias)"} | {
    "SkipLayerNormalization": "turbo_onnx.SkipLayerNormalization(a, x, bias)",
    "GatedActivation": "turbo_onnx.GatedActivation(a, x)",
    "RotaryEmbedding": "turbo_onnx.RotaryEmbedding<num_heads = 1>(a, , x, x)",
}


@needs_recorder
@pytest.mark.parametrize("operator", sorted(_IN_PLACE))
def test_every_operator_that_is_said_to_work_in_place_does(operator: str, tmp_path: Path) -> None:
    result = WRITTEN.get(operator, f"{operator}(a)")
    model = Model.from_proto(
        onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": 17, "turbo_onnx": 1]>
            g (float[N,4] x) => (float[N,4] y)
            <float[4,4] w = {{1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}}, float[4] bias = {{1, 2, 3, 4}}>
            {{ a = MatMul(x, w) b = {result} y = MatMul(b, w) }}"""
        )
    )
    shapes.infer(model)
    begin_runs(model)
    assert allocations(model, tmp_path / "m.onnx") == (48, 48)
