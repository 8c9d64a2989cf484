"""What the heap keeps of what is freed, and for how long."""

from __future__ import annotations

import ctypes
import random

import pytest

MIB = 1 << 20
WINDOWS = 4 * 1024 + 1024  # allocations after which a peak is forgotten for certain


@pytest.fixture
def heap(probe):
    probe.heap_trim()
    return probe


def usage(heap) -> tuple[int, int, int]:
    """Bytes in use, kept, and reserved."""
    numbers = (ctypes.c_int64 * 3)()
    heap.heap_numbers(numbers)
    return numbers[0], numbers[1], numbers[2]


def use(heap, *sizes: int) -> None:
    """All at once, and then none."""
    memory = [heap.heap_allocate(size) for size in sizes]
    assert all(memory)
    for each in memory:
        heap.heap_release(each)


def test_memory_is_aligned_and_used_again(heap):
    for size in (1, 63, 1000, 100_000, 5 * MIB):
        first = heap.heap_allocate(size)
        assert first % 64 == 0
        heap.heap_release(first)
        assert heap.heap_allocate(size) == first
        heap.heap_release(first)


def test_nothing_is_no_memory_and_too_much_is_refused(heap):
    assert heap.heap_allocate(0) is None
    heap.heap_release(None)
    before = usage(heap)
    assert heap.heap_allocate(1 << 45) is None
    assert heap.heap_allocate((1 << 64) - 1) is None
    assert heap.heap_reserve((1 << 64) - 1) is None
    assert usage(heap)[0] == before[0]


def test_memory_does_not_grow_with_every_new_shape(heap):
    """Each shape needs ten buffers, about 5 MiB of them at most: 80 shapes do not need 400 MiB."""
    choose = random.Random(3)
    most = 0
    for _ in range(80):
        sizes = [choose.randint(1, MIB) for _ in range(10)]
        use(heap, *sizes)
        most = max(most, sum(sizes))
        in_use, cached, _ = usage(heap)
        assert in_use == 0
        assert cached <= most * 9 / 8 * 5 / 4 * 2 + 4 * MIB


def test_a_peak_is_kept_for_a_while_and_then_forgotten(heap):
    use(heap, *[2 * MIB] * 40)
    kept = usage(heap)[1]
    assert kept >= 80 * MIB
    for _ in range(1000):
        use(heap, 50_000)
    assert usage(heap)[1] >= kept
    for _ in range(WINDOWS):
        use(heap, 50_000)
    assert usage(heap)[1] < 6 * MIB


def test_memory_that_is_no_longer_needed_becomes_part_of_what_is(heap):
    """Its pages are there already."""
    old = [heap.heap_allocate(2 * MIB) for _ in range(20)]
    for memory in old:
        ctypes.memset(memory, 0x55, 2 * MIB)
        heap.heap_release(memory)
    new = [heap.heap_allocate(5 * MIB) for _ in range(6)]
    assert sum(ctypes.string_at(memory, MIB) == b"\x55" * MIB for memory in new) >= 3
    for memory in new:
        ctypes.memset(memory, 1, 5 * MIB)
        heap.heap_release(memory)


def test_trimming_gives_back_what_is_kept_and_leaves_what_is_in_use(heap):
    memory = heap.heap_allocate(3 * MIB)
    use(heap, MIB, 5000)
    heap.heap_trim()
    in_use, cached, _ = usage(heap)
    assert in_use >= 3 * MIB
    assert cached == 0
    ctypes.memset(memory, 1, 3 * MIB)
    heap.heap_release(memory)


def test_what_is_reserved_is_not_kept(heap):
    memory = heap.heap_reserve(2 * MIB)
    assert memory % 64 == 0
    assert usage(heap)[2] >= 2 * MIB
    ctypes.memset(memory, 1, 2 * MIB)
    heap.heap_release(memory)
    assert usage(heap)[1:] == (0, 0)


def test_an_allocation_that_is_kept_takes_nanoseconds(heap):
    """40 were measured; ONNX Runtime's arena takes about twice as long."""
    assert heap.heap_cost(1000) < 1000
    assert heap.heap_cost(10 * MIB) < 1000
