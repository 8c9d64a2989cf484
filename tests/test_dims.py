"""Dimensions are polynomials: their arithmetic is that of the numbers they stand for, and their text reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_onnx.dims import (
    Dim,
    as_dim,
    as_item,
    at_least,
    divide_exactly,
    is_non_negative,
    parse,
    product,
    solutions,
    symbol,
)

NAMES = ("batch", "seq", "x")
SIZES = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES})


def leaves() -> st.SearchStrategy[Dim | int]:
    return st.integers(-6, 6) | st.sampled_from(NAMES).map(symbol)


DIMS = st.recursive(
    leaves(),
    lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner).map(
        lambda item: {"+": item[1] + item[2], "-": item[1] - item[2], "*": item[1] * item[2]}[item[0]]
    ),
    max_leaves=6,
)


def value(dim: Dim | int, sizes: dict[str, int]) -> int:
    result = dim.substitute(sizes) if isinstance(dim, Dim) else dim
    assert isinstance(result, int)
    return result


@given(DIMS, DIMS, SIZES)
def test_arithmetic_is_that_of_the_numbers(a: Dim | int, b: Dim | int, sizes: dict[str, int]) -> None:
    left, right = value(a, sizes), value(b, sizes)
    assert value(a + b, sizes) == left + right
    assert value(a - b, sizes) == left - right
    assert value(a * b, sizes) == left * right
    assert value(-a, sizes) == -left
    assert value(product([a, b, 2]), sizes) == left * right * 2


@given(DIMS, DIMS)
def test_equal_polynomials_are_equal_texts_and_the_other_way_round(a: Dim | int, b: Dim | int) -> None:
    assert (a == b) == (str(a) == str(b))
    assert hash(a + b) == hash(b + a)
    assert (a + b) - b == a


@given(DIMS)
def test_the_text_reads_back(a: Dim | int) -> None:
    assert parse(str(a)) == a
    assert as_dim(as_item(a)) == a


@given(DIMS, DIMS, SIZES)
def test_what_is_decided_is_true(a: Dim | int, b: Dim | int, sizes: dict[str, int]) -> None:
    if is_non_negative(a):
        assert value(a, sizes) >= 0
    if at_least(a, b):
        assert value(a, sizes) >= value(b, sizes)


@given(DIMS, DIMS, SIZES)
def test_an_exact_quotient_times_the_divisor_is_the_dividend(a: Dim | int, b: Dim | int, sizes: dict[str, int]) -> None:
    quotient = divide_exactly(a, b)
    if quotient is not None and value(b, sizes) != 0:
        assert value(quotient, sizes) * value(b, sizes) == value(a, sizes)


def test_division() -> None:
    batch, seq = symbol("batch"), symbol("seq")
    assert divide_exactly(batch * seq * 8, seq * 4) == batch * 2
    assert batch * seq // batch == seq
    assert 0 // batch == 0
    for dividend, divisor in ((batch, seq), (batch, 2), (batch + 1, batch), (3, batch)):
        assert divide_exactly(dividend, divisor) is None
    with pytest.raises(ArithmeticError, match="batch is not known to be a multiple of 2"):
        batch // 2
    with pytest.raises(ArithmeticError, match="3 is not known to be a multiple of batch"):
        3 // batch
    assert divide_exactly(batch + 1, batch + 1) == 1


def test_division_by_zero_is_no_quotient() -> None:
    for dividend in (symbol("batch"), 4, 0):
        assert divide_exactly(dividend, 0) is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("batch", "batch"),
        ("seq + batch", "batch + seq"),
        ("2*seq*batch", "2*batch*seq"),
        (" 1 +s0", "s0 + 1"),
        ("-seq + 3", "-seq + 3"),
        ("past_sequence_length + 1", "past_sequence_length + 1"),
        ("128", "128"),
        ("floor(x/2)", "floor_x/2_"),
        ("some size", "some_size"),
        ("a*-b", "a__b"),
        ("a + ", "a___"),
        ("?", "_"),
        ("", "unnamed"),
    ],
)
def test_texts_of_files_become_canonical(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


def test_what_is_one_symbol_is_known_as_one() -> None:
    seq = symbol("seq")
    assert isinstance(seq, Dim)
    assert seq.name == "seq"
    for other in (seq * 2, seq + 1, seq * seq, seq + symbol("x")):
        assert isinstance(other, Dim)
        assert other.name is None
    assert (seq * symbol("x") + 2).symbols == {"seq", "x"}


@given(DIMS, SIZES)
def test_solutions_make_the_difference_zero(difference: Dim | int, sizes: dict[str, int]) -> None:
    for name, size in solutions(difference):
        assert is_non_negative(size)
        assert value(difference, sizes | {name: value(size, sizes)}) == 0


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ("a + s - b - s", {"a": "b", "b": "a"}),
        ("64*a - 64*b", {"a": "b", "b": "a"}),
        ("t - a - s", {"t": "a + s"}),
        ("a*h - b*h", {}),
        ("2*a - b", {"b": "2*a"}),
        ("a*a - a", {}),
        ("a + 3", {}),
    ],
)
def test_a_difference_of_zero_says_what_single_sizes_are(difference: str, expected: dict[str, str]) -> None:
    assert {name: str(size) for name, size in solutions(parse(difference))} == expected
