"""The sizes that a person asks about: `batch=8,length=128`, ranges such as `batch=1..64`, and the usual ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

from turbo_onnx.errors import InputError
from turbo_onnx.memory.plan import MemoryPlan

MOST_SHAPES = 40
"""No spec with ranges gives more shapes; steps within ranges become wider until it is so."""

OTHER = 128
"""What sizes are by default that are neither tokens, batch nor length."""

_USUAL = ((1, 16), (1, 128), (8, 128), (32, 128), (32, 512))  # batch, length
_HALF_FULL = (32, 128)

Sizes = dict[str, int]


def parse(spec: str, plan: MemoryPlan) -> list[Sizes]:
    """The shapes that one spec names, by role where a size has one.

    Args:
        spec: sizes by name, such as `batch=8,length=128`. A size may be a range, `batch=1..64`: it stands for both
            ends and the powers of two between them, and several ranges for all combinations.
        plan: knows the roles of names.

    Returns:
        Shapes, the largest last. Where the number of tokens is a range, those with more tokens than positions are
        left out.

    Raises:
        InputError: the spec is not of this form.
    """
    roles = {variable.name: variable.role or variable.name for variable in plan.variables}
    ranges: dict[str, tuple[int, int]] = {}
    for part in spec.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        low, dots, high = (word.strip() for word in value.partition(".."))
        name, ends = roles.get(name, name), (low, high if dots else low)
        if not name or name in ranges or not all(end.isascii() and end.isdigit() and len(end) < 19 for end in ends):
            raise InputError(f"'{spec}' names no sizes; write such as batch=8,length=128 or batch=1..64,length=128.")
        ranges[name] = (int(ends[0]), int(ends[1]))
        if ranges[name][0] > ranges[name][1]:
            raise InputError(f"'{spec}': the range of {name} ends below its begin.")
    shapes = [dict(zip(ranges, values, strict=True)) for values in product(*_spread(list(ranges.values())))]
    least, most = ranges.get("tokens", (0, 0))
    kept = [sizes for sizes in shapes if least == most or sizes["tokens"] <= _positions(sizes)]
    if not kept:
        raise InputError(f"'{spec}': there are more tokens than batch times length in all of these shapes.")
    return kept


def _positions(sizes: Mapping[str, int]) -> int:
    return sizes.get("batch", 1 << 62) * sizes.get("length", 1 << 62)


def _spread(ranges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Values in each range: its ends, and the powers of a number between them that is as small as it can be."""
    base = 2
    while True:
        values = [list(_powers(low, high, base)) for low, high in ranges]
        if prod(map(len, values)) <= MOST_SHAPES or all(len(column) <= 2 for column in values):
            return values
        base *= 2


def _powers(low: int, high: int, base: int) -> Iterator[int]:
    yield low
    power = base
    while power < high:
        if power > low:
            yield power
        power *= base
    if high > low:
        yield high


def usual(plan: MemoryPlan) -> list[Sizes]:
    """Shapes to show where none were asked for."""
    follow = {one.name for one in plan.assumptions}  # the others, in some branch
    others = {v.role or v.name: OTHER for v in plan.variables if v.role in ("past", "") and v.name not in follow}
    roles = {variable.role for variable in plan.variables}
    shapes = []
    for batch, length in _USUAL if {"batch", "length", "tokens"} & roles else _USUAL[:1]:
        sizes = {"batch": batch, "length": length, **others}
        if "tokens" in roles and (batch, length) == _HALF_FULL:
            shapes.append({**sizes, "tokens": batch * length // 2})
        shapes.append(sizes)
    return shapes
