"""Random uses of every operator, for property tests.

Values that a normalization sees are multiples of 1/8: their sums are exact in float32, so that a row of nearly equal
values does not turn the last bit of a sum into a visible difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.custom_ops.single_node import Array, Case
from turbo_onnx.custom_ops.activations import ACTIVATIONS
from turbo_onnx.custom_ops.quantized_mat_mul.layout import tiled

WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37, 64, 100, 384])
ROWS = st.sampled_from([0, 1, 2, 3, 5, 17, 200])
LEADING = st.one_of(st.tuples(ROWS), st.tuples(st.integers(0, 3), st.integers(0, 5)))
SEEDS = st.integers(0, 2**32 - 1)
MASK_TYPES = ("int64", "int32", "bool", "float32", "float64")
ROW_TYPES = ("float32", "float16", "float64", "int64", "int32", "bool")
HEADS = st.sampled_from([(1, 1), (2, 2), (3, 3), (2, 1), (4, 2), (6, 2)])  # of queries, and of keys and values
BOUNDS = st.sampled_from([-1, 0, 1, 2, 5, 8, 2**62])
WINDOWS = st.fixed_dictionaries({"causal": st.integers(0, 1), "window_before": BOUNDS, "window_after": BOUNDS})
SOFTCAPS = st.fixed_dictionaries({"softcap": st.sampled_from([0.0, 0.0, 0.5, 50.0])})

Draw = Callable[[st.SearchStrategy[Any]], Any]


def eighths(random: np.random.Generator, *shape: int) -> Array:
    return (random.integers(-32, 33, shape) / 8).astype(np.float32)


def normal(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def maybe(draw: Draw, value: Array) -> Array | None:
    return value if draw(st.booleans()) else None


def random_mask(draw: Draw, random: np.random.Generator) -> Array:
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 9)))
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return random.random(shape) < density


def remove_padding(draw: Draw) -> Case:
    mask = random_mask(draw, np.random.default_rng(draw(SEEDS)))
    mask = mask.astype(draw(st.sampled_from(MASK_TYPES)))
    return Case("RemovePadding", [mask], {"binary_input": draw(st.sampled_from(["", "mask"]))}, outputs=4)


def restore_padding(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    mask = random_mask(draw, random)
    index = np.flatnonzero(mask).astype(np.int64)
    shape = draw(st.sampled_from([(), (1,), (5,), (2, 3)]))
    rows = (4 * normal(random, len(index), *shape)).astype(draw(st.sampled_from(ROW_TYPES)))
    return Case("RestorePadding", [rows, index, mask.astype(draw(st.sampled_from(MASK_TYPES)))])


def embed_layer_normalization(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    shape, width = draw(LEADING), draw(WIDTHS)
    ids: list[Array | None] = []
    tables: list[Array | None] = []
    for size in (11, 2, 6):
        present = size == 11 or draw(st.booleans())
        kind = draw(st.sampled_from(["int64", "int32"]))
        ids.append(random.integers(-size, size, shape).astype(kind) if present else None)
        tables.append(eighths(random, size, width) if present else None)
    gamma, beta = normal(random, width), maybe(draw, normal(random, width))
    return Case("EmbedLayerNormalization", [*ids, *tables, gamma, beta], {"epsilon": draw(epsilons())})


def skip_layer_normalization(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    shape, width = draw(LEADING), draw(WIDTHS)
    x, skip = eighths(random, *shape, width), maybe(draw, eighths(random, *shape, width))
    gamma, beta = normal(random, width), maybe(draw, normal(random, width))
    bias = maybe(draw, eighths(random, width))
    attributes = {"epsilon": draw(epsilons()), "rms": draw(st.integers(0, 1))}
    return Case("SkipLayerNormalization", [x, skip, gamma, beta, bias], attributes, draw(st.integers(1, 2)))


def bias_gelu(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    shape, width = draw(LEADING), draw(WIDTHS)
    x = draw(st.sampled_from([0.01, 1.0, 10.0])) * normal(random, *shape, width)
    approximate = draw(st.sampled_from(["none", "tanh"]))
    return Case("BiasGelu", [x.astype(np.float32), maybe(draw, normal(random, width))], {"approximate": approximate})


def rotary_embedding(draw: Draw) -> Case:
    """Rows with a table of their own or an index into one, or a batch; some cosines and sines stay in float32."""
    random = np.random.default_rng(draw(SEEDS))
    heads, size = draw(st.integers(1, 4)), draw(st.sampled_from([2, 6, 16, 24, 34, 64]))
    rotary = draw(st.sampled_from([columns for columns in (2, 4, 8, 16, 20, 32, 34, 64) if columns <= size]))
    leading, index = draw(LEADING), None
    positions: tuple[int, ...] = leading
    if len(leading) == 2:
        positions = (draw(st.sampled_from([1, leading[0]])), leading[1])
    elif draw(st.booleans()):
        positions = (7,)
        index = random.integers(0, 7, leading)
    rows, bias = normal(random, *leading, heads * size), maybe(draw, normal(random, heads * size))
    cos, sin = random.uniform(-1, 1, (2, *positions, rotary)).astype(np.float32)  # unequal halves
    attributes = {
        "num_heads": heads,
        "rotated_heads": draw(st.integers(0, heads)),
        "interleaved": draw(st.integers(0, 1)),
    }
    in_float32 = frozenset(draw(st.sampled_from([(), ("cos", "sin")])))
    return Case("RotaryEmbedding", [rows, bias, cos, sin, index], attributes, in_float32=in_float32)


def gated_activation(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    shape, width = draw(LEADING), draw(WIDTHS)
    joined, bias = draw(st.booleans()), maybe(draw, normal(random, 2 * width))
    x = draw(st.sampled_from([0.01, 1.0, 10.0])) * normal(random, *shape, 2 * width if joined else width)
    attributes = {"activation": draw(st.sampled_from(ACTIVATIONS)), "gate_last": draw(st.integers(0, 1)) * joined}
    up = None if joined else normal(random, *shape, width)
    return Case("GatedActivation", [x.astype(np.float32), up, bias], attributes)


def varlen_attention(draw: Draw) -> Case:
    return dense_attention(draw) if draw(st.booleans()) else packed_attention(draw)


def dense_attention(draw: Draw) -> Case:
    """Attention over a batch with a bias that hides some keys, from some queries all, and stays in float32."""
    random = np.random.default_rng(draw(SEEDS))
    heads, shared, size = *draw(HEADS), draw(st.sampled_from([3, 8, 16]))
    batch, queries, keys = draw(st.integers(0, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape = [draw(st.sampled_from([1, full])) for full in (batch, heads, queries, keys)]
    hidden = random.random(shape) < draw(st.sampled_from([0.0, 0.5, 0.9]))
    bias = np.where(hidden, np.finfo(np.float32).min, 3 * normal(random, *shape))
    width, value_width = shared * size, shared * draw(st.sampled_from([size, 5]))
    rows = [normal(random, batch, queries, heads * size), normal(random, batch, keys, width)]
    inputs = [*rows, normal(random, batch, keys, value_width), None, None, bias]
    attributes = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, **draw(WINDOWS), **draw(SOFTCAPS)}
    if draw(st.booleans()):
        inputs[1:4] = [
            *(by_head(part, shared) for part in inputs[1:3]),
            maybe(draw, normal(random, heads * size + width + value_width)),
        ]
        attributes["keys_by_head"] = 1
    return Case("VarlenAttention", inputs, attributes, in_float32=frozenset(["attention_bias"]))


def by_head(rows: Array, heads: int) -> Array:
    """Keys or values [B, L, G*D] as [B, G, L, D]."""
    split = rows.reshape(*rows.shape[:2], heads, rows.shape[2] // heads)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def packed_attention(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    heads, shared, size = *draw(HEADS), draw(st.sampled_from([1, 3, 8, 16, 20]))
    lengths = draw(st.lists(st.integers(0, 9), max_size=4))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    width = (heads + 2 * shared) * size
    bias = maybe(draw, normal(random, width))
    attributes = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, **draw(WINDOWS), **draw(SOFTCAPS)}
    packed = normal(random, int(starts[-1]), width)
    parts: list[Array | None] = [packed, None, None]
    if draw(st.booleans()):
        parts = np.split(packed, [heads * size, (heads + shared) * size], axis=1)
    positions = maybe(draw, positions_with_gaps(random, lengths))
    return Case("VarlenAttention", [*parts, bias, starts, None, positions], attributes)


def positions_with_gaps(random: np.random.Generator, lengths: list[int], most: int = 3) -> Array:
    """Where the rows of each sequence stand: ascending from anywhere, with gaps in which up to `most` are missing."""
    steps = [random.integers(1, most + 2, length) for length in lengths]
    return np.concatenate([np.zeros(0, np.int64), *(np.cumsum(row) for row in steps)]).astype(np.int64)


def segment_pooling(draw: Draw) -> Case:
    random = np.random.default_rng(draw(SEEDS))
    starts = np.concatenate([[0], np.cumsum(draw(st.lists(st.integers(0, 9), max_size=5)))]).astype(np.int32)
    rows = normal(random, int(starts[-1]), draw(WIDTHS))
    return Case("SegmentPooling", [rows, starts], {"mode": draw(st.sampled_from(["mean", "sum", "max", "first"]))})


def quantized_mat_mul(draw: Draw) -> Case:
    """Rows on both sides of zero, on one, of one number, and of zeros."""
    random = np.random.default_rng(draw(SEEDS))
    depth, width = draw(WIDTHS), draw(WIDTHS)
    x = draw(st.sampled_from([1e-20, 0.01, 1.0, 1e4])) * normal(random, *draw(LEADING), depth)
    x += draw(st.sampled_from([0.0, 0.0, -10.0, 10.0]))
    x *= random.random((*x.shape[:-1], 1)) < draw(st.sampled_from([0.5, 1.0]))
    weight = random.integers(-64, 65, (depth, width)).astype(np.int8)
    inputs = [x.astype(np.float32), tiled(weight), random.random(width).astype(np.float32), weight.sum(0, np.int32)]
    attributes = {"activation": draw(st.sampled_from(("none", *ACTIVATIONS)))}
    return Case("QuantizedMatMul", [*inputs, maybe(draw, normal(random, width))], attributes)


def epsilons() -> st.SearchStrategy[float]:
    return st.sampled_from([1e-12, 1e-5, 1e-2])


MAKERS: dict[str, Callable[[Draw], Case]] = {
    "RemovePadding": remove_padding,
    "RestorePadding": restore_padding,
    "EmbedLayerNormalization": embed_layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
    "BiasGelu": bias_gelu,
    "RotaryEmbedding": rotary_embedding,
    "GatedActivation": gated_activation,
    "VarlenAttention": varlen_attention,
    "SegmentPooling": segment_pooling,
    "QuantizedMatMul": quantized_mat_mul,
}


def cases(operator: str) -> st.SearchStrategy[Case]:
    """Random uses of the operator."""

    @st.composite
    def make(draw: Draw) -> Case:
        return MAKERS[operator](draw)

    return make()
