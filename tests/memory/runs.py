"""Random lifetimes, sizes and shapes, for the tests of everything that places buffers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from turbo_onnx.memory.formula import Formula, IntArray
from turbo_onnx.memory.lifetimes import Lifetimes

INTERVALS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    min_size=1,
    max_size=14,
)
LIFETIMES = INTERVALS.map(Lifetimes.of)


@st.composite
def sized(draw: st.DrawFn, smallest: int = 0) -> tuple[Lifetimes, IntArray]:
    """Lifetimes, and the size of each buffer."""
    lifetimes = draw(LIFETIMES)
    sizes = draw(st.lists(st.integers(smallest, 1000), min_size=len(lifetimes), max_size=len(lifetimes)))
    return lifetimes, np.array(sizes, np.int64)


def triples(lifetimes: Lifetimes, sizes: IntArray) -> list[tuple[int, int, int]]:
    """What the validator reads: begin, end and size of each buffer."""
    return list(zip(lifetimes.first.tolist(), lifetimes.last.tolist(), sizes.tolist(), strict=True))


def layered_run(seed: int, layers: int) -> Lifetimes:
    """About ten buffers a layer, most of them read by what comes next, some a layer later: as an encoder's run."""
    generator = np.random.default_rng(seed)
    count = 10 * layers
    first = np.arange(count) * 2
    last = first + 1 + 2 * generator.geometric(0.25, count)
    return Lifetimes(first, np.minimum(last, 2 * count))


B, S, T, ONE = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)
KINDS = tuple(
    Formula.of(terms)
    for terms in (
        [(T, 4 * 768)],
        [(T, 4 * 3072)],
        [(T, 4 * 2304)],
        [((1, 2, 0), 4 * 12)],
        [((1, 1, 0), 4 * 768)],
        [((1, 1, 0), 8)],
        [((0, 2, 0), 4)],
        [(B, 4 * 768)],
        [(B, 8), (ONE, 8)],
    )
)
"""What an encoder's buffers have, in batch B, length S and tokens T."""


def ragged_shapes(count: int, seed: int) -> IntArray:
    """Shapes [count, 3] of batch, length, and tokens, evenly by magnitude; a sequence has one token at least."""
    generator = np.random.default_rng(seed)
    batch = np.exp(generator.uniform(0, np.log(65), count)).astype(np.int64)
    length = np.exp(generator.uniform(0, np.log(513), count)).astype(np.int64)
    tokens = batch + (generator.uniform(0, 1, count) * batch * (length - 1)).astype(np.int64)
    return np.stack([batch, length, tokens], axis=1)


def drawn_formulas(seed: int, count: int, kinds: tuple[Formula, ...] = KINDS) -> list[Formula]:
    """One kind for each buffer."""
    return [kinds[index] for index in np.random.default_rng(seed).integers(0, len(kinds), count)]
