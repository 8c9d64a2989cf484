"""Write down what ONNX Runtime allocates and frees in a run: the library's allocator tells.

Only what happens on the calling thread after the node that begins a run is written down; that is all, in sequential
execution. Runs are recorded as they will happen: with the library, in the file as it is saved.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbo_onnx.errors import PassError
from turbo_onnx.runtime import library_path
from turbo_onnx.sessions import Session
from turbo_onnx.verify_inputs import Feed

_ALLOCATED, _FREED, _BEGUN, _EXTENT = 1, 2, 3, 4
_FIELDS = 4  # kind, size, number of the pointer, nanoseconds
_ROOM = 1 << 12


@dataclass(frozen=True)
class Recording:
    """One run.

    Attributes:
        extents: of all axes of all inputs of the node that begins a run, one after the other.
        sizes: of the allocations in bytes, in order. Nothing is allocated for tensors without elements.
        times: of the allocations, in nanoseconds of the clock by which ONNX Runtime's profiler goes.
        events: 0 for the next allocation, k + 1 where allocation k is freed.
    """

    extents: tuple[int, ...]
    sizes: tuple[int, ...]
    times: tuple[int, ...]
    events: tuple[int, ...]

    @property
    def outputs(self) -> frozenset[int]:
        """The allocations that outlive the run."""
        return frozenset(range(len(self.sizes))) - {event - 1 for event in self.events if event}


def record(session: Session, feed: Feed, names: Sequence[str] | None = None) -> Recording:
    """Run a model once and write down what it allocates.

    Args:
        session: of a model with a node that begins a run, with the library registered, for sequential execution.
        feed: its inputs.
        names: the outputs to compute; None for all.

    Raises:
        PassError: the run never began: the node is missing, or another allocator serves the session.
    """
    library = ctypes.CDLL(library_path())
    library.turbo_onnx_record_end.restype = ctypes.c_size_t
    library.turbo_onnx_record_end.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.turbo_onnx_record_begin()
    try:
        outputs = session.run_with_ort_values(names, _values(feed))
    finally:
        rows = _fetch(library)
    del outputs
    return _parse(rows)


def _values(feed: Feed) -> dict[str, Any]:
    from turbo_onnx.sessions import runtime

    value = runtime().OrtValue
    return {name: value.ortvalue_from_numpy(array) for name, array in feed.items()}


def _fetch(library: Any) -> np.ndarray[Any, Any]:
    room = _ROOM
    while True:
        rows = np.zeros((room, _FIELDS), np.int64)
        count = library.turbo_onnx_record_end(rows.ctypes.data, rows.size)
        if count <= room:
            return rows[:count]
        room = count


def _parse(rows: np.ndarray[Any, Any]) -> Recording:
    begun = np.flatnonzero(rows[:, 0] == _BEGUN)
    if not len(begun):
        raise PassError("the allocations of a run cannot be recorded: ONNX Runtime did not ask the library for memory.")
    extents: list[int] = []
    sizes: list[int] = []
    times: list[int] = []
    events: list[int] = []
    alive: dict[int, int] = {}
    for kind, size, pointer, nanoseconds in rows[begun[-1] + 1 :].tolist():
        if kind == _EXTENT:
            extents.append(size)
        elif kind == _ALLOCATED:
            alive[pointer] = len(sizes)
            sizes.append(size)
            times.append(nanoseconds)
            events.append(0)
        elif kind == _FREED and pointer in alive:
            events.append(alive.pop(pointer) + 1)
    return Recording(tuple(extents), tuple(sizes), tuple(times), tuple(events))
