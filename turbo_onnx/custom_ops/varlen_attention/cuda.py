"""VarlenAttention on CUDA: which kernels a node needs, and in tiles of what size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from turbo_onnx.custom_ops.cuda.sizes import known, power_of_two
from turbo_onnx.custom_ops.cuda.targets import shared_limit
from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.custom_ops.varlen_attention.window import key_heads, keys_by_head, window_of
from turbo_onnx.errors import Reject

_KERNEL = "turbo_onnx.custom_ops.varlen_attention.flash_attention"
_LARGEST_HEAD = 256


class Tile(NamedTuple):
    """How a program works: queries, keys of one step, warps, and stages of the loop over keys."""

    queries: int
    keys: int
    warps: int
    stages: int


def tile(element: str, head: int, capability: int, *, bias_by_query: bool, window: bool, softcap: bool) -> Tile:
    """The block for an element type and a head size, which is a power of two from 16 to 256.

    Chosen so that nothing spills, and so that a program for 8.0 takes at most the 99 KiB of shared memory that 8.6 and
    8.9 have. An attention bias with a row for each query is not loaded as products need it, which takes registers.
    What spills all the same are large heads in float32 with a bias of the keys beside a soft cap, on 8.0.
    """
    if element == "float32":  # products on the ordinary cores: TF32 would keep 10 bits of the mantissa
        if head <= 64:
            return Tile(32, 16, 8, 1)
        if softcap and head > 128:
            return Tile(16, 32, 16, 1) if window else Tile(16, 16, 8, 1)
        return Tile(16, 16, 8, 1) if window and head <= 128 else Tile(32 if head <= 128 else 16, 16, 16, 1)
    if head > 128:
        return Tile(64, 32, 8, 2)
    if bias_by_query:
        return Tile(128 if head <= 64 else 64, 32, 8, 2)
    if head > 64:
        return Tile(128, 64, 8, 2) if capability >= 90 else Tile(128, 32, 8, 2)
    return Tile(128, 64, 4, 3 if capability >= 90 else 2)


# Queries, keys and warps that measuring may choose, by the largest head size that they are for: what the compiler can
# keep in registers on 9.0.
_OTHERS = {
    64: ((64, 32, 4), (64, 64, 4), (64, 128, 8), (128, 32, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8)),
    128: ((64, 32, 4), (64, 64, 4), (64, 64, 8), (64, 128, 8), (128, 32, 8), (128, 64, 8), (128, 128, 8)),
    256: ((64, 32, 8), (64, 64, 8), (128, 32, 8)),
}
_OTHERS_BY_QUERY = {
    64: ((64, 32, 4), (64, 64, 4), (64, 64, 8), (64, 128, 8), (128, 32, 4), (128, 32, 8), (128, 64, 8)),
    128: ((64, 32, 4), (64, 32, 8), (64, 64, 8), (128, 32, 8), (128, 64, 8)),
    256: ((64, 32, 8), (64, 64, 8)),
}
_OTHERS_IN_FLOAT32 = {
    64: ((16, 32, 4), (32, 16, 4), (32, 16, 8), (32, 32, 8), (64, 16, 8), (64, 32, 16)),
    128: ((16, 16, 8), (16, 32, 8), (32, 16, 8), (32, 16, 16), (32, 32, 16)),
    256: ((16, 16, 8), (16, 16, 16), (16, 32, 16)),
}
_STAGES = (2, 3, 4)


def candidates(variant: Variant, capability: int) -> Iterator[Variant]:
    """Other tiles, warps and stages among which measuring may choose."""
    constants = variant.constants
    head = max(int(constants["BLOCK_HEAD"] or 0), int(constants["BLOCK_VALUE"] or 0))
    in_float32 = variant.arguments["query"] == pointer("float32")
    by_query = _OTHERS_BY_QUERY if constants["BIAS_BY_QUERY"] else _OTHERS
    tiles = _OTHERS_IN_FLOAT32 if in_float32 else by_query
    for queries, keys, warps in tiles[next(size for size in sorted(tiles) if head <= size)]:
        for stages in (1,) if in_float32 else _STAGES:
            read_ahead = 2 * 2 * stages * keys * head  # bytes of keys and values
            if read_ahead <= shared_limit(capability):
                yield _with_tile(variant, Tile(queries, keys, warps, stages))


def _with_tile(variant: Variant, block: Tile) -> Variant:
    """The same kernel in other tiles."""
    sizes = {"BLOCK_QUERIES": block.queries, "BLOCK_KEYS": block.keys, "STAGES": block.stages}
    return replace(
        variant,
        constants={**variant.constants, **sizes},
        tile=(block.queries, 1, 1),
        num_warps=block.warps,
        num_stages=block.stages,
    )


def variants(use: Use, capability: int) -> list[Variant]:
    """The kernels for the node's heads: one for each way in which its attention bias may be broadcast.

    Raises:
        Reject: a width is not known, or is no multiple of the number of heads; heads are too large.
    """
    joined = not use.has("key")
    heads = int(use.attributes["num_heads"])
    try:
        shared, window = key_heads(use.attributes), window_of(use.attributes)
        by_head = keys_by_head(use.attributes, [name for name in ("key", "cu_seqlens") if use.has(name)])
    except ValueError as error:
        raise Reject(str(error)) from error
    width, parts = known(use, "query", -1), heads + 2 * shared if joined else heads
    value_width, value_parts = (width, parts) if joined else (known(use, "value", -1), 1 if by_head else shared)
    if width % parts or value_width % value_parts:
        raise Reject("widths {} and {} are not multiples of {} and {} heads", width, value_width, parts, value_parts)
    head, value = width // parts, value_width // value_parts
    if not 0 < head <= _LARGEST_HEAD or not 0 < value <= _LARGEST_HEAD:
        raise Reject("heads of {} and {} columns are not between 1 and {}", head, value, _LARGEST_HEAD)
    sizes = {"heads": heads, "kv_heads": shared, "head": head, "value": value}
    flags = {
        "joined": joined,
        "by_head": by_head,
        "packed": use.has("cu_seqlens"),
        "causal": window.causal,
        "window": window.by_distance,
        "positions": window.by_distance and use.has("positions"),
        "softcap": bool(use.attributes["softcap"]),
        "guard": bool(use.attributes["guard"]),
        "bias": use.has("bias"),
        "attention_bias": use.has("attention_bias"),
    }
    elements = use.types["query"], use.types.get("attention_bias", use.types["query"])
    ways = itertools.product(_by_query(use), _by_key(use)) if flags["attention_bias"] else [(False, False)]
    return [
        _variant(elements, capability, sizes, flags | {"bias_by_query": by_query, "bias_by_key": by_key})
        for by_query, by_key in ways
    ]


def _by_query(use: Use) -> list[bool]:
    """Whether the attention bias has more than one row of queries: both, if only a run can tell."""
    size = use.size("attention_bias", 2)
    return [False, True] if size is None else [size != 1]


def _by_key(use: Use) -> list[bool]:
    """Whether the attention bias has as many columns as there are keys: both, if only a run can tell."""
    bias, key = use.shapes.get("attention_bias"), use.shapes.get("key" if use.has("key") else "query")
    if bias is None or key is None:
        return [False, True]
    if bias[3] == key[2 if len(key) == 4 else 1]:
        return [True]
    return [False, True] if bias[3] == 1 or isinstance(bias[3], str) else [True]


def _variant(
    elements: tuple[str, str], capability: int, sizes: Mapping[str, int], flags: Mapping[str, bool]
) -> Variant:
    """The kernel for these types of the rows and of the attention bias."""
    element, of_bias = elements
    block_head, block_value = (max(power_of_two(sizes[name]), 16) for name in ("head", "value"))
    what = {name: flags[name] for name in ("bias_by_query", "window", "softcap")}
    block = tile(element, max(block_head, block_value), capability, **what)
    rows = ("query", "key", "value", "bias", "cu_seqlens", "attention_bias", "positions", "output")
    constants = {name.upper(): value for name, value in (*sizes.items(), *flags.items())}
    # From 9.0 on one loop goes over all keys and masks where it must, so that the last keys are read ahead like others.
    # Before, such a branch makes Triton move scores through shared memory: keys that all see have a loop of their own.
    constants |= {"BLOCK_HEAD": block_head, "BLOCK_VALUE": block_value, "ONE_LOOP": capability >= 90}
    made = Variant(
        key=key("varlen_attention", *elements, **sizes, **flags),
        module=_KERNEL,
        function="varlen_attention",
        arguments=dict.fromkeys(rows, pointer(element))
        | {"cu_seqlens": "*i32", "attention_bias": pointer(of_bias), "positions": "*i64"}
        | dict.fromkeys(("sequences", "query_rows", "key_rows", "window_before", "window_after"), "i32")
        | dict.fromkeys(("bias_batch_stride", "bias_head_stride", "bias_query_stride"), "i64")
        | {"scale": "fp32", "softcap": "fp32"},
        constants=constants,
    )
    return _with_tile(made, block)
