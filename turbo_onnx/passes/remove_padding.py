"""Compute on the rows of real tokens only.

The padding mask is found by following attention biases back to the tensor they are made of; `padding_flow` decides
which tensors may do without their padding rows. Everything token-wise from the embedding on is then written on packed
rows [T, …], attention works within sequences by `cu_seqlens`, pooling becomes a segment reduction, and what leaves the
packed part is restored to its original shape with zeros for padding. Attention that has more than a padding mask added
to its scores stays on padded rows, between a restoration and a packing (the original of its idea: effective_transformer
and FasterTransformer pack in the same way around attention).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.custom_ops.remove_padding.spec import MASK_TYPES
from turbo_onnx.custom_ops.restore_padding.spec import ROW_TYPES
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.dims import as_dim
from turbo_onnx.graph import Editor, Shape, Tensor, consumers, input_or_none, is_op
from turbo_onnx.layout import Role, TokenLayout, Tokenwise, is_elementwise
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model
from turbo_onnx.padding_flow import PaddingFlow, Pooling
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.choose_mask import choose_mask
from turbo_onnx.passes.packed_rows import INT32, INT64, TOKENS, PackedRows


class RemovePadding(Pass):
    """Pack the tokens of a padded batch, as far as the graph provably allows it."""

    name = "remove-padding"
    summary = "Compute on real tokens only, wherever padding provably does not matter."

    def run(self, model: Model) -> PassReport:
        """Find the mask, decide what may be packed, and rewrite that."""
        report = PassReport(self.name)
        report.facts.update(packed=False, mask_input=None)
        facts = shapes.infer(model)
        attentions = [node for node in model.graph.nodes if is_op(node, "VarlenAttention", domain=DOMAIN)]
        if not attentions or any(is_op(n, "RemovePadding", domain=DOMAIN) for n in model.graph.nodes):
            if not attentions:
                report.rejected.append(Rejection(self.name, "the graph", "it has no fused attention to pack around"))
            return report
        functions = MaskFunctions(model, facts)
        chosen = choose_mask(model, attentions, functions, report)
        if chosen is None:
            return report
        mask, masks = chosen
        batch, sequence = mask.shape
        layout = TokenLayout(batch, sequence, model.opset)
        flow = PaddingFlow(model, mask, layout, functions, masks)
        _Rewrite(model, facts, flow, report).run(attentions)
        return report


class _Rewrite:
    """One rewriting of one graph."""

    def __init__(self, model: Model, facts: shapes.Facts, flow: PaddingFlow, report: PassReport) -> None:
        self._model = model
        self._facts = facts
        self._flow = flow
        self._layout = flow.layout
        self._report = report
        self._edit = Editor(model.graph)
        self._done: set[int] = set()  # nodes that are written anew
        self._planned: dict[int, Tokenwise] = {}

    def run(self, attentions: list[gs.Node]) -> None:
        """Plan first; write only if it pays."""
        nodes = list(self._model.graph.nodes)
        packed = [node for node in attentions if self._packs_attention(node)]
        for node in attentions:
            self._explain(node, packed)
        self._plan(nodes)
        if not packed and not self._planned:
            self._edit.remove_unused()
            return
        tokens_only = len(packed) == len(attentions)
        uneven = self._uneven()
        self._rows = PackedRows(self._edit, self._layout, self._facts, self._even_mask(uneven), uneven)
        for node in nodes:
            self._write(node)
        self._leave(nodes)
        self._edit.remove_unused()
        self._edit.sort()
        self._report.applied = len(self._done)
        self._report.facts["packed"] = True if tokens_only else "partial"
        self._report.facts["mask_input"] = self._flow.mask.name
        self._report.facts["attention_packed"] = len(packed)

    def _packs_attention(self, node: gs.Node) -> bool:
        found = self._flow.attention(node)
        return found is not None and found.alone and self._flow.ignorable(node.outputs[0])

    def _explain(self, node: gs.Node, packed: list[gs.Node]) -> None:
        found = self._flow.attention(node)
        if any(node is other for other in packed) or (found is None and input_or_none(node, 5) is None):
            return
        if found is None:
            return
        why = "padding rows of its result are read further on"
        if not found.alone:
            why = "more than a padding mask is added to its scores, so it runs on padded rows"
        self._report.rejected.append(Rejection("remove-padding", node.name, why))

    def _plan(self, nodes: list[gs.Node]) -> None:
        """Which token-wise nodes run on packed rows: those that read packed ones, and those that begin a chain."""
        packed: set[int] = set()
        for node in nodes:
            results = [tensor for tensor in node.outputs if not tensor.is_empty()]
            if self._packs_attention(node) if is_op(node, "VarlenAttention", domain=DOMAIN) else False:
                packed.update(id(tensor) for tensor in results)
                continue
            rule = self._flow.tokenwise(node)
            if rule is None or not all(self._flow.may_pack(tensor) for tensor in results):
                continue
            if any(self._flow.row_values(tensor) is not None for tensor in results) or not self._writable(node, rule):
                continue
            tokens = [t for t, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]
            begins = len(results[0].shape) > self._layout.lead(results[0]) and _is_float(results[0])
            if begins or any(id(tensor) in packed for tensor in tokens):
                self._planned[id(node)] = rule
                packed.update(id(tensor) for tensor in results)

    def _writable(self, node: gs.Node, rule: Tokenwise) -> bool:
        """Whether every row involved has a known size, and those that come out have a type that can be restored."""
        results = [tensor for tensor in node.outputs if not tensor.is_empty()]
        if any(f"tensor({_onnx_name(tensor.dtype)})" not in ROW_TYPES for tensor in results):
            return False
        tokens = [t for t, role in zip(node.inputs, rule.roles, strict=False) if role is Role.TOKEN]
        for tensor, role in zip(node.inputs, rule.roles, strict=False):
            if role in (Role.POSITION, Role.SEQUENCE) and any(isinstance(s, str) for s in tensor.shape[2:]):
                return False
        return all(self._layout.row(tensor) is not None for tensor in (*tokens, *node.outputs))

    def _uneven(self) -> dict[int, tuple[int | str, ...]]:
        """Graph inputs over tokens that the file does not give the mask's sizes by name: 1 is possible for them.

        By tensor identity; with the sizes that it gives them, or nothing where these have no names.
        """
        inputs = [tensor for tensor in self._model.graph.inputs if self._layout.lead(tensor) == 2]
        named: dict[int, tuple[int | str, ...]] = {}
        for tensor in inputs:
            sizes = tuple((self._model.declared_shapes.get(tensor.name) or [])[:2])
            named[id(tensor)] = sizes if all(isinstance(s, int | str) and s not in ("", -1) for s in sizes) else ()
        own = named.get(id(self._flow.mask), next(iter(named.values()), ()) if len(set(named.values())) == 1 else ())
        return {key: sizes for key, sizes in named.items() if sizes != own or not sizes}

    def _even_mask(self, uneven: Mapping[int, tuple[int | str, ...]]) -> Tensor:
        """The mask as RemovePadding takes it, broadcast with all inputs that may have more sequences than it has."""
        mask = self._flow.mask
        if f"tensor({_onnx_name(mask.dtype)})" not in MASK_TYPES:
            mask = self._edit.node("Cast", [mask], attrs={"to": onnx.TensorProto.BOOL}, hint=f"{mask.name}_bool",
                                   dtype=np.dtype(np.bool_), shape=mask.shape)  # fmt: skip
        done: set[tuple[int | str, ...]] = set()
        for other in self._model.graph.inputs:
            sizes = uneven.get(id(other))
            if sizes is None or sizes in done or other is self._flow.mask:
                continue
            if sizes:
                done.add(sizes)
            shape = self._edit.node("Shape", [other], hint=f"{other.name}_shape", dtype=INT64, shape=[len(other.shape)])
            if len(other.shape) > 2:
                bounds = [self._edit.constant(np.array([value]), "bound") for value in (0, 2)]
                shape = self._edit.node("Slice", [shape, *bounds], hint=f"{other.name}_batch", dtype=INT64, shape=[2])
            mask = self._edit.node("Expand", [mask, shape], hint=f"{mask.name}_full", dtype=mask.dtype,
                                   shape=mask.shape)  # fmt: skip
        return mask

    def _write(self, node: gs.Node) -> None:
        if is_op(node, "VarlenAttention", domain=DOMAIN):
            if self._packs_attention(node):
                self._write_attention(node)
        elif id(node) in self._planned:
            self._write_tokenwise(node, self._planned[id(node)])
        elif is_op(node, "Shape") and self._rows.has(node.inputs[0]):
            self._write_shape(node)
        else:
            pooling = self._flow.pooling(node)
            if pooling is not None and (pooling.mode == "count" or self._rows.has(node.inputs[0])):
                self._write_pooling(node, pooling)

    def _write_attention(self, node: gs.Node) -> None:
        operands = [None if input_or_none(node, i) is None else self._rows.of(node.inputs[i]) for i in range(3)]
        result = self._edit.node(
            "VarlenAttention",
            [*operands, input_or_none(node, 3), self._rows.cu_seqlens],
            attrs=node.attrs,
            domain=DOMAIN,
            hint=node.name,
            dtype=node.outputs[0].dtype,
            shape=[TOKENS, *node.outputs[0].shape[2:]],
        )
        self._rows.set(node.outputs[0], result)
        self._done.add(id(node))

    def _write_tokenwise(self, node: gs.Node, rule: Tokenwise) -> None:
        self._done.add(id(node))
        operands = self._simplified(node, rule)
        if rule.rearranged is not None:
            self._write_rearranged(node, rule.rearranged)
            return
        if operands is None:
            return
        results = []
        for tensor in node.outputs:
            shape: Shape = None if tensor.is_empty() else [TOKENS, *(self._layout.row(tensor) or ())]
            results.append(self._edit.variable(f"{tensor.name}_packed", tensor.dtype, shape))
        self._edit.node(node.op, operands, attrs=rule.attrs, domain=node.domain, hint=node.name, outputs=results)
        for tensor, packed in zip(node.outputs, results, strict=True):
            if not tensor.is_empty():
                self._rows.set(tensor, packed)

    def _simplified(self, node: gs.Node, rule: Tokenwise) -> list[Tensor | None] | None:
        """The operands, functions of the mask replaced by what they are for real tokens.

        A product with 1, or a choice that is always the same, needs no node: None then, and the result is set.
        """
        values = [self._flow.row_values(tensor) for tensor in node.inputs]
        result = node.outputs[0]
        if is_op(node, "Mul") and len(node.inputs) == 2:
            for index in (0, 1):
                other = node.inputs[1 - index]
                if values[index] is not None and values[index][1] == 1 and self._same_row(other, result):  # type: ignore[index]
                    self._rows.set(result, self._rows.of(other))
                    return None
        if is_op(node, "Where") and values[0] is not None:
            chosen = node.inputs[1] if values[0][1] else node.inputs[2]
            if self._same_row(chosen, result):
                self._rows.set(result, self._rows.of(chosen))
                return None
        if rule.rearranged is not None:
            return None
        whole = any(known is None and self._same_row(t, result) for t, known in zip(node.inputs, values, strict=True))
        if not whole or not is_elementwise(node):
            return self._rows.operands(node, rule)
        roles = [role if known is None else Role.ABSENT for role, known in zip(rule.roles, values, strict=True)]
        operands = self._rows.operands(node, replace(rule, roles=tuple(roles)))
        for index, known in enumerate(values):
            if known is not None:
                dtype = node.inputs[index].dtype
                operands[index] = self._edit.constant(np.array(known[1], dtype=dtype), f"{node.name}_real")
        return operands

    def _same_row(self, tensor: Tensor, result: Tensor) -> bool:
        return bool(self._layout.lead(tensor)) and list(tensor.shape) == list(result.shape)

    def _write_rearranged(self, node: gs.Node, row: tuple[int, ...]) -> None:
        source, result = self._rows.of(node.inputs[0]), node.outputs[0]
        if self._layout.row(node.inputs[0]) != row:
            target = self._rows.constant([0, *row], f"{node.name}_target")
            source = self._edit.node("Reshape", [source, target], hint=node.name, dtype=result.dtype,
                                     shape=[TOKENS, *row])  # fmt: skip
        self._rows.set(result, source)

    def _write_shape(self, node: gs.Node) -> None:
        """Shape of a tensor that is packed now: the mask knows the first two sizes, the rest are numbers."""
        tensor = node.inputs[0]
        rest = self._layout.row(tensor)
        if self._layout.lead(tensor) != 2 or rest is None:
            return
        whole = self._edit.node("Shape", [self._rows.mask], hint=f"{node.name}_tokens", dtype=INT64, shape=[2])
        if rest:
            parts = [whole, self._rows.constant(list(rest), f"{node.name}_rest")]
            whole = self._edit.node("Concat", parts, attrs={"axis": 0}, hint=node.name, dtype=INT64,
                                    shape=[2 + len(rest)])  # fmt: skip
        start, end = node.attrs.get("start", 0), node.attrs.get("end", 2 + len(rest))
        first, last, _ = slice(start, end).indices(2 + len(rest))
        if (first, last) != (0, 2 + len(rest)):
            bounds = [self._rows.constant([value], f"{node.name}_bound") for value in (first, last)]
            whole = self._edit.node("Slice", [whole, *bounds], hint=node.name, dtype=INT64, shape=[last - first])
        self._edit.replace(node.outputs[0], whole)
        self._done.add(id(node))

    def _write_pooling(self, node: gs.Node, pooling: Pooling) -> None:
        result = node.outputs[0]
        if pooling.mode == "count":
            pooled = self._counts(node, pooling.floor)
        else:
            rows = self._rows.of(node.inputs[0])
            width = rows.shape[1:]
            pooled = self._edit.node(
                "SegmentPooling",
                [rows, self._rows.cu_seqlens],
                attrs={"mode": pooling.mode},
                domain=DOMAIN,
                hint=f"{node.name}_pooled",
                dtype=result.dtype,
                shape=[self._layout.batch, *width],
            )
            if pooling.mode == "max":
                floor = self._edit.constant(np.array(pooling.floor, dtype=result.dtype), f"{node.name}_floor")
                pooled = self._edit.node("Max", [pooled, floor], hint=node.name, dtype=result.dtype,
                                         shape=pooled.shape)  # fmt: skip
            if pooling.keeps_axis:
                target = self._rows.constant([0, 1, *width], f"{node.name}_axis")
                pooled = self._edit.node("Reshape", [pooled, target], hint=node.name, dtype=result.dtype,
                                         shape=[self._layout.batch, 1, *width])  # fmt: skip
        self._edit.replace(result, pooled)
        self._done.add(id(node))

    def _counts(self, node: gs.Node, each: float) -> Tensor:
        """Σ over positions of a function of the mask that is 0 for padding: the sequence's length times `each`."""
        result = node.outputs[0]
        ends = self._sliced(self._rows.cu_seqlens, 1, (1 << 31) - 1, node.name)
        starts = self._sliced(self._rows.cu_seqlens, 0, -1, node.name)
        batch = self._layout.batch
        counts = self._edit.node("Sub", [ends, starts], hint=f"{node.name}_lengths", dtype=INT32, shape=[batch])
        kind = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(result.dtype)))
        counts = self._edit.node("Cast", [counts], attrs={"to": kind}, hint=f"{node.name}_count",
                                 dtype=result.dtype, shape=[batch])  # fmt: skip
        if each != 1:
            factor = self._edit.constant(np.array(each, dtype=result.dtype), f"{node.name}_each")
            counts = self._edit.node("Mul", [counts, factor], hint=node.name, dtype=result.dtype, shape=[batch])
        row = list(result.shape[1:])
        ones = self._rows.constant([0, *[1 for _ in row]], f"{node.name}_axes")
        if row:
            counts = self._edit.node("Reshape", [counts, ones], hint=node.name, dtype=result.dtype,
                                     shape=[batch, *[1 for _ in row]])  # fmt: skip
        if any(size != 1 for size in row):
            target = self._rows.constant([1, *(int(size) for size in row)], f"{node.name}_row")
            counts = self._edit.node("Expand", [counts, target], hint=node.name, dtype=result.dtype,
                                     shape=list(result.shape))  # fmt: skip
        return counts

    def _sliced(self, tensor: Tensor, start: int, end: int, hint: str) -> Tensor:
        bounds = [self._rows.constant([value], f"{hint}_bound") for value in (start, end)]
        return self._edit.node("Slice", [tensor, *bounds], hint=f"{hint}_bounds", dtype=INT32,
                               shape=[self._layout.batch])  # fmt: skip

    def _leave(self, nodes: list[gs.Node]) -> None:
        """Restore the padding for everything outside that reads a packed tensor."""
        for node in nodes:
            if id(node) not in self._done:
                continue
            for tensor in node.outputs:
                if tensor.is_empty() or not self._rows.has(tensor):
                    continue
                outside = [reader for reader in consumers(tensor) if id(reader) not in self._done]
                if outside or self._edit.is_graph_output(tensor):
                    self._edit.replace(tensor, self._rows.restored(tensor))


def _onnx_name(dtype: type | np.dtype | int | None) -> str:
    """The type as in `tensor(NAME)`."""
    if dtype is None:
        return "undefined"
    number = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return str(onnx.TensorProto.DataType.Name(number)).lower()


def _is_float(tensor: Tensor) -> bool:
    return isinstance(tensor.dtype, np.dtype | type) and np.dtype(tensor.dtype).kind == "f"


def packed_share(model: Model) -> float:
    """The share of all nodes that run on packed rows: nodes one of whose results has a size that grows with T."""
    nodes = model.graph.nodes
    packed = sum(any(_grows(tensor.shape) for tensor in node.outputs) for node in nodes)
    return packed / len(nodes) if nodes else 0.0


def _grows(shape: list[int | str] | None) -> bool:
    dims = [as_dim(size) for size in shape or ()]
    return any(not isinstance(dim, int) and TOKENS in dim.symbols for dim in dims)
