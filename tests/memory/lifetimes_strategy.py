"""Random lifetimes and sizes, for the tests of everything that places buffers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from turbo_onnx.memory.formula import IntArray
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
