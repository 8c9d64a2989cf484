"""Replace the element-wise chain that rotates heads by their positions by one RotaryEmbedding.

    x ─split into heads─▶ x * cos + rotate_half(x) * sin ─join heads─▶ y    becomes    y = RotaryEmbedding(x, cos, sin)

Nothing of the spelling is looked for. From the sums of two products the pass goes up to what they may be made of, and
follows the columns of that down through all that reads it (`signed_columns.py`). Where the result, as far down as
possible, is heads rotated in one of the two ways (`rotation.py`), it is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import custom_ops
from turbo_onnx.custom_ops.specification import DOMAIN, numpy_name
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor, consumers, input_or_none, is_float, is_op, produced_by
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.linear import added_vector
from turbo_onnx.passes.reshaping import reshaped, transposed
from turbo_onnx.passes.rotary_tables import Tables
from turbo_onnx.passes.rotation import Rotation, is_sum_of_products, rotation
from turbo_onnx.passes.signed_columns import Columns, Spread, is_kept, sources, spread

_TYPES = {np.dtype(numpy_name(name)) for name in custom_ops.spec("RotaryEmbedding").kernel_types["T"]}


class FuseRotaryEmbedding(Pass):
    """Write heads that are rotated by their positions as `turbo_onnx.RotaryEmbedding`."""

    name = "fuse-rotary-embedding"
    summary = "Fuse the rotation of heads by their positions into RotaryEmbedding."

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        edit = Editor(model.graph)
        while True:
            done, report.rejected = _sweep(model, edit)
            report.applied += done
            if not done:
                return report


def _sweep(model: Model, edit: Editor) -> tuple[int, list[Rejection]]:
    """Replace what can be replaced now; rotated heads may be rotated again."""
    tables = Tables(edit, model.opset)
    places = {id(node): place for place, node in enumerate(model.graph.nodes)}
    applied = 0
    rejected: list[Rejection] = []
    for source in _rotated_sources(model.graph):
        reasons: list[Rejection] = []
        for row_axes in range(1, min(len(source.shape), 3)):
            made = spread(source, row_axes, places, model.opset)
            if made is None:
                continue
            done, why_not = _Source(edit, made, places, tables).replace_all()
            reasons = why_not or reasons
            if done:
                applied += done
                reasons = why_not
                break
        rejected += reasons
    edit.remove_unused()
    edit.sort()
    return applied, rejected


def _rotated_sources(graph: gs.Graph) -> list[Tensor]:
    """The tensors of which both products of some sum may be made, each once, in the order of the sums."""
    known: dict[int, dict[int, Tensor]] = {}
    found: dict[int, Tensor] = {}
    for node in graph.nodes:
        if not is_op(node, "Add", "Sub"):
            continue
        left, right = (_above_products(tensor, known) for tensor in node.inputs)
        both = (tensor for tensor in left.values() if id(tensor) in right)
        found.update({id(tensor): tensor for tensor in both if tensor.shape is not None and len(tensor.shape) > 1})
    return list(found.values())


def _above_products(tensor: Tensor, known: dict[int, dict[int, Tensor]]) -> dict[int, Tensor]:
    """The tensors, by identity, that one operand of a sum may be columns of, times something."""
    found: dict[int, Tensor] = {}
    for moved in sources(tensor, known).values():
        product = produced_by(moved, "Mul")
        for operand in [] if product is None else product.inputs:
            if not isinstance(operand, gs.Constant):
                found.update(sources(operand, known))
    return found


class _Source:
    """What is made of one source's columns, and the replacement of that which is rotated."""

    def __init__(self, edit: Editor, made: Spread, places: dict[int, int], tables: Tables) -> None:
        self.edit = edit
        self.made = made
        self.places = places
        self.tables = tables
        self.rows = tuple(made.source.shape[: made.row_axes])

    def replace_all(self) -> tuple[int, list[Rejection]]:
        """Replace what is rotated; returns how often, and why other sums of products were not replaced."""
        rotated, copied, reasons = self._wanted()
        done = 0
        new: list[tuple[Tensor, Tensor]] = []
        for tensor, columns, found in rotated:
            try:
                self._check_inside(tensor, {id(other) for other, _, _ in rotated} | {id(other) for other, _ in copied})
                new.append((tensor, self._rotated(tensor, columns, found)))
                done += 1
            except Reject as reason:
                reasons.append(Rejection(FuseRotaryEmbedding.name, tensor.inputs[0].name, str(reason)))
        if done == len(rotated):
            for tensor, columns in copied:
                order = columns.order
                assert order is not None
                new.append((tensor, self._laid_out(self._selected(order), tensor, columns)))
        for old, replacement in new:
            self.edit.replace(old, replacement)
        return done, reasons

    def _wanted(
        self,
    ) -> tuple[list[tuple[Tensor, Columns, Rotation]], list[tuple[Tensor, Columns]], list[Rejection]]:
        """What has to be there: rotated heads, copies of columns that pass rotated ones, and sums that are neither."""
        rotated: list[tuple[Tensor, Columns, Rotation]] = []
        copied: list[tuple[Tensor, Columns]] = []
        reasons: list[Rejection] = []
        read: set[int] = set()  # by what stays as it is
        for tensor, columns in reversed(self.made.made.values()):
            if columns.moved or not (id(tensor) in read or is_kept(tensor, self.made, self.edit, self.places)):
                continue
            if is_sum_of_products(columns):
                try:
                    rotated.append((tensor, columns, rotation(columns)))
                    continue
                except Reject as reason:
                    reasons.append(Rejection(FuseRotaryEmbedding.name, tensor.inputs[0].name, str(reason)))
            elif columns.order is not None and self._passes_sums(tensor):
                copied.append((tensor, columns))
                continue
            read.update(id(operand) for operand in tensor.inputs[0].inputs)
        return rotated[::-1], copied[::-1], reasons[::-1]

    def _inside(self, tensor: Tensor) -> Iterator[tuple[Tensor, Columns]]:
        """The tensors between the source and this one, each once."""
        stack, seen = list(tensor.inputs[0].inputs), {id(tensor)}
        while stack:
            operand = stack.pop()
            columns = self.made.columns(operand)
            if columns is None or id(operand) in seen:
                continue
            seen.add(id(operand))
            yield operand, columns
            if operand is not self.made.source:
                stack.extend(operand.inputs[0].inputs)

    def _passes_sums(self, tensor: Tensor) -> bool:
        return any(is_sum_of_products(columns) for _, columns in self._inside(tensor))

    def _check_inside(self, tensor: Tensor, replaced: set[int]) -> None:
        """Reject a rotation with something inside of it that would have to be computed all the same."""
        for inner, columns in self._inside(tensor):
            if columns.moved or id(inner) in replaced:
                continue
            if is_kept(inner, self.made, self.edit, self.places):
                raise Reject("{}, which is inside of it, is read elsewhere too", inner.name)

    def _rotated(self, tensor: Tensor, columns: Columns, found: Rotation) -> Tensor:
        cosines, sines = (self.made.factors[table.factor] for table in (found.cos, found.sin))
        types = [np.dtype(each.dtype) for each in (tensor, cosines.tensor, sines.tensor) if is_float(each)]
        if len(types) != 3 or len(set(types)) != 1 or types[0] not in _TYPES:
            raise Reject("{} is of a type for which there is no kernel", tensor.name)
        cos, sin, index = self.tables.pair((cosines, found.cos), (sines, found.sin), self.rows)
        operand, bias = self._with_bias(found.order)
        attrs = {
            "num_heads": found.heads,
            "rotated_heads": 0 if found.rotated == found.heads else found.rotated,
            "interleaved": int(found.interleaved),
        }
        result = self.edit.node(
            "RotaryEmbedding",
            [operand, bias, cos, sin, index],
            domain=DOMAIN,
            attrs=attrs,
            dtype=tensor.dtype,
            shape=[*self.rows, found.order.size],
        )
        if found.coefficient != 1.0:
            result = self._scaled(tensor, result, found.coefficient)
        return self._laid_out(result, tensor, columns)

    def _scaled(self, old: Tensor, result: Tensor, coefficient: float) -> Tensor:
        """The result times a number: as a factor of the scores where only attention reads it, else as a product."""
        readers = consumers(old)
        places = [_operand_of_scores(node, old) for node in readers]
        if not self.edit.is_graph_output(old) and readers and all(places):
            for node in readers:
                node.attrs["scale"] = float(node.attrs["scale"]) * coefficient
            return result
        number = self.edit.constant(np.array(coefficient, dtype=old.dtype), "rotary_factor")
        return self.edit.node("Mul", [result, number], dtype=old.dtype, shape=result.shape)

    def _with_bias(self, order: np.ndarray) -> tuple[Tensor, gs.Constant | None]:
        """The columns in this order, and a bias that is taken off where it is added to them alone."""
        source = self.made.source
        added = added_vector(source)
        alone = not is_kept(source, self.made, self.edit, self.places)
        if added is not None and alone and len(source.shape) == self.made.row_axes + 1 and _is_all(order, source):
            product, bias = added
            if len(bias.shape) == 1:
                return product, bias
            return product, self.edit.constant(bias.values.reshape(-1), f"{bias.name}_vector")
        return self._selected(order), None

    def _selected(self, order: np.ndarray) -> Tensor:
        """[rows…, N], the columns of the source in this order, before anything is done to them."""
        source = self.made.source
        total = int(np.prod(source.shape[self.made.row_axes :]))
        if _is_all(order, source, total):
            return self._flat(source, total)
        start = int(order[0])
        if (order == np.arange(start, start + order.size)).all():
            flat = self._flat(source, total)
            bounds = [
                self.edit.constant(np.array([number], np.int64), "slice_bound")
                for number in (start, start + order.size, len(self.rows))
            ]
            return self.edit.node("Slice", [flat, *bounds], dtype=source.dtype, shape=[*self.rows, order.size])
        for tensor, columns in self.made.made.values():
            found = columns.order if columns.moved else None
            if found is None or not np.array_equal(found, order):
                continue
            rest = [axis for axis in range(len(tensor.shape)) if axis not in columns.rows]
            return self._flat(transposed(self.edit, tensor, (*columns.rows, *rest)), order.size)
        raise Reject("the columns of {} are put into another order on the way", source.name)

    def _flat(self, tensor: Tensor, width: int) -> Tensor:
        """[rows…, columns…] as [rows…, N]."""
        if len(tensor.shape) == len(self.rows) + 1:
            return tensor
        return reshaped(self.edit, tensor, [*(0 for _ in self.rows), width], [*self.rows, width])

    def _laid_out(self, result: Tensor, old: Tensor, columns: Columns) -> Tensor:
        """[rows…, N] with its axes as those of the tensor that it replaces."""
        rest = [axis for axis in range(len(old.shape)) if axis not in columns.rows]
        order = (*columns.rows, *rest)
        if len(rest) != 1:
            sizes = [old.shape[axis] for axis in rest]
            result = reshaped(self.edit, result, [*(0 for _ in self.rows), *sizes], [*self.rows, *sizes])
        return transposed(self.edit, result, [order.index(axis) for axis in range(len(order))])


def _is_all(order: np.ndarray, source: Tensor, total: int | None = None) -> bool:
    """Whether the order is all of the source's columns as they stand."""
    width = source.shape[-1] if total is None else total
    return bool(order.size == width and (order == np.arange(order.size)).all())


def _operand_of_scores(node: gs.Node, tensor: Tensor) -> bool:
    """Whether the node is an attention that reads the tensor as its rows of queries or keys only, and adds nothing."""
    if not is_op(node, "VarlenAttention", domain=DOMAIN) or input_or_none(node, 1) is None:
        return False
    where = [index for index, operand in enumerate(node.inputs) if operand is tensor]
    if where not in ([0], [1]) or (where == [1] and node.attrs.get("keys_by_head", 0)):
        return False
    bias = input_or_none(node, 3)
    if bias is None:
        return True
    if not isinstance(bias, gs.Constant):
        return False
    start = 0 if where == [0] else int(node.inputs[0].shape[-1])
    return not bias.values[start : start + int(tensor.shape[-1])].any()
