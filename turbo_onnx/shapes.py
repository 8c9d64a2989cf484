"""Symbolic shapes: learn every tensor's type and shape, with every dimension named.

`infer(model)` walks the graph once in topological order with one rule for each operator, writes `dtype` and `shape` to
the tensors, and returns the facts, among them what is known of integer tensors' values. Sizes that turn out to be the
same are unified and the walk is repeated until nothing new is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.begin_run import PLAN_DOMAIN
from turbo_onnx.dims import Dim, as_dim, as_item, symbol
from turbo_onnx.graph import RAISED_DOMAIN, STANDARD_DOMAINS, Shape, Tensor, is_computed_outside, remembered_shape
from turbo_onnx.inference import computation, elementwise, movement, values
from turbo_onnx.inference.reading import UNKNOWN, Dims, Fact, Reading, Rule, Symbols
from turbo_onnx.model import Model

_STANDARD: dict[str, Rule] = {**elementwise.RULES, **movement.RULES, **computation.RULES}
_ROUNDS = 8


class Facts:
    """The facts of one graph, by tensor identity. Constants are looked at when they are asked for."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self._facts: dict[int, Fact] = {}
        self._constants: dict[int, tuple[gs.Constant, Fact]] = {}

    def __getitem__(self, tensor: Tensor | None) -> Fact:
        """The fact about the tensor; `UNKNOWN` if there is none."""
        if isinstance(tensor, gs.Constant):
            return self._constant(tensor)
        return self._facts.get(id(tensor), UNKNOWN)

    def __setitem__(self, tensor: gs.Variable, fact: Fact) -> None:
        shape = fact.shape and tuple(self.symbols.resolve(size) for size in fact.shape)
        value = values.broadcastable(values.representable(fact.value, fact.dtype), shape)
        self._facts[id(tensor)] = Fact(fact.dtype, shape, value)

    def _constant(self, tensor: gs.Constant) -> Fact:
        known = self._constants.get(id(tensor))
        if known is None:
            shape = tuple(int(size) for size in tensor.shape)
            dtype = tensor.dtype
            small = isinstance(dtype, np.dtype | type) and np.dtype(dtype).kind in "iub"
            value = values.of_constant(tensor.values) if small else None
            known = (tensor, Fact(np.dtype(dtype) if isinstance(dtype, type) else dtype, shape, value))
            self._constants[id(tensor)] = known
        return known[1]


def infer(model: Model) -> Facts:
    """Infer types, shapes and integer values; write types and shapes to the graph's tensors.

    Args:
        model: its graph must be topologically sorted. Tensors' shapes become lists of ints and canonical strings, or
            None where not even the rank is known.

    Returns:
        The facts by tensor; `facts.symbols.equalities` tells which input sizes were taken for equal, and why that is
        safe stands with `Symbols`.
    """
    facts = _facts(model, [tensor.shape for tensor in model.graph.inputs], Symbols())
    _write(model.graph, facts)
    return facts


def infer_proven(model: Model) -> Facts:
    """Infer without taking sizes for equal that the file names differently, or not at all; write nothing.

    Two shapes that are equal here are equal in every run, also where an input of one sequence is broadcast.

    Args:
        model: its graph must be topologically sorted.
    """
    declared = [model.declared_shapes.get(tensor.name, tensor.shape) for tensor in model.graph.inputs]
    return _facts(model, declared, Symbols(strict=True))


def _facts(model: Model, inputs: Sequence[Shape], symbols: Symbols) -> Facts:
    pairs = enumerate(zip(model.graph.inputs, inputs, strict=True))
    declared = [_declared(tensor, shape, f"input{number}") for number, (tensor, shape) in pairs]
    given = (shape for tensor, shape in zip(model.graph.inputs, inputs, strict=True) if not is_computed_outside(tensor))
    for item in (item for shape in given for item in shape or ()):
        dim = as_dim(item) if isinstance(item, (int, str)) else None
        for name in sorted(dim.symbols) if isinstance(dim, Dim) else ():
            symbols.inputs.setdefault(name, len(symbols.inputs))
    for _ in range(_ROUNDS):
        known = len(symbols.same)
        facts = _walk(model.graph, model.opset, symbols, declared)
        if len(symbols.same) == known:
            break
    return facts


def assumed_equal(model: Model) -> set[str]:
    """The symbols that stand for sizes which may differ: one of those may be 1 where another is not.

    They are called differently in the file, and what the operators demand does not prove them equal.

    Args:
        model: after `infer`.
    """
    return without_assumptions(model)[0]


def without_assumptions(model: Model) -> tuple[set[str], Facts | None]:
    """What `assumed_equal` gives, and what `infer_proven` does; None in its place where nothing is assumed.

    Args:
        model: after `infer`.
    """
    if not _differently_named(model):
        return set(), None
    proven = infer_proven(model)
    pairs = [
        (as_dim(item), size)
        for tensor in model.graph.inputs
        for item, size in zip(tensor.shape or (), proven[tensor].shape or (), strict=True)
    ]
    assumed = {name for dim, size in pairs if isinstance(dim, Dim) and dim != size for name in dim.symbols}
    return assumed, proven if assumed else None


def _differently_named(model: Model) -> bool:
    """Whether a symbol stands for sizes that have different names in the file, or none."""
    names: dict[str, set[object]] = {}
    for tensor in model.graph.inputs:
        declared = model.declared_shapes.get(tensor.name) or []
        for axis, (item, name) in enumerate(zip(tensor.shape or (), declared, strict=False)):
            dim = as_dim(item)
            for symbol_name in dim.symbols if isinstance(dim, Dim) else ():
                own = name if isinstance(name, str) and name else (tensor.name, axis)
                names.setdefault(symbol_name, set()).add(own)
    return any(len(declared) > 1 for declared in names.values())


def _walk(graph: gs.Graph, opset: int, symbols: Symbols, inputs: Sequence[Fact]) -> Facts:
    facts = Facts(symbols)
    for tensor, fact in zip(graph.inputs, inputs, strict=True):
        facts[tensor] = fact
    for node in graph.nodes:
        operands = [None if isinstance(t, gs.Variable) and t.is_empty() else facts[t] for t in node.inputs]
        read = Reading(node, operands, opset, symbols)
        for tensor, fact in zip(node.outputs, _apply(read), strict=False):
            _recall(tensor, fact, symbols)
            facts[tensor] = fact if fact.shape is not None else _keep_declared(tensor, fact)
    return facts


def _recall(tensor: gs.Variable, fact: Fact, symbols: Symbols) -> None:
    """Learn again what nodes that are gone said of the tensor's sizes, some of which may only be taken for equal."""
    known = remembered_shape(tensor)
    if known is None or fact.shape is None or symbols.strict:
        return
    for size, item in zip(fact.shape, known, strict=True):
        symbols.unify(size, as_dim(item), certain=True)


def _declared(tensor: gs.Variable, declared: Shape, name: str) -> Fact:
    """A graph input's fact: as the file declares it, with a name for every size that has none."""
    if declared is None:
        return Fact(tensor.dtype)
    shape: list[Dim | int] = []
    for axis, item in enumerate(declared):
        unknown = item is None or (isinstance(item, str) and not any(letter.isalpha() for letter in item))
        unnamed = unknown or (isinstance(item, int) and item < 0)  # "?" and "-1" are written where names belong
        shape.append(symbol(f"{name}_{axis}") if unnamed else as_dim(item))
    return Fact(np.dtype(tensor.dtype) if isinstance(tensor.dtype, type) else tensor.dtype, tuple(shape))


def _keep_declared(tensor: gs.Variable, fact: Fact) -> Fact:
    """Where inference does not even learn the rank, believe what the file says."""
    declared = tensor.shape
    if declared is None or any(item is None or item == "" for item in declared):
        return Fact(fact.dtype if fact.dtype is not None else tensor.dtype, None, fact.value)
    return Fact(
        fact.dtype if fact.dtype is not None else tensor.dtype, tuple(as_dim(item) for item in declared), fact.value
    )


def _apply(read: Reading) -> Sequence[Fact]:
    node = read.node
    if node.domain in STANDARD_DOMAINS:
        rule = _STANDARD.get(node.op)
        return rule(read) if rule is not None else _from_schema(read)
    if node.domain == RAISED_DOMAIN:
        return computation.RAISED_RULES[node.op](read)
    if node.domain == PLAN_DOMAIN:
        return [fact if fact is not None else UNKNOWN for fact in read.inputs]
    return _from_specification(read)


def _from_specification(read: Reading) -> list[Fact]:
    """An operator of our own, by its declaration; the first output's type is the first float operand's unless fixed."""
    from turbo_onnx import custom_ops
    from turbo_onnx.custom_ops.specification import is_ours, numpy_name

    node = read.node
    if not is_ours(node.domain):
        return [UNKNOWN] * len(node.outputs)
    spec = custom_ops.spec(node.op)
    attributes = {attribute.name: attribute.default for attribute in spec.attributes} | dict(node.attrs)
    operands = [fact.shape if fact is not None else None for fact in read.inputs[: len(spec.inputs)]]
    operands += [None] * (len(spec.inputs) - len(operands))
    bound: dict[str, Any] = {}
    for operand, fact in zip(spec.inputs, read.inputs, strict=False):
        if fact is not None and operand.type in spec.types:
            bound.setdefault(operand.type, fact.dtype)
    pairs = zip(spec.inputs, read.inputs, strict=False)
    askable = not any(operand.optional and fact is not None and fact.shape is None for operand, fact in pairs)
    shapes = spec.output_shapes(operands, attributes) if askable else (None,) * len(spec.outputs)
    for one, other in spec.same_sizes(operands) if askable else ():
        read.symbols.unify(one, other, certain=True)
    facts = []
    for operand, shape in zip(spec.outputs, shapes, strict=True):
        dtype = bound.get(operand.type) if operand.type in spec.types else np.dtype(numpy_name(operand.type))
        named = shape and tuple(_named(read, size) for size in shape)
        facts.append(Fact(dtype, named))
    return facts


def _named(read: Reading, size: Any) -> Dim | int:
    return read.symbols.resolve(symbol(size)) if isinstance(size, str) else size


def _from_schema(read: Reading) -> list[Fact]:
    """Any other standard operator: ask onnx's own inference, one node at a time, and name what it leaves open."""
    node = read.node
    unknown = [UNKNOWN] * len(node.outputs)
    if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
        return unknown
    try:
        schema = onnx.defs.get_schema(node.op, read.opset, "")
        types, data = {}, {}
        names = []
        for index, (tensor, fact) in enumerate(zip(node.inputs, read.inputs, strict=True)):
            if fact is None:
                names.append("")
                continue
            name = f"i{index}"
            names.append(name)
            if fact.dtype is None:
                return unknown
            elem = fact.dtype if isinstance(fact.dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(fact.dtype)
            items = None if fact.shape is None else [as_item(size) for size in fact.shape]
            types[name] = onnx.helper.make_tensor_type_proto(elem, items)
            if isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) <= 64:
                data[name] = onnx.numpy_helper.from_array(np.asarray(tensor.values), name)
        attributes = {k: v for k, v in node.attrs.items() if not isinstance(v, (gs.Tensor, type(None)))}
        outputs = [f"o{index}" for index in range(len(node.outputs))]
        proto = onnx.helper.make_node(node.op, names, outputs, **attributes)
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return unknown
    except (TypeError, KeyError, RuntimeError, ValueError):
        return unknown
    return [_from_type(read, found.get(name), index) for index, name in enumerate(outputs)]


def _from_type(read: Reading, found: Any, index: int) -> Fact:
    if found is None or not found.HasField("tensor_type"):
        return UNKNOWN
    tensor_type = found.tensor_type
    try:
        dtype: Any = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type))
    except (KeyError, TypeError):
        dtype = tensor_type.elem_type or None
    if not tensor_type.HasField("shape"):
        return Fact(dtype)
    shape: list[Dim | int] = []
    for axis, dim in enumerate(tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value)
        else:
            made_up = f"{read.node.op.lower()}{index}_{axis}"
            shape.append(as_dim(dim.dim_param) if dim.dim_param else read.fresh(made_up))
    return Fact(dtype, tuple(shape))


def _write(graph: gs.Graph, facts: Facts) -> None:
    computed = (tensor for node in graph.nodes for tensor in node.outputs)
    for tensor in (*graph.inputs, *computed):
        if tensor.is_empty():
            continue
        fact = facts[tensor]
        shape = _resolved(fact.shape, facts.symbols)
        tensor.shape = None if shape is None else [as_item(size) for size in shape]
        if fact.dtype is not None:
            tensor.dtype = fact.dtype


def _resolved(shape: Dims | None, symbols: Symbols) -> Dims | None:
    return None if shape is None else tuple(symbols.resolve(size) for size in shape)
