"""Graph inputs that may hold one sequence where the others hold many.

An exporter that does not name its axes gives the ids and the mask sizes that have nothing to do with each other, and
the original then broadcasts a mask of one sequence to a batch of many. Where the file does not say by name that all
have the same sizes, what packing reads is brought to one batch first, at run time. A mask that is longer than all other
inputs is refused: an original that runs with one leaves some of its positions out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.layout import TokenLayout
from turbo_onnx.model import Model
from turbo_onnx.passes.packed_rows import INT64

Sizes = tuple[int | str, ...]


def uneven_inputs(model: Model, layout: TokenLayout) -> dict[int, Sizes]:
    """Graph inputs over tokens, if the file does not give them all the same sizes by name: 1 is possible for them.

    By tensor identity; with the sizes that it gives them, or nothing where these have no names.
    """
    named: dict[int, Sizes] = {}
    for tensor in model.graph.inputs:
        if layout.lead(tensor) == 2:
            sizes = tuple((model.declared_shapes.get(tensor.name) or [])[:2])
            named[id(tensor)] = sizes if all(isinstance(s, int | str) and s not in ("", -1) for s in sizes) else ()
    return named if len(set(named.values())) > 1 or () in named.values() else {}


def even_mask(edit: Editor, mask: Tensor, own: Tensor, uneven: Mapping[int, Sizes]) -> Tensor:
    """The mask broadcast with all inputs that may have more sequences than it has.

    Args:
        edit: of the graph.
        mask: [B, S], computed from `own` or the same.
        own: the mask that the graph has.
        uneven: as `uneven_inputs` gives it.
    """
    kinds: dict[object, Tensor] = {}  # one input of each sizes
    for other in edit.graph.inputs:
        if id(other) in uneven and other is not own:
            kinds.setdefault(uneven[id(other)] or other.name, other)
    same = kinds.pop(uneven[id(own)], None) if uneven.get(id(own)) else None
    sizes = [_leading_sizes(edit, other) for other in kinds.values()]
    name = mask.name
    for size in sizes:
        mask = edit.node("Expand", [mask, size], hint=f"{name}_full", dtype=mask.dtype, shape=mask.shape)
    if sizes and same is None and id(own) in uneven:
        mask = _no_longer(edit, mask, sizes, f"{own.name}_must_not_be_longer_than_other_inputs")
    return mask


def _leading_sizes(edit: Editor, tensor: Tensor) -> Tensor:
    """The tensor's first two sizes."""
    shape = edit.node("Shape", [tensor], hint=f"{tensor.name}_shape", dtype=INT64, shape=[len(tensor.shape)])
    if len(tensor.shape) == 2:
        return shape
    bounds = [edit.constant(np.array([value]), "bound") for value in (0, 2)]
    return edit.node("Slice", [shape, *bounds], hint=f"{tensor.name}_batch", dtype=INT64, shape=[2])


def _no_longer(edit: Editor, mask: Tensor, sizes: Sequence[Tensor], name: str) -> Tensor:
    """The mask if it has as many positions as the longest of the sizes; else the node of this name fails."""
    second, one = (edit.constant(np.array([1], np.int64), f"{name}_{hint}") for hint in ("axis", "unit"))
    longest: Tensor | None = None
    for size in sizes:
        length = edit.node("Gather", [size, second], attrs={"axis": 0}, hint=f"{name}_length", dtype=INT64, shape=[1])
        if longest is None:
            longest = length
            continue
        short = edit.node("Equal", [longest, one], hint=f"{name}_short", dtype=np.dtype(np.bool_), shape=[1])
        longest = edit.node("Where", [short, length, longest], hint=f"{name}_longest", dtype=INT64, shape=[1])
    whole = edit.constant(np.array([0], np.int64), f"{name}_batch")
    target = edit.node("Concat", [whole, longest], attrs={"axis": 0}, hint=f"{name}_sizes", dtype=INT64, shape=[2])
    return edit.node("Reshape", [mask, target], hint=name, dtype=mask.dtype, shape=mask.shape)
