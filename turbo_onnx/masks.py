"""Follow a padding mask through the graph: which tensors are functions of the mask, and which functions.

A mask tensor holds one number for each token: 1 for a real token and 0 for padding. Whatever exporters make of it
(casts, `1 - mask`, products with a huge negative number, `Where`, broadcasts to four axes), every element of the
result depends on the mask at a few tokens only, and a mask has two values. So such a tensor is known completely by a
table: its element for each combination of mask values. No spelling has to be recognised; each element-wise operator
is simply run on the table. Causal masks and windows compare positions; the outcomes are further axes of the table.

Two kinds of tensors can be a mask: a graph input [B, S] that is not used as an index (its values are taken to be 0
and 1, as every tokenizer's are; `passes/binary_mask.py` knows where that has to be checked at run time), and any
computed boolean tensor [B, S], such as `ids == pad`. Which of the two values means padding is seen from what attention
does with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.diagonal import Known, Range, anywhere, on_diagonal
from turbo_onnx.dims import Dim, as_dim
from turbo_onnx.distances import AtLeast, compared
from turbo_onnx.graph import Tensor, consumers, is_op, producer, scalar_value, subgraphs
from turbo_onnx.inference.values import single
from turbo_onnx.model import Model
from turbo_onnx.numpy_operators import ELEMENTWISE
from turbo_onnx.shapes import Facts

_LOWEST = float(np.finfo(np.float32).min)
MASKED_AT_MOST = -9984.0  # what hides a token: -1e4 in the oldest exporters, as bfloat16 has it; newer ones far less

_LOOKUPS = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "OneHot": 0}  # and which operand says what is looked up
_KEEPS_VALUES = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_WITH_CONSTANTS = ("Add", "Clip", "Max", "Min", "Sub")
_MOST_VIEWS = 8
View = tuple[int, int]  # along which axes the mask's batch and position run, counted from the last: -1


@dataclass(frozen=True, eq=False)
class MaskFunction:
    """A tensor whose element is `table[mask at views[0], mask at views[1], …]`.

    Attributes:
        mask: the mask [B, S]; None where no mask is involved.
        views: one for each axis of `table`: where the mask's two axes lie in the tensor, as negative axes; or a
            comparison of the positions along two axes.
        table: NumPy array of shape (2,) * len(views).
    """

    mask: Tensor | None
    views: tuple[View | AtLeast, ...]
    table: np.ndarray

    @property
    def is_number(self) -> bool:
        """Whether the tensor is one number throughout."""
        return not self.views

    def value(self, real: int) -> Any:
        """The element where the mask is `real` (0 or 1) at every view. Comparisons of positions are not among them."""
        assert not any(isinstance(view, AtLeast) for view in self.views)
        return self.table[(real,) * len(self.views)].item()

    def opposite(self, mask: Tensor | None = None) -> MaskFunction:
        """The same tensor as a function of the opposite mask, which is 1 where this one is 0."""
        of_mask = tuple(axis for axis, view in enumerate(self.views) if not isinstance(view, AtLeast))
        return MaskFunction(mask if mask is not None else self.mask, self.views, np.flip(self.table, of_mask))

    def follows_tokens(self, rank: int) -> bool:
        """Whether the mask's axes are the first two of the tensor's `rank` axes, so that each row has one value."""
        return self.views == ((-rank, 1 - rank),)


class MaskFunctions:
    """Finds mask functions in one graph; remembers what it found.

    Args:
        model: the graph, sorted.
        facts: of that graph, for what is known of aranges compared with numbers.
    """

    def __init__(self, model: Model, facts: Facts) -> None:
        self._facts = facts
        self._inputs = {id(tensor) for tensor in model.graph.inputs}
        self._known: dict[int, MaskFunction | None] = {}
        for node in model.graph.nodes:  # in topological order, so that the recursion below stays shallow
            for tensor in node.outputs:
                self.of(tensor)

    def of(self, tensor: Tensor) -> MaskFunction | None:
        """The tensor as a function of one mask, or None if it is not known to be one."""
        if isinstance(tensor, gs.Constant):
            number = _number(tensor)
            return None if number is None else MaskFunction(None, (), number)
        key = id(tensor)
        if key not in self._known:
            self._known[key] = None
            self._known[key] = self._find(tensor)
        return self._known[key]

    def restate(self, mask: Tensor, opposite: Tensor) -> None:
        """Take all functions of the mask for functions of its opposite from now on."""
        for key, known in self._known.items():
            if known is not None and known.mask is mask:
                self._known[key] = known.opposite(opposite)

    def shows_itself(self, term: Tensor, mask: Tensor, hides_by: float) -> bool:
        """Whether a term of a bias leaves the score of a token with itself far above what `hides_by` is added to.

        Args:
            term: the part of the bias.
            mask: what the bias hides; it holds zeros and ones.
            hides_by: a number far below zero.
        """
        found = on_diagonal(term, self._with_mask(mask))
        return found is not None and found[0] >= max(hides_by, _LOWEST) / 10

    def stays_below(self, term: Tensor, mask: Tensor, hides_by: float) -> bool:
        """Whether a term of a bias nowhere shows what `hides_by` is added to. Arguments are those of `shows_itself`.

        What is made of positions alone is the same whatever tokens hold, and taken to leave hidden keys hidden.
        """
        found = anywhere(term, self._with_mask(mask))
        return _is_of_positions(term) if found is None else found[1] <= -max(hides_by, _LOWEST) / 10

    def _with_mask(self, mask: Tensor) -> Known:
        """What is known of the graph if this mask holds zeros and ones."""

        def of_mask(tensor: Tensor) -> Range | None:
            function = self.of(tensor)
            if function is None or function.mask is not mask or not np.isfinite(function.table).all():
                return None
            return float(function.table.min()), float(function.table.max())

        return Known(self._facts, of_mask)

    def _find(self, tensor: gs.Variable) -> MaskFunction | None:
        item = single(self._facts[tensor].value)
        if item is not None and not isinstance(item, Dim):
            return MaskFunction(None, (), np.array(item, dtype=tensor.dtype))
        node = producer(tensor)
        found = self._computed(node) if node is not None else None
        return found if found is not None else self._source(tensor)

    def _source(self, tensor: gs.Variable) -> MaskFunction | None:
        """The tensor as a mask itself."""
        if tensor.shape is None or len(tensor.shape) != 2 or not isinstance(tensor.dtype, np.dtype | type):
            return None
        kind = np.dtype(tensor.dtype).kind
        if kind != "b" and (id(tensor) not in self._inputs or kind not in "iuf" or is_index(tensor)):
            return None
        return MaskFunction(tensor, ((-2, -1),), np.array([0, 1], dtype=tensor.dtype))

    def _computed(self, node: gs.Node) -> MaskFunction | None:
        if is_op(node, "Cast"):
            source = self.of(node.inputs[0])
            to = node.outputs[0].dtype
            if source is None or not isinstance(to, np.dtype | type):
                return None
            kind = np.dtype(to).kind
            if kind not in "biuf" or (kind in "iu" and not np.isfinite(source.table).all()):
                return None
            with np.errstate(over="ignore"):
                return MaskFunction(source.mask, source.views, source.table.astype(to))
        if is_op(node, "Unsqueeze", "Squeeze", "Reshape", "Expand", "Transpose"):
            source = self.of(node.inputs[0])
            return None if source is None else self._moved(node, source)
        comparison = compared(node, self._facts)
        if comparison is not None:
            return MaskFunction(None, *comparison)
        return self._elementwise(node) if is_op(node, "Div", *ELEMENTWISE) else None

    def _elementwise(self, node: gs.Node) -> MaskFunction | None:
        operands = [self.of(tensor) for tensor in node.inputs]
        known = [operand for operand in operands if operand is not None]
        masks = {id(operand.mask): operand.mask for operand in known if operand.mask is not None}
        if len(known) != len(operands) or len(masks) > 1:
            return None
        views = tuple(dict.fromkeys(view for operand in known for view in operand.views))
        if len(views) > _MOST_VIEWS:
            return None
        arrays = []
        for operand in known:
            order = [views.index(view) for view in operand.views]
            shape = [2 if axis in order else 1 for axis in range(len(views))]
            arrays.append(np.transpose(operand.table, np.argsort(order)).reshape(shape))
        function = ELEMENTWISE.get(node.op)
        if function is None:  # Div: of floating-point numbers only, where NumPy and ONNX agree
            if any(array.dtype.kind != "f" for array in arrays):
                return None
            function = np.divide
        with np.errstate(all="ignore"):
            table = np.asarray(function(*arrays))
        table = np.broadcast_to(table, (2,) * len(views))
        return MaskFunction(next(iter(masks.values()), None), views, table.astype(node.outputs[0].dtype))

    def _moved(self, node: gs.Node, source: MaskFunction) -> MaskFunction | None:
        """Nodes that only place the tensor's axes elsewhere, insert axes of size 1, or repeat along such axes."""
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None:
            return None
        where = _axis_map(node, [as_dim(size) for size in before], [as_dim(size) for size in after])
        if where is None:
            return None
        views: list[View | AtLeast] = []
        for view in source.views:
            first, second = (where.get(len(before) + axis) for axis in view[:2])
            if first is None or second is None:
                return None
            axes = (first - len(after), second - len(after))
            if isinstance(view, AtLeast) and axes[0] > axes[1]:
                return None  # it is another comparison now
            views.append(AtLeast(*axes, view.least) if isinstance(view, AtLeast) else axes)
        return MaskFunction(source.mask, tuple(views), source.table)


def _axis_map(node: gs.Node, before: list[Any], after: list[Any]) -> dict[int, int] | None:
    """Where each axis of the input is in the output, for axes of size other than 1."""
    if is_op(node, "Transpose"):
        order = node.attrs.get("perm") or list(reversed(range(len(before))))
        return {source: place for place, source in enumerate(order)}
    if is_op(node, "Expand"):
        return {axis: axis + len(after) - len(before) for axis in range(len(before))}
    sources = [axis for axis, size in enumerate(before) if size != 1]
    places = [axis for axis, size in enumerate(after) if size != 1]
    if [before[axis] for axis in sources] != [after[axis] for axis in places]:
        return None
    return dict(zip(sources, places, strict=True))


def _number(tensor: gs.Constant) -> np.ndarray | None:
    value = scalar_value(tensor)
    return None if value is None else np.array(value, dtype=tensor.dtype)


def _is_of_positions(tensor: Tensor) -> bool:
    """Whether the tensor depends on sizes and constants only."""
    seen: set[int] = set()
    stack = [tensor]
    while stack:
        current = stack.pop()
        node = producer(current)
        if isinstance(current, gs.Constant) or current.is_empty() or is_op(node, "Shape", "Size"):
            continue
        if node is None or any(True for _ in subgraphs(node)):
            return False
        if id(node) not in seen:
            seen.add(id(node))
            stack.extend(node.inputs)
    return True


def is_index(tensor: Tensor) -> bool:
    """Whether the tensor is used to look things up, or is compared with other numbers: it is not just 0 and 1.

    What is looked up may be another view or type of it, or it with constants added.
    """
    seen: set[int] = set()
    stack = [tensor]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for reader in consumers(current):
            if is_op(reader, *_LOOKUPS) and current is reader.inputs[_LOOKUPS[reader.op]]:
                return True
            others = [operand for operand in reader.inputs if operand is not current]
            if is_op(reader, "Equal") and others and scalar_value(others[0]) not in (None, 0, 1):
                return True
            if is_op(reader, *_KEEPS_VALUES) or (
                is_op(reader, *_WITH_CONSTANTS) and all(isinstance(operand, gs.Constant) for operand in others)
            ):
                stack.extend(reader.outputs)
    return False
