"""Real exports, whole: they can be optimized, compute the same, and what was not done is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import turbo_onnx
from tests.compare import largest_difference, run
from tests.corpus import ENCODER_FAMILIES, CorpusGraph, graphs
from tests.optimized import optimized as optimized_once
from tests.test_planned_models import PLANNED

ROTATED = ("eurobert", "gemma3", "gptneox", "llama", "mistral", "modernbert", "nomic", "qwen3", "roformer")
"""Families whose positions rotate heads."""

ENCODERS = (*ENCODER_FAMILIES, "minilm", *(family for family in ROTATED if family != "llama"))
"""Families that have to be fused and packed whole."""

TWICE = frozenset(graph.name for graph in graphs()[::3])
"""Exports that are optimized twice, to compare the bytes."""

STOCK_TOLERANCE = 1e-4
"""Function bodies on a stock runtime add in another order than the kernels."""

FAMILY_NAMES = re.compile(
    r"bert|electra|mpnet|t5|gpt|llama|mistral|bart|longformer|big_?bird|reformer|nystrom|funnel|perceiver|whisper"
    r"|clip_?text|minilm|qwen|gemma|neox|roformer|linformer|transformer_?xl|xlnet",
    re.IGNORECASE,
)


def skipped(graph: CorpusGraph) -> list[str]:
    """Passes that are left out: the memory of those exports is planned that are looked at for their plans, too."""
    return [] if graph.name in PLANNED else ["plan-memory"]


@dataclass
class Optimized:
    """One export after `optimize`, with what the original computes."""

    graph: CorpusGraph
    proto: onnx.ModelProto
    expected: dict[str, np.ndarray]
    artifact: bytes
    report: dict[str, Any]


@pytest.fixture(scope="module", params=graphs(), ids=lambda graph: graph.name)
def optimized(request: pytest.FixtureRequest) -> Optimized:
    graph: CorpusGraph = request.param
    proto = graph.load()
    expected = run(proto.SerializeToString(), graph.inputs, library=False, optimizations=False)
    name = f"{graph.name}, no plan" if skipped(graph) else graph.name
    result = optimized_once(name, lambda: proto, skip_passes=skipped(graph))
    return Optimized(graph, proto, expected, result.artifact, result.report)


def test_outputs_are_equal_on_real_tokens(optimized: Optimized) -> None:
    graph = optimized.graph
    actual = run(optimized.artifact, graph.inputs, library=True, optimizations=True)
    difference = largest_difference(graph.mask, optimized.expected, actual)
    assert difference.value <= graph.tolerance, difference


def test_outputs_are_equal_on_a_stock_runtime(optimized: Optimized) -> None:
    graph = optimized.graph
    actual = run(optimized.artifact, graph.inputs, library=False, optimizations=True)
    difference = largest_difference(graph.mask, optimized.expected, actual)
    assert difference.value <= max(graph.tolerance, STOCK_TOLERANCE), difference


def test_masks_with_holes_and_padding_on_the_left_are_equal(optimized: Optimized) -> None:
    graph = optimized.graph
    if graph.family not in ENCODERS or graph.mask is None:
        pytest.skip("not an encoder with a mask")
    for name, mask in other_masks(graph.mask).items():
        inputs = {key: array[: len(mask)] for key, array in graph.inputs.items()} | {"attention_mask": mask}
        expected = run(optimized.proto.SerializeToString(), inputs, library=False, optimizations=False)
        if name == "left":  # what a sequence's first position holds is padding here: only rows of real tokens count
            expected = {key: array for key, array in expected.items() if array.shape[:2] == mask.shape}
        actual = run(optimized.artifact, inputs, library=True, optimizations=True)
        difference = largest_difference(mask, expected, actual)
        assert difference.value <= graph.tolerance, (name, difference)


def other_masks(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Masks that are not padding at the end, of the same shape, and a batch of one sequence."""
    holes = mask.copy()
    holes[:, 2::3] = 0
    return {"left": np.ascontiguousarray(mask[:, ::-1]), "holes": holes, "alone": mask[:1]}


def test_every_attention_of_an_encoder_is_fused(optimized: Optimized) -> None:
    graph = optimized.graph
    if graph.family not in ENCODERS:
        pytest.skip("not an encoder of the kind that has to be fused whole")
    written = sum(node.op_type in ("Softmax", "Attention") for node in optimized.proto.graph.node)
    attention = optimized.report["attention"]
    assert attention["found"] == attention["fused"] == written > 0
    has_padding = graph.mask is not None
    assert optimized.report["packed"] is has_padding


def test_every_rotation_of_heads_is_one_node(optimized: Optimized) -> None:
    if optimized.graph.family not in ROTATED:
        pytest.skip("its positions are not rotary")
    operators = [node.op_type for node in onnx.load_from_string(optimized.artifact).graph.node]
    rotations = sum(operator.startswith("RotaryEmbedding") for operator in operators)
    assert rotations >= sum(operator.startswith("VarlenAttention") for operator in operators) > 0
    assert "Neg" not in operators


def test_what_was_not_done_is_explained(optimized: Optimized) -> None:
    report, has_padding = optimized.report, optimized.graph.mask is not None
    reasons = [rejection for step in report["passes"] for rejection in step["rejected"]]
    about_attention = [r for r in reasons if "attention" in r["rule"]]
    about_packing = [r for r in reasons if "padding" in r["rule"]]
    attention = report["attention"]
    assert attention["fused"] == attention["found"] or about_attention
    assert report["packed"] is has_padding or about_packing or report["notes"]
    assert all(reason["sentence"].strip() for reason in reasons)


def test_two_runs_give_the_same_bytes(optimized: Optimized) -> None:
    if optimized.graph.name not in TWICE:
        pytest.skip("a third of the exports is optimized twice")
    again = turbo_onnx.optimize(optimized.proto, verify=False, skip_passes=skipped(optimized.graph)).model
    assert again.SerializeToString() == optimized.artifact


def test_no_model_family_is_named_in_the_code() -> None:
    package = Path(turbo_onnx.__file__).parent
    named = [
        f"{path.name}:{line}: {word}"
        for path in sorted(package.rglob("*.py"))
        for line, word in _words(ast.parse(path.read_text()))
        if FAMILY_NAMES.search(word)
    ]
    assert named == []


def _words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names and string constants of the code; docstrings are prose and are left out."""
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
