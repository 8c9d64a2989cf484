"""Symbolic dimensions: polynomials with integer coefficients over named sizes.

A dimension is a Python int where it is known and a `Dim` where it is not; `+ - *`, exact `//` and `==` mix freely.
Sizes are never negative, so a polynomial without negative coefficients is never negative either: that is the one
inequality that is decided here (`is_non_negative`, `at_least`).

The canonical text form (`str(dim)`) is what stands in a tensor's shape and in the file's `dim_param`; equal texts mean
equal dimensions, and `parse` reads it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import gcd

Monomial = tuple[str, ...]  # sorted symbols with repetition; () is the constant term
DimLike = "Dim | int"

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_.:/]*)|(.))")


class Dim:
    """An immutable polynomial that is not a plain number. Made by `symbol`, `parse` and arithmetic."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = dict(terms)
        self._hash = hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim | int) -> Dim | int:
        terms = dict(self.terms)
        for monomial, coefficient in terms_of(other).items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return simplified(terms)

    __radd__ = __add__

    def __neg__(self) -> Dim | int:
        return self * -1

    def __sub__(self, other: Dim | int) -> Dim | int:
        return self + (-other)

    def __rsub__(self, other: Dim | int) -> Dim | int:
        return (-self) + other

    def __mul__(self, other: Dim | int) -> Dim | int:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in terms_of(other).items():
                monomial = tuple(sorted(left + right))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return simplified(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim | int) -> Dim | int:
        """Exact division.

        Raises:
            ArithmeticError: the division is not known to come out even.
        """
        quotient = divide_exactly(self, other)
        if quotient is None:
            raise ArithmeticError(f"{self} is not known to be a multiple of {other}")
        return quotient

    def __rfloordiv__(self, other: int) -> Dim | int:
        if other == 0:
            return 0
        raise ArithmeticError(f"{other} is not known to be a multiple of {self}")

    def __str__(self) -> str:
        parts = []
        for monomial, coefficient in sorted(self.terms.items(), key=lambda item: (-len(item[0]), item[0])):
            factors = "*".join(monomial)
            size = abs(coefficient)
            text = factors if factors and size == 1 else f"{size}*{factors}" if factors else str(size)
            parts.append((" - " if coefficient < 0 else " + ", text))
        head = ("-" if parts[0][0] == " - " else "") + parts[0][1]
        return head + "".join(sign + text for sign, text in parts[1:])

    __repr__ = __str__

    @property
    def symbols(self) -> set[str]:
        """The named sizes that occur."""
        return {name for monomial in self.terms for name in monomial}

    @property
    def name(self) -> str | None:
        """The symbol, if the dimension is just one symbol."""
        if len(self.terms) == 1:
            (monomial, coefficient), *_ = self.terms.items()
            if coefficient == 1 and len(monomial) == 1:
                return monomial[0]
        return None

    def substitute(self, mapping: Mapping[str, Dim | int]) -> Dim | int:
        """The dimension with symbols replaced."""
        total: Dim | int = 0
        for monomial, coefficient in self.terms.items():
            product: Dim | int = coefficient
            for name in monomial:
                product = product * mapping.get(name, symbol(name))
            total = total + product
        return total


def terms_of(value: Dim | int) -> dict[Monomial, int]:
    """The value as monomials with coefficients."""
    if isinstance(value, Dim):
        return value.terms
    return {(): int(value)} if value else {}


def simplified(terms: Mapping[Monomial, int]) -> Dim | int:
    """A polynomial without zero terms: an int where only the constant term is left."""
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Dim(kept)


def symbol(name: str) -> Dim:
    """The size with this name."""
    return Dim({(name,): 1})


def parse(text: str) -> Dim | int:
    """The dimension that a `dim_param` names: a sum of products, or else one symbol with an identifier's spelling."""
    try:
        return _parse_sum(text)
    except (ValueError, IndexError):
        return symbol(re.sub(r"[^A-Za-z0-9_.:/]", "_", text) or "unnamed")


def _parse_sum(text: str) -> Dim | int:
    tokens = [match.groups() for match in _TOKEN.finditer(text.strip())]
    total: Dim | int = 0
    index, sign = 0, 1
    if tokens and tokens[0][2] == "-":
        sign, index = -1, 1
    while True:
        product: Dim | int = sign
        while True:
            number, name, _ = tokens[index]
            if number is None and name is None:
                raise ValueError(text)
            product = product * (int(number) if number is not None else symbol(name))
            index += 1
            if index < len(tokens) and tokens[index][2] == "*":
                index += 1
                continue
            break
        total = total + product
        if index == len(tokens):
            return total
        if tokens[index][2] not in ("+", "-"):
            raise ValueError(text)
        sign = 1 if tokens[index][2] == "+" else -1
        index += 1


def as_dim(item: int | str | Dim) -> Dim | int:
    """A shape's item as a dimension."""
    return parse(item) if isinstance(item, str) else item if isinstance(item, Dim) else int(item)


def as_item(dim: Dim | int) -> int | str:
    """A dimension as a shape's item."""
    return str(dim) if isinstance(dim, Dim) else int(dim)


def product(dims: Iterable[Dim | int]) -> Dim | int:
    """The number of elements of a shape."""
    total: Dim | int = 1
    for dim in dims:
        total = total * dim
    return total


def is_non_negative(value: Dim | int) -> bool:
    """Whether the value is proven not to be negative, sizes being at least 0."""
    return all(coefficient >= 0 for coefficient in terms_of(value).values())


def at_least(value: Dim | int, bound: Dim | int) -> bool:
    """Whether value ≥ bound is proven."""
    return is_non_negative(value - bound)


def solutions(difference: Dim | int) -> list[tuple[str, Dim | int]]:
    """What single symbols are where the difference is 0: those that are polynomials which are never negative.

    Args:
        difference: of two sizes that are equal.
    """
    terms = terms_of(difference)
    divisor = gcd(*terms.values())
    found: list[tuple[str, Dim | int]] = []
    for monomial, coefficient in terms.items():
        if len(monomial) != 1 or abs(coefficient) != divisor:
            continue
        rest = {other: -factor // coefficient for other, factor in terms.items() if other != monomial}
        if all(factor > 0 and monomial[0] not in other for other, factor in rest.items()):
            found.append((monomial[0], simplified(rest)))
    return found


def divide_exactly(value: Dim | int, divisor: Dim | int) -> Dim | int | None:
    """The quotient value / divisor where every term divides evenly by a one-term divisor, else None.

    A quotient by a symbolic divisor holds wherever that divisor is not 0.
    """
    divisor_terms = terms_of(divisor)
    if len(divisor_terms) != 1:
        return 1 if value == divisor and divisor_terms else None
    ((factors, by),) = divisor_terms.items()
    terms: dict[Monomial, int] = {}
    for monomial, coefficient in terms_of(value).items():
        rest = list(monomial)
        for name in factors:
            if name not in rest:
                return None
            rest.remove(name)
        if coefficient % by:
            return None
        terms[tuple(rest)] = coefficient // by
    return simplified(terms)
