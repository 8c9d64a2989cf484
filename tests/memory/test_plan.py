"""A plan says the same as JSON and to the library, is read again as it was, and takes sizes by name and by role."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.plans import formula, packed, padded, plan, variant
from turbo_onnx.errors import InputError
from turbo_onnx.memory.formula import Formula
from turbo_onnx.memory.plan import Assumption, Buffer, MemoryPlan, Variable, Variant, from_json

ROLES = ("tokens", "batch", "length", "past", "")
SMALL = plan(
    [
        variant(
            "a b -a c -b -c out",
            {"a": "4*n", "b": "8*n - 4", "c": "4*n", "out": "64"},
            ["n"],
            outputs="out",
            orders=["a c b", "b c a"],
            tree=[("a", "b", -1, -2)],
        )
    ],
    ["n"],
)


@st.composite
def plans(draw: st.DrawFn) -> MemoryPlan:
    """Any plan: up to four variables, assumptions on them, variants with buffers of every kind, orders and trees."""
    count = draw(st.integers(0, 4))
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=count, max_size=count))
    small = st.integers(0, 9)
    variables = tuple(Variable(name, draw(st.sampled_from(ROLES)), draw(small), draw(small)) for name in names)
    exponents = st.tuples(*[st.integers(0, 2)] * count)
    formulas = draw(
        st.lists(
            st.lists(st.tuples(exponents, st.integers(-(2**62), 2**62)), max_size=4).map(Formula.of),
            min_size=1,
            max_size=5,
        )
    )
    parts = st.lists(st.integers(0, count - 1), min_size=1, max_size=2).map(tuple) if count else st.nothing()
    assumptions = st.lists(st.builds(Assumption, st.text(max_size=5), small, small, parts), max_size=2 * bool(count))
    return MemoryPlan(
        variables,
        tuple(draw(variants(formulas, count)) for _ in range(draw(st.integers(1, 3)))),
        draw(st.text(max_size=8)),
        draw(st.sampled_from([1, 64, 4096])),
        tuple(draw(assumptions)),
    )


@st.composite
def variants(draw: st.DrawFn, formulas: list[Formula], variables: int) -> Variant:
    kinds = draw(st.lists(st.sampled_from(["planned", "output", "unknown"]), max_size=8))
    buffers = tuple(
        Buffer(draw(st.text(max_size=5)), None if kind == "unknown" else draw(st.sampled_from(formulas)), kind)
        for kind in kinds
    )
    planned = [number for number, kind in enumerate(kinds) if kind == "planned"]
    sized = [number for number, kind in enumerate(kinds) if kind != "unknown"]
    orders = draw(st.lists(st.permutations(planned).map(tuple), min_size=1, max_size=3))
    nodes = range(len(orders) - 1 if sized else 0)
    choose = st.sampled_from(sized) if sized else st.nothing()
    tree = tuple((draw(choose), draw(choose), -(node + 1), node + 1 if node + 1 in nodes else -1) for node in nodes)
    events = tuple([0] * len(buffers) + [number + 1 for number in draw(st.permutations(planned))])
    seen = draw(st.lists(st.tuples(*[st.integers(0, 99)] * variables), max_size=2))
    return Variant(draw(st.text(max_size=5)), buffers, events, tuple(orders), tree, tuple(seen))


class Numbers:
    """The integers of a plan's text, to be read in order."""

    def __init__(self, text: str) -> None:
        word, *numbers = text.split(" ")
        assert word == "turbo_onnx_plan"
        self.left: Iterator[int] = iter([int(number) for number in numbers])

    def take(self, count: int) -> tuple[int, ...]:
        return tuple(next(self.left) for _ in range(count))

    def counted(self) -> tuple[int, ...]:
        return self.take(self.take(1)[0])


def read(text: str) -> dict[str, object]:
    """What a plan's text says, read as its definition has it."""
    numbers = Numbers(text)
    version, alignment, count = numbers.take(3)
    axes = [numbers.take(2) for _ in range(count)]
    assumed = [(numbers.take(2), numbers.counted()) for _ in range(numbers.take(1)[0] if version == 2 else 0)]
    formulas = [
        Formula.of((tuple(exponents), c) for c, *exponents in (numbers.take(1 + count) for _ in range(terms)))
        for terms in (numbers.take(1)[0] for _ in range(numbers.take(1)[0]))
    ]
    found = []
    for _ in range(numbers.take(1)[0]):
        buffers = [numbers.take(2) for _ in range(numbers.take(1)[0])]
        events = numbers.counted()
        orders = tuple(numbers.counted() for _ in range(numbers.take(1)[0]))
        tree = [numbers.take(4) for _ in range(numbers.take(1)[0])]
        found.append(
            (
                [(None if index < 0 else formulas[index], heap) for index, heap in buffers],
                events,
                orders,
                [(formulas[a], formulas[b], yes, no) for a, b, yes, no in tree],
            )
        )
    assert next(numbers.left, None) is None
    return {"version": version, "alignment": alignment, "axes": axes, "assumed": assumed, "variants": found}


@given(plans())
def test_json_is_read_as_it_was_written(wanted: MemoryPlan) -> None:
    assert from_json(wanted.to_json(), "the model") == wanted
    assert from_json(wanted.to_json(indent=1), "the model") == wanted
    json.loads(wanted.to_json())


@given(plans())
def test_the_text_says_what_the_plan_does(wanted: MemoryPlan) -> None:
    assert read(wanted.text()) == {
        "version": 2 if wanted.assumptions else 1,
        "alignment": wanted.alignment,
        "axes": [(v.input, v.axis) for v in wanted.variables],
        "assumed": [((one.input, one.axis), one.parts) for one in wanted.assumptions],
        "variants": [
            (
                [(b.size, int(b.kind != "planned")) for b in one.buffers],
                one.events,
                one.orders,
                [(one.buffers[a].size, one.buffers[b].size, yes, no) for a, b, yes, no in one.tree],
            )
            for one in wanted.variants
        ],
    }


def test_the_text_of_a_small_plan_is_this() -> None:
    assert SMALL.text() == (
        "turbo_onnx_plan 1 64 1 0 0 3 1 4 1 2 8 1 -4 0 1 64 0 1"
        " 4 0 0 1 0 0 0 2 1 7 0 0 1 0 2 3 0 2 3 0 2 1 3 1 2 0 1 0 1 -1 -2"
    )


def test_equal_formulas_are_written_once() -> None:
    document = json.loads(SMALL.to_json())
    assert document["formulas"] == [[[4, 1]], [[8, 1], [-4, 0]], [[64, 0]]]
    assert [entry[1] for entry in document["variants"][0]["buffers"]] == [0, 1, 0, 2]


def test_json_says_what_it_was_recorded_with() -> None:
    document = json.loads(SMALL.to_json())
    assert (document["format"], document["onnxruntime"], document["alignment"]) == (1, "1.31.1", 64)


DOCUMENT = json.loads(SMALL.to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        json.dumps(DOCUMENT | {"variants": 3}),
        json.dumps({key: value for key, value in DOCUMENT.items() if key != "alignment"}),
        json.dumps(DOCUMENT | {"formulas": []}),
        json.dumps(DOCUMENT | {"variables": [{"name": "n"}]}),
        json.dumps(DOCUMENT | {"formulas": [["x"]]}),
        json.dumps(DOCUMENT | {"formulas": [[[8, 10**9]]]}),
        json.dumps(DOCUMENT | {"alignment": float("inf")}),
        json.dumps(DOCUMENT | {"assumptions": [{"name": "n", "input": 0, "axis": 0, "sum": [1]}]}),
        json.dumps(DOCUMENT | {"assumptions": [{"name": "n", "input": 0}]}),
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="the file: its memory plan cannot be read; optimize the model again"):
        from_json(text, "the file")


def test_a_newer_format_is_refused_by_its_number() -> None:
    with pytest.raises(InputError, match="has format 3, and this version reads 2; upgrade turbo-onnx"):
        from_json(json.dumps(DOCUMENT | {"format": 3, "variants": "of another kind"}), "the file")


def test_planned_buffers_are_those_that_lie_in_the_block() -> None:
    (one,) = packed("a b c -b out", {"a": "64", "b": "64", "out": "64"}, outputs="out").variants
    assert one.planned == (0, 1)
    assert [buffer.kind for buffer in one.buffers] == ["planned", "planned", "unknown", "output"]


# -- sizes


def with_variables(*variables: Variable) -> MemoryPlan:
    return MemoryPlan(variables, (Variant("all", (), (), ((),)),))


ENCODER = with_variables(
    Variable("s18", "batch", 0, 0), Variable("s41", "length", 0, 1), Variable("total_tokens", "tokens", 1, 0)
)


def test_sizes_are_given_by_name_or_by_role_in_any_order() -> None:
    assert ENCODER.values({"tokens": 30, "batch": 4, "length": 9}) == (4, 9, 30)
    assert ENCODER.values({"s41": 9, "s18": 4, "tokens": 30}) == (4, 9, 30)
    assert ENCODER.values({"batch": 4, "length": 0, "tokens": 0}) == (4, 0, 0)


def test_one_role_gives_all_variables_that_have_it() -> None:
    decoder = with_variables(Variable("a", "batch", 0, 0), Variable("b", "batch", 1, 0), Variable("past", "", 1, 1))
    assert decoder.values({"batch": 3, "past": 7}) == (3, 3, 7)


def test_a_name_is_taken_before_a_role() -> None:
    confusing = with_variables(Variable("tokens", "length", 0, 1), Variable("total", "tokens", 1, 0))
    assert confusing.values({"tokens": 128, "total": 700}) == (128, 700)
    assert confusing.values({"length": 128, "total": 700}) == (128, 700)


def test_a_default_stands_for_sizes_that_are_not_given() -> None:
    assert ENCODER.values({"batch": 4}, default=1) == (4, 1, 1)
    assert with_variables().values({}) == ()


def test_missing_sizes_are_listed() -> None:
    with pytest.raises(
        InputError, match=r"needs the sizes length and tokens; its sizes are s18 \(batch\), s41 \(length"
    ):
        ENCODER.values({"batch": 4})


def test_sizes_that_the_plan_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="the plan has no size 'width'"):
        ENCODER.values({"batch": 4, "length": 1, "tokens": 1, "width": 3})
    with pytest.raises(InputError, match="the plan has no size 'batch'; its sizes are none"):
        with_variables().values({"batch": 4})


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="the size batch is -1, and cannot be negative"):
        ENCODER.values({"batch": -1, "length": 1, "tokens": 1})


def test_plans_for_tests_are_written_as_they_are_read() -> None:
    assert formula("64*batch*length - 8", ["batch", "length"]) == Formula.of([((1, 1), 64), ((0, 0), -8)])
    assert padded("a -a", {"a": "64*batch"}).variants[0].events == (0, 1)
