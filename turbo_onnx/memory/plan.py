"""A memory plan: what a run of a model allocates and frees, how large each buffer is, and how buffers are stacked.

It is made once, when a model is optimized, and holds for every shape: sizes are formulas in the sizes of the inputs,
and instead of offsets it has an order in which buffers are stacked (`placement.py`). The artifact carries it twice: as
JSON in its metadata, for people and schedulers, and as a list of numbers in the attribute of the node that begins a
run, for the library (`text` says what they mean).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from turbo_onnx.errors import InputError
from turbo_onnx.memory.formula import Formula

FORMAT = 2
FORMAT_WITHOUT_ASSUMPTIONS = 1
"""How a plan is written that has none."""
METADATA_KEY = "turbo_onnx.memory_plan"
ALIGNMENT = 64
MOST_EXPONENT = 8
"""Of a variable in a formula, for the library too."""

Role = Literal["tokens", "batch", "length", "past", ""]
Kind = Literal["planned", "output", "unknown"]


@dataclass(frozen=True)
class Variable:
    """A size that varies from run to run.

    Attributes:
        name: as the model calls it.
        role: what it stands for, if that is known: all tokens of the batch, its sequences, their padded length, or the
            length of the past that a decoder is given.
        input, axis: which axis of which input of the node that begins a run has this size.
    """

    name: str
    role: Role
    input: int
    axis: int


@dataclass(frozen=True)
class Assumption:
    """A size that is no variable: in every run that was recorded it was one, or their sum. Others use the heap.

    Attributes:
        name: as the model calls it.
        input, axis: as those of a variable.
        parts: the variables, by their index in the plan.
        branch: the only branch of which it must hold; none where it must hold of all runs.
    """

    name: str
    input: int
    axis: int
    parts: tuple[int, ...]
    branch: str = ""


@dataclass(frozen=True)
class Buffer:
    """One allocation of a run.

    Attributes:
        name: the tensor that it holds, or the node that asked for it as scratch memory.
        size: in bytes; None where it is no formula of the variables.
        kind: whether it lies in the plan's block, or on the heap: outputs, which outlive the run, and those whose size
            is not known.
    """

    name: str
    size: Formula | None
    kind: Kind


@dataclass(frozen=True)
class Variant:
    """What runs do under one way of ONNX Runtime's to rewrite the model.

    Attributes:
        name: the optimization levels at which it was seen.
        buffers: in the order in which they are allocated.
        events: what happens: 0 is the next allocation, k + 1 frees buffer k. Only planned buffers are freed here.
        orders: each a permutation of the planned buffers, bottom first.
        tree: inner nodes (a, b, yes, no) of the decision which order a run takes: whether buffer a is at most as large
            as buffer b. Targets ≥ 0 are inner nodes further down, others are order -(target + 1). Empty: the first.
        exceptions: values of the variables at which runs were seen to do something else; these run on the heap.
        branch: the branch that runs take, where each branch has a plan of its own.
    """

    name: str
    buffers: tuple[Buffer, ...]
    events: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    tree: tuple[tuple[int, int, int, int], ...] = ()
    exceptions: tuple[tuple[int, ...], ...] = ()
    branch: str = ""

    @cached_property
    def planned(self) -> tuple[int, ...]:
        """The buffers that lie in the block."""
        return tuple(index for index, buffer in enumerate(self.buffers) if buffer.kind == "planned")


@dataclass(frozen=True)
class MemoryPlan:
    """The plan of one model.

    Attributes:
        variables: the sizes that formulas are in.
        variants: at least one.
        runtime: the version of ONNX Runtime that it was recorded with.
        alignment: of every buffer, in bytes.
        assumptions: what must hold of the other sizes; a run of which it does not hold uses the heap.
    """

    variables: tuple[Variable, ...]
    variants: tuple[Variant, ...]
    runtime: str = ""
    alignment: int = ALIGNMENT
    assumptions: tuple[Assumption, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the variables are called."""
        return [variable.name for variable in self.variables]

    def values(self, sizes: Mapping[str, int], default: int | None = None) -> tuple[int, ...]:
        """The variables' values, in order, out of sizes that are given by name or by role.

        Args:
            sizes: what is known, such as {"batch": 8, "tokens": 512}.
            default: for those that are not given.

        Raises:
            InputError: one is missing, negative, or not a variable of this plan.
        """
        known = {name: value for name, value in sizes.items() if value is not None}
        for name, value in known.items():
            if not any(name in (variable.name, variable.role) for variable in self.variables):
                raise InputError(f"the plan has no size '{name}'; its sizes are {self._listed()}.")
            if value < 0:
                raise InputError(f"the size {name} is {value}, and cannot be negative.")
        found = [known.get(v.name, known.get(v.role, default) if v.role else default) for v in self.variables]
        missing = [v.role or v.name for v, value in zip(self.variables, found, strict=True) if value is None]
        if missing:
            what = f"size{'s' * (len(missing) > 1)} {' and '.join(missing)}"
            raise InputError(f"the plan needs the {what}; its sizes are {self._listed()}.")
        return tuple(int(value) for value in found if value is not None)

    def _listed(self) -> str:
        named = (f"{v.name} ({v.role})" if v.role and v.role != v.name else v.name for v in self.variables)
        listed = ", ".join(named) or "none"
        return f"{listed} (and {', '.join(self.assumed)})" if self.assumptions else listed

    @property
    def assumed(self) -> list[str]:
        """What is assumed, such as `total = length + past`."""
        return [
            f"{one.name} = {' + '.join(map(self._called, one.parts))}" + (f" in {one.branch}" if one.branch else "")
            for one in self.assumptions
        ]

    def _called(self, variable: int) -> str:
        return self.variables[variable].role or self.variables[variable].name

    def text(self) -> str:
        """The plan as the library reads it: a word and then integers, in this order.

        - the format's version, the alignment;
        - how many variables; for each its input and axis;
        - in format 2, how many assumptions; for each its input and axis, of how many variables it is the sum, which;
        - how many formulas; for each how many terms; for each term its coefficient and the variables' exponents;
        - how many variants; for each:
          - how many buffers; for each its formula (-1: not known) and 0 for planned, 1 for heap;
          - how many events, and the events;
          - how many orders; for each how many buffers, and the buffers;
          - how many inner nodes of the tree; for each formula a, formula b, target if a ≤ b, target otherwise.
        """
        return " ".join(["turbo_onnx_plan", *(str(number) for number in self._numbers())])

    @property
    def format(self) -> int:
        """The version of the format that it is written in."""
        return FORMAT if self.assumptions else FORMAT_WITHOUT_ASSUMPTIONS

    def _numbers(self) -> Iterator[int]:
        formulas = self._formulas()
        yield from (self.format, self.alignment, len(self.variables))
        for variable in self.variables:
            yield from (variable.input, variable.axis)
        if self.assumptions:
            yield len(self.assumptions)
            for one in self.assumptions:
                yield from (one.input, one.axis, *_counted(one.parts))
        yield len(formulas)
        for formula in formulas:
            yield len(formula.terms)
            for exponents, coefficient in formula.terms:
                yield from (coefficient, *exponents)
        yield len(self.variants)
        for variant in self.variants:
            index = [-1 if b.size is None else formulas[b.size] for b in variant.buffers]
            yield len(variant.buffers)
            for number, buffer in zip(index, variant.buffers, strict=True):
                yield from (number, int(buffer.kind != "planned"))
            yield from _counted(variant.events)
            yield len(variant.orders)
            for order in variant.orders:
                yield from _counted(order)
            yield len(variant.tree)
            for a, b, yes, no in variant.tree:
                yield from (index[a], index[b], yes, no)

    def _formulas(self) -> dict[Formula, int]:
        formulas: dict[Formula, int] = {}
        for variant in self.variants:
            for buffer in variant.buffers:
                if buffer.size is not None:
                    formulas.setdefault(buffer.size, len(formulas))
        return formulas

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON; `from_json` reads it."""
        formulas = self._formulas()
        document = {
            "format": self.format,
            "onnxruntime": self.runtime,
            "alignment": self.alignment,
            "variables": [{"name": v.name, "role": v.role, "input": v.input, "axis": v.axis} for v in self.variables],
            **({"assumptions": [self._document(one) for one in self.assumptions]} if self.assumptions else {}),
            "formulas": [[[coefficient, *exponents] for exponents, coefficient in f.terms] for f in formulas],
            "variants": [
                {
                    "name": variant.name,
                    "buffers": [
                        [b.name, None if b.size is None else formulas[b.size], b.kind] for b in variant.buffers
                    ],
                    "events": list(variant.events),
                    "orders": [list(order) for order in variant.orders],
                    "tree": [list(node) for node in variant.tree],
                    "exceptions": [list(values) for values in variant.exceptions],
                    **({"branch": variant.branch} if variant.branch else {}),
                }
                for variant in self.variants
            ],
        }
        separators = (",", ":") if indent is None else None
        return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False)

    @staticmethod
    def _document(one: Assumption) -> dict[str, Any]:
        where = {"branch": one.branch} if one.branch else {}
        return {"name": one.name, "input": one.input, "axis": one.axis, "sum": list(one.parts), **where}


def _counted(numbers: Sequence[int]) -> Iterator[int]:
    yield len(numbers)
    yield from numbers


def from_json(text: str, name: str) -> MemoryPlan:
    """Read a plan.

    Args:
        text: as `MemoryPlan.to_json` writes it.
        name: what to call its source in errors.

    Raises:
        InputError: it is not a plan, or one of a newer version.
    """
    try:
        document = json.loads(text)
        version = document["format"]
        if version in (FORMAT, FORMAT_WITHOUT_ASSUMPTIONS):
            return _read(document)
    except (ValueError, OverflowError, KeyError, TypeError, IndexError, AttributeError):
        raise InputError(f"{name}: its memory plan cannot be read; optimize the model again.") from None
    raise InputError(
        f"{name}: its memory plan has format {version}, and this version reads {FORMAT}; upgrade turbo-onnx."
    )


def _read(document: Mapping[str, Any]) -> MemoryPlan:
    formulas = [
        Formula.of((tuple(map(_exponent, exponents)), int(coefficient)) for coefficient, *exponents in terms)
        for terms in document["formulas"]
    ]
    variables = tuple(
        Variable(str(v["name"]), v["role"], int(v["input"]), int(v["axis"])) for v in document["variables"]
    )
    known = range(len(variables))
    return MemoryPlan(
        variables=variables,
        variants=tuple(
            Variant(
                name=str(variant["name"]),
                buffers=tuple(
                    Buffer(str(name), None if index is None else formulas[index], kind)
                    for name, index, kind in variant["buffers"]
                ),
                events=tuple(int(event) for event in variant["events"]),
                orders=tuple(tuple(int(buffer) for buffer in order) for order in variant["orders"]),
                tree=tuple((int(a), int(b), int(yes), int(no)) for a, b, yes, no in variant["tree"]),
                exceptions=tuple(tuple(int(value) for value in values) for values in variant["exceptions"]),
                branch=str(variant.get("branch", "")),
            )
            for variant in document["variants"]
        ),
        runtime=str(document["onnxruntime"]),
        alignment=int(document["alignment"]),
        assumptions=tuple(
            Assumption(
                str(one["name"]),
                int(one["input"]),
                int(one["axis"]),
                tuple(known[part] for part in one["sum"]),
                str(one.get("branch", "")),
            )
            for one in document.get("assumptions", ())
        ),
    )


def _exponent(power: Any) -> int:
    """As the library, which reads none that is larger: evaluating one could take for ever."""
    if power not in range(MOST_EXPONENT + 1):
        raise ValueError(power)
    return int(power)
