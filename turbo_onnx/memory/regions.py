"""A few stacking orders for all shapes at once, and how a run chooses among them.

Which order is best depends on the sizes, and sizes depend on the shape of a run: of two buffers with 4·T·3072 and
48·B·S² bytes, one is larger in long batches and the other in short ones. The space of shapes falls into regions, and
within a region one order does.

What is done here: greedy placements are made at some shapes, and the order of each is tried at all of them. As long as
some shape needs more than its lower bound under every order so far, the worst of these is placed for itself. Then a
decision tree is grown, as trees are for classification: its questions are comparisons between the sizes of two
buffers, its leaves are orders, and its cost is the memory above the lower bound. Mostly there is nothing to ask: all
sizes of a packed encoder grow with its tokens, and one order meets the bound everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from turbo_onnx.memory.decision import TreeNode, choose, choose_many
from turbo_onnx.memory.exact import place_exactly, require_solver
from turbo_onnx.memory.formula import Formula, IntArray
from turbo_onnx.memory.lifetimes import Lifetimes
from turbo_onnx.memory.local_search import improve
from turbo_onnx.memory.placement import Order, greedy_placements, peaks, stacking_order

MOST_ORDERS = 8

_FIRST_SHAPES = 512
_MORE_SHAPES = 64
_SHAPES_PLACED = (8, 4, 4, 4)
"""How many are placed for themselves at most, in each round: before more shapes are looked at, and after that."""
_TOLERABLE = 0.045
_SEARCH_STEPS = 300
_EFFORT = 10.0
_MOST_LEAVES = 24
_WORST_WEIGHT = 100.0
_NEGLIGIBLE = 0.002  # of the lower bound, at one shape

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Comparison = tuple[int, int]


@dataclass(frozen=True)
class OrderPlan:
    """Orders, and the choice among them.

    Attributes:
        orders: each a permutation of the buffers, bottom first; at least one.
        tree: inner nodes (a, b, yes, no): whether buffer a is at most as large as buffer b. Targets ≥ 0 are inner
            nodes of a higher number, others are order -(target + 1). Empty: the first order always.
    """

    orders: tuple[Order, ...]
    tree: tuple[TreeNode, ...] = ()

    def choose(self, sizes: IntArray) -> int:
        """Which order runs of these sizes take: int64 [buffers] to the number of an order."""
        return choose(self.tree, sizes)

    def peaks(self, lifetimes: Lifetimes, sizes: IntArray, alignment: int = 64) -> IntArray:
        """How many bytes runs need: sizes int64 [shapes, buffers] to int64 [shapes]."""
        chosen = choose_many(self.tree, sizes)
        needed = np.zeros(len(sizes), np.int64)
        for number in np.unique(chosen):
            there = chosen == number
            needed[there] = peaks(lifetimes, self.orders[number], sizes[there], alignment)
        return needed


def plan_orders(
    lifetimes: Lifetimes,
    formulas: Sequence[Formula],
    samples: IntArray,
    alignment: int = 64,
    *,
    exact: bool = False,
) -> OrderPlan:
    """The orders of a plan.

    Args:
        lifetimes: when the buffers are alive.
        formulas: the size of each buffer in bytes.
        samples: int64 [shapes, variables], shapes that stand for all: corners, and some thousand in between. What a
            run needs was seen at these alone; it is memory-safe at every other shape all the same. The first are
            looked at, and then those of the others at which that was not good enough.
        alignment: what sizes are rounded up to.
        exact: ask the solver, too, at shapes where the search is above the lower bound. That may take minutes.

    Returns:
        The fewest orders that were found, at most `MOST_ORDERS`. The same input gives the same orders.

    Raises:
        ValueError: there is not one formula for each buffer.
        InputError: `exact`, and the solver is not installed.
    """
    if exact:
        require_solver()
    if len(formulas) != len(lifetimes):
        raise ValueError(f"{len(lifetimes)} buffers have {len(formulas)} formulas")
    if not formulas or not len(samples):
        return OrderPlan((tuple(range(len(formulas))),))
    values = {formula: formula.evaluate_many(samples) for formula in dict.fromkeys(formulas)}
    sizes = np.stack([values[formula] for formula in formulas], axis=1)
    bounds = np.maximum(lifetimes.lower_bound(sizes, alignment), 1)
    pool = _Pool(lifetimes, np.unique(sizes[:_FIRST_SHAPES], axis=0), alignment, exact)
    best: tuple[float, OrderPlan] | None = None
    for placed in _SHAPES_PLACED:
        pool.fill(placed)
        plan = _grow_tree(pool, _comparisons(formulas, pool.sizes))
        excess = plan.peaks(lifetimes, sizes, alignment) / bounds - 1
        worst = float(excess.max())
        if best is None or worst < best[0]:
            best = worst, plan
        if worst <= _TOLERABLE:
            break
        pool.look_at(sizes[np.argsort(-excess, kind="stable")[:_MORE_SHAPES]])
    assert best is not None
    return best[1]


class _Pool:
    """Orders, and how far above the lower bound each is at every shape.

    Attributes:
        sizes: int64 [shapes, buffers].
        orders: those tried so far.
        excess: for each order float64 [shapes], the bytes above the bound in multiples of the bound.
        placed: bool [shapes], those that were placed for themselves.
    """

    def __init__(self, lifetimes: Lifetimes, sizes: IntArray, alignment: int, exact: bool) -> None:
        self.lifetimes, self.sizes, self.alignment, self.exact = lifetimes, sizes, alignment, exact
        self.bounds = lifetimes.lower_bound(sizes, alignment)
        self.placed = np.zeros(len(sizes), np.bool_)
        self.orders: list[Order] = []
        self.excess: list[FloatArray] = []

    def fill(self, most: int) -> None:
        """Try orders until each shape has one that is near its bound, or so many shapes were placed for themselves."""
        for _ in range(most):
            least = np.min(self.excess, axis=0) if self.excess else self.bounds.astype(np.float64)
            shape = int(np.where(self.placed, 0.0, least).argmax())
            if self.placed[shape] or least[shape] <= _NEGLIGIBLE:
                return
            self.placed[shape] = True
            if self._place(shape):
                return

    def look_at(self, more: IntArray) -> None:
        """Take these shapes into account, too, and forget the orders that are the best one nowhere."""
        best = np.unique(np.argmin(self.excess, axis=0)).tolist()
        self.orders = [self.orders[number] for number in best]
        self.sizes = np.concatenate([self.sizes, more])
        self.placed = np.concatenate([self.placed, np.zeros(len(more), np.bool_)])
        self.bounds = self.lifetimes.lower_bound(self.sizes, self.alignment)
        orders, self.orders, self.excess = self.orders, [], []
        for order in orders:
            self._try(order)

    def _place(self, shape: int) -> bool:
        """Try the greedy orders of one shape, and a search where they are above its bound; tells of one for all."""
        best: tuple[float, Order] | None = None
        for offsets in greedy_placements(self.lifetimes, self.sizes[shape], self.alignment):
            order = stacking_order(offsets)
            excess = self._try(order)
            if not excess.any():
                return True
            if best is None or excess[shape] < best[0]:
                best = excess[shape], order
        assert best is not None
        if best[0] > _NEGLIGIBLE:
            found = improve(self.lifetimes, best[1], self.sizes[shape], self.alignment, steps=_SEARCH_STEPS)
            if self.exact and found.peak > self.bounds[shape]:
                solved = place_exactly(self.lifetimes, self.sizes[shape], self.alignment, effort=_EFFORT)
                found = min(found, solved.placement, key=lambda placement: placement.peak)
            return not self._try(stacking_order(found.offsets)).any()
        return False

    def _try(self, order: Order) -> FloatArray:
        needed = peaks(self.lifetimes, order, self.sizes, self.alignment)
        excess: FloatArray = (needed - self.bounds) / np.maximum(self.bounds, 1)
        self.orders.append(order)
        self.excess.append(excess)
        return excess


def _comparisons(formulas: Sequence[Formula], sizes: IntArray) -> dict[Comparison, BoolArray]:
    """The questions that have both answers among the shapes, and their answers: one question for equal answers."""
    buffers = list({formula: buffer for buffer, formula in reversed(list(enumerate(formulas)))}.values())[::-1]
    found: dict[bytes, tuple[Comparison, BoolArray]] = {}
    for a in buffers:
        for b in buffers:
            answers = sizes[:, a] <= sizes[:, b]
            if a != b and answers.any() and not answers.all() and (~answers).tobytes() not in found:
                found.setdefault(answers.tobytes(), ((a, b), answers))
    return dict(found.values())


@dataclass
class _Leaf:
    """Shapes that are not told apart, the order that costs least there, and where the tree refers to it."""

    shapes: BoolArray
    order: int
    cost: float
    parent: int | None = None
    side: int = 0


def _grow_tree(pool: _Pool, comparisons: dict[Comparison, BoolArray]) -> OrderPlan:
    """Split the leaf that costs most by the question that saves most, as long as that saves anything."""
    excess = np.array(pool.excess)
    costs = excess + _WORST_WEIGHT * excess**2
    everywhere = _NEGLIGIBLE * costs.mean(axis=1)  # of equal orders take the one that is best at other shapes
    questions, answers = list(comparisons), np.array(list(comparisons.values()), np.float64)
    allowed = np.arange(len(excess))

    def leaf(shapes: BoolArray, parent: int | None = None, side: int = 0) -> _Leaf:
        totals = costs[allowed][:, shapes].sum(axis=1)
        chosen = int((totals + everywhere[allowed]).argmin())
        return _Leaf(shapes, int(allowed[chosen]), float(totals[chosen]), parent, side)

    leaves = [leaf(np.ones(len(pool.sizes), np.bool_))]
    tree: list[list[int]] = []
    while questions and len(leaves) < _MOST_LEAVES:
        leaves.sort(key=lambda item: item.cost)
        worst = leaves[-1]
        within = costs[allowed][:, worst.shapes]
        yes = (within @ answers[:, worst.shapes].T).min(axis=0)
        no = (within @ (1 - answers[:, worst.shapes]).T).min(axis=0)
        best = int((yes + no).argmin())
        if yes[best] + no[best] >= worst.cost - _NEGLIGIBLE:
            break
        leaves.pop()
        if worst.parent is not None:
            tree[worst.parent][worst.side] = len(tree)
        answer = answers[best].astype(np.bool_)
        leaves.append(leaf(worst.shapes & answer, len(tree), 2))
        leaves.append(leaf(worst.shapes & ~answer, len(tree), 3))
        tree.append([*questions[best], 0, 0])
        if len(used := {item.order for item in leaves}) > MOST_ORDERS - 2:
            allowed = np.array(sorted(used))
    numbers: dict[int, int] = {}
    for item in sorted(leaves, key=lambda item: (item.parent or 0, item.side)):
        number = numbers.setdefault(item.order, len(numbers))
        if item.parent is not None:
            tree[item.parent][item.side] = -(number + 1)
    return OrderPlan(tuple(pool.orders[order] for order in numbers), tuple((a, b, yes, no) for a, b, yes, no in tree))
