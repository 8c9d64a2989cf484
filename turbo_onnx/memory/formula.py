"""How many bytes a buffer has, as a formula in the sizes that vary from run to run.

Sizes are recorded at some shapes, and a plan has to know them at all shapes. The size of a tensor is a polynomial in
the sizes of the inputs, so a polynomial with integer coefficients is looked for that goes through all samples exactly.
Nothing is approximated: arithmetic is done modulo a prime that is far above every coefficient, and what comes out is
checked in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

Exponents = tuple[int, ...]
IntArray = npt.NDArray[np.int64]

HIGHEST_EXPONENT = 2
HIGHEST_DEGREE = 3

_PRIME = 2**61 - 1
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Formula:
    """A polynomial with integer coefficients in variables that go by their index.

    Equal formulas are equal objects: terms stand by falling degree, and none has the coefficient 0.

    Attributes:
        terms: pairs of a monomial, as the exponent of each variable, and its coefficient. None at all is 0.
    """

    terms: tuple[tuple[Exponents, int], ...]

    @staticmethod
    def of(terms: Iterable[tuple[Exponents, int]]) -> Formula:
        """The formula with these terms, given in any order, with monomials that may come more than once."""
        total: dict[Exponents, int] = {}
        for exponents, coefficient in terms:
            total[exponents] = total.get(exponents, 0) + coefficient
        kept = [(exponents, coefficient) for exponents, coefficient in total.items() if coefficient]
        return Formula(tuple(sorted(kept, key=lambda term: (-sum(term[0]), tuple(-power for power in term[0])))))

    @staticmethod
    def constant(value: int, variables: int) -> Formula:
        """The formula that is the same number everywhere."""
        return Formula.of([((0,) * variables, value)])

    def evaluate(self, values: Sequence[int]) -> int:
        """The value where variable v is `values[v]`, in integers of any size."""
        total = 0
        for exponents, coefficient in self.terms:
            for value, power in zip(values, exponents, strict=True):
                coefficient *= int(value) ** power
            total += coefficient
        return total

    def evaluate_many(self, values: IntArray) -> IntArray:
        """The values at many shapes.

        Args:
            values: int64 [shapes, variables].

        Returns:
            int64 [shapes]. Values beyond 64 bits wrap around.
        """
        total = np.zeros(len(values), np.int64)
        for exponents, coefficient in self.terms:
            total += coefficient * _monomial(values, exponents)
        return total

    def text(self, names: Sequence[str]) -> str:
        """How the formula is written, such as `4·B·S² + 64`, where variable v is called `names[v]`."""
        text = ""
        for exponents, coefficient in self.terms:
            factors = [
                name + (str(power).translate(_SUPERSCRIPTS) if power > 1 else "")
                for name, power in zip(names, exponents, strict=True)
                if power
            ]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            sign = (" - " if text else "-") if coefficient < 0 else (" + " if text else "")
            text += sign + "·".join(factors)
        return text or "0"


def fit(values: IntArray, sizes: IntArray) -> Formula | None:
    """The formula that gives every one of these sizes; see `fit_all`.

    Args:
        values: int64 [shapes, variables], what the variables were.
        sizes: int64 [shapes], the size of one buffer in bytes at each of these shapes.

    Returns:
        The formula, or None where there is none.
    """
    return fit_all(values, np.asarray(sizes)[:, None])[0]


def fit_all(values: IntArray, sizes: IntArray) -> list[Formula | None]:
    """For each buffer the formula that gives all its sizes.

    Each variable is at most squared, and at most three variables are multiplied with each other. Every formula that is
    returned gives every sample exactly; where the same shape had two sizes there is none. How far beyond the samples a
    formula can be trusted depends on them:

    - Monomials that are the same number at all samples (B·S and T where nothing was padded, B and 1 where the batch was
      always 1) cannot be told apart. The one of the lowest degree, and then of the first variables, stands for them.
    - Where the samples tell all others apart (at least one more than there are monomials, and linearly independent
      columns), no other polynomial of this form goes through them.
    - Where they do not, a formula has at most two monomials besides a constant, and no other formula of as few terms
      goes through them. If there are several, there is no answer.
    - Without variables every formula is a constant, and one sample is enough.

    Args:
        values: int64 [shapes, variables], what the variables were.
        sizes: int64 [shapes, buffers] in bytes.

    Returns:
        One formula for each buffer, or None where no polynomial of this form gives its sizes.
    """
    values, sizes = np.asarray(values, np.int64), np.asarray(sizes, np.int64)
    shapes, first, number = np.unique(values, axis=0, return_index=True, return_inverse=True)
    steady = (sizes[first][number.reshape(-1)] == sizes).all(axis=0)
    columns = sizes[first].T
    distinct = {column.tobytes(): column for column in columns[steady]}
    if not distinct:
        return [None] * len(columns)
    solved = _Basis.at(shapes).solve(np.stack(list(distinct.values())))
    answers = dict(zip(distinct, solved, strict=True))
    return [answers[column.tobytes()] if same else None for column, same in zip(columns, steady, strict=True)]


@dataclass(frozen=True)
class _Basis:
    """The monomials that the samples tell apart, and their values there as rows of `rows` [monomials, shapes]."""

    monomials: tuple[Exponents, ...]
    rows: IntArray

    @staticmethod
    def at(values: IntArray) -> _Basis:
        kept: dict[bytes, tuple[Exponents, IntArray]] = {}
        for exponents in monomials(values.shape[1]):
            row = _monomial(values, exponents)
            kept.setdefault(row.tobytes(), (exponents, row))
        return _Basis(tuple(exponents for exponents, _ in kept.values()), np.stack([row for _, row in kept.values()]))

    def solve(self, targets: IntArray) -> list[Formula | None]:
        """A formula for each row of `targets` [targets, shapes]."""
        count, shapes = self.rows.shape
        enough = shapes > count or not self.monomials[0]
        solved = _solve_modulo_prime(self.rows, targets) if enough else None
        if solved is None:
            return [self._sparse(target) for target in targets]
        return [
            self._checked(dict(enumerate(coefficients)), target)
            for coefficients, target in zip(solved, targets, strict=True)
        ]

    def _checked(self, coefficients: dict[int, int], target: IntArray) -> Formula | None:
        total: Any = 0
        for index, coefficient in coefficients.items():
            if coefficient:
                total = total + self.rows[index].astype(object) * coefficient
        if not np.array_equal(np.broadcast_to(total, target.shape), target.astype(object)):
            return None
        return Formula.of((self.monomials[index], coefficient) for index, coefficient in coefficients.items())

    def _sparse(self, target: IntArray) -> Formula | None:
        """The only formula of as few terms as possible: at most two monomials and a constant."""
        if not target.any():
            return Formula(())
        for subsets, inverse in self._inverses:
            # Least squares finds the coefficients up to rounding, and whether they are right is seen in integers.
            guesses = np.rint(inverse @ target.astype(np.float64)).astype(np.int64)
            reached = (guesses[:, :, None] * self.rows[subsets]).sum(axis=1)
            fitting = np.flatnonzero((reached == target).all(axis=1))
            pairs = ((subsets[i].tolist(), guesses[i].tolist()) for i in fitting)
            found = {self._checked(dict(zip(*pair, strict=True)), target) for pair in pairs} - {None}
            if found:
                return found.pop() if len(found) == 1 else None
        return None

    @cached_property
    def _inverses(self) -> list[tuple[IntArray, npt.NDArray[np.float64]]]:
        """For one, two and three terms: the monomials [subsets, terms] and the pseudo-inverses of their columns."""
        count, shapes = self.rows.shape
        scale = np.maximum(np.abs(self.rows).max(axis=1), 1).astype(np.float64)
        found = []
        for terms in range(1, min(3, shapes - 1, count) + 1):
            # Monomial 0 is the constant, which is one of three terms always.
            chosen = [subset for subset in combinations(range(count), terms) if terms < 3 or subset[0] == 0]
            subsets = np.array(chosen)
            columns = (self.rows / scale[:, None])[subsets]
            found.append((subsets, np.linalg.pinv(columns.swapaxes(1, 2)) / scale[subsets][:, :, None]))
        return found


def monomials(variables: int) -> list[Exponents]:
    """All monomials that a formula may have, by rising degree; the constant is the first."""
    powers = product(range(HIGHEST_EXPONENT, -1, -1), repeat=variables)
    return sorted((powers for powers in powers if sum(powers) <= HIGHEST_DEGREE), key=sum)


def _monomial(values: IntArray, exponents: Exponents) -> IntArray:
    result = np.ones(len(values), np.int64)
    for column, power in enumerate(exponents):
        for _ in range(power):
            result *= values[:, column]
    return result


def _solve_modulo_prime(rows: IntArray, targets: IntArray) -> list[list[int]] | None:
    """Coefficients of the rows that make up each target, by elimination modulo a prime.

    Args:
        rows: int64 [unknowns, equations].
        targets: int64 [targets, equations].

    Returns:
        For each target one number for each unknown, right if there is a solution in small integers and meaningless
        otherwise; None where the rows depend on each other.
    """
    unknowns = len(rows)
    system = np.concatenate([rows, targets]).T.astype(object) % _PRIME
    for pivot in range(unknowns):
        nonzero = np.flatnonzero(system[pivot:, pivot])
        if not len(nonzero):
            return None
        system[[pivot, pivot + nonzero[0]]] = system[[pivot + nonzero[0], pivot]]
        system[pivot] = system[pivot] * pow(int(system[pivot, pivot]), -1, _PRIME) % _PRIME
        others = np.flatnonzero(system[:, pivot])
        others = others[others != pivot]
        system[others] = (system[others] - np.outer(system[others, pivot], system[pivot])) % _PRIME
    residues = system[:unknowns, unknowns:].T.tolist()
    return [[value - _PRIME if value > _PRIME // 2 else value for value in row] for row in residues]
