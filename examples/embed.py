"""Embed English sentences with all-MiniLM-L6-v2, as exported and optimized, and compare the two.

    python -m examples.embed

Everything is as in production: the real model, its own tokenizer, one batch of texts of very different lengths padded
to the longest, two threads, and ONNX Runtime's default optimizations on both sides. The exported model also gets the
same texts the way a careful person would send them: sorted by length, four at a time. The optimized model is there with
8-bit integers, too.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

import turbo_onnx
from benchmarks.timing import alternate, ratio
from models import minilm
from models.batches import Batch, sorted_groups
from turbo_onnx import report_text

SENTENCES = Path(__file__).with_name("sentences.txt")
FOLDER = Path(".demo")
QUESTIONS = (
    "Can I return something I bought?",
    "How is a crusty loaf baked?",
    "How do birds save energy on long journeys?",
    "Will the weather be good?",
)
THREADS = 2
ROUNDS = 9
OPTIMIZED, INT8 = "optimized", "optimized, int8"


def session(path: Path, *, library: bool) -> ort.InferenceSession:
    """A session with ONNX Runtime's defaults; with our library, or without."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    if library:
        turbo_onnx.register(options)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def embed(encoder: ort.InferenceSession, batch: Batch) -> np.ndarray:
    """One unit vector for each text, as this model defines it: the mean of the real tokens' vectors.

    Args:
        encoder: a session whose first output is [B, S, H].
        batch: the model's inputs, each [B, S].

    Returns:
        [B, H] float32.
    """
    hidden = encoder.run(None, batch)[0]
    weights = batch["attention_mask"][:, :, None].astype(np.float32)
    mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def print_search(console: Console, texts: list[str], vectors: np.ndarray, encoder: ort.InferenceSession) -> None:
    """The nearest text for a few questions, to show that the vectors mean something."""
    similarity = embed(encoder, minilm.encode(list(QUESTIONS))) @ vectors.T
    table = Table(title="A search with the optimized model")
    for column in ("question", "nearest text", "cosine"):
        table.add_column(column)
    for question, row in zip(QUESTIONS, similarity, strict=True):
        best = int(row.argmax())
        table.add_row(question, textwrap.shorten(texts[best], 28, placeholder=" …"), f"{row[best]:.2f}")
    console.print(table)


def main() -> None:
    """Export, optimize, embed, compare."""
    console = Console()
    FOLDER.mkdir(exist_ok=True)
    source, target, smaller = (FOLDER / name for name in ("minilm.onnx", "minilm.turbo.onnx", "minilm.int8.onnx"))
    onnx.save(minilm.load(), source)

    console.rule("turbo-onnx optimize")
    result = turbo_onnx.optimize(source, output=target)
    console.print(report_text.render(result.report))
    with console.status("the same with --precision int8"):
        turbo_onnx.optimize(source, output=smaller, precision="int8")

    console.rule("embed")
    texts = SENTENCES.read_text().splitlines()
    batch = minilm.encode(texts)
    real, padded = int(batch["attention_mask"].sum()), batch["attention_mask"].size
    words = sorted(len(text.split()) for text in texts)
    console.print(f"{len(texts)} texts of {words[0]} to {words[-1]} words, {real} tokens, {padded} with padding")
    original = session(source, library=False)
    optimized, in_bytes = session(target, library=True), session(smaller, library=True)
    before, after, rough = (embed(encoder, batch) for encoder in (original, optimized, in_bytes))
    print_search(console, texts, after, optimized)

    fours = sorted_groups(batch, 4)
    seconds = alternate(
        {
            "as exported": lambda: embed(original, batch),
            "as exported, fours sorted by length": lambda: [embed(original, four) for four in fours],
            OPTIMIZED: lambda: embed(optimized, batch),
            INT8: lambda: embed(in_bytes, batch),
        },
        ROUNDS,
    )
    table = Table(title=f"One batch of {len(texts)} texts, {THREADS} threads")
    for column in ("model", "median, ms", "texts per second"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, times in seconds.items():
        median = float(np.median(times))
        table.add_row(name, f"{1000 * median:.1f}", f"{len(texts) / median:.0f}")
    console.print(table)
    for name, vectors, digits in ((OPTIMIZED, after, 7), (INT8, rough, 4)):
        console.print(
            f"smallest cosine between a vector {name} and as exported: {(before * vectors).sum(1).min():.{digits}f}"
        )
    for name in ("as exported", "as exported, fours sorted by length"):
        print_ratio(console, OPTIMIZED, seconds[OPTIMIZED], name, seconds[name])
    print_ratio(console, INT8, seconds[INT8], OPTIMIZED, seconds[OPTIMIZED])


def print_ratio(console: Console, name: str, fast: list[float], other: str, slow: list[float]) -> None:
    """How many times as fast one side is as another."""
    faster = ratio(slow, fast)
    quartiles = f"(quartiles {faster.low:.2f} to {faster.high:.2f})"
    console.print(f"{name}: [bold]{faster.median:.2f} times as fast[/] as the model {other} {quartiles}")


if __name__ == "__main__":
    main()
