"""A memory plan as a picture: time across, addresses up, a box for each buffer; one HTML page that needs nothing else.

The page has no script: what a box is, it says when pointed at, and which sizes are shown is chosen with radio buttons.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from turbo_onnx.memory.capacity import format_bytes
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.run_layout import RunLayout

_WIDTH, _HEIGHT = 1120, 560  # of a drawing, in pixels of the page
_LEFT, _TOP, _BOTTOM = 84, 26, 34
_TICKS = 5
_LONGEST_NAME = 96
_GOLDEN_ANGLE = 137.508  # degrees between the hues of successive formulas: none are close to each other
_UNKNOWN = "of unknown size"


def render(layouts: Sequence[tuple[str, RunLayout]], title: str) -> str:
    """The page.

    Args:
        layouts: what to call each run, and the run: one variant of one plan at different sizes. The first is shown.
        title: of the page.

    Returns:
        HTML, about 200 bytes for each buffer of each layout.
    """
    first = layouts[0][1]
    variant = first.plan.variants[first.variant]
    colors: dict[Formula, int] = {}
    for number in variant.planned:
        size = variant.buffers[number].size
        assert size is not None
        colors.setdefault(size, len(colors))
    radios, rules, drawings = [], [], []
    for number, (label, layout) in enumerate(layouts):
        checked = " checked" if number == 0 else ""
        radios.append(f'<input type="radio" name="sizes" id="r{number}"{checked}>')
        radios.append(f'<label for="r{number}">{html.escape(label)}</label>')
        rules.append(f"#r{number}:checked~#d{number}{{display:block}}")
        drawings.append(f'<section id="d{number}">{_facts(layout)}{_drawing(layout, colors)}</section>')
    fills = "".join(f".f{color}{{fill:{_hue(color)};background:{_hue(color)}}}" for color in sorted(colors.values()))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{fills}{''.join(rules)}</style></head>"
        f"<body><h1>{html.escape(title)}</h1><main>{''.join(radios)}{''.join(drawings)}</main>"
        f"{_legend([layout for _, layout in layouts], [label for label, _ in layouts], colors)}"
        f"{_on_the_heap(first)}</body></html>\n"
    )


def _hue(color: int) -> str:
    return f"hsl({color * _GOLDEN_ANGLE % 360:.0f} 58% 56%)"


def _facts(layout: RunLayout) -> str:
    ratio = f", {layout.peak / layout.lower_bound:.3f} times that" if layout.lower_bound else ""
    return (
        f"<p>At most {format_bytes(layout.lower_bound)} are alive at once; the block has"
        f" {format_bytes(layout.peak)}{ratio}. Outputs have {format_bytes(layout.outputs)} more.</p>"
    )


def _drawing(layout: RunLayout, colors: dict[Formula, int]) -> str:
    """The boxes are drawn in events and multiples of the alignment, and one transformation scales them all."""
    events, unit = max(layout.last, default=1), layout.plan.alignment
    height = max(layout.peak // unit, 1)
    wide, high = _WIDTH - _LEFT, _HEIGHT - _TOP - _BOTTOM
    bound = _TOP + high * (1 - layout.lower_bound / unit / height)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="buffers by time and address">']
    for tick in range(_TICKS + 1):
        y = _TOP + high * (1 - tick / _TICKS)
        parts.append(f'<path class="g" d="M{_LEFT} {y:.1f}H{_WIDTH}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="e">{_address(layout.peak, tick)}</text>')
        x, anchor = _LEFT + wide * tick / _TICKS, ' class="e"' if tick == _TICKS else ""
        parts.append(f'<text x="{x:.0f}" y="{_HEIGHT - 16}"{anchor}>{round(events * tick / _TICKS)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 2}">time, in allocations and frees</text>')
    parts.append(
        f'<g transform="translate({_LEFT} {_HEIGHT - _BOTTOM}) scale({wide / events:.6g} {-high / height:.6g})">'
    )
    parts += [_box(layout, number, colors) for number in layout.plan.variants[layout.variant].planned]
    parts.append(f'</g><path class="b" d="M{_LEFT} {bound:.1f}H{_WIDTH}"/>')
    parts.append(f'<text x="{_WIDTH}" y="{bound - 5:.1f}" class="e">most bytes alive at once</text></svg>')
    return "".join(parts)


def _box(layout: RunLayout, number: int, colors: dict[Formula, int]) -> str:
    buffer = layout.plan.variants[layout.variant].buffers[number]
    size, offset, unit = layout.sizes[number], layout.offsets[number], layout.plan.alignment
    assert size is not None and offset is not None and buffer.size is not None
    if size == 0:
        return ""
    first, last = layout.first[number], layout.last[number]
    about = f"{_short(buffer.name)}\n{size:,} B = {buffer.size.text(layout.plan.names)}\nat {offset:,}, {first}–{last}"
    return (
        f'<rect class="f{colors[buffer.size]}" x="{first}" y="{offset // unit}" width="{last - first}"'
        f' height="{-(-size // unit)}"><title>{html.escape(about, quote=False)}</title></rect>'
    )


def _address(peak: int, tick: int) -> str:
    return format_bytes(round(peak * tick / _TICKS))


def _short(name: str) -> str:
    """Long names lose their middle: layers differ at the begin, and operators at the end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _legend(layouts: Sequence[RunLayout], labels: Sequence[str], colors: dict[Formula, int]) -> str:
    """A table of the formulas: how many buffers have each, and the bytes of one at each of the runs."""
    plan, variant = layouts[0].plan, layouts[0].plan.variants[layouts[0].variant]
    sizes = [variant.buffers[number].size for number in variant.planned]
    head = "".join(f"<th>{html.escape(label)}</th>" for label in labels)
    rows = []
    for formula, color in colors.items():
        cells = "".join(f"<td>{format_bytes(formula.evaluate(layout.values))}</td>" for layout in layouts)
        rows.append(
            f'<tr><td><i class="f{color}"></i>{html.escape(formula.text(plan.names))}</td>'
            f"<td>{sizes.count(formula)}</td>{cells}</tr>"
        )
    return f"<h2>Sizes</h2><table><tr><th>bytes</th><th>buffers</th>{head}</tr>{''.join(rows)}</table>"


def _on_the_heap(layout: RunLayout) -> str:
    """The buffers that have no box."""
    rows = []
    for buffer in layout.plan.variants[layout.variant].buffers:
        if buffer.kind != "planned":
            size = _UNKNOWN if buffer.size is None else buffer.size.text(layout.plan.names)
            kind = "output" if buffer.kind == "output" else "intermediate"
            cells = (_short(buffer.name), kind, size)
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>buffer</th><th>kind</th><th>bytes</th></tr>"
    return f"<h2>Not in the block</h2><table>{head}{''.join(rows)}</table>" if rows else ""


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:76em;margin:2em auto;padding:0 1em}"
    "section{display:none}input{margin:0 .4em 0 0}label{margin-right:1.4em}"
    "svg{width:100%;height:auto;font-size:12px}text{fill:currentColor}"
    ".e{text-anchor:end}.g{stroke:#8884;fill:none}.b{stroke:currentColor;stroke-dasharray:6 4;stroke-width:1.5}"
    "rect{stroke:currentColor;stroke-opacity:.35;stroke-width:.6;vector-effect:non-scaling-stroke}"
    "rect:hover{stroke-opacity:1;stroke-width:2}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #8884}"
    "td{overflow-wrap:anywhere}i{display:inline-block;width:.9em;height:.9em;margin-right:.5em;border-radius:2px}"
)
