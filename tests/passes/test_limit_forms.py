"""What has no name in the library runs by its definition; what is used most has one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.passes.support import run
from turbo_onnx import pipeline, runtime
from turbo_onnx.custom_ops.specification import BODY_DOMAIN, DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.limit_forms import LimitForms, limited

WIDTH = 24


def attentions(heads: list[int], domain: str = DOMAIN) -> Model:
    """A chain of attentions with these numbers of heads."""
    nodes, rows = [], "x"
    for number, count in enumerate(heads):
        joined = helper.make_node("Concat", [rows] * 3, [f"joined{number}"], axis=1)
        facts = {"num_heads": count, "scale": 0.5}
        attention = helper.make_node(
            "VarlenAttention",
            [f"joined{number}", "", "", "", "cu_seqlens"],
            [f"rows{number}"],
            name=f"attention{number}",
            domain=domain,
            **facts,
        )
        nodes += [joined, attention]
        rows = f"rows{number}"
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", WIDTH]),
        helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["C"]),
    ]
    outputs = [helper.make_tensor_value_info(rows, TensorProto.FLOAT, ["T", WIDTH])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    return Model.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def domains(model: Model) -> dict[str, str]:
    return {node.name: node.domain for node in model.graph.nodes if node.op == "VarlenAttention"}


def test_a_model_within_the_names_stays_as_it_is():
    model = attentions([1, 2, 3, 4, 6, 8] * 2)
    report = LimitForms().run(model)
    assert report.applied == 0
    assert not report.rejected
    assert set(domains(model).values()) == {DOMAIN}


def with_one_form_too_many() -> Model:
    return attentions([24, *[1, 2, 3, 4, 6, 8] * 2])


def test_the_rarest_form_runs_by_its_definition_and_the_report_says_so():
    model = with_one_form_too_many()
    report = LimitForms().run(model)
    assert report.applied == 1
    assert domains(model).pop("attention0") == BODY_DOMAIN
    assert list(domains(model).values()).count(DOMAIN) == 12
    (rejection,) = report.rejected
    assert rejection.node == "attention0"
    assert rejection.sentence == "the model uses VarlenAttention in more than 6 forms, and this one is rarer than those"
    assert report.facts["nodes_run_by_body"] == ["attention0"]
    assert LimitForms().run(model).applied == 0


def test_a_model_is_limited_for_a_while():
    model = with_one_form_too_many()
    before = domains(model)
    with limited(model):
        assert domains(model)["attention0"] == BODY_DOMAIN
    assert domains(model) == before
    LimitForms().run(model)
    with limited(model):
        assert domains(model)["attention0"] == BODY_DOMAIN
    assert domains(model)["attention0"] == BODY_DOMAIN


def test_what_runs_by_its_definition_computes_the_same():
    model = with_one_form_too_many()
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((7, WIDTH)).astype(np.float32),
        "cu_seqlens": np.array([0, 3, 7], np.int32),
    }
    LimitForms().run(model)
    proto = model.to_proto()
    (by_bodies,) = run(proto, feeds)
    (by_kernels,) = runtime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(by_kernels, by_bodies, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_80"])
def test_it_runs_whatever_is_asked_for(target):
    assert "limit-forms" in pipeline.names(pipeline.select(Options(target=target, passes=("raise-gelu",))))
