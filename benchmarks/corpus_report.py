"""Optimize every graph of a folder of exports, and show what was done and how exact the results are.

    python -m benchmarks.corpus_report FOLDER [--names PATTERN] [--stock] [--json FILE]

FOLDER holds `NAME.onnx` files with `NAME.npz` beside them (`in_*` inputs, `out_*` the exporting framework's outputs).
Differences are absolute and on rows of real tokens: `original` is ONNX Runtime without optimizations on the file as
exported against the framework, `ours` the optimized model against the framework, and `stock` the optimized model
without our library. The exit code is 1 when a graph failed or a difference is above the limit.
"""

from __future__ import annotations

import fnmatch
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import turbo_onnx
from tests.compare import Difference, largest_difference, run

Outputs = dict[str, np.ndarray]


def limit_for(name: str) -> float:
    """The largest accepted difference for a graph, by its name."""
    if "fp16" in name:
        return 1e-2
    return 5e-5 if name.startswith("albert-") else 2e-5


def examine(path: Path, *, stock: bool, library: bool) -> dict[str, Any]:
    """Optimize one graph and compare. Never raises: a failure is recorded under "error"."""
    record: dict[str, Any] = {"name": path.stem, "limit": limit_for(path.stem)}
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs = {key[3:]: arrays[key] for key in arrays.files if key.startswith("in_")}
        expected = {key[4:]: arrays[key] for key in arrays.files if key.startswith("out_")}
    mask = inputs.get("attention_mask")
    try:
        actual = run(path.read_bytes(), inputs, library=False, optimizations=False)
        record["original"] = largest_difference(mask, expected, actual)
        start = time.perf_counter()
        result = turbo_onnx.optimize(path, verify=False)
        record["seconds"] = time.perf_counter() - start
        record["report"] = result.report.to_dict()
        optimized = result.model.SerializeToString()
        record["ours"] = largest_difference(mask, expected, run(optimized, inputs, library=library, optimizations=True))
        if stock:
            record["stock"] = largest_difference(
                mask, expected, run(optimized, inputs, library=False, optimizations=True)
            )
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return record


def problems(record: dict[str, Any]) -> list[str]:
    """What is wrong with one record, as short phrases; empty when nothing is."""
    found = [record["error"]] if "error" in record else []
    for side in ("ours", "stock"):
        difference = record.get(side)
        limit = record["limit"] if side == "ours" else max(record["limit"], 1e-4)
        if difference is not None and not difference.value <= limit:
            found.append(f"{side} differs at {difference.where}")
    return found


def table_of(records: list[dict[str, Any]]) -> Table:
    """The table that is printed."""
    table = Table(title="Optimized exports, differences on rows of real tokens")
    table.add_column("graph", no_wrap=True)
    for column in ("original", "ours", "stock", "attention", "packed", "share", "nodes", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("problems", overflow="fold")
    for record in records:
        report = record.get("report", {})
        attention, nodes = report.get("attention", {}), report.get("nodes", {})
        share = report.get("packed_node_share")
        cells = [f"{record[side].value:.1e}" if side in record else "" for side in ("original", "ours", "stock")]
        cells.append(f"{attention['fused']}/{attention['found']}" if attention else "")
        cells.append(str(report.get("packed", "")))
        cells.append(f"{share:.2f}" if share is not None else "")
        cells.append(f"{nodes['before']} > {nodes['after']}" if nodes else "")
        cells.append(f"{record['seconds']:.2f}" if "seconds" in record else "")
        wrong = "; ".join(problems(record))
        table.add_row(record["name"], *cells, wrong, style="red" if wrong else "")
    return table


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--names", default="*", help="Only graphs whose name matches this shell pattern.")
@click.option("--stock", is_flag=True, help="Also run the optimized model without our library.")
@click.option("--no-library", is_flag=True, help="Do not register our library at all (function bodies only).")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the records here.")
def main(folder: Path, names: str, stock: bool, no_library: bool, json_path: Path | None) -> None:
    """Optimize every export in FOLDER and compare it with the framework's outputs."""
    paths = sorted(path for path in folder.glob("*.onnx") if path.with_suffix(".npz").exists())
    paths = [path for path in paths if fnmatch.fnmatch(path.stem, names)]
    console = Console(width=None if sys.stdout.isatty() else 150)
    records = []
    for path in paths:
        if console.is_terminal:
            click.echo(path.stem, err=True)
        records.append(examine(path, stock=stock, library=not no_library))
    console.print(table_of(records))
    bad = [record for record in records if problems(record)]
    console.print(f"{len(records) - len(bad)} of {len(records)} graphs as they should be")
    if json_path is not None:
        plain = [{k: v.__dict__ if isinstance(v, Difference) else v for k, v in r.items()} for r in records]
        json_path.write_text(json.dumps(plain, indent=1, default=str) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
