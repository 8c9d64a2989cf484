"""Which tensors have equal shapes in every run, for fusions whose kernels do not broadcast.

Inference takes sizes that an element-wise operator joins for one, whatever the file calls them. Where the file gives
them different names, or none, one of them may be 1 at run time, and the original broadcasts it; a kernel that wants
equal shapes fails there. In most graphs one size has one name, and this costs nothing.
"""

from __future__ import annotations

from turbo_onnx import shapes
from turbo_onnx.graph import Tensor
from turbo_onnx.inference.reading import Dims
from turbo_onnx.model import Model


class ProvenShapes:
    """The shapes of one graph's tensors, as far as names in the file and demands of operators prove them.

    Args:
        model: with inferred shapes, before anything is rewritten.
    """

    def __init__(self, model: Model) -> None:
        _, facts = shapes.without_assumptions(model)
        self._trusted = facts is None
        self._shapes: dict[int, tuple[Tensor, Dims | None]] = {}  # by identity; the tensors stay alive for it
        if facts is not None:
            computed = (tensor for node in model.graph.nodes for tensor in node.outputs)
            for tensor in (*model.graph.inputs, *computed):
                self._shapes[id(tensor)] = (tensor, facts[tensor].shape)

    def equal(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors, whose shapes were inferred to be equal, have equal shapes in every run."""
        if self._trusted:
            return True
        _, shape = self._shapes.get(id(one), (one, None))
        return shape is not None and shape == self._shapes.get(id(other), (other, None))[1]

    def take_over(self, new: Tensor, old: Tensor) -> None:
        """Say that a new tensor replaces another one, and so has its shape."""
        if not self._trusted and id(old) in self._shapes:
            self._shapes[id(new)] = (new, self._shapes[id(old)][1])
