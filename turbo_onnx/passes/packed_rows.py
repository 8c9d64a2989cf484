"""Write nodes on packed rows: what enters, what leaves, and what each operand becomes there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.remove_padding.spec import TOTAL_TOKENS
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.dims import Dim
from turbo_onnx.graph import Editor, Shape, Tensor, is_op, producer
from turbo_onnx.inference.values import Affine, single
from turbo_onnx.layout import Role, TokenLayout, Tokenwise
from turbo_onnx.shapes import Facts

TOKENS = TOTAL_TOKENS  # the size T
INT64 = np.dtype(np.int64)
INT32 = np.dtype(np.int32)


class PackedRows:
    """The packed form of a graph's tensors, made where it is asked for.

    Args:
        edit: of the graph.
        layout: of its tokens.
        facts: of its tensors.
        mask: the tensor [B, S] whose nonzero entries are the tokens.
        uneven: the axes of the mask along which tensors may have size 1 where it has more: they are broadcast to it.
        binary_input: the name of the input that the mask is, where it may hold zeros and ones only.

    Attributes:
        layout, mask, uneven: see above.
    """

    def __init__(
        self,
        edit: Editor,
        layout: TokenLayout,
        facts: Facts,
        mask: Tensor,
        *,
        uneven: Collection[int] = (),
        binary_input: str = "",
    ) -> None:
        self._edit = edit
        self.layout = layout
        self._facts = facts
        self.uneven = uneven
        self._packed: dict[int, Tensor] = {}
        self._by_position: dict[int, Tensor] = {}
        self._by_sequence: dict[int, Tensor] = {}
        self._restored: dict[int, Tensor] = {}
        self._kept: list[Tensor] = []
        self.mask = mask
        self.token_index = edit.variable("token_index", INT64, [TOKENS])
        self.cu_seqlens = edit.variable("cu_seqlens", INT32)
        self.max_seqlen = edit.variable("max_seqlen", INT32, [])
        self.token_position = edit.variable("token_position", INT64, [TOKENS])
        edit.node(
            "RemovePadding",
            [mask],
            attrs={"binary_input": binary_input},
            domain=DOMAIN,
            hint="remove_padding",
            outputs=[self.token_index, self.cu_seqlens, self.max_seqlen, self.token_position],
        )

    def has(self, tensor: Tensor) -> bool:
        """Whether the tensor is computed on packed rows."""
        return id(tensor) in self._packed

    def set(self, tensor: Tensor, packed: Tensor) -> None:
        """Say that `packed` holds the tensor's rows of real tokens."""
        self._packed[id(tensor)] = packed
        self._kept.append(tensor)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor's rows of real tokens [T, …]; picked out of the padded tensor if it is not computed packed."""
        if id(tensor) not in self._packed:
            self.set(tensor, self._entered(tensor))
        return self._packed[id(tensor)]

    def _entered(self, tensor: Tensor) -> Tensor:
        rest = self.layout.row(tensor)
        lead = self.layout.lead(tensor)
        assert rest is not None, f"{tensor.name} has rows of unknown size"
        rows = tensor
        if self.uneven and lead == 2 and not _is_behind_attention(tensor):
            rows = self._spread(tensor, self._mask_shape(), rest)
        if lead == 2:
            target = self.constant([-1, *rest], "rows")
            rows = self._edit.node("Reshape", [rows, target], hint=f"{tensor.name}_rows", dtype=tensor.dtype)
        return self._gathered(rows, self.token_index, f"{tensor.name}_packed", tensor.dtype, [TOKENS, *rest])

    def _mask_shape(self) -> Tensor:
        return self._edit.node("Shape", [self.mask], hint="mask_shape", dtype=INT64, shape=[2])

    def _mask_size(self, axis: int) -> Tensor:
        """The mask's size along the axis, [1]."""
        return self._edit.node("Gather", [self._mask_shape(), self.constant([axis], "mask_axis")], attrs={"axis": 0},
                               hint="mask_size", dtype=INT64, shape=[1])  # fmt: skip

    def _spread(
        self, tensor: Tensor, sizes: Tensor, rest: Sequence[int | str], lead: Sequence[int | str] = ()
    ) -> Tensor:
        """The tensor [1 or all, …], broadcast to `sizes` along its first axes."""
        if rest:
            parts = [sizes, self.constant([size if isinstance(size, int) else 1 for size in rest], "row")]
            sizes = self._edit.node("Concat", parts, attrs={"axis": 0}, hint="full_shape", dtype=INT64)
        shape = [*(lead or self.mask.shape), *rest]
        return self._edit.node("Expand", [tensor, sizes], hint=f"{tensor.name}_full", dtype=tensor.dtype, shape=shape)

    def constant(self, values: list[int], hint: str) -> gs.Constant:
        """An int64 constant."""
        return self._edit.constant(np.array(values, dtype=np.int64), hint)

    def _gathered(self, table: Tensor, index: Tensor, hint: str, dtype: object, shape: Shape) -> Tensor:
        return self._edit.node("Gather", [table, index], attrs={"axis": 0}, hint=hint, dtype=dtype, shape=shape)

    def at_positions(self, tensor: Tensor, rank: int) -> Tensor:
        """A by-position operand of a node of `rank` axes, [1, S, …] when aligned: its row at each token's position.

        A lookup in a table is done after the positions are gathered, not before, so that it can be fused like the
        lookups of the tokens.
        """
        key = id(tensor)
        if key not in self._by_position:
            self._by_position[key] = self._at_positions(tensor, rank)
            self._kept.append(tensor)
        return self._by_position[key]

    def _at_positions(self, tensor: Tensor, rank: int) -> Tensor:
        value = self._facts[tensor].value
        axis = len(tensor.shape) - rank + 1  # of the positions
        rest = list(tensor.shape[axis + 1 :])
        if isinstance(value, Affine) and value.offset == 0 and not rest:
            steps = [1 if k == axis else 0 for k in range(len(value.coefficients))]
            if list(value.coefficients) == steps:
                return self.token_position
        item = single(value)
        if item is not None and not isinstance(item, Dim) and not rest:
            return self._edit.constant(np.array([item], dtype=tensor.dtype), f"{tensor.name}_item")
        node = producer(tensor)
        if is_op(node, "Gather") and node is not None and node.attrs.get("axis", 0) == 0:
            table, index = node.inputs
            plain = isinstance(table, gs.Constant) and len(index.shape) == len(tensor.shape) - len(rest)
            if plain and len(table.shape) == 1 + len(rest):
                rows = self._at_positions(index, rank - len(rest))
                shape = [TOKENS, *rest] if rows.shape == [TOKENS] else [1, *rest]
                return self._gathered(table, rows, f"{tensor.name}_packed", tensor.dtype, shape)
        rows = tensor
        for _ in range(axis):
            rows = self._without_first_axis(rows)
        if 1 in self.uneven:
            rows = self._spread(rows, self._mask_size(1), rest, self.mask.shape[1:])
        return self._gathered(rows, self.token_position, f"{tensor.name}_packed", tensor.dtype, [TOKENS, *rest])

    def at_sequences(self, tensor: Tensor) -> Tensor:
        """A by-sequence operand [B, 1, …]: its row for each token's sequence."""
        key = id(tensor)
        if key not in self._by_sequence:
            length = self._mask_size(1)
            index = self._edit.node("Div", [self.token_index, length], hint="token_sequence", dtype=INT64,
                                    shape=[TOKENS])  # fmt: skip
            rest = list(tensor.shape[2:])
            whole = tensor
            if 0 in self.uneven:
                whole = self._spread(tensor, self._mask_size(0), [1, *rest], self.mask.shape[:1])
            rows = self._edit.node("Reshape", [whole, self.constant([0, *self._plain(rest)], "rows")],
                                   hint=f"{tensor.name}_rows", dtype=tensor.dtype)  # fmt: skip
            self._by_sequence[key] = self._gathered(rows, index, f"{tensor.name}_packed", tensor.dtype, [TOKENS, *rest])
            self._kept.append(tensor)
        return self._by_sequence[key]

    @staticmethod
    def _plain(sizes: list[int | str]) -> list[int]:
        return [size if isinstance(size, int) else -1 for size in sizes]

    def _without_first_axis(self, tensor: Tensor) -> Tensor:
        """The tensor [1, …] without that axis."""
        if isinstance(tensor, gs.Constant):
            return self._edit.constant(np.asarray(tensor.values)[0], f"{tensor.name}_row")
        rest = list(tensor.shape[1:])
        open_sizes = sum(isinstance(size, str) for size in rest)
        assert open_sizes <= 1
        target = self.constant(self._plain(rest), "without_axis")
        return self._edit.node("Reshape", [tensor, target], hint=f"{tensor.name}_row", dtype=tensor.dtype, shape=rest)

    def operands(self, node: gs.Node, rule: Tokenwise) -> list[Tensor | None]:
        """The operands of a token-wise node on packed rows."""
        lead = self.layout.lead(node.outputs[0])
        rank = len(node.outputs[0].shape)
        packed: list[Tensor | None] = []
        for index, (tensor, role) in enumerate(zip(node.inputs, rule.roles, strict=False)):
            if index in rule.operands:
                packed.append(self.constant(rule.operands[index], f"{node.name}_axes"))
            elif role is Role.TOKEN:
                packed.append(self.of(tensor))
            elif role is Role.POSITION:
                packed.append(self.at_positions(tensor, rank))
            elif role is Role.SEQUENCE:
                packed.append(self.at_sequences(tensor))
            elif role is Role.ABSENT:
                packed.append(None)
            else:
                constant = tensor
                if lead == 2 and len(tensor.shape) == rank and not is_op(node, "Gather", "MatMul", "Gemm"):
                    constant = self._without_first_axis(tensor)
                packed.append(constant)
        return packed

    def restored(self, tensor: Tensor) -> Tensor:
        """The tensor in its original shape, its padding rows 0."""
        key = id(tensor)
        if key not in self._restored:
            rows = self._edit.node(
                "RestorePadding",
                [self._packed[key], self.token_index, self.mask],
                domain=DOMAIN,
                hint=f"{tensor.name}_restored",
                dtype=tensor.dtype,
                shape=[*self.mask.shape, *(self.layout.row(tensor) or ())],
            )
            if self.layout.lead(tensor) == 1:
                target = self.constant([-1, *(self.layout.row(tensor) or ())], "rows")
                rows = self._edit.node("Reshape", [rows, target], hint=f"{tensor.name}_flat", dtype=tensor.dtype,
                                       shape=list(tensor.shape))  # fmt: skip
            self._restored[key] = rows
            self._kept.append(tensor)
        return self._restored[key]


def _is_behind_attention(tensor: Tensor) -> bool:
    """Whether the tensor is made of an attention's result, which has as many sequences as hidden states and mask."""
    seen: set[int] = set()
    stack = list(tensor.inputs)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        if is_op(node, "VarlenAttention", domain=DOMAIN):
            return True
        seen.add(id(node))
        stack.extend(source for operand in node.inputs for source in operand.inputs)
    return False


def onnx_name(dtype: type | np.dtype | int | None) -> str:
    """The type as in `tensor(NAME)`."""
    if dtype is None:
        return "undefined"
    number = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return str(onnx.TensorProto.DataType.Name(number)).lower()
