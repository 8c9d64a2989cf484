"""What fusions have in common whose kernels do not broadcast: they ask what shapes are equal in every run."""

from __future__ import annotations

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Tensor
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.passes.proven_shapes import ProvenShapes


class ProvenFusion(Fusion):
    """A fusion that knows which tensors have equal shapes in every run.

    Args:
        proven: of the graph that the pass runs on, which it finds out itself unless told.
    """

    def __init__(self, proven: ProvenShapes | None = None) -> None:
        self._proven = proven

    def run(self, model: Model) -> PassReport:
        """Rewrite until nothing matches any more."""
        if self._proven is None:  # what is found out of one model is not kept
            return Fusion.run(type(self)(ProvenShapes(model)), model)
        return super().run(model)

    @property
    def proven(self) -> ProvenShapes:
        """Of the graph that the pass runs on; only while it runs."""
        assert self._proven is not None
        return self._proven

    def check_equal(self, one: Tensor, other: Tensor) -> None:
        """Raise Reject unless two tensors, whose shapes were inferred to be equal, have equal shapes in every run."""
        if not self.proven.equal(one, other):
            raise Reject(
                "sizes of {} and {} have different names in the file, so that one may be broadcast to the other",
                one.name,
                other.name,
            )
