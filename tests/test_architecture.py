"""What the code must never do: know a model by its name, know a tensor by its name, or need onnx for serving."""

from __future__ import annotations

import ast
import io
import random
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import turbo_onnx
from tests.corpus import CORPUS, CorpusGraph, graphs
from turbo_onnx import pipeline
from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model

PACKAGE = Path(turbo_onnx.__file__).parent
PYTHON = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted(path for pattern in ("*.cc", "*.h") for path in PACKAGE.rglob(pattern))
# Families whose names are words of ONNX or of programming (clip, opt, bloom) cannot be told from those.
FAMILIES = """
    albert bart bert bigbird deberta distil electra falcon funnel gemma gpt llama longformer minilm mistral mpnet
    modernbert neox nomic nystromformer perceiver qwen reformer roberta t5 whisper xlm xlnet
""".split()
GRAPH_CODE = [
    path
    for path in PYTHON
    if path.parent.name in ("passes", "inference")
    or path.stem in "layout masks padding_flow diagonal shapes matcher pattern attributes opset".split()
]


def words(text: str) -> set[str]:
    """The words of an identifier or a string: cut at everything that is no letter or digit, and at capitals."""
    return {part.lower() for part in re.findall(r"[A-Z]+[0-9]*(?![a-z])|[A-Z]?[a-z]+[0-9]*|[0-9]+", text)}


def families(text: str) -> set[str]:
    """The model families whose names occur in the text, as words or as beginnings or ends of words."""
    found = set()
    for word in words(text):
        for family in FAMILIES:
            part = len(family) > 3 and (word.startswith(family) or word.endswith(family))
            if word.rstrip("0123456789") == family or word == family or part:
                found.add(family)
    return found


def code(path: Path) -> Iterator[tuple[int, str]]:
    """Every identifier and every string of a file, with its line; docstrings and comments are not code."""
    source = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            strings = [s for s in node.body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
            documentation |= {statement.lineno for statement in strings}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME or (token.type == tokenize.STRING and token.start[0] not in documentation):
            yield token.start[0], token.string


def without_comments(text: str) -> str:
    """C++ without its comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def test_no_model_family_is_known_by_name() -> None:
    found = [f"{path.name}:{line}: {text}" for path in PYTHON for line, text in code(path) if families(text)]
    found += [path.name for path in NATIVE if families(without_comments(path.read_text()))]
    assert found == []


def test_names_of_families_are_seen_in_every_spelling() -> None:
    for text in ("BertLayer", "fuse_bert_mask", "'roberta.encoder'", "GPT2", "T5LayerNorm", "isDistilBert", "gpt2"):
        assert families(text), text
    for text in ("Clip", "clip", "optimize", "options", "convert", "albeit", "partition", "invert", "insert"):
        assert not families(text), text


def name_matches(path: Path) -> list[str]:
    """Places where something's `name` is compared with a text, searched, or matched."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [s for s in sides if isinstance(s, ast.Constant) and isinstance(s.value, str) and s.value]
            if texts and any(isinstance(side, ast.Attribute) and side.attr == "name" for side in sides):
                found.append(f"{path.name}:{node.lineno}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            searched = node.func.attr in ("startswith", "endswith", "find", "index", "split", "count", "removeprefix")
            owner = node.func.value
            if searched and isinstance(owner, ast.Attribute) and owner.attr == "name":
                found.append(f"{path.name}:{node.lineno}")
            module = isinstance(owner, ast.Name) and owner.id in ("re", "fnmatch")
            arguments = [a for a in node.args if isinstance(a, ast.Attribute) and a.attr == "name"]
            if module and arguments and node.func.attr != "sub":
                found.append(f"{path.name}:{node.lineno}")
    return found


def test_no_pass_looks_at_the_name_of_a_tensor_or_node() -> None:
    assert [place for path in GRAPH_CODE for place in name_matches(path)] == []
    assert len(GRAPH_CODE) > 40


def test_looking_at_a_name_is_seen(tmp_path: Path) -> None:
    for line in ("tensor.name == 'mask'", "'ids' in node.name", "t.name.startswith('x')", "re.match('a', t.name)"):
        path = tmp_path / "wrong.py"
        path.write_text(f"found = {line}\n")
        assert name_matches(path) == ["wrong.py:1"], line


def scrambled(export: CorpusGraph) -> Model:
    """The export with every tensor and node called something else; inputs and outputs too."""
    model, names = Model.from_proto(export.load()), random.Random(0)
    stack, seen = [model.graph], set()
    while stack:
        graph = stack.pop()
        tensors = [*graph.inputs, *graph.outputs]
        for node in graph.nodes:
            node.name = f"n{names.getrandbits(64):x}"
            tensors += [*node.inputs, *node.outputs]
            stack.extend(subgraphs(node))
        for tensor in tensors:
            if id(tensor) not in seen and tensor.name:
                seen.add(id(tensor))
                tensor.name = f"t{names.getrandbits(64):x}"
    return Model.from_proto(model.to_proto())  # as if the file had these names


NAMED = [item for item in graphs() if (CORPUS / f"{item.name}.onnx.gz").exists()]
SAMPLE = [item for item in NAMED if item.name.startswith(("bert-tiny__", "mpnet-tiny__ts17", "deberta-v2-tiny__dy20"))]


@pytest.mark.parametrize("export", SAMPLE, ids=lambda export: export.name)
def test_what_is_done_does_not_depend_on_names(export: CorpusGraph) -> None:
    results = []
    for model in (Model.from_proto(export.load()), scrambled(export)):
        pipeline.run(model, pipeline.passes())
        results.append(Counter((node.domain, node.op) for node in model.graph.nodes))
    assert results[0] == results[1]


SERVING = """
import sys
import turbo_onnx
turbo_onnx.library_path
import turbo_onnx.runtime.session
heavy = sorted(name for name in ("onnx", "onnx_graphsurgeon", "torch", "rich", "click") if name in sys.modules)
assert not heavy, heavy
"""


def test_serving_imports_neither_onnx_nor_graphsurgeon() -> None:
    result = subprocess.run([sys.executable, "-c", SERVING], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
