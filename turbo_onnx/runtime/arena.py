"""What the library's allocator has done in this process, and how to make it give memory back.

Runs of a model that carries a memory plan get their memory from a block, at the places that the plan gives them; all
else gets it from a heap. Whether that is so for a given service is seen here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields

from turbo_onnx.runtime.library import library_path


@dataclass(frozen=True)
class ArenaStats:
    """Counted since the process began, over all sessions that the library is registered with.

    Attributes:
        runs_announced: how many runs of models with a plan have begun.
        runs_kept: those that kept to their plan to its end.
        runs_mismatched: those that allocated or freed something else than their plan says, or of whose sizes something
            does not hold that it assumes, and went on with the heap.
        runs_abandoned: those that broke off: an operator failed, or another run began on the same thread meanwhile.
        runs_over_limit: those that got no block, since the limit forbids it or the system has no memory.
        allocations_served: how many allocations got memory from blocks.
        allocations_outputs: how many got it from the heap since they outlive the run, as the plan says.
        allocations_unknown: how many got it from the heap since no formula gives their size, as the plan says.
        allocations_off_plan: how many got it from the heap in runs that were mismatched, abandoned or over the limit.
        blocks: how many blocks have memory now; each run that is going on has one.
        block_bytes_mapped: their address space.
        block_bytes_held: how much of it may have memory behind it, at most.
        block_bytes_in_use: how much of that the runs need that are going on.
        block_bytes_peak: the most that was in use at one time.
        heap_bytes_in_use: memory of the heap that is in use, with what it needs for itself.
        heap_bytes_cached: memory that the heap keeps for later.
        heap_bytes_reserved: memory that lives as long as a session, such as weights.
    """

    runs_announced: int
    runs_kept: int
    runs_mismatched: int
    runs_abandoned: int
    runs_over_limit: int
    allocations_served: int
    allocations_outputs: int
    allocations_unknown: int
    allocations_off_plan: int
    blocks: int
    block_bytes_mapped: int
    block_bytes_held: int
    block_bytes_in_use: int
    block_bytes_peak: int
    heap_bytes_in_use: int
    heap_bytes_cached: int
    heap_bytes_reserved: int


def arena_stats() -> ArenaStats:
    """The counts of this process.

    Raises:
        InputError: the library is not there.
    """
    count = len(fields(ArenaStats))
    numbers = (ctypes.c_int64 * count)()
    read = ctypes.CDLL(library_path()).turbo_onnx_arena_stats
    read.argtypes, read.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_size_t
    read(numbers, count)
    return ArenaStats(*numbers)


def trim() -> None:
    """Give the system all memory back that is only kept for later runs.

    Raises:
        InputError: the library is not there.
    """
    ctypes.CDLL(library_path()).turbo_onnx_arena_trim()
