"""Branches are optimized as the main graph is, share their weights, and are verified both."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.branch_models import branch_model, branches, large_initializers, merged_decoder, operators_in
from tests.decoders import WEIGHTS, attention
from tests.passes.support import equivalent, graph, normal, run
from turbo_onnx import optimizer, pipeline, shapes
from turbo_onnx.branches import Branches
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.base import Rejection
from turbo_onnx.passes.optimize_branches import OptimizeBranches
from turbo_onnx.sessions import library_available, open_session
from turbo_onnx.verify import verify
from turbo_onnx.verify_inputs import describe

X = normal(2, 5, 16)
GELU = "h = Div(m, root) e = Erf(h) f = Add(e, one) g = Mul(m, f) y = Mul(g, half)"
NUMBERS = ", float root = {1.4142135381698608}, float one = {1.0}, float half = {0.5}"


def rewritten(model: Model, **options: object) -> list[Rejection]:
    """Run all passes, checked, over the model; what they did not do."""
    reports = pipeline.run(model, pipeline.select(Options(**options)), checks=True)  # type: ignore[arg-type]
    return [rejection for report in reports for rejection in report.rejected]


def same(before: onnx.ModelProto, model: Model, **feeds: np.ndarray) -> None:
    """Both branches compute what they did, by the functions and, where there is the library, by its kernels."""
    for which in (True, False):
        feed = {"x": X, "which": np.array(which), **feeds}
        equivalent(before, model, feed)
        if library_available():
            session = open_session(model.to_proto().SerializeToString(), library=True)
            equivalent(run(before, feed), model, feed)
            for old, new in zip(run(before, feed), session.run(None, feed), strict=True):
                np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


# -- what is done -----------------------------------------------------------------------------------------------------


def test_a_merged_decoder_is_fused_in_both_branches() -> None:
    model = merged_decoder()
    before = model.to_proto()
    result = optimizer.optimize(before)
    report = result.report
    assert (report.attention_found, report.attention_fused) == (2, 2)
    assert report.verify.ok
    assert [operators.count("VarlenAttention") for operators in operators_in(result.optimized)] == [1, 1]
    assert large_initializers(result.model) == (sorted(WEIGHTS), [])
    names = [[output.name for output in branch.output] for branch in inner_graphs(before)]
    assert [[output.name for output in branch.output] for branch in inner_graphs(result.model)] == names
    for past, use in ((3, True), (0, True), (0, False), (3, False)):
        feed = {"x": X, "use_past": np.array([use])}
        feed |= {name: normal(2, 2, past, 8) for name in ("past_keys", "past_values")}
        equivalent(before, result.optimized, feed)


def inner_graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [attribute.g for node in proto.graph.node for attribute in node.attribute]


def test_the_report_counts_what_passes_did_in_branches() -> None:
    report = optimizer.optimize(merged_decoder().to_proto()).report
    done = {step.name: step.applied for step in report.passes if step.applied}
    assert done["fuse-multi-head-attention"] == 2
    assert [step.facts.get("attention_fused", 0) for step in report.passes if step.name == "raise-attention"] == [0, 0]
    assert not any(rejection.rule == OptimizeBranches.name for rejection in report.rejected)


def test_weights_that_passes_join_in_both_branches_are_held_once() -> None:
    plain, scaled = (attention("keys = Identity(k)", "values = Identity(v)", "y", scale) for scale in ("scale", "half"))
    model = branch_model(plain, scaled, constants=", float half = {0.5}")
    before = model.to_proto()
    rewritten(model)
    assert [operators.count("MatMul") for operators in operators_in(model)] == [2, 2]
    outside, inside = large_initializers(model.to_proto())
    assert len(outside) == 2
    assert inside == []
    same(before, model)


def test_weights_that_one_branch_reads_are_held_outside() -> None:
    model = branch_model("m = MatMul(x, wq) y = Softmax(m)", "y = Neg(x)")
    rewritten(model)
    assert large_initializers(model.to_proto()) == (["wq"], [])


def test_weights_that_a_file_holds_in_a_branch_are_held_outside() -> None:
    proto = branch_model("m = MatMul(x, wq) y = Softmax(m)", "y = Neg(x)").to_proto()
    branch = next(graph for graph in inner_graphs(proto) if graph.name == "yes")
    branch.initializer.extend(proto.graph.initializer)
    del proto.graph.initializer[:]
    model = Model.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    rewritten(model)
    assert large_initializers(model.to_proto()) == (["wq"], [])
    same(proto, model)


def test_what_is_computed_outside_is_read_inside() -> None:
    nodes = "m = MatMul(negative, wq) " + GELU
    model = branch_model(nodes, nodes.replace("wq", "wk"), before="negative = Neg(x)", constants=NUMBERS)
    before = model.to_proto()
    rewritten(model)
    assert operators_in(model) == [["MatMul", "BiasGelu"]] * 2
    assert [node.inputs[0] is model.graph.nodes[0].outputs[0] for node in (b.nodes[0] for b in branches(model))] == [
        True,
        True,
    ]
    assert [reader.op for reader in model.graph.nodes[0].outputs[0].outputs] == ["MatMul", "MatMul"]
    same(before, model)


def test_new_names_are_new_outside_too() -> None:
    """Whatever the passes call their nodes and tensors is taken already by the graph around the branch."""
    taken = "BiasGelu_output = Neg(x) BiasGelu_output_1 = Abs(x) Gelu_output = Neg(x) sum = Add(BiasGelu_output, x) "
    taken += "also = Add(BiasGelu_output_1, Gelu_output) "
    nodes = "m = MatMul(sum, wq) " + GELU.replace("y = ", "w = ") + " n = Add(w, also) y = MatMul(n, wo)"
    model = branch_model(nodes, "y = Add(sum, also)", before=taken, constants=NUMBERS)
    before = model.to_proto()
    rewritten(model)
    assert "BiasGelu" in operators_in(model)[0]
    outside = {tensor.name for node in model.graph.nodes for tensor in node.outputs} - {"z"}
    assert not outside & {tensor.name for branch in branches(model) for n in branch.nodes for tensor in n.outputs}
    same(before, model)


def test_outputs_of_branches_keep_their_order() -> None:
    body = (
        "m = MatMul(x, wq) " + GELU.replace("y = ", "first = ") + " second = Softmax(x)",
        "second = Neg(x) m = MatMul(x, wk) first = Softmax(m)",
    )
    model = branch_model("y = Neg(x)", "y = Abs(x)", constants=NUMBERS)
    proto = model.to_proto()
    orders = (("first", "second"), ("second", "first"))
    for branch, nodes, order in zip(inner_graphs(proto), body, orders, strict=True):
        values = ", ".join(f"float[B,S,16] {name}" for name in order)
        branch.CopyFrom(onnx.parser.parse_graph(f"b () => ({values}) {{ {nodes} }}"))
    proto.graph.node[0].output.append("further")
    proto.graph.output.append(onnx.helper.make_tensor_value_info("further", 1, ["B", "S", 16]))
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[name], name) for name in ("wq", "wk"))
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(n), name) for name, n in numbers.items())
    model = Model.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    rewritten(model)
    assert [tuple(output.name for output in branch.outputs) for branch in branches(model)] == list(orders)
    assert "BiasGelu" in operators_in(model)[0]
    same(proto, model)


def test_an_output_that_passes_on_a_captured_value_still_does() -> None:
    model = branch_model("y = Identity(x)", "m = MatMul(x, wq) y = Softmax(m)")
    before = model.to_proto()
    rewritten(model)
    assert operators_in(model) == [["Identity"], ["MatMul", "Softmax"]]
    same(before, model)


def test_an_output_that_is_a_constant_node_stays_one() -> None:
    """So are caches where a branch has none, which must not be passed on from the outside."""
    proto = branch_model("m = MatMul(x, wq) y = Softmax(m)", "s = Softmax(x) y = Neg(s)").to_proto()
    value = onnx.numpy_helper.from_array(np.ones((2, 5, 16), np.float32))
    proto.graph.node[0].attribute[1].g.node[1].CopyFrom(onnx.helper.make_node("Constant", [], ["y"], value=value))
    model = Model.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    rewritten(model)
    assert sorted(operators_in(model)) == [["Constant"], ["MatMul", "Softmax"]]
    same(proto, model)


def test_sizes_of_what_is_computed_outside_may_be_one() -> None:
    """Of two inputs of a model that are broadcast each has the same size; not so of what a model computes."""
    model = branch_model(
        "sum = Add(x, some) y = Softmax(sum)",
        "y = Neg(x)",
        inputs=", bool[S] chosen",
        before="some = Compress<axis = 1>(x, chosen)",
    )
    shapes.infer(model)
    with Branches(model).taken_out(branches(model)[0]) as part:
        x, some = part.graph.inputs
        assert shapes.infer(part).symbols.equalities == []
        assert x.shape[1] != some.shape[1]
    before = model.to_proto()
    rewritten(model)
    same(before, model, chosen=np.arange(5) == 2)
    same(before, model, chosen=np.ones(5, bool))


def test_sizes_of_other_names_may_be_one_inside_too() -> None:
    nodes = "shape = Shape(sum) all = Expand(other, shape) m = MatMul(all, wq) y = Softmax(m)"
    model = branch_model(nodes, "y = Neg(sum)", inputs=", float[C,S,16] other", before="sum = Add(x, other)")
    before = model.to_proto()
    rewritten(model)
    same(before, model, other=normal(1, 5, 16, seed=1))
    same(before, model, other=normal(2, 5, 16, seed=1))


def test_layers_in_branches_multiply_bytes() -> None:
    big = {"weight": normal(64, 64)}
    text = "m = MatMul(wide, weight) r = Reshape(m, back) y = Softmax(r)"
    model = branch_model(
        text,
        text.replace("Softmax", "Neg"),
        before="wide = Reshape(x, columns)",
        constants=", int64[2] columns = {-1, 64}, int64[3] back = {0, -1, 16}",
        weights=big,
    )
    result = optimizer.optimize(model.to_proto(), precision="int8")
    assert result.report.facts["int8_layers"] == 2
    assert [operators.count("QuantizedMatMul") for operators in operators_in(result.optimized)] == [1, 1]
    outside, inside = large_initializers(result.model)
    assert len(outside) == 1
    assert inside == []
    assert not any("inside" in rejection.sentence for rejection in result.report.rejected)


# -- what is left as it is --------------------------------------------------------------------------------------------


def sentences(model: Model, **options: object) -> list[tuple[str, str]]:
    found = [r for r in rewritten(model, **options) if r.rule == OptimizeBranches.name]
    return [(rejection.node, rejection.sentence.split(": ")[1]) for rejection in found]


def test_an_if_inside_of_a_branch() -> None:
    inner = "k = If(which) <then_branch = t () => (c) { c = Softmax(x) }, else_branch = e () => (d) { d = Neg(x) }>"
    model = branch_model(f"{inner} m = MatMul(k, wq) {GELU}", "y = Neg(x)", constants=NUMBERS)
    before = model.to_proto()
    assert sentences(model) == [("If k", "it is inside of a branch itself")]
    assert operators_in(model)[0] == ["If", "MatMul", "BiasGelu"]
    same(before, model)


def test_a_branch_that_gives_an_initializer_of_its_own() -> None:
    proto = branch_model("m = MatMul(x, wq) y = Softmax(m)", "y = Neg(x)").to_proto()
    given = inner_graphs(proto)[1]
    extra = onnx.helper.make_node("Softmax", ["x"], ["unused"])
    del given.node[:]
    given.node.append(extra)
    given.initializer.append(onnx.numpy_helper.from_array(normal(2, 5, 16), "y"))
    model = Model.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    assert sentences(model) == [("If z", "its output y is computed by none of its nodes")]
    same(proto, model)


def test_half_precision_in_a_branch() -> None:
    nodes = "h = Cast<to = 10>(x) s = Softmax(h) y = Cast<to = 1>(s)"
    model = branch_model(nodes, "y = Neg(x)")
    before = model.to_proto()
    assert sentences(model) == [("If z", "it has tensors in half precision")]
    same(before, model)


def test_branches_for_gpus() -> None:
    model = branch_model("y = Softmax(x)", "y = Neg(x)")
    steps = [step for step in pipeline.select(Options(target="cuda:sm_80")) if isinstance(step, OptimizeBranches)]
    (report,) = pipeline.run(model, steps)
    assert [r.sentence.split(": ")[1] for r in report.rejected] == ["branches are rewritten for the CPU only"]
    assert operators_in(model) == [["Softmax"], ["Neg"]]


def test_nothing_reaches_a_branch_that_is_not_taken_out() -> None:
    """Both branches have nodes of the same names, which read the same: edits to one must not touch the other."""
    nodes = "m = MatMul(x, wq) y = Softmax(m)"
    model = branch_model(nodes, nodes)
    one, other = branches(model)
    with Branches(model).taken_out(one) as part:
        edit = Editor(part.graph)
        assert [tensor.name for tensor in part.graph.inputs] == ["x"]
        edit.replace(part.graph.nodes[0].inputs[0], edit.node("Neg", [part.graph.inputs[0]]))
        part.graph.nodes[0].inputs[1] = edit.constant(normal(16, 16))
    assert [tensor.name for tensor in other.nodes[0].inputs] == ["x", "wq"]
    assert any(reader is other.nodes[0] for reader in other.nodes[0].inputs[0].outputs)
    assert other.nodes[0].inputs[1].outputs == [other.nodes[0]]
    assert one.inputs == []


def test_a_refusal_leaves_the_branch_as_it_was() -> None:
    model = branch_model("h = Cast<to = 10>(x) s = Softmax(h) y = Cast<to = 1>(s)", "y = Neg(x)")
    with pytest.raises(Reject, match="half precision"), Branches(model).taken_out(branches(model)[0]):
        pass
    assert branches(model)[0].inputs == []
    assert branches(model)[0].nodes[0].inputs[0] is model.graph.inputs[0]


# -- verification -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_difference_in_either_branch_is_found(wrong: int) -> None:
    model = merged_decoder()
    before = model.to_proto()
    after = onnx.ModelProto.FromString(before.SerializeToString())
    product = next(node for node in inner_graphs(after)[wrong].node if node.op_type == "Softmax")
    product.op_type = "Sigmoid"
    del product.attribute[:]
    found = verify(before.SerializeToString(), after.SerializeToString(), describe(model))
    assert found.ok is False
    assert {"flags true" in failure for failure in found.failures} == {wrong == names(before).index("then_branch")}


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("c = Cast<to = 9>(n)", "flags"),
        ("one = Constant<value_int = 1>() e = Equal(n, one) c = Not(e)", "flags"),
        ("s = Cast<to = 1>(n) x2 = Mul(x, s) c = Cast<to = 9>(n)", "integers"),
    ],
)
def test_integers_that_only_choose_a_branch_choose_each(condition: str, kind: str) -> None:
    then, other = ("y1 = Neg(x)", "y2 = Abs(x)") if kind == "flags" else ("y1 = Neg(x2)", "y2 = Abs(x2)")
    text = (
        f"g (float[B] x, int64 n) => (float[B] y) {{ {condition} y = If(c) "
        f"<then_branch = t () => (float[B] y1) {{ {then} }}, else_branch = o () => (float[B] y2) {{ {other} }}> }}"
    )
    before = onnx.parser.parse_model(graph(text))
    specs = describe(Model.from_proto(before))
    assert [spec.kind for spec in specs] == ["numbers", kind]
    if kind == "flags":
        for number in range(2):
            after = onnx.ModelProto.FromString(before.SerializeToString())
            [inner for inner in inner_graphs(after) if inner.node][number].node[0].op_type = "Exp"
            assert verify(before.SerializeToString(), after.SerializeToString(), specs).ok is False


def names(proto: onnx.ModelProto) -> list[str]:
    return [attribute.name for node in proto.graph.node for attribute in node.attribute]
