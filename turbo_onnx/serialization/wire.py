"""Just enough of the protobuf wire format to read and write a model without holding its weights.

A parsed `ModelProto` holds every weight in memory, serializing it makes a second copy, and neither works beyond 2 GB.
Weights are nearly all of a file, and they are plain length-delimited fields, so we find out where each one lies
(`split_model`), parse only the rest, and stream the weights when writing (`initializer_prefix`).

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Buffer(Protocol):
    """Bytes that can be indexed and sliced: `bytes`, or a memory-mapped file."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


class WireError(Exception):
    """The bytes are not what the format says. `truncated` when they only end too early."""

    def __init__(self, message: str, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number and where it lies; `start` is its tag, `value` its content."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class RawData:
    """A weight left in the file: the tensor's description (a serialized TensorProto without data) and its bytes."""

    header: bytes
    offset: int
    length: int


def read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position after it."""
    chunk = buffer[position : min(position + 10, end)]
    value = shift = 0
    for index, byte in enumerate(chunk):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + index + 1
        shift += 7
    raise WireError(f"no number at byte {position}", truncated=len(chunk) < 10)


def varint(value: int) -> bytes:
    """The bytes of a number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_tag(number: int, length: int) -> bytes:
    """What stands before a length-delimited field of `length` bytes."""
    return varint(number << 3 | _BYTES) + varint(length)


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that lies in `buffer[start:end]`.

    Raises:
        WireError: the bytes are no message, or end in the middle of one.
    """
    position = start
    while position < end:
        tag, value = read_varint(buffer, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"no field at byte {position}")
        if wire_type == _VARINT:
            _, stop = read_varint(buffer, value, end)
        elif wire_type == _BYTES:
            length, value = read_varint(buffer, value, end)
            stop = value + length
        elif wire_type in (_FIXED64, _FIXED32):
            stop = value + (8 if wire_type == _FIXED64 else 4)
        else:
            raise WireError(f"no field at byte {position}")
        if stop > end:
            raise WireError(f"a field at byte {position} ends {stop - end} bytes too late", truncated=True)
        yield Field(number, wire_type, position, value, stop)
        position = stop


def split_model(buffer: Buffer, threshold: int) -> tuple[bytes, bytes, list[RawData | bytes]]:
    """Take a serialized ModelProto apart.

    Args:
        buffer: the file.
        threshold: weights of at least so many bytes are left where they are.

    Returns:
        The model without its graph, the graph without its initializers, and the initializers in order: `RawData` for
        the large ones, serialized TensorProtos for the others.

    Raises:
        WireError: the bytes are no message, or end in the middle of one.
    """
    shell, graph = bytearray(), bytearray()
    initializers: list[RawData | bytes] = []
    for outer in fields(buffer, 0, len(buffer)):
        if outer.number != MODEL_GRAPH or outer.wire_type != _BYTES:
            shell += buffer[outer.start : outer.end]
            continue
        for inner in fields(buffer, outer.value, outer.end):
            if inner.number != GRAPH_INITIALIZER or inner.wire_type != _BYTES:
                graph += buffer[inner.start : inner.end]
            elif inner.end - inner.value < threshold:
                initializers.append(buffer[inner.value : inner.end])
            else:
                initializers.append(_split_tensor(buffer, inner, threshold))
    return bytes(shell), bytes(graph), initializers


def _split_tensor(buffer: Buffer, tensor: Field, threshold: int) -> RawData | bytes:
    header, data = bytearray(), None
    for field in fields(buffer, tensor.value, tensor.end):
        if field.number == TENSOR_RAW_DATA and field.wire_type == _BYTES and field.end - field.value >= threshold:
            data = field
        else:
            header += buffer[field.start : field.end]
    if data is None:
        return buffer[tensor.value : tensor.end]
    return RawData(bytes(header), data.value, data.end - data.value)


def initializer_prefix(header: bytes, length: int) -> bytes:
    """What is written before a weight's `length` raw bytes so that they become an initializer of the graph.

    Args:
        header: the serialized TensorProto without its data.
        length: how many raw bytes will follow.
    """
    inner = header + bytes_tag(TENSOR_RAW_DATA, length)
    return bytes_tag(GRAPH_INITIALIZER, len(inner) + length) + inner
