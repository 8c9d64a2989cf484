"""Which stacking order a run takes: a walk down a tree of comparisons between sizes.

An inner node (a, b, yes, no) asks whether size a is at most size b. Targets ≥ 0 are inner nodes of a higher number,
others are order -(target + 1). A tree without nodes is the first order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from turbo_onnx.memory.formula import IntArray

TreeNode = tuple[int, int, int, int]


def choose(tree: Sequence[TreeNode], sizes: Sequence[int] | IntArray) -> int:
    """The number of the order of one run, for its sizes [sizes]."""
    target = 0 if tree else -1
    while target >= 0:
        a, b, yes, no = tree[target]
        target = yes if sizes[a] <= sizes[b] else no
    return -(target + 1)


def choose_many(tree: Sequence[TreeNode], sizes: IntArray) -> IntArray:
    """The number of each run's order, int64 [shapes], for sizes int64 [shapes, sizes]."""
    target = np.full(len(sizes), 0 if tree else -1, np.int64)
    for node, (a, b, yes, no) in enumerate(tree):  # nodes only point to later ones
        target = np.where(target == node, np.where(sizes[:, a] <= sizes[:, b], yes, no), target)
    return -(target + 1)
