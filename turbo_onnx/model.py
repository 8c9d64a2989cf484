"""A model: graphsurgeon's graph, plus everything of the file that graphsurgeon drops."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs


@dataclass
class Model:
    """One model in memory, as the passes see it.

    Attributes:
        graph: the graph; passes edit it in place.
        path: the file it came from, if any.
        shell: the original ModelProto without its graph: metadata, versions, what graphsurgeon does not carry.
    """

    graph: gs.Graph
    path: Path | None = None
    shell: onnx.ModelProto = field(default_factory=onnx.ModelProto)

    @property
    def opset(self) -> int:
        """The version of the standard operator set that the model imports."""
        return int(self.graph.opset)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, path: Path | None = None) -> Model:
        """Take a ModelProto over; it must not be used afterwards."""
        return cls(gs.import_onnx(proto), path)

    def to_proto(self) -> onnx.ModelProto:
        """The model as a new ModelProto."""
        return gs.export_onnx(self.graph)
