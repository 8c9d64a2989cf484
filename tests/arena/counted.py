"""What the arena counted during a statement, whatever the process did before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple

from turbo_onnx.runtime.arena import ArenaStats, arena_stats


class Counted:
    """What the arena counted; the differences, once the block of the statement is left."""

    stats: ArenaStats


@contextmanager
def counted() -> Iterator[Counted]:
    result, before = Counted(), arena_stats()
    yield result
    gc.collect()
    pairs = zip(astuple(arena_stats()), astuple(before), strict=True)
    result.stats = ArenaStats(*(after - then for after, then in pairs))
