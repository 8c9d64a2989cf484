"""Cosines and sines as RotaryEmbedding takes them: the table that all layers share, and an index into it.

Packed rows take their cosines from a table by position, with a Gather in front of every layer's product; exporters put
axes of size 1 into both. Here all of that is undone, so that the operator reads the one table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, produced_by
from turbo_onnx.passes.reshaping import reshaped
from turbo_onnx.passes.rotation import Table
from turbo_onnx.passes.signed_columns import Factor
from turbo_onnx.passes.views import ancestors, whole


@dataclass(frozen=True)
class Rows:
    """Cosines or sines.

    Attributes:
        tensor: with axes of size 1 anywhere: [P, C] or [B or 1, S, C].
        shape: without those, but for the batch.
        index: [T], which row each row of input takes; None where each takes its own.
    """

    tensor: Tensor
    shape: tuple[int | str, ...]
    index: Tensor | None = None


class Tables:
    """Makes the tables of one graph, each once."""

    def __init__(self, edit: Editor, opset: int) -> None:
        self._edit = edit
        self._opset = opset
        self._made: dict[tuple[int, int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def pair(
        self, cos: tuple[Factor, Table], sin: tuple[Factor, Table], rows: tuple[int | str, ...]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The operator's operands cos, sin and index for rows [T] or [B, S].

        Raises:
            Reject: there is not one row of cosines and sines for each row, or table and index differ between the two.
        """
        found = [self._rows(factor, rows) for factor, _ in (cos, sin)]
        indexed = [self._before_gather(each) for each in found]
        if all(each is not None for each in indexed) and indexed[0].index is indexed[1].index:  # type: ignore[union-attr]
            found = [each for each in indexed if each is not None]
        if found[0].shape[:-1] != found[1].shape[:-1]:
            raise Reject(
                "its cosines {} and sines {} have different numbers of rows", found[0].tensor.name, found[1].tensor.name
            )
        tables = [self._table(each, table.columns) for each, (_, table) in zip(found, (cos, sin), strict=True)]
        return tables[0], tables[1], found[0].index

    def _rows(self, factor: Factor, rows: tuple[int | str, ...]) -> Rows:
        sizes = [1 if axis is None else factor.tensor.shape[axis] for axis in factor.rows]
        places = [axis for axis in factor.rows if axis is not None]
        if places != sorted(places):
            raise Reject("{} has its rows in another order", factor.tensor.name)
        in_front = factor.tensor.shape[: places[-1]] if places else []
        if any(size != 1 for axis, size in enumerate(in_front) if axis not in places):
            raise Reject("{} has something else in front of its rows", factor.tensor.name)
        if sizes[-1] != rows[-1] or any(size not in (1, row) for size, row in zip(sizes, rows, strict=True)):
            raise Reject("{} has the shape {}, not one row for each position", factor.tensor.name, factor.tensor.shape)
        return Rows(factor.tensor, (*sizes, factor.columns))

    def _before_gather(self, rows: Rows) -> Rows | None:
        """The table of which the rows are gathered by the position, or the place, of real tokens."""
        if len(rows.shape) != 2:
            return None
        gather = produced_by(self._unshaped(rows.tensor), "Gather")
        if gather is None or gather.attrs.get("axis", 0) != 0 or gather.inputs[0].shape is None:
            return None
        table, index = gather.inputs
        if produced_by(index, "RemovePadding", domain=DOMAIN) is None:  # other indices may be negative
            return None
        return Rows(table, (table.shape[0], rows.shape[1]), index)

    def _unshaped(self, tensor: Tensor) -> Tensor:
        """The farthest tensor of which this one is a Reshape, or what might as well be one."""
        result = tensor
        if isinstance(tensor, gs.Constant):
            return result
        for ancestor in ancestors(tensor, self._opset):
            view = ancestor.view
            pieces = [piece for axis in view.axes for piece in axis]
            unchanged = [piece for axis in whole(ancestor.tensor.shape).axes for piece in axis]
            if pieces == unchanged and not view.offsets and view.factor == 1.0:
                result = ancestor.tensor
        return result

    def _table(self, rows: Rows, columns: np.ndarray) -> Tensor:
        """The rows in the shape that the operator wants, with these of their columns."""
        source = self._unshaped(rows.tensor)
        key = (id(source), len(rows.shape), tuple(int(column) for column in columns))
        if key not in self._made:
            self._made[key] = (source, self._shaped(source, rows, columns))
        return self._made[key][1]

    def _shaped(self, source: Tensor, rows: Rows, columns: np.ndarray) -> Tensor:
        shape, count = list(rows.shape), rows.shape[-1]
        straight = columns.size == count and bool((columns == np.arange(columns.size)).all())
        if isinstance(source, gs.Constant):
            if straight and list(source.shape) == shape:
                return source
            return self._edit.constant(source.values.reshape(shape)[..., columns], f"{source.name}_rows")
        result = source
        if list(source.shape) != shape:
            result = reshaped(self._edit, source, self._target(source, shape), shape)
        if straight:
            return result
        which = self._edit.constant(columns.astype(np.int64), "rotary_columns")
        shape[-1] = columns.size
        return self._edit.node(
            "Gather", [result, which], attrs={"axis": len(shape) - 1}, dtype=source.dtype, shape=shape
        )

    def _target(self, source: Tensor, shape: list[int | str]) -> list[int]:
        """What a Reshape of the source to the shape is told."""
        unknown = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        target = [size if isinstance(size, int) else -1 for size in shape]
        if len(unknown) == 2:
            if source.shape[0] != shape[0]:
                raise Reject("{} has its batch not in front", source.name)
            target[0] = 0
        return target
