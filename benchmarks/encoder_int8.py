"""How much faster an encoder is with 8-bit integers, and how far that takes its outputs from what they were.

    python -m benchmarks.encoder_int8 [--model NAME] [--rounds N] [--threads N]

Four sides take turns in one process: the model as exported; the same, quantized by ONNX Runtime's own tool
(`quantize_dynamic`, a scale for each column of a weight); ours in float32; ours with `--precision int8`. The first two
get the padded batch, and where lengths differ groups of four sorted by length, too. A ratio above one means that ours
with int8 is faster. How exact the two quantized models are is the cosine between each real token's row of the first
output and the exported model's.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.table import Table

import turbo_onnx
from benchmarks.command_line import ROUNDS, THREADS, models, open_console
from benchmarks.encoder_cpu import MODELS, VOCABULARY, WORKLOADS, Workload, run_all
from benchmarks.operators_cpu import session
from benchmarks.timing import alternate, ratio
from models.batches import padded_batch, sorted_groups

OURS = "ours, int8"
QUANTIZED = "quantized by ONNX Runtime"
EXPORTED = "exported"


def quantized_by_onnxruntime(model: onnx.ModelProto) -> bytes:
    """The model as ONNX Runtime's tool quantizes it."""
    logging.getLogger().setLevel(logging.ERROR)  # it advises to preprocess, which changes nothing here
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        quantize_dynamic(
            before, after, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
        )
        return after.read_bytes()


def sessions(model: onnx.ModelProto, threads: int) -> dict[str, ort.InferenceSession]:
    """The four sides."""
    ours = {precision: turbo_onnx.optimize(model, precision=precision, verify=False) for precision in ("fp32", "int8")}
    artifacts = {precision: result.model.SerializeToString() for precision, result in ours.items()}
    return {
        EXPORTED: session(model.SerializeToString(), threads, library=False),
        QUANTIZED: session(quantized_by_onnxruntime(model), threads, library=False),
        "ours, float32": session(artifacts["fp32"], threads, library=True),
        OURS: session(artifacts["int8"], threads, library=True),
    }


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of the rows of two matrices [T, H]: [T]."""
    products = (one * other).sum(axis=1)
    found: np.ndarray = products / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    return found


def add_rows(table: Table, runs: Mapping[str, ort.InferenceSession], work: Workload, rounds: int) -> None:
    """Time one workload on all sides."""
    inputs = {entry.name for entry in runs[EXPORTED].get_inputs()}
    batch = {name: array for name, array in padded_batch(work.lengths, VOCABULARY).items() if name in inputs}
    real = batch["attention_mask"] != 0
    outputs = {name: run.run(None, batch)[0][real] for name, run in runs.items()}
    sides: dict[str, Callable[[], object]] = {name: run_all(run, [batch]) for name, run in runs.items()}
    if work.ragged:
        for name in (EXPORTED, QUANTIZED):
            sides[f"{name}, sorted by four"] = run_all(runs[name], sorted_groups(batch, 4))
    seconds = alternate(sides, rounds)
    for name, times in seconds.items():
        exact = cosines(outputs[EXPORTED], outputs[name]) if name in (QUANTIZED, OURS) else None
        table.add_row(
            work.title if name == EXPORTED else "",
            name,
            f"{1000 * float(np.median(times)):.1f}",
            "" if name == OURS else str(ratio(times, seconds[OURS])),
            "" if exact is None else f"{exact.min():.4f} / {exact.mean():.4f}",
        )


@click.command()
@models(MODELS)
@ROUNDS
@THREADS
def main(names: tuple[str, ...], rounds: int, threads: int) -> None:
    """Compare encoders with 8-bit integers and without."""
    console = open_console(f"threads {threads}")
    console.print("Ratios are the other side's time over ours with int8: median (quartiles).")
    for name in names or MODELS:
        runs = sessions(MODELS[name](), threads)
        table = Table("workload", "side", "ms", "ratio", "cosine, lowest / mean", title=f"{name}, {threads} threads")
        for work in WORKLOADS:
            add_rows(table, runs, work, rounds)
        console.print(table)


if __name__ == "__main__":
    main()
