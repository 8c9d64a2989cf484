"""The report for people: tables in a terminal, Markdown, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from turbo_onnx.passes.optimize_branches import OptimizeBranches
from turbo_onnx.passes.plan_memory import PlanMemory
from turbo_onnx.plan_report import counted, joined
from turbo_onnx.report import Report, compared_counts, grouped

_SHOWN_NODES = 3
_NUMBERS = ("before", "after", "change", "rewrites")


def headline(report: Report) -> list[str]:
    """What came of it, one sentence each."""
    lines = [f"{report.model}: {report.nodes_before} nodes before, {report.nodes_after} after."]
    found, fused = report.attention_found, report.attention_fused
    unseen = any(rejection.rule == OptimizeBranches.name for rejection in report.rejected)
    where = " outside of branches and loops" if unseen else ""
    lines.append(f"Attention: {fused} of {found}{where} fused." if found else f"Attention: none was found{where}.")
    share = f" ({report.packed_node_share:.0%} of the nodes run without padding)"
    lines.append(
        {True: f"Padding: removed{share}.", "partial": f"Padding: removed in part{share}."}.get(
            report.packed, "Padding: not removed."
        )
    )
    lines += _precision(report)
    lines += _kernels(report) + _memory(report)
    check = report.verify
    if check.ok is None:
        lines.append("Verified: no." if not check.skipped else f"Verified: no: {check.skipped[0]}.")
    else:
        lines.append(
            f"Verified: {check.agreement if check.ok else 'DIFFERENT'} in {check.cases} cases{check.where};"
            f" largest difference {check.max_abs:.2g}, {check.max_rel:.2g} of the largest value."
        )
        lines += [f"Not compared: {sentence}." for sentence in check.skipped]
        lines += [f"Not run on a GPU: {check.not_on_gpu}."] if check.not_on_gpu is not None else []
    lines += report.notes
    if report.output is not None:
        lines.append(f"Written: {report.output}")
    return lines


def _precision(report: Report) -> list[str]:
    """What the result computes in, where it or the original does in half precision."""
    precision = report.precision
    half, full = (precision.get(key, 0) for key in ("half_precision_nodes", "float32_nodes"))
    widened, kept = (precision.get(key, 0) for key in ("widened_nodes", "half_precision_kept"))
    if precision.get("int8_layers") == 0:
        return ["Precision: float32; no layer could be quantized."]
    if precision["type"] == "int8":
        layers = f"{precision['int8_layers']} layer{'' if precision['int8_layers'] == 1 else 's'}"
        return [f"Precision: products of 8-bit integers in {layers}{_noise(report)}; float32 elsewhere."]
    if precision["type"] != "fp32":
        return [f"Precision: {precision['type']} in {half} nodes; {full} stay in float32."]
    if not widened and not kept:
        return []
    stay = f"; {kept} nodes stay in half precision" if kept else ""
    return [
        f"Precision: float32 in {widened} nodes that were in half precision, with twice the bytes of weights{stay}."
    ]


def _noise(report: Report) -> str:
    """How far that takes the outputs from what they were, if it was measured."""
    if not report.verify.cases:
        return ""
    return f", which moves the outputs by {report.verify.noise:.2g} of their standard deviation at most"


def _kernels(report: Report) -> list[str]:
    """What was compiled, where anything was asked for."""
    kernels, bodies = report.facts.get("kernels"), len(report.facts.get("nodes_run_by_body", ()))
    lines = []
    if kernels is not None:
        size, architectures = kernels["bytes"] / 1e6, ", ".join(kernels["architectures"])
        lines.append(f"Kernels: {kernels['count']}, {size:.1f} MB, for {architectures}, and PTX for later ones.")
    if bodies:
        lines.append(f"Kernels: {bodies} nodes of ours have none and run as standard operators.")
    return lines


def _memory(report: Report) -> list[str]:
    """Whether a run's memory is planned, where that was asked for."""
    plan = report.facts.get("memory_plan")
    if plan is not None:
        others = [counted(plan["outputs"], "output"), *([counted(plan["unknown"], "other")] if plan["unknown"] else [])]
        where = "every shape"
        if plan["exceptions"]:
            sizes = (", ".join(f"{name} {value}" for name, value in one.items()) for one in plan["exceptions"][:2])
            where = f"most shapes, not for such as {'; '.join(sizes)}"
        if plan["assumed"]:
            where += f" of runs in which {joined(plan['assumed'])}"
        inside = f" in {' and '.join(plan['branches'])}" if plan.get("branches") else ""
        where_they_lie = "a block of each" if inside else "one block"
        block, heap = counted(plan["planned"], "buffer"), " and ".join(others)
        return [f"Memory: planned{inside} for {where}; {block} in {where_they_lie}, {heap} on the heap."]
    why = [rejection.sentence for rejection in report.rejected if rejection.rule == PlanMemory.name]
    return [f"Memory: not planned: {why[0]}."] if why else []


def tables(report: Report) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """(title, columns, rows) of every table that has rows."""
    operators = [
        [name, str(before or ""), str(after or ""), f"{after - before:+d}" if after != before else ""]
        for name, before, after in compared_counts(report.ops_before, report.ops_after)
    ]
    what = {step.name: step.summary for step in report.passes}
    applied: dict[str, int] = {}
    for step in report.passes:
        applied[step.name] = applied.get(step.name, 0) + step.applied
    done = [[name, str(count), what[name]] for name, count in applied.items() if count]
    refused = []
    for rule, sentence, nodes in grouped(report.rejected):
        more = f" and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""
        refused.append([rule, ", ".join(nodes[:_SHOWN_NODES]) + more, sentence])
    every = [
        ("Operators", ("operator", "before", "after", "change"), operators),
        ("Done", ("pass", "rewrites", "what it does"), done),
        ("Not done", ("pass", "node", "why"), refused),
    ]
    return [entry for entry in every if entry[2]]


def render(report: Report) -> RenderableType:
    """The report for a terminal."""
    parts: list[RenderableType] = []
    for title, columns, rows in tables(report):
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in _NUMBERS else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        parts.append(table)
    return Group(*parts, *(Text(line) for line in headline(report)))


def explain(report: Report, only: str | None = None) -> RenderableType:
    """What each pass did and did not do, and why; only the pass of that name if one is given."""
    lines: list[RenderableType] = []
    for step in report.passes:
        if only is not None and step.name != only:
            continue
        lines.append(Text(f"{step.name}: {step.applied} done", style="bold"))
        for _, sentence, nodes in grouped(step.rejected):
            lines.append(Text(f"  not done: {sentence}"))
            lines.extend(Text(f"    at {node}") for node in nodes if node)
    return Group(*lines)


def to_text(report: Report) -> str:
    """The report as plain text."""
    console = Console(width=120, color_system=None, force_terminal=False, record=True, file=io.StringIO())
    console.print(render(report))
    return console.export_text()


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {report.model}", "", *(f"- {line}" for line in headline(report)), ""]
    for title, columns, rows in tables(report):
        lines += [f"## {title}", "", _row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows), ""]
    return "\n".join(lines)


def to_html(report: Report) -> str:
    """The report as one page without scripts or outside files."""
    body = "".join(f"<li>{html.escape(line)}</li>" for line in headline(report))
    sections = []
    for title, columns, rows in tables(report):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        sections.append(f"<h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(report.model)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(report.model)}</h1><ul>{body}</ul>{''.join(sections)}</body></html>\n"
    )


def for_file(report: Report, path: Path) -> str:
    """The report in the form that the file's name asks for: .json, .html, .md, else plain text."""
    forms = {".json": Report.to_json, ".html": to_html, ".htm": to_html, ".md": to_markdown}
    return forms.get(path.suffix.lower(), to_text)(report)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #8884}"
)
