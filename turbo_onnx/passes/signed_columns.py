"""Which columns of a source each element of a tensor is made of, and times what, whatever the spelling.

Exporters write the rotation of heads with Slice, Split, Gather, Neg, Concat, Reshape and Transpose in many orders. All
of that only moves columns of one tensor, changes signs, multiplies with cosines and sines of the row's position, and
adds. So the nodes are run, with NumPy, on numbered columns instead of numbers: two spellings of one thing give the same
table. Axes that count rows (tokens) have size 1 there; nothing may mix them.

    source [T, 4]:            0  1  2  3
    Neg(Slice(columns 2, 3)): -2 -3
    Concat with columns 0, 1: -2 -3  0  1
    Mul by `sin` [T, 4]:      -2·sin[0]  -3·sin[1]  0·sin[2]  1·sin[3]
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.attributes import read
from turbo_onnx.graph import Editor, Tensor, input_or_none, integers, is_float, is_op

_TERM = np.dtype([("coefficient", np.float64), ("column", np.int64), ("factor", np.int64), ("at", np.int64)])
_TERMS = 2  # as many as an element is the sum of, at most
_MOST_NODES = 256  # as many readers of one source, and readers of those, are looked at
_MOST_SIGNS = 4096  # a longer constant is not looked into
_UNIT_AXES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
MOVES = (*_UNIT_AXES, "Identity", "Transpose", "Slice", "Split", "Gather")


@dataclass(frozen=True)
class Factor:
    """A tensor that columns are multiplied with, which may differ between rows.

    Attributes:
        tensor: as the product reads it.
        rows: for each row axis of the source, which axis of the tensor it is; None where it has none.
        columns: how many elements it has for each row.
    """

    tensor: Tensor
    rows: tuple[int | None, ...]
    columns: int


@dataclass(frozen=True)
class Columns:
    """What a tensor is made of.

    Attributes:
        rows: for each row axis of the source, in their order, which axis of the tensor it is.
        terms: [terms, …], the tensor's axes with size 1 for rows. Each element is the sum, over the first axis, of
            `coefficient` times the source's column `column`, times the element `at` of the factor `factor` unless that
            is -1. A coefficient of 0 is no term.
        moved: nothing but moving was done, so that each element is one column.
    """

    rows: tuple[int, ...]
    terms: np.ndarray
    moved: bool = True

    def in_order(self) -> np.ndarray:
        """The terms [terms, N] with one row's elements one after the other, as if the row axes stood in front."""
        return self.terms.reshape(self.terms.shape[0], -1)

    @property
    def order(self) -> np.ndarray | None:
        """[N], the source's column behind each element, where nothing but that is known of them."""
        first, *more = self.in_order()
        alone = not any(other["coefficient"].any() for other in more)
        plain = alone and bool((first["factor"] < 0).all() and (first["coefficient"] == 1.0).all())
        return first["column"] if plain else None


@dataclass
class Spread:
    """All that is made of one source's columns.

    Attributes:
        source: [rows…, columns…].
        row_axes: how many of its axes, the first ones, count rows.
        made: by identity, the tensors and what they are made of, in the order in which they are computed.
        factors: what columns were multiplied with.
    """

    source: Tensor
    row_axes: int
    made: dict[int, tuple[Tensor, Columns]] = field(default_factory=dict)
    factors: list[Factor] = field(default_factory=list)

    def columns(self, tensor: Tensor) -> Columns | None:
        """What the tensor is made of; None where that is something else, too."""
        known = self.made.get(id(tensor))
        return None if known is None else known[1]

    def factor(self, factor: Factor) -> int:
        """The number of the factor."""
        for number, other in enumerate(self.factors):
            if other.tensor is factor.tensor and other.rows == factor.rows:
                return number
        self.factors.append(factor)
        return len(self.factors) - 1


def sources(tensor: Tensor, known: dict[int, dict[int, Tensor]]) -> dict[int, Tensor]:
    """The tensors, by identity, whose columns the tensor may be made of; `known` remembers what was found."""
    if id(tensor) not in known:
        found: dict[int, Tensor] = {}
        above = _movable(tensor.inputs[0]) if tensor.inputs else []
        for each in above:
            found.update(sources(each, known))
        known[id(tensor)] = found if above else {id(tensor): tensor}
    return known[id(tensor)]


def _movable(node: gs.Node) -> list[Tensor]:
    """The operands whose elements the node moves, or multiplies with a constant number or signs."""
    if is_op(node, *MOVES, "Neg"):
        data = node.inputs[0]
        plain = not is_op(node, "Gather") or integers(node.inputs[1]) is not None
        return [data] if plain and not isinstance(data, gs.Constant) else []
    if is_op(node, "Concat"):
        return [] if any(isinstance(tensor, gs.Constant) for tensor in node.inputs) else list(node.inputs)
    if is_op(node, "Mul", "Div"):
        for data, number in (node.inputs, reversed(node.inputs)) if node.op == "Mul" else (node.inputs,):
            if _is_number_or_signs(number) and not isinstance(data, gs.Constant):
                return [data]
    return []


def _is_number_or_signs(tensor: Tensor) -> bool:
    if not isinstance(tensor, gs.Constant) or math.prod(tensor.shape) > _MOST_SIGNS:
        return False
    return math.prod(tensor.shape) == 1 or bool((np.abs(tensor.values) == 1).all())


def spread(source: Tensor, row_axes: int, places: Mapping[int, int], opset: int) -> Spread | None:
    """Follow the source's columns through all that reads them; None where it has no fixed number of columns.

    Args:
        source: [rows…, columns…].
        row_axes: how many of its axes count rows.
        places: each node's place in the topological order, by identity.
        opset: of the standard operators.
    """
    result = Spread(source, row_axes)
    if source.shape is None or not all(isinstance(size, int) and size > 0 for size in source.shape[row_axes:]):
        return None
    terms = np.zeros([1, *(1,) * row_axes, *source.shape[row_axes:]], _TERM)
    terms["coefficient"], terms["factor"] = 1.0, -1
    terms["column"] = np.arange(terms.size).reshape(terms.shape)
    result.made[id(source)] = (source, Columns(tuple(range(row_axes)), terms))
    waiting = [(places[id(node)], node) for node in _readers(source, places)]
    heapq.heapify(waiting)
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_NODES:
        place, node = heapq.heappop(waiting)
        if place in seen:
            continue
        seen.add(place)
        for output in node.outputs:
            columns = None if output.shape is None else _computed(result, node, output, opset)
            if columns is not None:
                result.made[id(output)] = (output, columns)
                for reader in _readers(output, places):
                    heapq.heappush(waiting, (places[id(reader)], reader))
    return result


def _readers(tensor: Tensor, places: Mapping[int, int]) -> list[gs.Node]:
    """Each reader in this graph once; those in subgraphs have no place."""
    return list({id(node): node for node in tensor.outputs if id(node) in places}.values())


def is_kept(tensor: Tensor, made: Spread, edit: Editor, places: Mapping[int, int]) -> bool:
    """Whether something reads the tensor that is not made of the source's columns alone."""
    if edit.is_graph_output(tensor):
        return True
    return any(
        id(reader) not in places or any(id(output) not in made.made for output in reader.outputs)
        for reader in tensor.outputs
    )


def _computed(made: Spread, node: gs.Node, output: Tensor, opset: int) -> Columns | None:
    if is_op(node, "Neg"):
        return _times(made.columns(node.inputs[0]), -1.0)
    if is_op(node, "Identity"):
        return made.columns(node.inputs[0])
    if is_op(node, "Add", "Sub"):
        return _sum(made, node, output)
    if is_op(node, "Mul", "Div"):
        return _product(made, node, output)
    if is_op(node, "Concat"):
        return _concatenated([made.columns(tensor) for tensor in node.inputs], int(read(node, "axis", opset)))
    data = made.columns(node.inputs[0]) if is_op(node, *MOVES) else None
    if data is None:
        return None
    if node.op in _UNIT_AXES:
        return _reshaped(data, node.inputs[0].shape, output.shape)
    if node.op == "Transpose":
        order = node.attrs.get("perm") or list(range(len(output.shape)))[::-1]
        terms = data.terms.transpose(0, *(axis + 1 for axis in order))
        return Columns(tuple(list(order).index(axis) for axis in data.rows), terms, data.moved)
    if node.op == "Split":
        return _split(data, node, output, opset)
    if node.op == "Slice":
        return _sliced(data, node)
    return _gathered(data, node, int(read(node, "axis", opset) or 0))


def _times(columns: Columns | None, coefficient: np.ndarray | float) -> Columns | None:
    if columns is None:
        return None
    terms = columns.terms.copy()
    terms["coefficient"] *= coefficient
    return Columns(columns.rows, terms, False)


def _reshaped(columns: Columns, before: Sequence[int | str], after: Sequence[int | str]) -> Columns | None:
    rows = _rows_after(columns.rows, before, after)
    if rows is None:
        return None
    shape = [1 if axis in rows else size for axis, size in enumerate(after)]
    return Columns(rows, columns.terms.reshape(-1, *shape), columns.moved)


def _rows_after(
    rows: tuple[int, ...], before: Sequence[int | str], after: Sequence[int | str]
) -> tuple[int, ...] | None:
    """Where the row axes are behind a Reshape that leaves each of them an axis; None where one is cut or joined.

    A Reshape keeps the order of elements, so that an axis stays one if as many elements lie in front of it as before.
    """
    found: dict[int, int] = {}
    place, start = 0, 0
    for axis in sorted(rows):
        between = math.prod(size for size in before[start:axis] if isinstance(size, int))
        passed = 1
        while place < len(after) and (passed != between or after[place] != before[axis]):
            size = after[place]
            if not isinstance(size, int):
                return None
            passed *= size
            place += 1
        if place == len(after):
            return None
        found[axis] = place
        place, start = place + 1, axis + 1
    if any(not isinstance(size, int) for size in after[place:]):
        return None
    return tuple(found[axis] for axis in rows)


def _split(columns: Columns, node: gs.Node, output: Tensor, opset: int) -> Columns | None:
    axis = int(read(node, "axis", opset) or 0) % len(output.shape)
    number = next(index for index, tensor in enumerate(node.outputs) if tensor is output)
    sizes = [None if tensor.shape is None else tensor.shape[axis] for tensor in node.outputs[: number + 1]]
    known = [size for size in sizes if isinstance(size, int)]
    if axis in columns.rows or len(known) != len(sizes):
        return None
    return _taken(columns, axis, np.arange(sum(known[:-1]), sum(known)))


def _sliced(columns: Columns, node: gs.Node) -> Columns | None:
    if len(node.inputs) < 3:
        starts, ends = node.attrs.get("starts"), node.attrs.get("ends")
        axes, steps = node.attrs.get("axes"), None
    else:
        starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
        given = [input_or_none(node, index) for index in (3, 4)]
        axes, steps = (None if tensor is None else integers(tensor) for tensor in given)
        if any(tensor is not None and values is None for tensor, values in zip(given, (axes, steps), strict=True)):
            return None
    if starts is None or ends is None:
        return None
    result: Columns | None = columns
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (index if axes is None else axes[index]) % (columns.terms.ndim - 1)
        size = columns.terms.shape[axis + 1]
        if result is None or axis in columns.rows:
            return None
        step = 1 if steps is None else steps[index]
        result = _taken(result, axis, np.array(range(*slice(start, end, step).indices(size)), np.int64))
    return result


def _gathered(columns: Columns, node: gs.Node, axis: int) -> Columns | None:
    indices = integers(node.inputs[1])
    axis %= columns.terms.ndim - 1
    if indices is None or axis in columns.rows:
        return None
    size = columns.terms.shape[axis + 1]
    if not indices or not all(-size <= index < size for index in indices):
        return None
    taken = _taken(columns, axis, np.array(indices))
    if node.inputs[1].shape or taken is None:
        return taken
    rows = tuple(row - (row > axis) for row in columns.rows)
    return Columns(rows, taken.terms.squeeze(axis + 1), columns.moved)


def _taken(columns: Columns, axis: int, which: np.ndarray) -> Columns | None:
    if not which.size:
        return None
    return Columns(columns.rows, np.take(columns.terms, which, axis=axis + 1), columns.moved)


def _concatenated(parts: Sequence[Columns | None], axis: int) -> Columns | None:
    known = [part for part in parts if part is not None]
    if len(known) != len(parts) or len({part.rows for part in known}) != 1:
        return None
    axis %= known[0].terms.ndim - 1
    if axis in known[0].rows:
        return None
    count = max(part.terms.shape[0] for part in known)
    padded = [_with_terms(part.terms, count) for part in known]
    return Columns(known[0].rows, np.concatenate(padded, axis=axis + 1), False)


def _with_terms(terms: np.ndarray, count: int) -> np.ndarray:
    more = np.zeros((count - terms.shape[0], *terms.shape[1:]), _TERM)
    more["factor"] = -1
    return np.concatenate([terms, more])


def _sum(made: Spread, node: gs.Node, output: Tensor) -> Columns | None:
    left, right = (made.columns(tensor) for tensor in node.inputs)
    if left is None or right is None or left.rows != right.rows or left.terms.shape[1:] != right.terms.shape[1:]:
        return None
    if not list(node.inputs[0].shape) == list(node.inputs[1].shape) == list(output.shape):
        return None
    if node.op == "Sub":
        right = _times(right, -1.0)
        assert right is not None
    terms = np.concatenate([left.terms, right.terms])
    first = np.argsort(terms["coefficient"] == 0, axis=0, kind="stable")
    terms = np.take_along_axis(terms, first, axis=0)
    used = int((terms["coefficient"] != 0).sum(axis=0).max())
    return Columns(left.rows, terms[: max(used, 1)], False) if used <= _TERMS else None


def _product(made: Spread, node: gs.Node, output: Tensor) -> Columns | None:
    for data, other in (node.inputs, list(reversed(node.inputs))) if node.op == "Mul" else (node.inputs,):
        columns = made.columns(data)
        if columns is None or made.columns(other) is not None or list(data.shape) != list(output.shape):
            continue
        if isinstance(other, gs.Constant):
            scaled = _times_constant(columns, other, divided=node.op == "Div")
            if scaled is not None:
                return scaled
        return _times_factor(made, columns, data, other) if node.op == "Mul" else None
    return None


def _times_constant(columns: Columns, constant: gs.Constant, *, divided: bool) -> Columns | None:
    """The columns multiplied with a constant that is the same in all rows."""
    rank = columns.terms.ndim - 1
    sizes = [1] * (rank - len(constant.shape)) + list(constant.shape)
    if any(sizes[axis] != 1 for axis in columns.rows) or math.prod(sizes) > columns.terms[0].size:
        return None
    values = constant.values.astype(np.float64).reshape(sizes)
    if not np.isfinite(values).all() or (values == 0).any():
        return None
    return _times(columns, 1 / values if divided else values)


def _times_factor(made: Spread, columns: Columns, data: Tensor, other: Tensor) -> Columns | None:
    rank = len(data.shape)
    if other.shape is None or len(other.shape) > rank or not is_float(other) or (columns.terms["factor"] >= 0).any():
        return None
    missing = rank - len(other.shape)
    sizes: list[int] = []
    for axis in range(rank):
        size = other.shape[axis - missing] if axis >= missing else 1
        if axis in columns.rows:
            if size not in (1, data.shape[axis]):
                return None
            size = 1
        if not isinstance(size, int):
            return None
        sizes.append(size)
    rows = tuple(axis - missing if axis >= missing else None for axis in columns.rows)
    terms = columns.terms.copy()
    terms["factor"] = made.factor(Factor(other, rows, math.prod(sizes)))
    terms["at"] = np.broadcast_to(np.arange(math.prod(sizes)).reshape(sizes), terms.shape[1:])
    return Columns(columns.rows, terms, False)
