"""Writing files so that there is never half a file, and models so that there is never a second copy of the weights."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.errors import OutputError
from turbo_onnx.serialization import wire
from turbo_onnx.serialization.weights import Region, tensor_bytes

PROTOBUF_LIMIT = (1 << 31) - 1  # bytes; no protobuf reader takes more in one message
EXTERNAL_THRESHOLD = 1024  # bytes; smaller tensors stay in the model, where the runtime wants shapes and scales
_PAGE = 4096  # large tensors start on a page, so that a reader can map them
_CACHE_LINE = 64
_MARGIN = 1 << 20  # bytes, for tags and lengths


def require_place(target: Path, what: str) -> None:
    """Refuse early what could not be written in the end.

    Args:
        target: where a file is to be.
        what: it is to be.

    Raises:
        OutputError: the target is a folder or another thing that is no file, or in a folder that does not exist or
            cannot be written to.
    """
    folder = target.parent
    if target.is_dir():
        raise OutputError(f"{target}: it is a folder; name a file for the {what}.")
    _require_file(target)
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: the folder {folder} cannot be written to: {os.strerror(errno.EACCES)}.")


def _require_file(target: Path) -> None:
    if target.exists() and not target.is_file():
        raise OutputError(f"{target}: it is no file, and would be replaced by one; name a file.")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`; on success its files take the places of those of the same names.

    The files are complete on the disk before the first one is renamed.

    Raises:
        OutputError: the target is a device or another thing that is no file, the folder cannot be written to, or the
            disk is full. Nothing has changed then.
    """
    _require_file(target)
    folder = target.parent
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=folder))
    except OSError as error:
        raise OutputError(f"{target}: the folder {folder} cannot be written to: {error.strerror}.") from None
    try:
        yield temporary
        names = sorted(path.name for path in temporary.iterdir())
        for name in names:
            _sync(temporary / name)
        for name in sorted(names, key=lambda name: name == target.name):  # the model last: it points to the others
            (temporary / name).replace(folder / name)
        _sync(folder)
    except OSError as error:
        raise OutputError(f"{target}: it cannot be written: {error.strerror}; nothing was changed.") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for a model that is only run, and goes away.

    Args:
        folder: where to make it: beside a result there is room for a model, and the system's folder for temporary files
            may be in memory; None for the system's.

    Raises:
        OutputError: it cannot be written to, or the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".turbo-onnx-", dir=folder) as name:
            yield Path(name)
    except OSError as error:
        where = folder if folder is not None else tempfile.gettempdir()
        raise OutputError(f"{where}: no model can be written there to run it: {error.strerror}.") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():  # some file systems do not sync folders
            raise error
    finally:
        os.close(handle)


def write_text(target: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with staging(target) as folder:
        (folder / target.name).write_text(text, encoding="utf-8")


def write_model(
    folder: Path, name: str, shell: onnx.ModelProto, weights: dict[str, gs.Constant], external: bool | None
) -> None:
    """Write a model into a folder.

    Args:
        folder: where to; existing files are overwritten.
        name: of the model's file; external data goes to `NAME.data` beside it.
        shell: the model without its top-level initializers.
        weights: the constants that become initializers, by name.
        external: whether to keep weights of 1 KiB and more in the data file; None: only where the model would
            exceed the 2 GB that one file can have.
    """
    tensors = [(label, *tensor_bytes(constant)) for label, constant in weights.items()]
    if external is None:
        size = shell.ByteSize() + sum(_size(tensor, data) for _, tensor, data in tensors)
        external = size > PROTOBUF_LIMIT - _MARGIN
    out = onnx.ModelProto()
    out.CopyFrom(shell)
    graph = onnx.GraphProto()
    graph.CopyFrom(out.graph)
    out.ClearField("graph")

    streamed: list[tuple[bytes, Region | bytes | memoryview]] = []
    if external:
        moved = [(tensor, data) for _, tensor, data in tensors if _length(data) >= EXTERNAL_THRESHOLD]
        if moved:
            _write_data(folder / f"{name}.data", moved)
    for label, tensor, data in tensors:
        tensor.name = label
        if data is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            streamed.append((wire.bytes_tag(wire.GRAPH_INITIALIZER, tensor.ByteSize()) + _serialize(tensor), b""))
        else:
            streamed.append((wire.initializer_prefix(_serialize(tensor), _length(data)), data))
    body = _serialize(graph)
    length = len(body) + sum(len(prefix) + _length(data) for prefix, data in streamed)
    with (folder / name).open("wb") as file:
        file.write(_serialize(out))
        file.write(wire.bytes_tag(wire.MODEL_GRAPH, length))
        file.write(body)
        for prefix, data in streamed:
            file.write(prefix)
            _write_all(file, data)


def _serialize(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _size(tensor: onnx.TensorProto, data: Region | bytes | memoryview | None) -> int:
    return int(tensor.ByteSize()) + _length(data)


def _length(data: Region | bytes | memoryview | None) -> int:
    if data is None:
        return 0
    return data.length if isinstance(data, Region) else len(data)


def _write_data(path: Path, tensors: Iterable[tuple[onnx.TensorProto, Region | bytes | memoryview | None]]) -> None:
    """Write the tensors' data one after the other, and point the tensors at it."""
    with path.open("wb") as file:
        position = 0
        for tensor, data in tensors:
            length = _length(data)
            alignment = _PAGE if length >= _PAGE else _CACHE_LINE
            start = -(-position // alignment) * alignment
            file.write(bytes(start - position))
            _write_all(file, data)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", str(start)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)
            position = start + length


def _write_all(file: BinaryIO, data: Region | bytes | memoryview | None) -> None:
    if isinstance(data, Region):
        for chunk in data.chunks():
            file.write(chunk)
    elif data is not None:
        file.write(data)
