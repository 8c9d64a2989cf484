"""Reads and writes buffers in the form of MiniMalloc's benchmarks, and makes hard instances whose optimum is known.

The form (github.com/google/minimalloc, of Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated
Machine Learning", ASPLOS 2023) is a table with one buffer a line and a header that names the columns: `id,lower,upper,
size` and perhaps `offset`. A buffer is alive from `lower` up to, and without, `upper`. Older files call the columns
`buffer,start,end,size`; in these, as in that tool, `end` is the last moment at which the buffer is alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turbo_onnx.errors import InputError, OutputError
from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes

_COLUMNS = {
    "id": "id",
    "buffer": "id",
    "buffer_id": "id",
    "lower": "lower",
    "start": "lower",
    "begin": "lower",
    "upper": "upper",
    "end": "end",
    "size": "size",
    "offset": "offset",
}
_LARGEST = 2**62


@dataclass(frozen=True, eq=False)
class Instance:
    """Buffers to be placed.

    Attributes:
        names: what each one is called.
        lifetimes: when it is alive.
        sizes: int64 [buffers] in bytes.
        offsets: where each one stands, if the file says so.
    """

    names: tuple[str, ...]
    lifetimes: Lifetimes
    sizes: IntArray
    offsets: tuple[int, ...] | None = None


def read(path: Path) -> Instance:
    """Read a file.

    Raises:
        InputError: it cannot be read, or a line is not as it should be; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of buffers: {error}.") from None
    columns = _header(path, lines[0] if lines else "")
    names: list[str] = []
    rows: list[list[int]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(columns):
            raise InputError(f"{path}, line {number}: it has {len(fields)} fields, and the header {len(columns)}.")
        named = dict(zip(columns, fields, strict=True))
        names.append(named.pop("id"))
        rows.append(_row(path, number, named))
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two buffers have the id '{twice}'.")
    table = np.array(rows, np.int64).reshape(-1, 4)
    offsets = tuple(table[:, 3].tolist()) if "offset" in columns else None
    return Instance(tuple(names), Lifetimes(table[:, 0].copy(), table[:, 1].copy()), table[:, 2].copy(), offsets)


def _header(path: Path, line: str) -> list[str]:
    given = [field.strip() for field in line.split(",")]
    columns = [_COLUMNS.get(name, "") for name in given]
    kinds = set(columns) - {"offset"}
    if kinds not in ({"id", "lower", "upper", "size"}, {"id", "lower", "end", "size"}) or len(columns) != len(
        set(columns)
    ):
        raise InputError(
            f"{path}, line 1: the columns are '{line}', and have to be id, lower, upper, size, and perhaps offset."
        )
    return columns


def _row(path: Path, number: int, named: dict[str, str]) -> list[int]:
    values: dict[str, int] = {}
    for column, field in named.items():
        try:
            values[column] = int(field)
        except ValueError:
            raise InputError(f"{path}, line {number}: the {column} '{field}' is no integer.") from None
        if not 0 <= values[column] < _LARGEST:
            raise InputError(f"{path}, line {number}: the {column} {field} is negative or far too large.")
    upper = values["upper"] if "upper" in values else values["end"] + 1
    if values["lower"] >= upper:
        raise InputError(f"{path}, line {number}: the buffer ends before it begins.")
    return [values["lower"], upper, values["size"], values.get("offset", 0)]


def write(path: Path, instance: Instance, offsets: Sequence[int] | None = None) -> None:
    """Write a file; with offsets, if they are given here.

    Raises:
        OutputError: the file cannot be written.
    """
    columns: list[Sequence[object]] = [instance.names, instance.lifetimes.first.tolist()]
    columns += [instance.lifetimes.last.tolist(), instance.sizes.tolist()]
    header = "id,lower,upper,size"
    if offsets is not None:
        columns.append(list(offsets))
        header += ",offset"
    lines = [header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}.") from None


def generate(seed: int, count: int, capacity: int = 2**20, unit: int = 2**10) -> Instance:
    """Cut all bytes of a block at all times into buffers: they fit into it without any gap, if one knows how.

    Again and again the largest piece is cut in two, in time or in space, at a random place. At each moment the pieces
    fill the block, so the lower bound is its capacity, and the cuts themselves are a placement that meets it.

    Args:
        seed: for the cuts; the same one gives the same buffers.
        count: how many buffers.
        capacity: bytes of the block, a multiple of the unit.
        unit: what all sizes are multiples of.

    Returns:
        The buffers in random order, with the offsets at which they were cut.
    """
    generator = np.random.default_rng(seed)
    moments = 4 * count
    pieces = [(0, moments, 0, capacity // unit)]  # from, until, lowest and highest unit
    while len(pieces) < count:
        areas = [(last - first) / moments * (high - low) for first, last, low, high in pieces]
        first, last, low, high = pieces.pop(int(np.argmax(areas)))
        wide = (last - first) / moments > (high - low) / (capacity // unit) * generator.uniform(0.5, 2)
        if (wide and last - first > 1) or high - low == 1:
            cut = first + _inner(generator, last - first)
            pieces += [(first, cut, low, high), (cut, last, low, high)]
        else:
            cut = low + _inner(generator, high - low)
            pieces += [(first, last, low, cut), (first, last, cut, high)]
    table = generator.permutation(np.array(pieces, np.int64))
    lifetimes = Lifetimes(table[:, 0].copy(), table[:, 1].copy())
    names = tuple(map(str, range(count)))
    return Instance(names, lifetimes, (table[:, 3] - table[:, 2]) * unit, tuple((table[:, 2] * unit).tolist()))


def _inner(generator: np.random.Generator, length: int) -> int:
    """A place to cut, away from both ends where there is room for that."""
    return int(generator.integers(max(1, length // 5), length - length // 5))
