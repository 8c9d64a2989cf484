"""Shapes and values that are inferred are those that ONNX Runtime finds, on every real export."""

from __future__ import annotations

import pytest

from tests.corpus import CORPUS, CorpusGraph, graphs
from tests.inference.observed import input_sizes, mistakes, wrong_shape
from turbo_onnx import shapes
from turbo_onnx.dims import Dim, parse
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_constants import ConvertConstants

EXPORTS = [item for item in graphs() if (CORPUS / f"{item.name}.onnx.gz").exists()]


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.name)
def test_what_is_inferred_of_an_export_is_so(export: CorpusGraph) -> None:
    found, compared = mistakes(export.load(), export.inputs)
    assert found == []
    assert compared > 20


def test_the_comparison_can_fail() -> None:
    sizes = {"B": 2}
    assert wrong_shape(["B", 3], (2, 4), {}, sizes)
    assert wrong_shape(["B", 3], (2, 3, 1), {}, sizes)
    assert wrong_shape(["new", "new"], (2, 3), {}, sizes)
    assert wrong_shape(["2*B"], (3,), {}, sizes)
    assert not wrong_shape(["B", "new", "new"], (2, 3, 3), {}, sizes)


ENCODERS = [item for item in EXPORTS if item.name.startswith(("bert-", "roberta-", "distilbert-", "albert-"))]


@pytest.mark.parametrize("export", ENCODERS, ids=lambda export: export.name)
def test_every_size_of_an_encoder_is_one_of_its_inputs(export: CorpusGraph) -> None:
    model = Model.from_proto(export.load())
    ConvertConstants().run(model)
    shapes.infer(model)
    sizes = input_sizes(model, export.inputs).keys()
    for node in model.graph.nodes:
        for tensor in node.outputs:
            assert tensor.shape is not None, tensor.name
            dims = [parse(item) for item in tensor.shape if isinstance(item, str)]
            assert all(dim.symbols <= sizes for dim in dims if isinstance(dim, Dim)), (tensor.name, tensor.shape)
