"""Optimized models on their CUDA kernels, from the graph to the launches; only machine code and device are not real."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import turbo_onnx
from tests.compare import largest_difference
from tests.compare import run as run_on_cpu
from tests.corpus import graphs
from tests.cuda.device import fake_codes, run
from turbo_onnx.custom_ops.cuda import compiler, lookup
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN
from turbo_onnx.passes import embed_kernels

GRAPHS = {graph.name: graph for graph in graphs()}
NAMES = (
    "bert-tiny__ts17",
    "bert-tiny-seqcls__ts17",  # the first token is pooled early
    "bert-tiny-noMask__ts17",  # no padding to remove: dense attention
    "roberta-tiny__dy20",
    "mpnet-tiny__dy20",  # dense attention with a bias
    "gpt2-tiny__ts17",  # causal
)


@pytest.fixture(autouse=True)
def _fake_code(monkeypatch):
    """Kernels that only the fake driver runs: each in float32, too.

    ONNX Runtime's CPU provider runs a node in float32 where those around it have no float16 kernels.
    """

    def variants_of(use, capability):
        wide = {name: "float32" if kind == "float16" else kind for name, kind in use.types.items()}
        uses = (use, dataclasses.replace(use, types=wide))
        return list({v.key: v for each in uses for v in lookup.variants_of(each, capability)}.values())

    def compile_kernels(kernels, targets):
        found = {variant.key: variant for variants in kernels.values() for variant in variants}
        return [compiler.Compiled(tuple(fake_codes(found.values())), compiler.Resources(0, 0, 0, 0))]

    monkeypatch.setattr(compiler, "compile_kernels", compile_kernels)
    monkeypatch.setattr(embed_kernels, "variants_of", variants_of)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_on_its_kernels_gives_what_the_original_does(name, precision):
    graph = GRAPHS[name]
    original = graph.load()
    expected = run_on_cpu(original.SerializeToString(), graph.inputs, library=False, optimizations=False)
    result = turbo_onnx.optimize(original, target="cuda:sm_90", precision=precision, verify=False)
    assert any(node.domain == CUDA_DOMAIN for node in result.model.graph.node)
    outputs = run(result.model, graph.inputs)
    actual = dict(zip(expected, outputs, strict=True))
    assert [value.dtype for value in outputs] == [value.dtype for value in expected.values()]
    if precision == "fp32":
        assert largest_difference(graph.mask, expected, actual).value < graph.tolerance
    else:
        spread = max(float(np.std(value)) for value in expected.values() if value.dtype.kind == "f")
        assert largest_difference(graph.mask, expected, actual).value < 2e-2 * spread
