"""Keys and values that several heads of queries share, which exporters write down once for each of them.

    [B, G, S, D] ─Unsqueeze─▶ [B, G, 1, S, D] ─Expand─▶ [B, G, n, S, D] ─Reshape─▶ [B, G*n, S, D]

Where attention takes its heads side by side, they are repeated with the tokens in front instead, so that it can be done
for real tokens only, and nothing has to be transposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from turbo_onnx.graph import Editor, Tensor, produced_by
from turbo_onnx.passes.reshaping import reshaped, transposed


@dataclass(frozen=True)
class Repeated:
    """Heads before they were repeated.

    Attributes:
        heads: [B, G, S, D].
        times: how often each of them follows itself.
    """

    heads: Tensor
    times: int

    def side_by_side(self, edit: Editor) -> Tensor:
        """All heads, repeated, as [B, S, G*n*D]."""
        batch, groups, rows, size = self.heads.shape
        split = transposed(edit, self.heads, (0, 2, 1, 3))
        apart = reshaped(edit, split, [0, 0, groups, 1, size], [batch, rows, groups, 1, size])
        target = edit.constant(np.array([1, 1, 1, self.times, 1], np.int64), "repeated_shape")
        shape = [batch, rows, groups, self.times, size]
        repeated = edit.node("Expand", [apart, target], dtype=self.heads.dtype, shape=shape)
        width = groups * self.times * size
        return reshaped(edit, repeated, [0, 0, width], [batch, rows, width])


def before_repeating(tensor: Tensor) -> Repeated | None:
    """What the heads [B, H, S, D] are repeated of; None where they are not."""
    joined = produced_by(tensor, "Reshape")
    expanded = None if joined is None else produced_by(joined.inputs[0], "Expand")
    apart = None if expanded is None else produced_by(expanded.inputs[0], "Unsqueeze", "Reshape")
    if joined is None or expanded is None or apart is None:
        return None
    wide, narrow, heads = joined.inputs[0].shape, expanded.inputs[0].shape, apart.inputs[0]
    if heads.shape is None or len(heads.shape) != 4 or wide is None or len(wide) != 5:
        return None
    batch, groups, rows, size = heads.shape
    times = wide[2]
    if not all(isinstance(number, int) for number in (groups, times, size)):
        return None
    shapes_fit = narrow == [batch, groups, 1, rows, size] and wide == [batch, groups, times, rows, size]
    if not shapes_fit or list(tensor.shape) != [batch, groups * times, rows, size]:
        return None
    return Repeated(heads, times)
