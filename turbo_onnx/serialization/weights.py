"""Weights that stay where they are: in the model's file, in its external data, or in the caller's bytes.

graphsurgeon loads a constant's values when they are first asked for (`LazyValues`), but only out of a TensorProto that
holds or finds them by itself. `StoredValues` gives it a view of the memory-mapped file instead, so that reading a value
costs no copy and a model of any size can be held.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from turbo_onnx.errors import ModelFormatError

CHUNK = 4 << 20  # bytes that are copied or hashed at a time

_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": None, "FLOAT6E3M2": None}
PACKED_TYPES = tuple(value for name, value in onnx.TensorProto.DataType.items() if name in _BITS)
"""Several elements share a byte: NumPy cannot view them."""


class Source:
    """A file, or bytes, that weights lie in. Opened and mapped when first needed."""

    def __init__(self, path: Path | None, content: bytes = b"") -> None:
        self.path = path
        self._content: bytes | mmap.mmap | None = None if path is not None else content
        self._file: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Bytes in it."""
        return os.fstat(self._handle()).st_size if self.path is not None else len(self.content)

    def _handle(self) -> int:
        if self._file is None:
            assert self.path is not None
            self._file = self.path.open("rb")  # stays open as long as the weights are reachable
            weakref.finalize(self, self._file.close)
        return self._file.fileno()

    @property
    def content(self) -> bytes | mmap.mmap:
        """All of it, without reading it."""
        if self._content is None:
            handle = self._handle()
            empty = os.fstat(handle).st_size == 0
            self._content = b"" if empty else mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        return self._content

    def chunks(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes from `offset` on, a few megabytes at a time, without mapping them."""
        if self.path is None:
            assert self._content is not None
            for start in range(offset, offset + length, CHUNK):
                yield self._content[start : min(start + CHUNK, offset + length)]
            return
        handle, end = self._handle(), offset + length
        while offset < end:
            chunk = os.pread(handle, min(CHUNK, end - offset), offset)
            if not chunk:
                raise ModelFormatError(f"{self.path}: the file was cut off while it was read; start again.")
            yield chunk
            offset += len(chunk)


@dataclass(frozen=True)
class Region:
    """`length` bytes of a source, from `offset` on."""

    source: Source = field(repr=False)
    offset: int
    length: int

    @property
    def key(self) -> tuple[int, int, int]:
        """Equal for regions that are the same bytes of the same source."""
        return id(self.source), self.offset, self.length

    def view(self) -> memoryview:
        """The bytes, read-only and not copied."""
        return memoryview(self.source.content)[self.offset : self.offset + self.length]

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a few megabytes at a time."""
        return self.source.chunks(self.offset, self.length)


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no type information
    """The values of a constant, left where they are until they are asked for.

    Args:
        header: the tensor without its data: name, type, dimensions.
        region: where the little-endian raw data lies.
    """

    def __init__(self, header: onnx.TensorProto, region: Region) -> None:
        self.tensor = header
        self.region = region
        self.shape = list(header.dims)
        self.dtype = numpy_type(header.data_type)
        self.nbytes = region.length
        self._array: np.ndarray[Any, Any] | None = None

    def load(self) -> np.ndarray[Any, Any]:
        """The values, as a read-only view of the file; the same array every time."""
        if self._array is None:
            self._array = self._load()
        return self._array

    def _load(self) -> np.ndarray[Any, Any]:
        if self.tensor.data_type in PACKED_TYPES:
            data = bytes(self.region.view())
            full = onnx.TensorProto(data_type=self.tensor.data_type, dims=self.shape, raw_data=data)
            return numpy_helper.to_array(full)
        return np.frombuffer(self.region.view(), dtype=self.dtype).reshape(self.shape)


def numpy_type(onnx_type: int) -> Any:
    """The NumPy type of an ONNX element type; the number itself where NumPy has none."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx_type))
    except KeyError:
        return onnx_type


def expected_bytes(tensor: onnx.TensorProto) -> int | None:
    """How many bytes of raw data the tensor's type and dimensions call for; None for types without a fixed size."""
    bits = _BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    count = int(np.prod(list(tensor.dims), dtype=object)) if tensor.dims else 1
    if bits is not None:
        return (count * bits + 7) // 8
    dtype = numpy_type(tensor.data_type)
    if not isinstance(dtype, np.dtype) or dtype.kind == "O" or tensor.data_type in PACKED_TYPES:
        return None
    return count * dtype.itemsize


class ExternalData:
    """Finds and checks the external data of one model.

    Args:
        folder: the folder of the model's file, which locations are relative to.
        name: what to call the model in errors.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.sources: dict[str, Source] = {}

    def region(self, tensor: onnx.TensorProto) -> Region:
        """Where the tensor's data lies.

        Raises:
            ModelFormatError: the file is missing, too short, or outside the model's folder.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        source = self._source(location, tensor.name)
        try:
            offset = int(entries.get("offset", "0"))
            expected = expected_bytes(tensor)
            length = int(entries["length"]) if "length" in entries else (expected or source.size - offset)
        except ValueError:
            raise ModelFormatError(
                f"{self.name}: the external data of tensor '{tensor.name}' has an offset or a length that is no number;"
                " export the model again."
            ) from None
        if expected is not None and length != expected:
            raise ModelFormatError(
                f"{self.name}: tensor '{tensor.name}' needs {expected} bytes of external data and is given {length};"
                " export the model again."
            )
        if offset < 0 or offset + length > source.size:
            raise ModelFormatError(
                f"{self.name}: its data file '{location}' ends at byte {source.size}, and tensor '{tensor.name}' needs"
                f" it to byte {offset + length}; copy the data file again, whole."
            )
        return Region(source, offset, length)

    def _source(self, location: str, tensor: str) -> Source:
        if location in self.sources:
            return self.sources[location]
        relative = Path(location)
        if not location or relative.is_absolute() or ".." in relative.parts:
            raise ModelFormatError(
                f"{self.name}: tensor '{tensor}' keeps its data in '{location}', which is not inside the model's"
                " folder; save the model with its data beside it."
            )
        path = self.folder / relative
        if not path.is_file():
            raise ModelFormatError(
                f"{self.name}: its data file '{location}', which tensor '{tensor}' needs, is not in {self.folder};"
                " put it beside the model."
            )
        source = Source(path)
        try:
            _ = source.size
        except OSError as error:
            raise ModelFormatError(f"{self.name}: its data file {path} cannot be read: {error.strerror}.") from None
        self.sources[location] = source
        return source


def tensor_bytes(constant: gs.Constant) -> tuple[onnx.TensorProto, Region | bytes | memoryview | None]:
    """The constant as a tensor without data, and its raw data; None where the tensor holds its data itself.

    The tensor has no name yet.
    """
    values = constant._values
    if isinstance(values, StoredValues):
        return onnx.TensorProto(data_type=values.tensor.data_type, dims=values.tensor.dims), values.region
    if isinstance(values, LazyValues):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(values.tensor)
        tensor.ClearField("name")
        return tensor, None
    array = np.asarray(values)
    data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if data_type in PACKED_TYPES or array.dtype.kind in "OSU":
        return numpy_helper.from_array(array), None
    header = onnx.TensorProto(data_type=data_type, dims=array.shape)
    flat = np.ascontiguousarray(array).reshape(-1)
    return header, flat.view(np.uint8).data if flat.size else b""
