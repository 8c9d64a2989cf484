"""The picture of a plan: every buffer's box is where the layout says, and the page is small, whole and safe."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from tests.memory.plans import packed, padded
from turbo_onnx.memory.picture import render
from turbo_onnx.memory.plan import MemoryPlan
from turbo_onnx.memory.run_layout import RunLayout, lay_out

SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
PLAN = padded(
    "a b -a c -b scratch -c out",
    {"a": "4*batch*length", "b": "64*batch", "c": "4*batch*length*length", "out": "4*batch"},
    outputs="out",
)


def boxes(drawing: str) -> dict[str, dict[str, str]]:
    """The attributes of each box, and all that it says, by the first line of that."""
    found = {}
    for box in ElementTree.fromstring(drawing).iter("rect"):
        title = box.find("title")
        assert title is not None
        assert title.text is not None
        found[title.text.split("\n")[0]] = box.attrib | {"about": title.text}
    return found


def page(plan: MemoryPlan, *shapes: list[int]) -> tuple[str, list[RunLayout]]:
    layouts = [lay_out(plan, values) for values in shapes]
    return render([(f"shape {i}", layout) for i, layout in enumerate(layouts)], "A plan"), layouts


def test_each_planned_buffer_is_a_box_at_its_time_and_address() -> None:
    text, (layout,) = page(PLAN, [2, 16])
    (drawing,) = SVG.findall(text)
    found = boxes(drawing)
    assert list(found) == ["a", "b", "c"]
    for number, name in enumerate("abc"):
        box, size, offset = found[name], layout.sizes[number], layout.offsets[number]
        assert size is not None
        assert offset is not None
        assert int(box["x"]) == layout.first[number]
        assert int(box["width"]) == layout.last[number] - layout.first[number]
        assert int(box["y"]) * 64 == offset
        assert int(box["height"]) * 64 == -(-size // 64) * 64
    assert "4·batch·length²" in found["c"]["about"]
    assert "2,048 B" in found["c"]["about"]


def test_the_drawing_fills_its_frame_and_shows_the_bound_below_the_top() -> None:
    text, (layout,) = page(PLAN, [2, 16])
    (drawing,) = SVG.findall(text)
    scale = re.search(r"translate\((\d+) (\d+)\) scale\(([\d.]+) (-[\d.]+)\)", drawing)
    line = re.search(r'class="b" d="M\d+ ([\d.]+)H(\d+)"', drawing)
    assert scale is not None
    assert line is not None
    left, bottom, across, up = map(float, scale.groups())
    assert abs(left + across * max(layout.last) - float(line[2])) < 0.1
    top = bottom + up * layout.peak / 64
    assert layout.lower_bound < layout.peak
    assert abs(float(line[1]) - (bottom - (bottom - top) * layout.lower_bound / layout.peak)) < 0.1


def test_several_sizes_are_one_drawing_each_and_the_first_is_shown() -> None:
    text, layouts = page(PLAN, [1, 16], [2, 16], [8, 128])
    drawings = SVG.findall(text)
    assert len(drawings) == 3
    assert [boxes(d)["c"]["height"] for d in drawings] == ["16", "32", "8192"]
    assert text.count(" checked>") == 1
    assert re.search(r'id="r0" checked', text)
    for number in range(3):
        assert f"#r{number}:checked~#d{number}{{display:block}}" in text
        assert f'<label for="r{number}">shape {number}</label>' in text
    assert len({layout.peak for layout in layouts}) == 3


def test_buffers_of_one_formula_have_one_color_and_the_legend_counts_them() -> None:
    text, _ = page(padded("a b c -a -b -c", {"a": "64*batch", "b": "8*length", "c": "64*batch"}), [2, 16])
    found = boxes(SVG.findall(text)[0])
    assert found["a"]["class"] == found["c"]["class"] != found["b"]["class"]
    assert re.search(r'class="f0"></i>64·batch</td><td>2</td><td>128 B</td>', text)


def test_what_is_not_in_the_block_is_listed() -> None:
    text, _ = page(PLAN, [2, 16])
    listed = text.split("Not in the block")[1]
    assert "<td>scratch</td><td>intermediate</td><td>of unknown size</td>" in listed
    assert "<td>out</td><td>output</td><td>4·batch</td>" in listed
    assert "<td>a</td>" not in listed


def test_names_are_escaped_and_long_ones_keep_both_ends() -> None:
    evil = "<script>alert(1)</script>&\"'"
    long = "layer" + "x" * 300 + "MatMul"
    text, _ = page(packed(f"{evil} {long} -{evil} -{long}", {evil: "4*tokens", long: "4*batch"}), [1, 8, 8])
    assert "<script" not in text
    names = list(boxes(SVG.findall(text)[0]))
    assert names[0] == evil
    assert names[1].startswith("layerx")
    assert names[1].endswith("xMatMul")
    assert len(names[1]) <= 96


def test_a_run_without_bytes_is_an_empty_drawing() -> None:
    text, _ = page(PLAN, [0, 16])
    assert boxes(SVG.findall(text)[0]) == {}


def test_the_page_asks_for_nothing_outside_of_itself() -> None:
    text, _ = page(PLAN, [2, 16])
    assert not re.search(r"https?:|src=|href=|@import|url\(", text)
    assert "color-scheme:light dark" in text


def test_400_buffers_at_three_sizes_take_less_than_300_kb() -> None:
    story, sizes = [], {}
    for number in range(400):
        name = f"/encoder/layer.{number}/attention/output/dense/MatMul_output_0"
        sizes[name] = f"{4 * (number % 20 + 1)}*tokens"
        story += [name] + ([f"-{list(sizes)[-9]}"] if number >= 8 else [])
    story += [f"-{name}" for name in list(sizes)[-8:]]
    text, _ = page(packed(" ".join(story), sizes), [1, 16, 16], [8, 128, 700], [64, 512, 32768])
    assert len(text.encode()) < 300_000
