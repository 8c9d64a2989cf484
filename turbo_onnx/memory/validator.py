"""Says whether a memory plan is safe, and shares no code with what makes plans.

A mistake in the planner must not pass here because the same mistake was made twice, so this file knows nothing but the
definition: at no moment may two buffers that are alive have a byte in common.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from turbo_onnx.errors import PassError

Buffer = tuple[int, int, int]  # the first moment, the moment of the free, the size in bytes


def validate_placement(
    buffers: Sequence[Buffer], offsets: Sequence[int], alignment: int = 1, names: Sequence[str] | None = None
) -> int:
    """Check that no two buffers that are alive at once overlap.

    A sweep over time holds the address ranges that are alive, in order. They do not overlap, so a new one can only
    meet its two neighbours.

    Args:
        buffers: for each one when it begins, when it ends (half-open) and how many bytes it has.
        offsets: where each one stands, in bytes.
        alignment: what every offset must be a multiple of.
        names: what to call them in the error; their numbers, if left out.

    Returns:
        How many bytes the placement needs.

    Raises:
        PassError: two buffers overlap, or an offset is negative or not aligned, or there are too few or too many.
    """
    if len(buffers) != len(offsets):
        raise PassError(f"{len(buffers)} buffers have {len(offsets)} offsets")
    called = list(names) if names is not None else [f"buffer {number}" for number in range(len(buffers))]
    for name, offset in zip(called, offsets, strict=True):
        if offset < 0 or offset % alignment:
            raise PassError(f"{name} stands at {offset}, which is no multiple of {alignment} that is at least 0")

    def described(number: int) -> str:
        (first, last, size), offset = buffers[number], offsets[number]
        return f"{called[number]} (bytes {offset} to {offset + size}, alive from {first} to {last})"

    present = [number for number, (first, last, size) in enumerate(buffers) if size > 0 and first < last]
    # At one moment what ends makes place for what begins.
    changes = [(buffers[number][0], 1, number) for number in present]
    changes += [(buffers[number][1], 0, number) for number in present]
    alive: list[tuple[int, int]] = []  # offset and number
    for _, begins, number in sorted(changes):
        place = bisect_left(alive, (offsets[number], number))
        if not begins:
            del alive[place]
            continue
        for _, other in alive[max(place - 1, 0) : place + 1]:
            if (
                offsets[number] < offsets[other] + buffers[other][2]
                and offsets[other] < offsets[number] + buffers[number][2]
            ):
                raise PassError(f"{described(min(number, other))} overlaps {described(max(number, other))}")
        alive.insert(place, (offsets[number], number))
    return max((offsets[number] + buffers[number][2] for number in present), default=0)


def validate_order(buffers: Sequence[Buffer], order: Sequence[int], alignment: int = 1) -> int:
    """Check a stacking order at given sizes: stack the buffers by its definition, and check the placement.

    Args:
        buffers: as for `validate_placement`.
        order: the numbers of all buffers, from the bottom up.
        alignment: what sizes are rounded up to.

    Returns:
        How many bytes the placement needs.

    Raises:
        PassError: the order does not name every buffer once, or the placement that it gives is wrong.
    """
    if sorted(order) != list(range(len(buffers))):
        raise PassError(f"the order of {len(buffers)} buffers does not name each of them once")
    offsets = [0] * len(buffers)
    for place, number in enumerate(order):
        first, last, _ = buffers[number]
        for below in order[:place]:
            start, end, size = buffers[below]
            if start < last and first < end:
                offsets[number] = max(offsets[number], offsets[below] + (size + alignment - 1) // alignment * alignment)
    return validate_placement(buffers, offsets, alignment)
