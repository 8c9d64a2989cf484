"""A run is laid out as the library does it: sizes by formulas, the order by the tree, offsets by stacking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.plans import formula, packed, padded, plan, variant
from turbo_onnx.errors import InputError
from turbo_onnx.memory.plan import MemoryPlan
from turbo_onnx.memory.run_layout import LARGEST_BUFFER, TOO_LARGE, Layouts, lay_out, peaks

CHAIN = padded(
    "a b -a c -b -c out",
    {"a": "4*batch*length", "b": "100*batch", "c": "4*batch*length*length + 8", "out": "4*batch"},
    outputs="out",
    orders=["a b c"],
)


def test_buffers_lie_where_their_order_stacks_them() -> None:
    layout = lay_out(CHAIN, [2, 3])
    assert layout.sizes == (24, 200, 80, 8)
    assert layout.offsets == (0, 64, 320, None)  # c lies on b, which lies on a; sizes are rounded up to 64
    assert (layout.first, layout.last) == ((0, 1, 3, 6), (2, 4, 5, 7))
    assert layout.peak == 448
    assert layout.lower_bound == 384  # b and c
    assert layout.outputs == 8
    assert layout.total == 456
    assert layout.unknown == 0


def test_what_is_not_planned_counts_where_its_size_is_known() -> None:
    layout = lay_out(padded("a scratch -a one two", {"a": "64*batch", "one": "8*length"}, outputs="one two"), [3, 5])
    assert layout.sizes == (192, None, 40, None)
    assert layout.offsets == (0, None, None, None)
    assert (layout.peak, layout.outputs, layout.unknown) == (192, 40, 2)


def test_the_tree_decides_the_order_at_each_shape() -> None:
    swapped = padded(
        "a b -a -b",
        {"a": "64*batch", "b": "64*length"},
        orders=["a b", "b a"],
        tree=[("a", "b", -1, -2)],
    )
    below, equal, above = (lay_out(swapped, values) for values in ([1, 2], [2, 2], [3, 2]))
    assert [below.order, equal.order, above.order] == [0, 0, 1]
    assert below.offsets == (0, 64)
    assert above.offsets == (128, 0)


def test_buffers_without_bytes_take_no_room() -> None:
    layout = lay_out(packed("a b -a -b", {"a": "4*tokens", "b": "64*batch"}), [2, 8, 0])
    assert layout.sizes == (0, 128)
    assert layout.peak == layout.lower_bound == 128


def test_a_plan_without_planned_buffers_needs_no_block() -> None:
    alone = padded("out", {"out": "4*batch"}, outputs="out")
    assert (lay_out(alone, [5, 1]).peak, lay_out(alone, [5, 1]).total) == (0, 20)
    assert [part.tolist() for part in peaks(alone, np.array([[5, 1], [6, 1]]))] == [[0, 0], [0, 0], [20, 24]]


def test_sizes_that_do_not_go_together_are_refused_with_the_buffer_that_shows_it() -> None:
    plan = packed("pad -pad", {"pad": "4*batch*length - 4*tokens"})
    sentence = r"at batch 2, length 3, tokens 7 the buffer 'pad' would have -4 bytes, so these sizes do not go together"
    with pytest.raises(InputError, match=sentence):
        lay_out(plan, [2, 3, 7])
    with pytest.raises(InputError, match=sentence):
        peaks(plan, np.array([[2, 3, 6], [2, 3, 7]]))


@pytest.mark.parametrize("extra", [1, LARGEST_BUFFER, 1 << 60])
def test_what_is_too_large_for_the_library_is_refused_for_one_and_marked_among_many(extra: int) -> None:
    plan = padded("a -a", {"a": "batch*length"})
    fits, beyond = [1, LARGEST_BUFFER], [1, LARGEST_BUFFER + extra]
    assert lay_out(plan, fits).peak == LARGEST_BUFFER
    with pytest.raises(InputError, match="more than a plan can have"):
        lay_out(plan, beyond)
    needs = peaks(plan, np.array([fits, beyond]))
    assert needs.total.tolist() == [LARGEST_BUFFER, TOO_LARGE]
    assert peaks(plan, np.array([[1 << 40, 1 << 40]])).total.tolist() == [TOO_LARGE]  # wraps around to 0


def test_of_several_variants_the_one_that_needs_most_counts_at_each_shape() -> None:
    names = ("batch", "length")
    one = variant("a out -a", {"a": "64*batch", "out": "1"}, names, outputs="out", name="all")
    two = variant("a out -a", {"a": "64*length", "out": "2"}, names, outputs="out", name="basic")
    both = plan([one, two], names)
    shapes = np.array([[2, 1], [1, 2], [3, 3]])
    assert [part.tolist() for part in peaks(both, shapes)] == [[128, 128, 192], [128, 128, 192], [1, 2, 2]]
    assert peaks(both, shapes, 0).total.tolist() == [129, 65, 193]
    assert [Layouts(both).total(values) for values in shapes.tolist()] == [129, 130, 194]
    assert lay_out(both, [1, 2], 1).variant == 1


def test_growth_is_known_only_for_one_order_and_nothing_subtracted() -> None:
    sizes = {"a": "64*batch", "b": "64*length"}
    assert Layouts(padded("a b -a -b", sizes)).monotone
    assert not Layouts(padded("a b -a -b", sizes, orders=["a b", "b a"], tree=[("a", "b", -1, -2)])).monotone
    assert not Layouts(padded("a b -a -b", sizes | {"b": "64*length - 64"})).monotone


def test_only_variables_of_some_formula_are_needed() -> None:
    assert Layouts(packed("a -a", {"a": "64*tokens"})).needed == {2}
    assert Layouts(packed("a out -a", {"a": "64*tokens", "out": "4*batch"}, outputs="out")).needed == {0, 2}


BROKEN = {
    "an event frees what is not alive": {"events": (0, 2, 1)},
    "a buffer is never allocated": {"events": (0, 1, 0, 2)},
    "an order leaves a buffer out": {"orders": ((0, 1),)},
    "an order names a buffer twice": {"orders": ((0, 1, 1),)},
    "there is no order": {"orders": ()},
    "the tree leads back": {"tree": ((0, 1, 0, -1),)},
    "the tree leads to no order": {"tree": ((0, 1, -1, -2),)},
    "the tree compares what has no size": {"tree": ((0, 9, -1, -1),)},
}


@pytest.mark.parametrize("fields", BROKEN.values(), ids=BROKEN.keys())
def test_a_plan_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    broken = replace(CHAIN, variants=(replace(CHAIN.variants[0], **fields),))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="contradicts itself; optimize the model again"):
        lay_out(broken, [2, 3])


@st.composite
def stories(draw: st.DrawFn) -> MemoryPlan:
    """Random lifetimes and formulas, two orders, and a tree of one comparison."""
    count = draw(st.integers(2, 12))
    names = [f"b{i}" for i in range(count)]
    story: list[str] = []
    alive: list[str] = []
    for name in names:
        story.append(name)
        alive.append(name)
        while alive and draw(st.booleans()):
            story.append("-" + alive.pop(draw(st.integers(0, len(alive) - 1))))
    story += [f"-{name}" for name in alive]
    choices = ["4*batch", "40*length", "12*batch*length + 8", "4*batch*length*length", "0*batch", "65"]
    sizes = {name: draw(st.sampled_from(choices)) for name in names}
    orders = [" ".join(draw(st.permutations(names))) for _ in range(2)]
    return padded(" ".join(story), sizes, orders=orders, tree=[(names[0], names[1], -1, -2)])


@settings(max_examples=60, deadline=None)
@given(stories(), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_no_two_live_buffers_overlap_and_many_shapes_give_what_one_gives(
    drawn: MemoryPlan, shapes: list[tuple[int, int]]
) -> None:
    needs = peaks(drawn, np.array(shapes), 0)
    for index, values in enumerate(shapes):
        layout = lay_out(drawn, values)
        boxes = [
            (first, last, offset, offset + size)
            for first, last, offset, size in zip(layout.first, layout.last, layout.offsets, layout.sizes, strict=True)
            if offset is not None and size
        ]
        for i, (first, last, low, high) in enumerate(boxes):
            assert low % 64 == 0
            assert high <= layout.peak
            for other_first, other_last, other_low, other_high in boxes[:i]:
                together = first < other_last and other_first < last
                assert not together or high <= other_low or other_high <= low
        assert layout.lower_bound <= layout.peak
        assert [int(part[index]) for part in needs] == [layout.peak, layout.lower_bound, layout.outputs]
        assert Layouts(drawn).total(values) == layout.total


def test_formulas_of_the_helper_are_what_they_say() -> None:
    assert formula("4*a*b*b - 8 + a", ("a", "b")).text(["a", "b"]) == "4·a·b² + a - 8"
