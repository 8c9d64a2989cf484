"""Graph inputs that may hold one sequence where the others hold many.

An exporter that does not name its axes gives the ids and the mask sizes that have nothing to do with each other, and
the original then broadcasts a mask of one sequence to a batch of many. The tensors that packing reads are brought to
one batch first, at run time, where the file does not say by name that they have the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.layout import TokenLayout
from turbo_onnx.model import Model
from turbo_onnx.passes.packed_rows import INT64


def uneven_inputs(model: Model, layout: TokenLayout, mask: Tensor) -> dict[int, tuple[int | str, ...]]:
    """Graph inputs over tokens that the file does not give the mask's sizes by name: 1 is possible for them.

    By tensor identity; with the sizes that it gives them, or nothing where these have no names.
    """
    inputs = [tensor for tensor in model.graph.inputs if layout.lead(tensor) == 2]
    named: dict[int, tuple[int | str, ...]] = {}
    for tensor in inputs:
        sizes = tuple((model.declared_shapes.get(tensor.name) or [])[:2])
        named[id(tensor)] = sizes if all(isinstance(s, int | str) and s not in ("", -1) for s in sizes) else ()
    own = named.get(id(mask), next(iter(named.values()), ()) if len(set(named.values())) == 1 else ())
    return {key: sizes for key, sizes in named.items() if sizes != own or not sizes}


def even_mask(edit: Editor, mask: Tensor, own: Tensor, uneven: Mapping[int, tuple[int | str, ...]]) -> Tensor:
    """The mask broadcast with all inputs that may have more sequences than it has.

    Args:
        edit: of the graph.
        mask: [B, S], computed from `own` or the same.
        own: the mask that the graph has.
        uneven: as `uneven_inputs` gives it.
    """
    done: set[tuple[int | str, ...]] = set()
    for other in edit.graph.inputs:
        sizes = uneven.get(id(other))
        if sizes is None or sizes in done or other is own:
            continue
        if sizes:
            done.add(sizes)
        shape = edit.node("Shape", [other], hint=f"{other.name}_shape", dtype=INT64, shape=[len(other.shape)])
        if len(other.shape) > 2:
            bounds = [edit.constant(np.array([value]), "bound") for value in (0, 2)]
            shape = edit.node("Slice", [shape, *bounds], hint=f"{other.name}_batch", dtype=INT64, shape=[2])
        mask = edit.node("Expand", [mask, shape], hint=f"{mask.name}_full", dtype=mask.dtype,
                               shape=mask.shape)  # fmt: skip
    return mask
