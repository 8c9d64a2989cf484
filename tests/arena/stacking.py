"""Where buffers lie, by the definition of a stacking order, for comparison with the library."""

from __future__ import annotations

from collections.abc import Sequence

from turbo_onnx.memory.plan import Variant


def offsets_of(variant: Variant, values: Sequence[int]) -> tuple[int, list[int]]:
    """By the definition: a buffer lies on the highest of those below it that are alive at the same time."""
    sizes = [0 if buffer.size is None else buffer.size.evaluate(values) for buffer in variant.buffers]
    born, died, time = [], {}, 0
    for time, event in enumerate(variant.events):
        if event:
            died[event - 1] = time
        else:
            born.append(time)
    target = 0 if variant.tree else -1
    while target >= 0:
        a, b, yes, no = variant.tree[target]
        target = yes if sizes[a] <= sizes[b] else no
    order = variant.orders[-(target + 1)]
    result = [-1] * len(sizes)
    for place, buffer in enumerate(order):
        under = [
            result[other] + -(-sizes[other] // 64) * 64
            for other in order[:place]
            if born[other] < died[buffer] and born[buffer] < died[other]
        ]
        result[buffer] = max(under, default=0)
    ends = [result[buffer] + -(-sizes[buffer] // 64) * 64 for buffer in order]
    return max(ends, default=0), result
