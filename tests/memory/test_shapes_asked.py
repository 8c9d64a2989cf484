"""Sizes are read as people write them, and ranges become few shapes that show how memory grows."""

from __future__ import annotations

import pytest

from tests.memory.plans import packed, padded, plan, variant
from turbo_onnx.errors import InputError
from turbo_onnx.memory.plan import MemoryPlan, Variable
from turbo_onnx.memory.run_layout import Layouts
from turbo_onnx.memory.shapes_asked import MOST_SHAPES, OTHER, parse, usual
from turbo_onnx.runtime.peak import run_values

PACKED = packed("a -a", {"a": "4*tokens"})


def test_sizes_are_one_shape() -> None:
    expected = [{"batch": 8, "length": 128, "tokens": 700}]
    assert parse("batch=8,length=128,tokens=700", PACKED) == expected
    assert parse(" batch = 8, length=128 ,tokens=700 ", PACKED) == expected


def test_a_range_is_its_ends_and_the_powers_of_two_between() -> None:
    assert [s["batch"] for s in parse("batch=1..64", PACKED)] == [1, 2, 4, 8, 16, 32, 64]
    assert [s["batch"] for s in parse("batch=3..20", PACKED)] == [3, 4, 8, 16, 20]
    assert [s["batch"] for s in parse("batch=0..2", PACKED)] == [0, 2]
    assert [s["batch"] for s in parse("batch=5..5", PACKED)] == [5]


def test_several_ranges_are_all_combinations_and_the_largest_is_last() -> None:
    shapes = parse("batch=1..2,length=16..64", PACKED)
    assert [(s["batch"], s["length"]) for s in shapes] == [(1, 16), (1, 32), (1, 64), (2, 16), (2, 32), (2, 64)]


@pytest.mark.parametrize("spec", ["batch=1..64,length=1..512", "batch=1..64,length=1..512,x=1..4096,y=1..9"])
def test_wide_ranges_have_wider_steps_and_keep_their_corners(spec: str) -> None:
    shapes = parse(spec, PACKED)
    assert 4 <= len(shapes) <= MOST_SHAPES
    assert set(shapes[0].values()) == {1}
    for batch in (1, 64):
        for length in (1, 512):
            assert any(s["batch"] == batch and s["length"] == length for s in shapes)


def test_no_more_tokens_than_positions_come_out_of_a_range() -> None:
    shapes = parse("batch=1..4,length=8,tokens=1..32", PACKED)
    assert all(s["tokens"] <= s["batch"] * s["length"] for s in shapes)
    assert {"batch": 4, "length": 8, "tokens": 32} in shapes
    with pytest.raises(InputError, match="more tokens than batch times length in all"):
        parse("batch=1,length=2,tokens=5..9", PACKED)


def test_sizes_go_by_role_and_by_the_names_of_the_model() -> None:
    one = variant("a -a", {"a": "4*b*past"}, ("b", "past"))
    named = MemoryPlan((Variable("b", "batch", 0, 0), Variable("past", "", 0, 1)), plan([one], ("b", "past")).variants)
    assert parse("b=3,past=5", named) == parse("batch=3,past=5", named) == [{"batch": 3, "past": 5}]
    with pytest.raises(InputError, match="names no sizes"):
        parse("b=3,batch=5", named)


@pytest.mark.parametrize(
    "spec",
    ["", "8", "batch", "batch=", "=8", "batch=x", "batch=-1", "batch=1,,length=2", "batch=1..", "batch=..3",
     "batch=1.5", "batch=1...3", "batch=1,batch=2", "batch=٣", "batch=9999999999999999999"],
)  # fmt: skip
def test_what_names_no_sizes_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(InputError, match="names no sizes; write such as batch=8,length=128"):
        parse(spec, PACKED)


def test_a_range_that_ends_below_its_begin_is_refused() -> None:
    with pytest.raises(InputError, match="the range of batch ends below its begin"):
        parse("batch=4..2", PACKED)


def test_the_usual_shapes_are_shapes_of_any_plan() -> None:
    loose = plan([variant("a -a", {"a": "4*left*right"}, ("left", "right"))], ("left", "right"))
    for one, count in (
        (PACKED, 6),
        (padded("a -a", {"a": "4*batch*length"}), 5),
        (loose, 1),
        (plan([variant("a -a", {"a": "4"}, ())], ()), 1),
    ):
        values = [run_values(Layouts(one), sizes) for sizes in usual(one)]
        assert len(set(values)) == len(values) == count
    assert run_values(Layouts(loose), usual(loose)[0]) == (OTHER, OTHER)


def test_one_usual_shape_is_half_padding() -> None:
    assert {"batch": 32, "length": 128, "tokens": 2048} in usual(PACKED)
