"""The language in which rewrites say what they look for: expressions that read like the mathematics.

    x, scale = variables("x scale")
    mean = op.ReduceMean(x, axes=[-1], keepdims=1)
    centered = x - mean
    normal = centered / op.Sqrt(op.ReduceMean(centered**2, axes=[-1], keepdims=1) + bind("epsilon"))
    normal * scale | normal

What an expression matches:

- a variable: any tensor, the same one wherever the variable occurs; `constant(...)` only a constant;
  `optional(...)` also an operand that is left out;
- a number: a constant all of whose elements are that number, within NUMBER_TOLERANCE;
- `bind("epsilon")`: as an operand a constant with one number in all its elements, as an attribute any value;
- `op.X(...)`: the first output of a node of that type in the standard domain, with these operands (None for one that
  is left out, all further ones absent) and these attributes; attributes that are not named are not looked at;
  `call[1]` is the second output; `operators("domain").X(...)` is of another domain;
- `a | b`: either, the first that leads to a match of the whole.

An expression object stands for one tensor: used twice, it has to be the same tensor at both places. Where exporters
compute a thing twice, build the expression twice. Operators in COMMUTATIVE are tried both ways. Names of nodes and
tensors are never looked at. `matcher.py` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Exporters write √2 or 0.044715 in float32 (exact to 6e-8) or as decimals cut off after four or five digits. No
# function that we match moves by more than 0.3 of the relative change of such a number, so that this tolerance stays
# under an absolute error of 1e-5. A constant of a narrower type may be off by one rounding of that type;
# one that was widened from it may be the number as that type rounds it, and no other.
NUMBER_TOLERANCE = 2e-5

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean"})

AttributeValue = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


class Expression:
    """Something that one tensor of a graph may or may not be. `label` is the name under which a match has it."""

    label: str | None = None

    def named(self, label: str) -> Expression:
        """Let the match give the tensor under this name."""
        self.label = label
        return self

    def __add__(self, other: Expression | float) -> Expression:
        return op.Add(self, other)

    def __radd__(self, other: float) -> Expression:
        return op.Add(other, self)

    def __sub__(self, other: Expression | float) -> Expression:
        return op.Sub(self, other)

    def __rsub__(self, other: float) -> Expression:
        return op.Sub(other, self)

    def __mul__(self, other: Expression | float) -> Expression:
        return op.Mul(self, other)

    def __rmul__(self, other: float) -> Expression:
        return op.Mul(other, self)

    def __truediv__(self, other: Expression | float) -> Expression:
        return op.Div(self, other)

    def __rtruediv__(self, other: float) -> Expression:
        return op.Div(other, self)

    def __pow__(self, other: Expression | float) -> Expression:
        return op.Pow(self, other)

    def __or__(self, other: Expression) -> Expression:
        return Either(self, other)


class Variable(Expression):
    """Any tensor, or with `constant` only a constant; with `optional` also nothing."""

    def __init__(self, label: str, *, constant: bool = False, optional: bool = False) -> None:
        self.label = label
        self.constant = constant
        self.optional = optional


class Number(Expression):
    """A constant that holds this number in all its elements."""

    def __init__(self, value: float, tolerance: float = NUMBER_TOLERANCE) -> None:
        self.value = float(value)
        self.tolerance = tolerance


class Binding(Expression):
    """An attribute's value, or the one number that a constant holds, to be found in the match."""

    def __init__(self, name: str) -> None:
        self.name = name


class Call(Expression):
    """The first output of a node. Made by `op.Name(...)`."""

    def __init__(
        self,
        name: str,
        domain: str | None,
        operands: Sequence[Expression | float | None],
        attributes: dict[str, AttributeValue | Binding],
    ) -> None:
        self.name = name
        self.domain = domain
        self.operands = tuple(Number(x) if isinstance(x, int | float) else x for x in operands)
        self.attributes = attributes
        flipped = self.operands[::-1]
        both_ways = name in COMMUTATIVE and domain is None and len(self.operands) == 2
        self.orders = (self.operands, flipped) if both_ways else (self.operands,)

    def __getitem__(self, index: int) -> Output:
        return Output(self, index)


class Output(Expression):
    """An output of a node that is not the first."""

    def __init__(self, call: Call, index: int) -> None:
        self.call = call
        self.index = index


class Either(Expression):
    """One of several expressions, tried in order."""

    def __init__(self, *options: Expression) -> None:
        flat: list[Expression] = []
        for option in options:
            flat.extend(option.options if isinstance(option, Either) and option.label is None else [option])
        self.options: tuple[Expression, ...] = tuple(flat)


@dataclass(frozen=True)
class Operators:
    """`operators.Name(...)` makes a call of the operator `Name` in one domain; None is the standard one."""

    domain: str | None = None

    def __getattr__(self, name: str) -> Callable[..., Call]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*operands: Expression | float | None, **attributes: Any) -> Call:
            return Call(name, self.domain, operands, attributes)

        return call


op = Operators()


def operators(domain: str) -> Operators:
    """The operators of another domain than the standard one."""
    return Operators(domain)


def variables(names: str) -> tuple[Variable, ...]:
    """Variables, one for each of the names between spaces."""
    return tuple(Variable(name) for name in names.split())


def variable(name: str) -> Variable:
    """A variable: any tensor, the same wherever it occurs."""
    return Variable(name)


def constant(name: str) -> Variable:
    """A variable that only a constant matches."""
    return Variable(name, constant=True)


def optional(name: str) -> Variable:
    """A variable for an operand that may be left out; the match then has None."""
    return Variable(name, optional=True)


def bind(name: str) -> Binding:
    """An attribute's value or a constant's one number, whatever it is; the match has it under the name."""
    return Binding(name)


def number(value: float, tolerance: float = NUMBER_TOLERANCE) -> Number:
    """A number with a relative tolerance of its own."""
    return Number(value, tolerance)


def either(*options: Expression) -> Expression:
    """The same as `a | b | …`."""
    return options[0] if len(options) == 1 else Either(*options)
