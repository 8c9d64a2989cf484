"""How near each kernel comes to what the GPU can do: to a copy of the same bytes, and for attention to PyTorch's.

    python -m benchmarks.kernels_gpu [--element NAME] [--tune FILE] [--json FILE]

DECISION on how: through ONNX Runtime, as the difference of a model with 2N equal nodes and one with N. That times the
kernel with the operator's own grid, arguments and choice of variant, and what a run costs beside its kernels falls out.
Launching the archive's code from here would need a second copy of all that, which could be faster or wrong by itself.
The price: kernels shorter than a launch, about ten microseconds, look as long as one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import gpu
from benchmarks.command_line import JSON
from turbo_onnx import autotune, node_timing
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.samples import Batch, sample
from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.custom_ops.cuda.tuning import Tuning
from turbo_onnx.custom_ops.cuda.variant import Use

ROWS = Batch((512,) * 128)
"""64 Ki rows."""

PADDED = Batch((512, *(int(n) for n in np.random.default_rng(0).integers(1, 513, 127))))
"""64 Ki positions, about half of them padding."""

WIDTHS = (768, 384, 1024)
HEADS, HEAD = 12, 64
ATTENTIONS = {
    "16 x 512": Batch((512,) * 16),
    "16, uniform 1-512": Batch((512, *(int(n) for n in np.random.default_rng(0).integers(1, 513, 15)))),
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Case(NamedTuple):
    """A node, what it works on, and the bytes that it has to read and write."""

    use: Use
    batch: Batch
    moved: int


def row_cases(element: str, width: int) -> dict[str, Case]:
    """Nodes that move rows, by name."""
    row, vector = ("T", width), (width,)
    moved = ROWS.tokens * width * _BYTES[element]
    ids = 3 * 8 * ROWS.tokens

    def use(operator: str, shapes: dict[str, Any], **attributes: Any) -> Use:
        others = {"token_index": "int64", "mask": "int64", "cu_seqlens": "int32"}
        others |= {"index": "int64", "cos": "float32", "sin": "float32"}
        types = {name: "int64" if name.endswith("_ids") else others.get(name, element) for name in shapes}
        return Use(operator, types, shapes, spec(operator).complete(attributes))

    ends = {"gamma": vector, "beta": vector, "output": row}
    tables = {"word_table": (30522, width), "token_type_table": (2, width), "position_table": (512, width)}
    words = dict.fromkeys(("word_ids", "token_type_ids", "position_ids"), ("T",))
    restored = {"rows": row, "token_index": ("T",), "mask": ("B", "S"), "output": ("B", "S", width)}
    normalized = {"x": row, "skip": row, "bias": vector} | ends
    scaled = {"x": row, "skip": row, "gamma": vector, "output": row, "sum": row}
    of_heads = ("T", width // HEAD, HEAD)
    split = {"x": of_heads, "gamma": (HEAD,), "output": of_heads}
    wide, wide_vector = ("T", 4 * width), (4 * width,)
    joined, angles = ("T", 3 * width), ("P", HEAD)
    rotated = {"input": joined, "cos": angles, "sin": angles, "index": ("T",), "output": joined}
    heads = width // HEAD
    facts = {"num_heads": 3 * heads, "rotated_heads": 2 * heads, "interleaved": 0}
    uses = {
        "BiasGelu, 4 times as wide": (
            use("BiasGelu", {"x": wide, "bias": wide_vector, "output": wide}, approximate="none"), 8 * moved
        ),
        "GatedActivation, 3 times as wide": (
            use("GatedActivation", {"x": ("T", 6 * width), "output": ("T", 3 * width)}, activation="gelu", gate_last=0),
            9 * moved,
        ),
        "SkipLayerNormalization": (use("SkipLayerNormalization", normalized, epsilon=1e-12, rms=0), 3 * moved),
        "  with the sum": (use("SkipLayerNormalization", normalized | {"sum": row}, epsilon=1e-12, rms=0), 4 * moved),
        "  RMS, with the sum": (use("SkipLayerNormalization", scaled, epsilon=1e-6, rms=1), 4 * moved),
        "  RMS of heads": (use("SkipLayerNormalization", split, epsilon=1e-6, rms=1), 2 * moved),
        "EmbedLayerNormalization": (
            use("EmbedLayerNormalization", words | tables | ends, epsilon=1e-12), 2 * moved + ids
        ),
        "RotaryEmbedding, of Q | K | V": (
            use("RotaryEmbedding", rotated, **facts), 6 * moved + 8 * ROWS.tokens
        ),
        "SegmentPooling, mean": (
            use("SegmentPooling", {"rows": row, "cu_seqlens": ("C",), "output": ("B", width)}, mode="mean"), moved
        ),
    }  # fmt: skip
    cases = {name: Case(one, ROWS, count) for name, (one, count) in uses.items()}
    real = PADDED.tokens * (width * _BYTES[element] + 8)
    return cases | {"RestorePadding": Case(use("RestorePadding", restored), PADDED, moved + real)}


def attention_use(element: str) -> Use:
    """Attention on packed rows of Q | K | V."""
    shapes: dict[str, Any] = {
        "query": ("T", 3 * HEADS * HEAD),
        "cu_seqlens": ("C",),
        "output": ("T", HEADS * HEAD),
    }
    types = dict.fromkeys(shapes, element) | {"cu_seqlens": "int32"}
    attributes = spec("VarlenAttention").complete({"num_heads": HEADS, "scale": HEAD**-0.5})
    return Use("VarlenAttention", types, shapes, attributes)


def attention_operations(batch: Batch) -> int:
    """Multiplications and additions of both products, on real tokens."""
    return 4 * HEADS * HEAD * sum(length**2 for length in batch.lengths)


def measure(use: Use, batch: Batch, kernels: bytes, rounds: int) -> list[float]:
    """Seconds of one node for each round."""
    inputs = sample(use, batch)
    return node_timing.seconds_of(use, inputs, kernels, node_timing.on_device(use, inputs), rounds)


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
        name, width = one["kernel"], str(one["width"])
        if one["seconds"] is None:
            rows.add_row(name, width, one["why_not"][:40])
            continue
        rate = one["bytes"] / one["seconds"]
        share = rate / document["copy_bandwidth"]
        rows.add_row(name, width, f"{1e6 * one['seconds']:.1f}", f"{rate / 1e9:.0f}", f"{share:.2f}")
    attention = Table(title=f"attention, {HEADS} heads of {HEAD}")
    for column in ("lengths", "microseconds", "TFLOP/s", "PyTorch's, padded", "ratio"):
        attention.add_column(column, justify="left" if column == "lengths" else "right", no_wrap=True)
    for one in document["attention"]:
        ours, other = one["seconds"], one["torch_seconds"]
        attention.add_row(
            one["lengths"],
            one["why_not"][:40] if ours is None else f"{1e6 * ours:.1f}",
            "" if ours is None else f"{one['operations'] / ours / 1e12:.0f}",
            one["torch_why_not"][:40] if other is None else f"{1e6 * other:.1f}",
            "" if None in (ours, other) else f"{other / ours:.2f}",
        )
    return [rows, attention]


@click.command()
@click.option("--element", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True)
@click.option("--rounds", default=11, show_default=True, help="How often each kernel is timed.")
@click.option("--seconds", default=150, show_default=True, help="After these, nothing more is measured.")
@click.option(
    "--tune",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="First measure which tiles each kernel runs fastest with, as turbo-onnx autotune does; measure with those.",
)
@JSON
@click.option("--show", type=click.Path(exists=True, path_type=Path), help="Print the tables of an earlier result.")
def main(element: str, rounds: int, seconds: int, tune: Path | None, json_path: Path | None, show: Path | None) -> None:
    """Compare each kernel with the GPU's own limits."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    if show is None:
        device = gpu.require_gpu()
        path = json_path or gpu.result_path("kernels_gpu", device)
        document: dict[str, Any] = {"machine": gpu.environment(device)}
        tuning = Tuning() if tune is None else tuned(element, device.capability, tune)
        for _ in run(element, rounds, time.monotonic() + seconds, device.capability, tuning, document):
            gpu.write(path, document)  # what was measured is kept, whatever happens to the rest
    else:
        document = json.loads(show.read_text())
    console.print(document["machine"])
    console.print(f"copy {document['copy_bandwidth'] / 1e9:.0f} GB/s, read and written")
    for table in table_of(document):
        console.print(table)


def tuned(element: str, capability: int, path: Path) -> Tuning:
    """The fastest way to run each kernel that is measured here, also in a file as for `optimize --tuning`."""
    choices: dict[str, Any] = {}
    uses = [case.use for width in WIDTHS for case in row_cases(element, width).values()] + [attention_use(element)]
    for found in autotune.tune(uses, capability, autotune.DeviceBench(capability)):
        print(*autotune.table([found]), flush=True)
        if found.chosen is not None:
            choices[found.key] = found.chosen
        path.write_text(Tuning({sm(capability): choices}).to_json())
    return Tuning({sm(capability): choices})


def run(
    element: str, rounds: int, deadline: float, capability: int, tuning: Tuning, document: dict[str, Any]
) -> Iterator[None]:
    """Measure everything, one thing after the other, and add it to the document."""
    document |= {"element": element, "rows": ROWS.tokens, "copy_bandwidth": gpu.copy_bandwidth()}
    document |= {"kernels": [], "attention": []}
    cases = [(name, width, case) for width in WIDTHS for name, case in row_cases(element, width).items()]
    uses = [*(case.use for *_, case in cases), attention_use(element)]
    variants = [
        tuning.apply(use.operator, variant, capability) for use in uses for variant in variants_of(use, capability)
    ]
    kernels = node_timing.archive(variants, capability)
    for name, batch in ATTENTIONS.items():
        seconds, why_not = _median(deadline, partial(measure, attention_use(element), batch, kernels, rounds))
        other, other_why_not = _median(deadline, partial(flash, batch, element, rounds))
        document["attention"].append(
            {"lengths": name, "operations": attention_operations(batch), "seconds": seconds, "why_not": why_not,
             "torch_seconds": other, "torch_why_not": other_why_not}
        )  # fmt: skip
        yield
    for name, width, case in cases:
        seconds, why_not = _median(deadline, partial(measure, case.use, case.batch, kernels, rounds))
        record = {"kernel": name, "width": width, "bytes": case.moved, "seconds": seconds, "why_not": why_not}
        document["kernels"].append(record)
        yield


def _median(deadline: float, measured: Callable[[], list[float]]) -> tuple[float | None, str]:
    """The median, or None and why there is none: one part that fails takes nothing else down."""
    if time.monotonic() > deadline:
        return None, "no time was left"
    try:
        return statistics.median(measured()), ""
    except Exception as error:
        return None, gpu.one_line(error)


if __name__ == "__main__":
    main()
