"""What is claimed of a tensor's elements holds for every size, and nothing is claimed that may not hold."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_onnx.dims import Dim, symbol
from turbo_onnx.inference import values
from turbo_onnx.inference.values import LARGEST_ELEMENTS, Affine, Elements, Stack, Uniform, Value

B, S = symbol("B"), symbol("S")
SIZES = st.fixed_dictionaries({"B": st.integers(0, 5), "S": st.integers(0, 5)})
FUNCTIONS = {
    operator.add: np.add,
    operator.sub: np.subtract,
    operator.mul: np.multiply,
    values.divide: lambda a, b: int(a / b),
    values.modulo: np.mod,
    values.maximum: np.maximum,
    values.minimum: np.minimum,
    values.equal: np.equal,
    values.greater: np.greater,
    values.greater_or_equal: np.greater_equal,
    values.less: np.less,
    values.less_or_equal: np.less_equal,
}
ITEMS = st.one_of(st.integers(-4, 4), st.sampled_from([B, S, B * S, S + 1, S - 2, 2 * B, 3 * S]))


def known(item: Dim | int, sizes: dict[str, int]) -> int:
    result = item.substitute(sizes) if isinstance(item, Dim) else item
    assert isinstance(result, int)
    return result


@given(st.sampled_from(list(FUNCTIONS)), ITEMS, ITEMS, SIZES)
def test_what_is_decided_of_sizes_holds_for_all_of_them(function, a, b, sizes) -> None:  # type: ignore[no-untyped-def]
    claimed = values.combine(function, Uniform(a), Uniform(b), rank=1)
    left, right = known(a, sizes), known(b, sizes)
    if claimed is None or (function in (values.divide, values.modulo) and right == 0):
        return
    assert known(values.single(claimed), sizes) == FUNCTIONS[function](left, right)


AFFINE = st.builds(Affine, ITEMS, st.tuples(ITEMS, ITEMS))


def computed(value: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> np.ndarray:
    """The elements that the value claims."""
    if isinstance(value, Elements):
        return np.broadcast_to(np.vectorize(lambda item: known(item, sizes), otypes=[int])(value.items), shape)
    if isinstance(value, Uniform):
        return np.full(shape, known(value.item, sizes))
    assert isinstance(value, Affine)
    result = np.full(shape, known(value.offset, sizes))
    for axis, step in enumerate(value.coefficients):
        result = result + known(step, sizes) * np.arange(shape[axis]).reshape(
            [-1 if k == axis else 1 for k in range(2)]
        )
    return result


COMBINED = [f for f in FUNCTIONS if f not in (values.divide, values.modulo)]


@given(st.sampled_from(COMBINED), AFFINE, AFFINE | st.builds(Uniform, ITEMS), SIZES)
def test_what_is_claimed_of_aranges_holds_at_every_index(function, a, b, sizes) -> None:  # type: ignore[no-untyped-def]
    for left, right in ((a, b), (b, a)):
        claimed = values.combine(function, left, right, rank=2)
        if claimed is None:
            continue
        shape = (3, 4)
        expected = FUNCTIONS[function](computed(left, shape, sizes), computed(right, shape, sizes))
        np.testing.assert_array_equal(computed(claimed, shape, sizes), expected)


def test_an_unknown_element_stays_unknown_and_the_others_known() -> None:
    left, right = Elements(np.array([1, None, S], dtype=object)), Elements(np.array([2, 3, None], dtype=object))
    result = values.combine(operator.add, left, right, rank=1)
    assert isinstance(result, Elements)
    assert result.list() == [3, None, None]
    assert not result.known
    assert values.single(result) is None


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [(7, 2, 3), (-7, 2, -3), (7, -2, -3), (-7, -2, 3), (6 * S, 3, 2 * S), (S, 2, None), (7, 0, None)],
)
def test_integers_are_divided_towards_zero(a: Dim | int, b: int, quotient: Dim | int | None) -> None:
    assert values.divide(a, b) == quotient


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.arange(100), Affine(0, (1,))),
        (np.arange(100).reshape(1, 100) * 3 + 2, Affine(2, (0, 3))),
        (np.add.outer(np.arange(10) * 5, np.arange(10)), Affine(0, (5, 1))),
        (np.full((10, 10), 7), Uniform(7)),
        (np.ones(100, bool), Uniform(True)),
        (np.arange(100, 0, -1, np.int8), Affine(100, (-1,))),
        (np.arange(100) ** 2, None),
        (np.where(np.arange(100) == 50, 0, np.arange(100)), None),
        (np.arange(100, dtype=np.float32), None),
        (np.arange(100) % 2 == 0, None),
    ],
)
def test_a_large_constant_is_seen_through_if_it_is_regular(array: np.ndarray, expected: Value | None) -> None:
    assert values.of_constant(array) == expected


def test_weights_of_integers_are_told_from_an_arange_without_reading_them_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = np.random.default_rng(0).integers(-127, 128, (512, 512)).astype(np.int8)
    monkeypatch.setattr(values.np, "arange", lambda *_: pytest.fail("it was compared with an arange"))
    assert values.of_constant(weight) is None


def test_a_small_constant_is_known_element_by_element() -> None:
    value = values.of_constant(np.array([[1, 2], [3, 4]], np.int32))
    assert isinstance(value, Elements)
    assert value.list() == [1, 2, 3, 4]
    assert value.known
    assert values.elements(np.zeros(LARGEST_ELEMENTS + 1, int)) is None


@pytest.mark.parametrize(
    ("value", "item"),
    [
        (Uniform(3), 3),
        (Elements(np.array([2, 2], object)), 2),
        (Elements(np.array([2, 3], object)), None),
        (Elements(np.array([None, None], object)), None),
        (Elements(np.array([], object)), None),
        (Affine(0, (1,)), None),
        (None, None),
    ],
)
def test_the_one_item_that_all_share(value: Value | None, item: int | None) -> None:
    assert values.single(value) == item


REPRESENTABLE = [
    (Uniform(255), np.uint8, Uniform(255)),
    (Uniform(256), np.uint8, None),
    (Uniform(-1), np.uint64, None),
    (Uniform(S), np.int32, Uniform(S)),
    (Uniform(S), np.int8, None),
    (Uniform(S - 1), np.uint32, None),
    (Uniform(None), np.int64, None),
    (Affine(0, (1,)), np.int64, Affine(0, (1,))),
    (Affine(0, (1,)), np.int16, None),
    (Uniform(1), np.float32, None),
    (Uniform(True), np.bool_, Uniform(True)),
]


@pytest.mark.parametrize(("value", "dtype", "left"), REPRESENTABLE)
def test_numbers_that_a_type_does_not_hold_are_not_known(value: Value, dtype: type, left: Value | None) -> None:
    assert values.representable(value, np.dtype(dtype)) == left


def test_elements_that_a_type_does_not_hold_are_unknown_one_by_one() -> None:
    left = values.representable(Elements(np.array([1, 300, S], object)), np.dtype(np.int8))
    assert isinstance(left, Elements)
    assert left.list() == [1, None, None]


def test_a_stack_is_compared_part_by_part() -> None:
    assert Stack((Affine(0, (1,)),)) == Stack((Affine(0, (1,)),))
    assert Stack((Affine(0, (1,)),)) != Stack((Affine(1, (1,)),))


LARGE = {
    "beyond int64": np.full(70, 2**63, np.uint64),
    "steps beyond int64": np.array([[-(2**63), 2**63 - 1]] * 70),
    "a step from the largest number down": np.array([[2**64 - 1, 0]] * 70, np.uint64),
}


@pytest.mark.parametrize("name", LARGE)
def test_numbers_that_no_size_has_are_not_known(name: str) -> None:
    assert values.of_constant(LARGE[name]) is None


def test_the_lowest_number_is_known() -> None:
    assert values.of_constant(np.full(70, -(2**63))) == Uniform(-(2**63))
