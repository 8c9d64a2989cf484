"""Uses of the operators as real models have them: what the compiled kernels are checked on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.custom_ops.specification import numpy_name

ELEMENTS = ("float32", "float16", "bfloat16")
WIDTHS = (384, 768, 1024)
GATED = ((1152, "gelu", "float16"), (14336, "silu", "bfloat16"))
"""Columns, activation and element type of the gates of ModernBERT and Llama."""
HEADS = ((12, 32), (12, 64), (10, 80), (12, 96), (32, 128))  # number and size


def use(operator: str, element: str, shapes: dict[str, tuple[int | str, ...]], **attributes: object) -> Use:
    """A use with operands of these shapes: those of type T have the element type, others the first that they may."""
    declared = spec(operator)
    operands = {operand.name: operand for operand in (*declared.inputs, *declared.outputs)}
    types = {name: _type(operator, operands[name].type, element) for name in shapes}
    defaults = {attribute.name: attribute.default for attribute in declared.attributes}
    return Use(operator, types, shapes, defaults | attributes)


def _type(operator: str, declared: str, element: str) -> str:
    if declared == "T":
        return element
    return numpy_name(spec(operator).cuda_types.get(declared, (declared,))[0])


def uses(element: str, widths: Sequence[int] = WIDTHS, heads: Sequence[tuple[int, int]] = HEADS) -> Iterator[Use]:
    """Every operator, with and without its optional operands, at the sizes of real models."""
    yield use("RemovePadding", element, {"mask": ("B", "S"), "cu_seqlens": ("C",)})
    yield use("RemovePadding", element, {"mask": ("B", "S"), "cu_seqlens": ("C",)}, binary_input="mask")
    for width in widths:
        row: tuple[int | str, ...] = ("T", width)
        yield from _normalizations(element, width)
        for bias in ({"bias": (4 * width,)}, {}):
            wide = {"x": ("T", 4 * width), "output": ("T", 4 * width)}
            yield use("BiasGelu", element, wide | bias)
            yield use("BiasGelu", element, wide | bias, approximate="tanh")
        yield use(
            "RestorePadding",
            element,
            {"rows": row, "token_index": ("T",), "mask": ("B", "S"), "output": ("B", "S", width)},
        )
        yield from _gates(element, width)
        for mode in ("mean", "sum", "max", "first"):
            yield use("SegmentPooling", element, {"rows": row, "cu_seqlens": ("C",), "output": ("B", width)}, mode=mode)
    yield _normalized_heads(element)
    for number, size in heads:
        yield from _attentions(element, number, size)
        yield _rotation(element, number, size)


def _gates(element: str, width: int) -> Iterator[Use]:
    for columns, activation, usual in GATED:
        if element == usual:
            pair = {"x": ("T", 2 * columns), "output": ("T", columns)}
            yield use("GatedActivation", element, pair, activation=activation)
    if element == "float32":
        apart: dict[str, tuple[int | str, ...]] = dict.fromkeys(("x", "up", "output"), ("T", 4 * width))
        yield use("GatedActivation", element, apart | {"bias": (8 * width,)}, activation="gelu_tanh")


def todays_attentions(element: str) -> Iterator[Use]:
    """Attention of joined packed rows as ModernBERT, Llama, Mistral, Gemma 3 and Gemma 2 have it."""
    for heads, shared, size, facts in (
        (12, 12, 64, {"window_before": 64, "window_after": 64}),
        (32, 8, 128, {"causal": 1}),
        (32, 8, 128, {"causal": 1, "window_before": 4095}),
        (4, 1, 256, {"causal": 1, "window_before": 511}),
        (8, 4, 256, {"causal": 1, "softcap": 50.0}),
        (8, 4, 256, {"causal": 1, "window_before": 4095, "softcap": 50.0}),
    ):
        shapes: dict[str, tuple[int | str, ...]] = {"query": ("T", (heads + 2 * shared) * size), "cu_seqlens": ("C",)}
        shapes |= {"positions": ("T",), "output": ("T", heads * size)}
        facts = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, **facts}
        yield use("VarlenAttention", element, shapes, **facts)


def attentions_to_caches(element: str) -> Iterator[Use]:
    """Attention as Llama and Gemma 2 decode: keys and values by head, shared, with a mask."""
    for heads, shared, size, softcap in ((32, 8, 128, 0.0), (8, 4, 256, 50.0)):
        cache: tuple[int | str, ...] = ("B", shared, "L", size)
        row: tuple[int | str, ...] = ("B", "S", heads * size)
        shapes = {"query": row, "key": cache, "value": cache, "output": row, "attention_bias": ("B", 1, "S", "L")}
        facts = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, "keys_by_head": 1}
        yield use("VarlenAttention", element, shapes, **facts, softcap=softcap)


def _normalizations(element: str, width: int) -> Iterator[Use]:
    row: tuple[int | str, ...] = ("T", width)
    vectors = dict.fromkeys(("gamma", "beta", "bias"), (width,))
    yield use("SkipLayerNormalization", element, {"x": row, "skip": row, "output": row} | vectors)
    yield use("SkipLayerNormalization", element, {"x": row, "skip": row, "output": row, "sum": row} | vectors)
    yield use("SkipLayerNormalization", element, {"x": row, "skip": row, "output": row, "gamma": (width,)})
    sums = {"x": row, "skip": row, "output": row, "sum": row, "gamma": (width,)}
    yield use("SkipLayerNormalization", element, sums, rms=1)
    tables = {"word_table": (30522, width), "token_type_table": (2, width), "position_table": (512, width)}
    ids = dict.fromkeys(("word_ids", "token_type_ids", "position_ids"), ("T",))
    ends = {"gamma": (width,), "beta": (width,), "output": row}
    yield use("EmbedLayerNormalization", element, ids | tables | ends)
    yield use("EmbedLayerNormalization", element, {"word_ids": ("T",), "word_table": tables["word_table"]} | ends)


def _rotation(element: str, heads: int, size: int) -> Use:
    """One for each element type, as kernels differ little.

    Queries and keys of joined rows, by an index; a padded batch with a bias; neighbours in a half of each head.
    """
    if element == "float16":
        table, row = ("P", size), ("T", 3 * heads * size)
        shapes = {"input": row, "cos": table, "sin": table, "index": ("T",), "output": row}
        return use("RotaryEmbedding", element, shapes, num_heads=3 * heads, rotated_heads=2 * heads)
    if element == "bfloat16":
        table, row = (1, "S", size), ("B", "S", heads * size)
        shapes = {"input": row, "bias": row[2:], "cos": table, "sin": table, "output": row}
        return use("RotaryEmbedding", element, shapes, num_heads=heads)
    table, row = ("T", size // 2), ("T", heads * size)
    shapes = {"input": row, "cos": table, "sin": table, "output": row}
    return use("RotaryEmbedding", element, shapes, num_heads=heads, interleaved=1)


def _normalized_heads(element: str) -> Use:
    """RMS normalization of the queries of each head."""
    rows: tuple[int | str, ...] = ("T", 16, 128)
    return use("SkipLayerNormalization", element, {"x": rows, "output": rows, "gamma": (128,)}, rms=1)


def _attentions(element: str, heads: int, size: int) -> Iterator[Use]:
    width = heads * size
    bias, packed = {"bias": (3 * width,)}, {"cu_seqlens": ("C",)}
    whole = {"query": ("T", 3 * width), "output": ("T", width)} | packed
    parts = {name: ("B", f"{name}_length", width) for name in ("query", "key", "value")} | {
        "output": ("B", "query_length", width)
    }
    for causal in (0, 1):
        facts = {"num_heads": heads, "scale": size**-0.5, "causal": causal}
        yield use("VarlenAttention", element, whole | bias, **facts)
        yield use("VarlenAttention", element, whole, **facts)
    facts = {"num_heads": heads, "scale": size**-0.5}
    bias = use("VarlenAttention", element, parts | {"attention_bias": ("B", 1, "query_length", "key_length")}, **facts)
    yield bias  # in float32; only a run can tell whether a query has a row of its own
    if element != "float32":
        of_queries = {**bias.shapes, "attention_bias": (1, heads, 128, 128)}
        yield replace(bias, types={**bias.types, "attention_bias": element}, shapes=of_queries)
    yield use("VarlenAttention", element, parts, **facts, guard=1)
