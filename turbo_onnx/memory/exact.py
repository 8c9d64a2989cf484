"""The best placement there is, by a constraint solver: for those who have minutes, and to know how good the rest is.

Each buffer is a rectangle whose times are fixed and whose offset is free; no two may overlap, and the highest top is to
be as low as possible. The solver is CP-SAT of OR-tools, an optional dependency. It begins with the greedy placement,
improved by local search, and is not asked where that meets the lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from turbo_onnx.errors import InputError
from turbo_onnx.memory.formula import IntArray
from turbo_onnx.memory.lifetimes import Lifetimes, rounded_up
from turbo_onnx.memory.local_search import improve
from turbo_onnx.memory.placement import Placement, place, settled, stacking_order

_SEARCH_STEPS = 2000


@dataclass(frozen=True)
class ExactPlacement:
    """A placement, and what is known of it.

    Attributes:
        placement: the best one that was found.
        bound: no placement needs fewer bytes than this.
    """

    placement: Placement
    bound: int

    @property
    def optimal(self) -> bool:
        """Whether it is proven that there is none better."""
        return self.placement.peak == self.bound


def place_exactly(
    lifetimes: Lifetimes, sizes: IntArray, alignment: int = 64, *, effort: float = 60.0
) -> ExactPlacement:
    """The placement of the smallest peak, or the best one within the effort.

    Args:
        lifetimes: when the buffers are alive.
        sizes: int64 [buffers] in bytes.
        alignment: what sizes are rounded up to.
        effort: how long to search, in the solver's own units. One is about a second, but it counts steps and not
            time, so that the same input gives the same placement on every machine.

    Raises:
        InputError: OR-tools is not installed.
    """
    cp_model = require_solver()
    total = rounded_up(sizes, alignment)
    bound = int(lifetimes.lower_bound(sizes, alignment))
    greedy = place(lifetimes, sizes, alignment)
    best = improve(lifetimes, stacking_order(greedy.offsets), sizes, alignment, steps=_SEARCH_STEPS)
    if best.peak == bound:
        return ExactPlacement(best, bound)

    unit = int(np.gcd.reduce(total))  # some stacking is optimal, so offsets are sums of sizes
    model = cp_model.CpModel()
    peak = model.new_int_var(bound // unit, best.peak // unit, "peak")
    first, last = lifetimes.slot_lists
    times, spaces, offsets, demands = [], [], {}, []
    for number in np.flatnonzero(total).tolist():
        size = int(total[number]) // unit
        offsets[number] = model.new_int_var(0, best.peak // unit - size, f"offset {number}")
        times.append(model.new_fixed_size_interval_var(first[number], last[number] - first[number], f"time {number}"))
        spaces.append(model.new_fixed_size_interval_var(offsets[number], size, f"space {number}"))
        demands.append(size)
        model.add(offsets[number] + size <= peak)
        model.add_hint(offsets[number], best.offsets[number] // unit)
    model.add_no_overlap_2d(times, spaces)
    model.add_cumulative(times, demands, peak)
    model.add_hint(peak, best.peak // unit)
    model.minimize(peak)

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1  # several would share what they find in an order that depends on the machine
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(model)
    proven = max(bound, round(solver.best_objective_bound) * unit)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = [solver.value(offsets[number]) * unit if number in offsets else 0 for number in range(len(total))]
        stacked = settled(lifetimes, stacking_order(found), sizes, alignment)
        best = min(best, stacked, key=lambda placement: placement.peak)
    return ExactPlacement(best, min(proven, best.peak))


def require_solver() -> ModuleType:
    """The solver's module.

    Raises:
        InputError: OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise InputError("exact placement needs OR-tools; install it with: pip install 'turbo-onnx[exact]'.") from None
    module: ModuleType = cp_model
    return module
