"""How near each kernel comes to what the GPU can do: to a copy of the same bytes, and for attention to PyTorch's.

    python -m benchmarks.kernels_gpu [--element NAME] [--json FILE]

DECISION on how: through ONNX Runtime, as the difference of a model with 2N equal nodes and one with N. That times the
kernel with the operator's own grid, arguments and choice of variant, and what a run costs beside its kernels falls out.
Launching the archive's code from here would need a second copy of all that, which could be faster or wrong by itself.
The price: kernels shorter than a launch, about ten microseconds, look as long as one.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import gpu
from turbo_onnx import node_timing
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.samples import Batch, sample
from turbo_onnx.custom_ops.cuda.variant import Use

ROWS = Batch((512,) * 128)
"""64 Ki rows."""

WIDTHS = (384, 768, 1024)
HEADS, HEAD = 12, 64
ATTENTIONS = {
    "16 x 512": Batch((512,) * 16),
    "16, uniform 1-512": Batch((512, *(int(n) for n in np.random.default_rng(0).integers(1, 513, 15)))),
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def row_uses(element: str, width: int) -> dict[str, tuple[Use, int]]:
    """Nodes that move rows, by name, each with the bytes that it has to read and write."""
    row, vector = ("T", width), (width,)
    moved = ROWS.tokens * width * _BYTES[element]
    ids = 3 * 8 * ROWS.tokens

    def use(operator: str, shapes: dict[str, Any], **attributes: Any) -> Use:
        integers = {"token_index": "int64", "mask": "int64", "cu_seqlens": "int32"}
        types = {name: "int64" if name.endswith("_ids") else integers.get(name, element) for name in shapes}
        return Use(operator, types, shapes, attributes)

    ends = {"gamma": vector, "beta": vector, "output": row}
    tables = {"word_table": (30522, width), "token_type_table": (2, width), "position_table": (512, width)}
    words = dict.fromkeys(("word_ids", "token_type_ids", "position_ids"), ("T",))
    restored = {"rows": row, "token_index": ("T",), "mask": ("B", "S"), "output": ("B", "S", width)}
    normalized = {"x": row, "skip": row, "bias": vector} | ends
    return {
        "BiasGelu": (
            use("BiasGelu", {"x": row, "bias": vector, "output": row}, approximate="none"), 2 * moved
        ),
        "SkipLayerNormalization": (use("SkipLayerNormalization", normalized, epsilon=1e-12), 3 * moved),
        "  with the sum": (use("SkipLayerNormalization", normalized | {"sum": row}, epsilon=1e-12), 4 * moved),
        "EmbedLayerNormalization": (
            use("EmbedLayerNormalization", words | tables | ends, epsilon=1e-12), 2 * moved + ids
        ),
        "RestorePadding": (use("RestorePadding", restored), 2 * moved),
        "SegmentPooling, mean": (
            use("SegmentPooling", {"rows": row, "cu_seqlens": ("C",), "output": ("B", width)}, mode="mean"), moved
        ),
    }  # fmt: skip


def attention_use(element: str) -> Use:
    """Attention on packed rows of Q | K | V."""
    shapes: dict[str, Any] = {
        "query": ("T", 3 * HEADS * HEAD),
        "cu_seqlens": ("C",),
        "output": ("T", HEADS * HEAD),
    }
    types = dict.fromkeys(shapes, element) | {"cu_seqlens": "int32"}
    attributes = {"num_heads": HEADS, "scale": HEAD**-0.5, "causal": 0, "guard": 0}
    return Use("VarlenAttention", types, shapes, attributes)


def attention_operations(batch: Batch) -> int:
    """Multiplications and additions of both products, on real tokens."""
    return 4 * HEADS * HEAD * sum(length**2 for length in batch.lengths)


def measure(use: Use, batch: Batch, capability: int, rounds: int) -> list[float]:
    """Seconds of one node for each round."""
    kernels = node_timing.archive(variants_of(use, capability), capability)
    return node_timing.seconds_of(use, sample(use, batch), kernels, rounds)


def flash(batch: Batch, element: str, rounds: int) -> list[float]:
    """Seconds of PyTorch's FlashAttention on the padded batch. It takes no mask, so padding is computed, too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    shape = (batch.sequences, HEADS, batch.longest, HEAD)
    query, key, value = (torch.randn(shape, dtype=getattr(torch, element), device="cuda") for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return gpu.on_device(
            lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value), rounds, repeats=20
        )


def table_of(document: dict[str, Any]) -> list[Table]:
    """The tables that are printed, of a result as it is in the file."""
    rows = Table(title=f"{document['rows']} rows of {document['element']}: share of a copy's bandwidth")
    for column in ("kernel", "width", "microseconds", "GB/s", "share"):
        rows.add_column(column, justify="left" if column == "kernel" else "right", no_wrap=True)
    for one in document["kernels"]:
        rate = one["bytes"] / one["seconds"]
        share = rate / document["copy_bandwidth"]
        rows.add_row(
            one["kernel"], str(one["width"]), f"{1e6 * one['seconds']:.1f}", f"{rate / 1e9:.0f}", f"{share:.2f}"
        )
    attention = Table(title=f"attention, {HEADS} heads of {HEAD}")
    for column in ("lengths", "microseconds", "TFLOP/s", "PyTorch's, padded", "ratio"):
        attention.add_column(column, justify="left" if column == "lengths" else "right", no_wrap=True)
    for one in document["attention"]:
        other = one["torch_seconds"]
        attention.add_row(
            one["lengths"],
            f"{1e6 * one['seconds']:.1f}",
            f"{one['operations'] / one['seconds'] / 1e12:.0f}",
            one["why_not"] if other is None else f"{1e6 * other:.1f}",
            "" if other is None else f"{other / one['seconds']:.2f}",
        )
    return [rows, attention]


@click.command()
@click.option("--element", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True)
@click.option("--rounds", default=11, show_default=True, help="How often each kernel is timed.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers here.")
@click.option("--show", type=click.Path(exists=True, path_type=Path), help="Print the tables of an earlier result.")
def main(element: str, rounds: int, json_path: Path | None, show: Path | None) -> None:
    """Compare each kernel with the GPU's own limits."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    if show is None:
        device = gpu.require_gpu()
        document = run(element, rounds, device.capability) | {"machine": gpu.environment(device)}
        gpu.write(json_path or gpu.result_path("kernels_gpu", device), document)
    else:
        document = json.loads(show.read_text())
    console.print(document["machine"])
    console.print(f"copy {document['copy_bandwidth'] / 1e9:.0f} GB/s, read and written")
    for table in table_of(document):
        console.print(table)


def run(element: str, rounds: int, capability: int) -> dict[str, Any]:
    """Measure everything."""
    kernels = []
    for width in WIDTHS:
        for name, (use, moved) in row_uses(element, width).items():
            seconds = statistics.median(measure(use, ROWS, capability, rounds))
            kernels.append({"kernel": name, "width": width, "bytes": moved, "seconds": seconds})
    attention = []
    for name, batch in ATTENTIONS.items():
        seconds = statistics.median(measure(attention_use(element), batch, capability, rounds))
        try:
            other, why_not = statistics.median(flash(batch, element, rounds)), ""
        except RuntimeError as error:  # no such kernel in this build of PyTorch
            other, why_not = None, str(error).splitlines()[0]
        attention.append(
            {"lengths": name, "operations": attention_operations(batch), "seconds": seconds,
             "torch_seconds": other, "why_not": why_not}
        )  # fmt: skip
    return {
        "element": element,
        "rows": ROWS.tokens,
        "copy_bandwidth": gpu.copy_bandwidth(),
        "kernels": kernels,
        "attention": attention,
    }


if __name__ == "__main__":
    main()
