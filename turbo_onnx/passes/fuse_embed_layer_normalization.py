"""Fuse the rows that are looked up for each token, their sum and its LayerNormalization into EmbedLayerNormalization.

A row that is the same for every token (a table looked up with a constant) goes into the smallest table. Tables are
told apart by their size alone, since the sum does not care which is which.

Ids whose sizes the file names differently may have a batch of one where others have many, and the original broadcasts
their rows. The kernel does not, so such ids are broadcast in front of it: they are a thousandth of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fuse_skip_layer_normalization import constant_or_absent, is_known, vector
from turbo_onnx.passes.proven_fusion import ProvenFusion
from turbo_onnx.passes.proven_shapes import ProvenShapes
from turbo_onnx.pattern import Expression, bind, constant, op, optional, variable

_MAX_TABLES = 3


class FuseEmbedLayerNormalization(ProvenFusion):
    """Up to three table look-ups, their sum and LayerNormalization become one operator."""

    name = "fuse-embed-layer-normalization"
    summary = "Fuse embedding look-ups, their sum and LayerNormalization into EmbedLayerNormalization."
    misses_from = 3
    misses_with = frozenset({"Gather"})

    def pattern(self) -> Expression:
        def lookup(number: int) -> Expression:
            return op.Gather(constant(f"table{number}"), variable(f"ids{number}"), axis=0)

        one, two, three, four = (lookup(number) | constant(f"row{number}") for number in range(_MAX_TABLES + 1))
        pair = one + two
        total = pair | (pair + three) | ((pair + three) + four) | (pair + (three + four)) | lookup(0)
        return op.LayerNormalization(
            total, constant("gamma"), optional("beta"), axis=-1, epsilon=bind("epsilon"), stash_type=1
        )

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        values = match.values
        numbers = [number for number in range(_MAX_TABLES + 1) if f"ids{number}" in values]
        lookups = [(values[f"table{number}"], values[f"ids{number}"]) for number in numbers]
        rows = [values[f"row{number}"] for number in range(_MAX_TABLES + 1) if f"row{number}" in values]
        if not lookups:
            raise Reject("nothing is looked up")
        if len(lookups) > _MAX_TABLES:
            raise Reject("{} tables are looked up, and one operator takes {}", len(lookups), _MAX_TABLES)
        width = _check_tables([table for table, _ in lookups])
        _check_ids([ids for _, ids in lookups])
        vector(match.gamma, width)
        constant_or_absent(match.beta, width)
        even = _even([ids for _, ids in lookups], self.proven, edit)
        lookups = [(table, ids) for (table, _), ids in zip(lookups, even, strict=True)]
        lookups.sort(key=lambda lookup: -int(lookup[0].shape[0]))
        if rows:
            table, ids = lookups[-1]
            lookups[-1] = _add_rows(table, rows, width, len(ids.shape) + 1, edit), ids
        word, positions, types = (*lookups, (None, None), (None, None))[:3]
        if types[0] is None:
            types, positions = positions, types
        return edit.node(
            "EmbedLayerNormalization",
            [word[1], types[1], positions[1], word[0], types[0], positions[0], match.gamma, match.beta],
            attrs={"epsilon": float(match.epsilon)},
            domain=DOMAIN,
        )


def _check_tables(tables: list[Tensor]) -> int:
    """The length of their rows. Raises Reject unless all are float32 [rows, H] with one H."""
    for table in tables:
        if table.dtype != np.float32:
            raise Reject("{} is {}, and there is a kernel for float32 only", table.name, table.dtype)
        if len(table.shape) != 2:
            raise Reject("{} {} is not a table of rows", table.name, list(table.shape))
    for table, other in pairwise(tables):
        if table.shape[1] != other.shape[1]:
            raise Reject("{} has rows of {}, {} of {}", table.name, table.shape[1], other.name, other.shape[1])
    return int(tables[0].shape[1])


def _check_ids(ids: list[Tensor]) -> None:
    """Raise Reject unless all are integers of one type and one known shape."""
    for tensor in ids:
        if tensor.dtype not in (np.int64, np.int32):
            raise Reject("{} is {}, not int64 or int32", tensor.name, tensor.dtype)
        if not is_known(tensor.shape):
            raise Reject("the shape of {} is not known", tensor.name)
    for one, other in pairwise(ids):
        if list(one.shape) != list(other.shape):
            raise Reject("{} {} broadcasts against {} {}", one.name, list(one.shape), other.name, list(other.shape))
        if one.dtype != other.dtype:
            raise Reject("{} is {}, {} is {}", one.name, one.dtype, other.name, other.dtype)


def _even(ids: Sequence[Tensor], proven: ProvenShapes, edit: Editor) -> list[Tensor]:
    """The ids, broadcast with those that may have another shape at run time."""
    kinds: list[Tensor] = []  # one of each shape
    for tensor in ids:
        if not any(proven.equal(tensor, kind) for kind in kinds):
            kinds.append(tensor)
    if len(kinds) == 1:
        return list(ids)
    int64 = np.dtype(np.int64)
    sizes = [
        edit.node("Shape", [kind], hint=f"{kind.name}_shape", dtype=int64, shape=[len(kind.shape)]) for kind in kinds
    ]
    even = []
    for tensor in ids:
        whole = tensor
        for kind, size in zip(kinds, sizes, strict=True):
            if not proven.equal(tensor, kind):
                whole = edit.node(
                    "Expand", [whole, size], hint=f"{tensor.name}_full", dtype=tensor.dtype, shape=tensor.shape
                )
        even.append(whole)
    return even


def _add_rows(table: Tensor, rows: list[Tensor], width: int, rank: int, edit: Editor) -> Tensor:
    """A copy of the table with the constant rows added to each of its own.

    Raises:
        Reject: one of them is not the same for every token.
    """
    total = np.zeros(width, np.float64)
    for row in rows:
        shape = list(row.shape)
        if shape[-1:] != [width] or len(shape) > rank or any(size != 1 for size in shape[:-1]):
            raise Reject("{} {} is not the same row of {} numbers for every token", row.name, shape, width)
        total += row.values.reshape(width)
    return edit.constant((table.values + total).astype(table.dtype), f"{table.name}_with_row")
