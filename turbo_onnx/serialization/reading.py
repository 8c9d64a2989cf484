"""Opening a model file, and refusing what cannot be opened with one sentence that says what to do.

Everything that can be refused is refused here, before any pass runs, in the order in which a person would look: is it a
file, is it ONNX, is it whole, is its graph valid, is it one that we and the installed runtime take.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from turbo_onnx.errors import ModelFormatError, UnsupportedModelError
from turbo_onnx.model import Model
from turbo_onnx.serialization import wire
from turbo_onnx.serialization.checking import check_structure, check_support, weightless
from turbo_onnx.serialization.importing import import_graph
from turbo_onnx.serialization.metadata import artifact_of
from turbo_onnx.serialization.weights import ExternalData, Region, Source

BY_POINTER = 1024  # bytes; a smaller tensor is not worth a pointer
_OWN_FILE = "\0"  # the location of tensors that lie in the model's own file

_OTHER_FORMATS = (
    (b"version https://git-lfs", "it is a Git LFS pointer and not the file itself; run `git lfs pull`"),
    (b"PK\x03\x04", "it is a zip archive or a PyTorch checkpoint; export the model to ONNX first"),
    (b"GGUF", "it is a GGUF file; export the model to ONNX first"),
    (b"\x89HDF", "it is an HDF5 file; export the model to ONNX first"),
    (b"<!DOCTYPE", "it is a web page; download the file again"),
    (b"<html", "it is a web page; download the file again"),
)


@dataclass
class Origin:
    """Where a model came from, in bytes."""

    file: Source
    external: ExternalData
    regions: list[Region]

    def digest(self) -> str:
        """SHA-256 of the model file and, in the graph's order, of the external data that its tensors point to."""
        sha = hashlib.sha256()
        for chunk in self.file.chunks(0, self.file.size):
            sha.update(chunk)
        for region in self.regions:
            for chunk in region.chunks():
                sha.update(chunk)
        return sha.hexdigest()

    def files(self) -> list[Path]:
        """The files that the model lies in."""
        sources = (self.file, *self.external.sources.values())
        return [source.path for source in sources if source.path is not None]

    def file_at(self, path: Path) -> Path | None:
        """The file of the model that is found at the path, through links too; None where it is another, or none."""
        there = [file for file in self.files() if file.exists()] if path.exists() else []
        return next((file for file in there if path.samefile(file)), None)


def read(source: str | Path | bytes | onnx.ModelProto, *, artifacts: bool = False) -> Model:
    """Open a model; its weights stay in the file.

    Args:
        source: a path, a serialized model, or a model in memory (which is not changed).
        artifacts: take models that this tool has already optimized, too.

    Raises:
        ModelFormatError: it is no whole, valid ONNX model.
        UnsupportedModelError: it is one that this version, or the installed runtime, does not take.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    name = str(path) if path is not None else "the model"
    file = _open(path) if path is not None else Source(None, _in_memory(source))
    proto = _parse(file, name)
    _check_container(proto, name)
    artifact = artifact_of(proto, name)
    if artifact is not None and not artifacts:
        raise UnsupportedModelError(
            f"{name}: turbo-onnx {artifact.version} has already optimized this model; optimize the original instead."
        )
    check_support(proto, name, artifacts)
    check_structure(proto, name)
    if not _uses_bfloat16(proto):  # of which the CPU has no kernels
        _check_runtime(proto, file, name)

    external = ExternalData(path.parent if path is not None else Path(), name)
    regions: dict[tuple[int, int, int], Region] = {}

    def locate(tensor: onnx.TensorProto) -> Region:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") == _OWN_FILE:
            return Region(file, int(entries["offset"]), int(entries["length"]))
        region = external.region(tensor)
        regions.setdefault(region.key, region)
        return region

    graph = import_graph(proto, locate)
    model = Model.from_graph(graph, proto, path)
    model.origin = Origin(file, external, list(regions.values()))
    return model


def _uses_bfloat16(proto: onnx.ModelProto) -> bool:
    graph = proto.graph
    values = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    stored = [tensor.data_type for tensor in graph.initializer]
    casts = [attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute]
    return onnx.TensorProto.BFLOAT16 in (*values, *stored, *casts)


def _check_runtime(proto: onnx.ModelProto, file: Source, name: str) -> None:
    """Ask the runtime, where one is installed."""
    if find_spec("onnxruntime") is None:
        return
    from turbo_onnx.sessions import check_accepted

    check_accepted(weightless(proto), file.path if file.path is not None else bytes(file.content), name)


def _open(path: Path) -> Source:
    try:
        if path.is_dir():
            raise ModelFormatError(f"{path}: it is a folder; name the ONNX file in it.")
        if not path.exists():
            raise ModelFormatError(f"{path}: there is no such file; check the path.")
        if not path.is_file():
            raise ModelFormatError(f"{path}: it is not a regular file; copy the model to one.")
        source = Source(path)
        _ = source.content
    except OSError as error:
        raise ModelFormatError(f"{path}: it cannot be read: {error.strerror}; check its permissions.") from None
    return source


def _in_memory(source: object) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, onnx.ModelProto):
        try:
            return bytes(source.SerializeToString(deterministic=True))
        except (ValueError, DecodeError):
            raise UnsupportedModelError(
                "the model: it is over 2 GB and cannot be taken from memory; save it with external data, and give"
                " its path."
            ) from None
    raise TypeError(f"a model is a path, bytes or a ModelProto, not {type(source).__name__}")


def _parse(file: Source, name: str) -> onnx.ModelProto:
    content = file.content
    if not len(content):
        raise ModelFormatError(f"{name}: it is empty; download or export it again.")
    for magic, sentence in _OTHER_FORMATS:
        if content[: len(magic)] == magic:
            raise ModelFormatError(f"{name}: it is not an ONNX file: {sentence}.")
    proto = onnx.ModelProto()
    try:
        shell, graph, initializers = wire.split_model(content, BY_POINTER)
        proto.ParseFromString(shell)
        proto.graph.ParseFromString(graph)
        for item in initializers:
            tensor = proto.graph.initializer.add()
            tensor.ParseFromString(item if isinstance(item, bytes) else item.header)
            if isinstance(item, wire.RawData):
                _point(tensor, item)
    except wire.WireError as error:
        if error.truncated and content[0] == 0x08:  # every model begins with its IR version, field 1
            raise ModelFormatError(f"{name}: it is cut off; download or copy it again, whole.") from None
        raise ModelFormatError(f"{name}: it is not an ONNX file; export the model to ONNX first.") from None
    except DecodeError:
        raise ModelFormatError(f"{name}: it is not an ONNX file, or it is damaged; export it again.") from None
    return proto


def _point(tensor: onnx.TensorProto, data: wire.RawData) -> None:
    """Let the tensor say where in the model's own file its data lies, in the words of external data."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", _OWN_FILE), ("offset", str(data.offset)), ("length", str(data.length))):
        tensor.external_data.add(key=key, value=value)


def _check_container(proto: onnx.ModelProto, name: str) -> None:
    if not proto.ir_version and not proto.opset_import:
        raise ModelFormatError(f"{name}: it is not an ONNX file; export the model to ONNX first.")
    if not proto.graph.node and not proto.graph.output:
        raise ModelFormatError(f"{name}: it holds no graph; export the model again.")
    if not proto.ir_version:
        raise ModelFormatError(f"{name}: it says no IR version; export the model again.")
