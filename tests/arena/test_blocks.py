"""What blocks hold, and when they give it back."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

MIB = 1 << 20
_names = count(1)


@dataclass(frozen=True)
class Usage:
    blocks: int
    mapped: int
    held: int
    in_use: int
    peak: int


class Pool:
    """The pool of one policy."""

    def __init__(self, probe: ctypes.CDLL, policy: str) -> None:
        self.probe, self.policy = probe, policy.encode()
        probe.block_trim()

    def acquire(self, size: int) -> int | None:
        return self.probe.block_acquire(self.policy, size)

    def release(self, block: int) -> None:
        self.probe.block_release(block)

    def run(self, size: int, times: int = 1) -> None:
        for _ in range(times):
            block = self.acquire(size)
            assert block is not None
            self.release(block)

    def usage(self) -> Usage:
        numbers = (ctypes.c_int64 * 5)()
        self.probe.block_numbers(self.policy, numbers)
        return Usage(*numbers)

    def held(self) -> int:
        return self.usage().held


@pytest.fixture
def trim(probe):
    return Pool(probe, "trim")


@pytest.fixture
def limited(probe):
    """10 MiB and a bit, of a pool of its own."""
    return Pool(probe, f"limit:{10 * MIB + next(_names)}")


def test_a_block_is_used_again_and_grows_only_when_a_run_needs_more(trim):
    trim.run(3 * MIB, 5)
    assert trim.usage().blocks == 1
    assert trim.held() == 3 * MIB
    trim.run(2 * MIB, 5)
    assert trim.held() == 3 * MIB
    trim.run(4 * MIB)
    assert trim.held() == 4 * MIB
    assert trim.usage().in_use == 0


def test_growing_keeps_the_memory_that_the_block_has(trim):
    for size in (MIB, 5 * MIB, 50 * MIB):
        block = trim.acquire(size)
        base = trim.probe.block_base(block)
        if size > MIB:
            assert ctypes.string_at(base, 4) == b"here"
        ctypes.memmove(base, b"here", 4)
        ctypes.memset(base + size - 1, 1, 1)
        trim.release(block)


def test_runs_at_the_same_time_have_blocks_of_their_own(trim):
    blocks = [trim.acquire(MIB) for _ in range(5)]
    assert len(set(blocks)) == trim.usage().blocks == 5
    assert trim.usage().in_use == 5 * MIB
    assert trim.usage().peak >= 5 * MIB
    for block in blocks:
        trim.release(block)
    assert trim.usage().in_use == 0


def test_a_block_that_is_large_enough_is_taken_before_others(trim):
    small, large = trim.acquire(MIB), trim.acquire(8 * MIB)
    trim.release(large)
    trim.release(small)
    again = trim.acquire(6 * MIB)
    assert again == large
    trim.release(again)
    assert trim.held() == 9 * MIB


def test_long_and_short_batches_in_turn_keep_what_the_long_ones_need(trim):
    for _ in range(10):
        trim.run(80 * MIB)
        trim.run(MIB, 10)
    assert trim.held() == 80 * MIB


def test_short_batches_after_a_long_one_give_its_memory_back(trim):
    trim.run(80 * MIB)
    trim.run(2 * MIB, 15)
    assert trim.held() == 80 * MIB
    trim.run(2 * MIB, 2)
    assert trim.held() == 2 * MIB


def test_a_little_more_than_recent_runs_needed_is_kept(trim):
    trim.run(10 * MIB)
    trim.run(9 * MIB, 40)
    assert trim.held() == 10 * MIB


def test_what_is_given_back_is_no_longer_resident(trim):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before, size = resident(), 64 * MIB
    block = trim.acquire(size)
    ctypes.memset(trim.probe.block_base(block), 1, size)
    assert resident() - before > 60 * MIB
    trim.release(block)
    trim.run(MIB, 20)
    assert resident() - before < 8 * MIB


def test_blocks_that_are_left_from_busier_times_are_given_back(trim):
    blocks = [trim.acquire(8 * MIB) for _ in range(4)]
    for block in blocks:
        trim.release(block)
    trim.run(8 * MIB, 60)
    assert trim.usage().blocks == 4
    trim.run(8 * MIB, 20)
    assert trim.usage().blocks == 1
    assert trim.held() == 8 * MIB


def test_growing_gives_nothing_back(probe):
    pool = Pool(probe, "grow")
    blocks = [pool.acquire(8 * MIB) for _ in range(3)]
    for block in blocks:
        pool.release(block)
    pool.run(MIB, 200)
    assert pool.held() == 24 * MIB
    probe.block_trim()
    assert pool.usage().mapped == pool.held() == 0


def test_blocks_never_hold_more_than_the_limit(limited):
    first, second = limited.acquire(6 * MIB), limited.acquire(4 * MIB)
    assert limited.acquire(MIB) is None
    limited.release(second)
    third = limited.acquire(3 * MIB)  # the block of the second
    assert third == second
    assert limited.acquire(5 * MIB) is None
    limited.release(first)
    limited.release(third)
    limited.run(9 * MIB)
    assert limited.held() <= 10 * MIB
    assert limited.acquire(11 * MIB) is None
    limited.run(10 * MIB)


def test_other_blocks_make_room_under_the_limit(limited):
    blocks = [limited.acquire(3 * MIB) for _ in range(3)]
    for block in blocks:
        limited.release(block)
    assert limited.held() == 9 * MIB
    limited.run(8 * MIB)
    assert limited.held() == 8 * MIB


def test_the_limit_trims_between_runs_too(limited):
    limited.run(9 * MIB)
    limited.run(MIB, 20)
    assert limited.held() == MIB


def test_an_address_is_found_in_its_block_and_nowhere_else(trim):
    blocks = [trim.acquire(MIB + i * 4096) for i in range(3)]
    for i, block in enumerate(blocks):
        base = trim.probe.block_base(block)
        assert trim.probe.block_at(base) == trim.probe.block_at(base + MIB + i * 4096 - 1) == block
        assert trim.probe.block_at(base - 1) != block
    other = trim.probe.heap_allocate(100)
    assert trim.probe.block_at(other) is None
    trim.probe.heap_release(other)
    for block in blocks:
        trim.release(block)


def test_a_block_beyond_all_memory_is_refused(trim):
    assert trim.acquire(1 << 62) is None
    assert trim.usage().in_use == 0


@pytest.mark.parametrize(
    "text", ["", "Trim", "limit", "limit:", "limit:0", "limit:-1", "limit:1k", "limit:" + "9" * 30]
)
def test_what_is_no_policy_is_refused_with_a_sentence(probe, text):
    sentence = probe.policy_error(text.encode()).decode()
    assert sentence.endswith(f"is '{text}', but must be off, grow, trim or limit:BYTES")


@pytest.mark.parametrize("text", ["off", "grow", "trim", "limit:1000000000000"])
def test_policies(probe, text):
    assert probe.policy_error(text.encode()) is None
