"""A model: graphsurgeon's graph, plus everything of the file that graphsurgeon drops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.graph import Shape
from turbo_onnx.serialization import writing
from turbo_onnx.serialization.exporting import export_graph, opset_imports, tensor_proto
from turbo_onnx.serialization.functions import attach_functions
from turbo_onnx.serialization.importing import import_graph
from turbo_onnx.serialization.weights import ExternalData

if TYPE_CHECKING:
    from turbo_onnx.serialization.reading import Origin

OPTIONAL_INITIALIZER_INPUTS_SINCE_IR = 4


@dataclass
class Model:
    """One model in memory, as the passes see it. Its weights stay in their file until someone asks for them.

    Attributes:
        graph: the graph; passes edit it in place.
        path: the file it came from, if any.
        shell: the original ModelProto without its graph: metadata, versions, functions, what graphsurgeon drops.
        origin: the bytes that it was read from, for a model that was read.
        declared_shapes: the shapes of graph inputs and outputs as the file declares them, by name. Inference writes
            what it learns to the tensors; the saved model keeps its interface.
    """

    graph: gs.Graph
    path: Path | None = None
    shell: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    origin: Origin | None = field(default=None, repr=False)
    declared_shapes: dict[str, Shape] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for tensor in (*self.graph.inputs, *self.graph.outputs):
            shape = None if tensor.shape is None else list(tensor.shape)
            self.declared_shapes.setdefault(tensor.name, shape)

    @property
    def opset(self) -> int:
        """The version of the standard operator set that the model imports."""
        return int(self.graph.opset)

    @opset.setter
    def opset(self, version: int) -> None:
        """Import another version. The nodes stay as they are: the caller knows that they mean the same there."""
        for graph in (self.graph, *self.graph.subgraphs(recursive=True)):
            graph.opset = version
        imports = [entry for entry in self.graph.import_domains or [] if entry.domain not in ("", "ai.onnx")]
        self.graph.import_domains = [onnx.helper.make_opsetid("", version), *imports]

    @property
    def name(self) -> str:
        """What to call the model in a sentence."""
        return str(self.path) if self.path is not None else "the model"

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, path: Path | None = None) -> Model:
        """Take a ModelProto over; it must not be used afterwards. External data is looked for beside `path`."""
        external = ExternalData(path.parent if path is not None else Path(), str(path or "the model"))
        return cls.from_graph(import_graph(proto, external.region), proto, path)

    @classmethod
    def from_graph(cls, graph: gs.Graph, proto: onnx.ModelProto, path: Path | None = None) -> Model:
        """A model of this graph, with everything else taken from `proto`."""
        shell = onnx.ModelProto()
        for descriptor, value in proto.ListFields():
            if descriptor.name in ("graph", "opset_import"):
                continue
            if isinstance(value, (int, str)):
                setattr(shell, descriptor.name, value)
            else:
                getattr(shell, descriptor.name).extend(value)
        return cls(graph, path, shell)

    def to_proto(self) -> onnx.ModelProto:
        """The model as a new ModelProto, weights and all. A model over 2 GB can only be saved."""
        proto, weights = self.without_weights()
        proto.graph.initializer.extend(tensor_proto(constant, name) for name, constant in weights.items())
        return proto

    def without_weights(self) -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
        """The model as a new ModelProto without its top-level initializers, and the constants they are, by name.

        The functions of our own operators are in it, so that it runs without our library.
        """
        exported = export_graph(self.graph)
        _declare_shapes(exported.graph, self.declared_shapes)
        proto = onnx.ModelProto()
        proto.CopyFrom(self.shell)
        proto.graph.CopyFrom(exported.graph)
        proto.opset_import.extend(opset_imports(self.graph))
        proto.ir_version = max(proto.ir_version, OPTIONAL_INITIALIZER_INPUTS_SINCE_IR)
        attach_functions(proto)
        return proto, exported.weights

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata, by key."""
        return {entry.key: entry.value for entry in self.shell.metadata_props}

    def set_metadata(self, properties: Mapping[str, str]) -> None:
        """Add entries to the model's metadata, replacing those of the same keys; the others keep their order."""
        kept = [entry for entry in self.shell.metadata_props if entry.key not in properties]
        del self.shell.metadata_props[:]
        self.shell.metadata_props.extend(kept)
        for key, value in properties.items():
            self.shell.metadata_props.add(key=key, value=value)

    def write(self, folder: Path, name: str, external: bool | None = None) -> None:
        """Write the model's files into a folder, as they come; `save` does it safely.

        Args:
            folder: where to.
            name: the file's name; external data goes to `NAME.data`.
            external: whether weights of 1 KiB and more go to the data file; None: only over 2 GB.
        """
        proto, weights = self.without_weights()
        writing.write_model(folder, name, proto, weights, external)

    def save(self, path: Path, external: bool | None = None) -> None:
        """Write the model, whole or not at all.

        Args:
            path: the file; external data goes to the same name with `.data` added.
            external: whether weights of 1 KiB and more go to the data file; None: only over 2 GB.

        Raises:
            OutputError: the folder cannot be written to, or the disk is full.
        """
        with writing.staging(path) as folder:
            self.write(folder, path.name, external)


def _declare_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Give the graph's inputs and outputs the shapes by which their users know them."""
    for value in (*graph.input, *graph.output):
        shape = shapes.get(value.name)
        if shape is None or not value.type.HasField("tensor_type"):
            continue
        tensor_type = value.type.tensor_type
        tensor_type.ClearField("shape")
        dims = onnx.helper.make_tensor_type_proto(tensor_type.elem_type, shape).tensor_type.shape
        tensor_type.shape.CopyFrom(dims)
