"""The container of compiled kernels that an artifact carries once, as one tensor of bytes.

`archive.cc` reads it. Little-endian: the header (magic, version, number of entries, size of everything), the entries
one after the other, then the code, each piece aligned to 16 bytes and stored once even if several entries use it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"TURBOCU\0"
VERSION = 1
ALIGNMENT = 16

_HEADER = struct.Struct("<8sIIQ")
_TEXT = struct.Struct("<H")
_ENTRY = struct.Struct("<BBHIIIII32sQQ")


class Rule(IntEnum):
    """On which devices the code runs, given the compute capability that it was compiled for. Best first."""

    EXACT = 0  # machine code with features of one architecture: that capability only
    SAME_MAJOR = 1  # machine code: the same major version, the same or a higher minor one
    LATER = 2  # PTX text, NUL-terminated: that capability and every later one


@dataclass(frozen=True, order=True)
class Code:
    """One compiled kernel.

    Attributes:
        key: by which it is found.
        capability: 10 · major + minor of the compute capability that it was compiled for.
        rule: on which devices it runs.
        aligned: whether every pointer must be a multiple of 16.
        symbol: its name in the module.
        arguments: one letter for each run-time argument: pointer, int32, int64 (l), float.
        num_warps: of 32 threads.
        shared: bytes of dynamic shared memory.
        tile: what one program covers along x, y and z.
        data: machine code or PTX.
    """

    key: str
    capability: int
    rule: Rule
    aligned: bool
    symbol: str
    arguments: str
    num_warps: int
    shared: int
    tile: tuple[int, int, int]
    data: bytes


def pack(codes: Iterable[Code]) -> bytes:
    """The archive. The same kernels in any order give the same bytes."""
    ordered = sorted(set(codes), key=lambda code: (code.key, code.rule, code.capability, not code.aligned))
    offset = _aligned(_HEADER.size + sum(_entry_size(code) for code in ordered))
    offsets: dict[bytes, int] = {}
    entries, pieces = [], []
    for code in ordered:
        if code.data not in offsets:
            offsets[code.data] = offset
            padding = -len(code.data) % ALIGNMENT
            pieces.append(code.data + bytes(padding))
            offset += len(code.data) + padding
        entries.append(_entry(code, offsets[code.data]))
    header = _HEADER.pack(MAGIC, VERSION, len(ordered), offset)
    index = header + b"".join(entries)
    return index + bytes(_aligned(len(index)) - len(index)) + b"".join(pieces)


def unpack(archive: bytes) -> list[Code]:
    """The kernels of an archive.

    Raises:
        ValueError: it is not one, or of another version.
    """
    magic, version, count, size = _HEADER.unpack_from(archive)
    if magic != MAGIC or version != VERSION or size != len(archive):
        raise ValueError("not an archive of CUDA kernels of this version")
    position, codes = _HEADER.size, []
    for _ in range(count):
        texts = []
        for _ in range(3):
            (length,) = _TEXT.unpack_from(archive, position)
            position += _TEXT.size
            texts.append(archive[position : position + length].decode())
            position += length
        rule, aligned, capability, warps, shared, *rest = _ENTRY.unpack_from(archive, position)
        position += _ENTRY.size
        x, y, z, _digest, offset, length = rest
        key, symbol, arguments = texts
        data = archive[offset : offset + length]
        codes.append(
            Code(key, capability, Rule(rule), bool(aligned), symbol, arguments, warps, shared, (x, y, z), data)
        )
    return codes


def _entry(code: Code, offset: int) -> bytes:
    texts = b"".join(_TEXT.pack(len(text)) + text for text in _texts(code))
    digest = hashlib.sha256(code.data).digest()
    return texts + _ENTRY.pack(
        code.rule,
        code.aligned,
        code.capability,
        code.num_warps,
        code.shared,
        *code.tile,
        digest,
        offset,
        len(code.data),
    )


def _texts(code: Code) -> tuple[bytes, bytes, bytes]:
    return code.key.encode(), code.symbol.encode(), code.arguments.encode()


def _entry_size(code: Code) -> int:
    return sum(_TEXT.size + len(text) for text in _texts(code)) + _ENTRY.size


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT
