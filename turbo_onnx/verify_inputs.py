"""Make inputs for a model out of nothing but the model: what each input is, is found by following it through the graph.

| an input is | when |
|---|---|
| ids | its integers index a table (Gather, OneHot), or the rows of another input; they are drawn from its rows |
| a mask | it is the mask that packing found; else integers or booleans of rank 2 and more that index nothing |
| flags | they are booleans, or integers of which only conditions of Ifs are made; both are tried, on and off |
| numbers | it is floating point: drawn from a normal distribution |

Which dynamic dimensions are the batch, the length, a past length or their sum is found by trying the original model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.custom_ops.begin_run import PLAN_DOMAIN
from turbo_onnx.custom_ops.specification import DOMAIN, is_ours
from turbo_onnx.graph import Tensor, constant_value, consumers, input_or_none, is_op, producer
from turbo_onnx.model import Model

Kind = Literal["ids", "mask", "numbers", "integers", "flags", "unknown"]
Pattern = Literal["mixed", "full", "left", "holes", "empty row", "empty"]
Feed = dict[str, np.ndarray[Any, Any]]

_SAME_ELEMENTS = (
    "Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Concat", "Tile"
)  # fmt: skip
_TRUTHS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or")
_FEW = 2
_FEWEST = 3
_MULTIPLES = ((1, 8, 16, 64), (512,))
"""What lengths are rounded up to where others are refused (chunks, convolutions); the second, where those are, too."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name, dtype, shape: as declared; a dimension is a number or a name.
        kind: what it is used for.
        low, high: for ids, the range that they may lie in, `high` excluded.
        within: for ids of another input's rows, the name of that dimension, which takes the place of `high`.
    """

    name: str
    dtype: Any
    shape: tuple[int | str, ...]
    kind: Kind
    low: int = 0
    high: int = 2
    within: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A case: so many sequences, of such lengths, behind so long a past where the model is a decoder.

    `flags` is what all flags are; None for any.
    """

    name: str
    batch: int
    length: int
    pattern: Pattern
    past: int = 3
    flags: bool | None = None


ONE_SEQUENCE = Recipe("one sequence", 1, 13, "full")
RECIPES = (
    Recipe("mixed lengths", 4, 11, "mixed"),
    Recipe("holes in the mask", 3, 9, "holes"),
    Recipe("left padding", 3, 7, "left"),
    Recipe("one token", 1, 1, "full"),
    ONE_SEQUENCE,
    Recipe("equal lengths", 3, 6, "full"),
    Recipe("a sequence of padding only", 3, 5, "empty row"),
    Recipe("padding only", 2, 4, "empty"),
    Recipe("longer", 2, 47, "mixed"),
)
RECIPES_OF_DECODERS = (
    Recipe("a first step", 3, 6, "left", past=0),
    Recipe("one token behind a long past", 2, 1, "left", past=150),
)
"""Further ones where there is a past: windows of attention are about long ones."""

Layout = dict[str, str]
"""A dynamic dimension's name -> "batch", "length", "past" or "length + past", or a size of its own by `own_size`."""


def describe(model: Model, mask: str | None = None) -> list[InputSpec]:
    """What each of the model's inputs is.

    Args:
        model: the original, as read.
        mask: the input that is known to be the padding mask, if one is.
    """
    specs = [_describe(tensor, mask) for tensor in model.graph.inputs]
    ids = [spec.shape for spec in specs if spec.kind == "ids"]
    return [replace(s, kind="mask") if _is_like(s, ids) else s for s in specs]


def with_binary_inputs(specs: Sequence[InputSpec], packed: Model) -> list[InputSpec]:
    """The specs, with those inputs as masks that the packed model takes zeros and ones of only."""
    removals = [node for node in packed.graph.nodes if node.op == "RemovePadding" and is_ours(node.domain)]
    names = {node.attrs.get("binary_input", "") for node in removals}
    return [replace(spec, kind="mask") if spec.name in names else spec for spec in specs]


def _is_like(spec: InputSpec, ids: Sequence[tuple[int | str, ...]]) -> bool:
    """Whether the input has a number for each token: then it weighs them."""
    return spec.kind == "numbers" and len(spec.shape) == 2 and spec.shape in ids


def _describe(tensor: gs.Variable, mask: str | None) -> InputSpec:
    shape = _dimensions(tensor)
    dtype = tensor.dtype
    if tensor.type != "tensor_type" or not isinstance(dtype, np.dtype) or tensor.shape is None:
        return InputSpec(tensor.name, dtype, shape, "unknown")
    if tensor.name == mask:
        return InputSpec(tensor.name, dtype, shape, "mask")
    if dtype.kind in "iu":
        limits = _index_range(tensor)
        if limits is not None:
            return InputSpec(tensor.name, dtype, shape, "ids", *limits)
        within = _dimension_indexed(tensor)
        if within is not None:
            return InputSpec(tensor.name, dtype, shape, "ids", within=within)
        if len(shape) < 2:
            return InputSpec(tensor.name, dtype, shape, "flags" if _only_decides(tensor) else "integers")
        return InputSpec(tensor.name, dtype, shape, "mask")
    if dtype.kind == "b":
        return InputSpec(tensor.name, dtype, shape, "mask" if len(shape) >= 2 else "flags")
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return InputSpec(tensor.name, dtype, shape, "numbers")
    return InputSpec(tensor.name, dtype, shape, "unknown")


def _dimensions(tensor: gs.Variable) -> tuple[int | str, ...]:
    """The declared shape, with a name for every size that varies."""
    return tuple(
        dim if isinstance(dim, int) and dim >= 0 else str(dim or f"{tensor.name} axis {axis}")
        for axis, dim in enumerate(tensor.shape or ())
    )


def _only_decides(tensor: Tensor) -> bool:
    """Whether nothing is made of the tensor but conditions of Ifs."""
    readers = consumers(tensor)
    return bool(readers) and all(
        is_op(reader, "If") or (is_op(reader, *_TRUTHS, *_SAME_ELEMENTS) and _only_decides(reader.outputs[0]))
        for reader in readers
    )


def _index_range(tensor: gs.Variable) -> tuple[int, int] | None:
    """The values with which the tensor indexes every table that it indexes; None if it indexes none."""
    low, high = 0, None
    for node, index, offset in _readers(tensor):
        rows = _rows_indexed(node, index)
        if rows is not None:
            high = min(rows - offset, high) if high is not None else rows - offset
            low = max(low, -offset)
    return None if high is None or high <= low else (low, high)


def _dimension_indexed(tensor: gs.Variable) -> str | None:
    """The dynamic dimension of another input whose rows the tensor picks, as the sequences of a beam search."""
    for node, index, offset in _readers(tensor):
        if offset or not is_op(node, "Gather") or input_or_none(node, 1) is not index:
            continue
        table, axis = node.inputs[0], int(node.attrs.get("axis", 0))
        if producer(table) is None and isinstance(table, gs.Variable) and table.shape:
            size = _dimensions(table)[axis]
            if isinstance(size, str):
                return size
    return None


def _readers(tensor: gs.Variable) -> Iterator[tuple[gs.Node, Tensor, int]]:
    """What reads the tensor's integers as they are or with a constant added: the node, what it reads, the constant."""
    seen: set[tuple[int, int]] = set()
    stack: list[tuple[Tensor, int]] = [(tensor, 0)]
    while stack:
        current, offset = stack.pop()
        if (id(current), offset) in seen:
            continue
        seen.add((id(current), offset))
        for node in consumers(current):
            yield node, current, offset
            if is_op(node, *_SAME_ELEMENTS, "Gather") and (node.inputs[0] is current or node.op == "Concat"):
                stack.append((node.outputs[0], offset))
            elif node.domain == PLAN_DOMAIN:  # each output is an input
                passed = [out for t, out in zip(node.inputs, node.outputs, strict=True) if t is current]
                stack.extend((out, offset) for out in passed)
            elif is_op(node, "Add", "Sub") and node.inputs[0] is current:
                shift = constant_value(node.inputs[1])
                if shift is not None and shift.size == 1:
                    stack.append((node.outputs[0], offset + int(shift.item()) * (1 if node.op == "Add" else -1)))


def _rows_indexed(node: gs.Node, index: Tensor) -> int | None:
    """How many rows the table has that the node looks up with the tensor."""
    if is_op(node, "EmbedLayerNormalization", domain=DOMAIN):
        table = next(table for ids, table in zip(node.inputs[:3], node.inputs[3:6], strict=True) if ids is index)
        return int(table.shape[0]) if isinstance(table, gs.Constant) else None
    if is_op(node, "OneHot") and node.inputs[0] is index:
        depth = constant_value(node.inputs[1])
        return int(depth.item()) if depth is not None else None
    if not is_op(node, "Gather") or input_or_none(node, 1) is not index:
        return None
    table, axis = node.inputs[0], int(node.attrs.get("axis", 0))
    while not isinstance(table, gs.Constant):
        source = producer(table)
        if source is None or not is_op(source, "Cast", "Identity", "DequantizeLinear", "Transpose"):
            return None
        if source.op == "Transpose":
            rank = len(source.attrs["perm"]) if "perm" in source.attrs else 2
            axis = int(source.attrs.get("perm", [1, 0])[axis % rank])
        table = source.inputs[0]
    return int(table.shape[axis]) if len(table.shape) else None


def layouts(specs: Sequence[InputSpec]) -> Iterator[tuple[Layout, int]]:
    """What the dynamic dimensions may be, likeliest first, each with what lengths are to be a multiple of.

    The first dimension of an input is a batch. Up to `_FEW` further ones of masks are told apart: a mask and positions
    have the rank and the type in common, and not the length.
    """
    batch = {spec.shape[0]: "batch" for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    names: dict[str, list[str]] = {"ids": [], "mask": [], "other": []}
    for group, kinds in (("ids", ("ids",)), ("mask", ("mask",)), ("other", ("numbers", "integers", "flags"))):
        taken = [*batch, *names["ids"], *names["mask"], *names["other"]]
        for spec in specs:
            if spec.kind in kinds:
                names[group] += [d for d in spec.shape if isinstance(d, str) and d not in taken + names[group]]
    choices = ("length", "length + past", "past")
    masks = len(names["mask"])
    apart = range(masks) if masks <= _FEW else [0] * masks  # which of the mask's choices is whose
    mask_choices = list(product(choices, repeat=max(apart, default=-1) + 1))
    other_choices = choices if names["other"] else choices[:1]
    pairs = sorted(product(mask_choices, other_choices), key=_unlikely)
    readings = [(multiple, *pair) for long in (False, True) for pair in pairs for multiple in _MULTIPLES[long]]
    for multiple, mask, other in readings:
        layout: Layout = {str(name): role for name, role in batch.items()}
        layout |= dict.fromkeys(names["ids"], "length")
        layout |= {name: mask[number] for name, number in zip(names["mask"], apart, strict=True)}
        yield layout | dict.fromkeys(names["other"], other), multiple


def _unlikely(reading: tuple[tuple[str, ...], str]) -> int:
    """0 where everything has one length, 1 where masks have that of the past, too, and then what has parts of it."""
    masks, other = reading
    if {*masks, other} == {"length"}:
        return 0
    if other != "past":
        return 4 if len(set(masks)) > 1 else 3
    return 1 if set(masks) <= {"length + past"} else 2


def own_size(name: str) -> str:
    """What a layout says of dimensions that have a size of their own, which differs from all others'."""
    return f"own: {name}"


def make(specs: Sequence[InputSpec], recipe: Recipe, layout: Layout, multiple: int, seed: int) -> Feed:
    """The inputs of one case.

    Args:
        specs: the model's inputs; none may be of kind "unknown".
        recipe: what the case is.
        layout: as `layouts` gives it.
        multiple: as `layouts` gives it.
        seed: equal seeds give equal inputs.
    """
    random = np.random.default_rng([seed, *recipe.name.encode()])
    length = -(-recipe.length // multiple) * multiple
    sizes = {"batch": recipe.batch, "length": length, "past": recipe.past, "length + past": length + recipe.past}
    for role in sorted(set(layout.values()) - sizes.keys()):
        others = [size for size in range(2, 20) if size not in sizes.values()]
        sizes[role] = int(np.random.default_rng([*recipe.name.encode(), *role.encode()]).choice(others))
    feed = {}
    for spec in specs:
        shape = tuple(dim if isinstance(dim, int) else sizes[layout[dim]] for dim in spec.shape)
        limit = None if spec.within is None else sizes[layout[spec.within]]
        feed[spec.name] = _values(spec, shape, recipe, random, length, limit)
    return feed


def telling(recipes: Sequence[Recipe], specs: Sequence[InputSpec], roles: Set[str]) -> list[Recipe]:
    """The recipes but for those that differ from an earlier one in numbers only, and not in sizes; three at the least.

    Args:
        recipes: the cases.
        specs: the model's inputs.
        roles: of its dynamic dimensions, as a `Layout` has them.
    """
    if not roles <= {"batch", "length", "past"} or any(spec.kind not in ("numbers", "flags") for spec in specs):
        return list(recipes)
    first: dict[tuple[int, ...], Recipe] = {}
    for recipe in recipes:
        first.setdefault(tuple(getattr(recipe, size) for size in sorted(roles)), recipe)
    return list(first.values()) if len(first) >= _FEWEST else list(recipes[:_FEWEST])


def with_flags(recipe: Recipe, specs: Sequence[InputSpec]) -> list[Recipe]:
    """The recipe with all flags true and with all false, if the model has any: branches hang on them."""
    if not any(spec.kind == "flags" for spec in specs):
        return [recipe]
    values = ((True, "true"), (False, "false"))
    return [replace(recipe, name=f"{recipe.name}, flags {name}", flags=value) for value, name in values]


def _values(
    spec: InputSpec,
    shape: tuple[int, ...],
    recipe: Recipe,
    random: np.random.Generator,
    length: int,
    limit: int | None,
) -> np.ndarray[Any, Any]:
    if spec.kind == "ids":
        return random.integers(spec.low, spec.high if limit is None else limit, shape).astype(spec.dtype)
    if spec.kind == "mask":
        rows = token_mask(shape[0] if len(shape) > 1 else 1, shape[-1] if shape else 1, recipe.pattern, random)
        rows = rows.reshape((rows.shape[0],) + (1,) * (len(shape) - 2) + rows.shape[1:]) if len(shape) > 1 else rows[0]
        return np.broadcast_to(rows, shape).astype(spec.dtype)
    if spec.kind == "integers":
        return random.integers(1, max(2, length + 1), shape).astype(spec.dtype)
    if spec.kind == "flags":
        flags = random.integers(0, 2, shape) if recipe.flags is None else np.full(shape, recipe.flags)
        return flags.astype(spec.dtype)
    return random.standard_normal(shape).astype(spec.dtype)


def token_mask(batch: int, length: int, pattern: str, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """A boolean mask [batch, length] of one of the patterns of `Recipe`."""
    if pattern == "full":
        return np.ones((batch, length), bool)
    if pattern == "empty":
        return np.zeros((batch, length), bool)
    if pattern == "holes":
        mask = random.random((batch, length)) < 0.6
        mask[:, length // 2] = True
        return mask
    lengths = random.integers(1, length + 1, batch)
    lengths[0] = length
    lengths[-1] = 1 if batch > 1 else length
    if pattern == "empty row":
        lengths[batch // 2] = 0
    mask = np.arange(length) < lengths[:, None]
    return mask[:, ::-1] if pattern == "left" else mask
