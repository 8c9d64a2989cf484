"""Prove what an attention's additive bias hides: the keys of padding, and those too far before or after a query.

A bias is known by its table (`masks.py`): what it adds for real keys and for padding keys, to rows of real tokens and
of padding, at each distance of query and key. Where it adds nothing at the distances around 0 and hides all others, it
is a window; one that ends at 0 and is open to the past is a causal mask. Terms that are not known that well (relative
positions) may be added to it; then it is only known that padding is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from turbo_onnx.custom_ops.varlen_attention.window import Window
from turbo_onnx.distances import AtLeast, Stretch, stretches
from turbo_onnx.graph import Tensor, is_op, producer
from turbo_onnx.masks import MASKED_AT_MOST, MaskFunction, MaskFunctions

_FARTHEST = (1 << 30) - 1  # no two positions are farther apart: their scores would not fit any memory
_EVERYWHERE = Window(None, None)
_KEYS, _QUERIES = (-4, -1), (-4, -2)  # where a mask's batch and position lie in a bias [B, H, S, S]


@dataclass(frozen=True)
class AttentionMask:
    """What an attention's additive bias is known to be.

    Attributes:
        mask: keys where this [B, S] tensor is 0 are pushed far below all others; those where it is 1 if `inverted`.
        alone: whether the bias is nothing else (but for what the window says); otherwise other terms are added.
        from_all: whether those keys are hidden from rows of padding too, since every row sees all tokens' keys.
        from_tokens: whether they are hidden from all rows of real tokens, since those see themselves at the least.
        inverted: see `mask`.
        window: which distances of keys the bias shows to rows of real tokens. It is only known where it is `alone`.
        hides_by: a number far below zero; no more than that is added to hidden keys.
    """

    mask: Tensor
    alone: bool
    from_all: bool
    from_tokens: bool
    inverted: bool = False
    window: Window = _EVERYWHERE
    hides_by: float = MASKED_AT_MOST


class _Added(NamedTuple):
    """What a bias adds at a stretch of distances, counted from the key to the query."""

    distances: Stretch
    real: float  # to a real key
    padding: float  # to a key of padding


def attention_mask(bias: Tensor, functions: MaskFunctions) -> AttentionMask | None:
    """Prove that a bias [B, 1|H, 1|S, S] hides the padding keys, and is 0 between real tokens where it is `alone`.

    Args:
        bias: what is added to the scores; batch, heads, queries and keys along its axes.
        functions: of the graph.
    """
    found = functions.of(bias)
    if found is not None:
        return None if found.mask is None else _proven(found)
    node = producer(bias)
    if is_op(node, "Add") and node is not None:
        for tensor, other in (node.inputs, node.inputs[::-1]):
            part = attention_mask(tensor, functions)
            if part is not None:
                return _with_term(part, other, functions, added=True)
    if is_op(node, "Where") and node is not None:
        for shown_index, hidden_index in ((1, 2), (2, 1)):
            choice, number = functions.of(node.inputs[0]), functions.of(node.inputs[hidden_index])
            if choice is None or choice.mask is None or number is None or not number.is_number:
                continue
            choices = (0.0, number.value(0))
            added = np.where(choice.table, choices[shown_index - 1], choices[hidden_index - 1])
            part = _proven(MaskFunction(choice.mask, choice.views, added))
            if part is not None:
                return _with_term(part, node.inputs[shown_index], functions, added=False)
    return None


def _with_term(part: AttentionMask, term: Tensor, functions: MaskFunctions, *, added: bool) -> AttentionMask:
    """What is left of a mask where there is a term that is not known as a mask is.

    Args:
        part: the mask.
        term: what it is added to, or what stands where it hides nothing.
        functions: of the graph.
        added: which of both.
    """
    hidden = not added or functions.stays_below(term, part.mask, part.hides_by)
    shown = part.from_tokens and hidden and functions.shows_itself(term, part.mask, part.hides_by)
    by = part.hides_by / 2  # terms add up: each may take half of what the one before might
    return AttentionMask(part.mask, False, False, shown, part.inverted, hides_by=by)


def _proven(function: MaskFunction) -> AttentionMask | None:
    """What a bias that is a function of a mask hides, whichever of the mask's values means padding."""
    assert function.mask is not None
    for candidate in (function, function.opposite()):
        rows = list(_added(candidate, real_rows=True))
        if not rows or not all(_hidden(added.padding) for added in rows):
            continue
        inverted = candidate is not function
        by = max(added.padding for added in rows)
        if all(added.real == 0 for added in rows):
            others = list(_added(candidate, real_rows=False))
            from_all = all(added.real == 0 and _hidden(added.padding) for added in others)
            return AttentionMask(function.mask, True, from_all, True, inverted, hides_by=by)
        if len(rows) == 1:  # the same at every distance
            continue
        window = _window(rows)
        if window is not None:
            return AttentionMask(function.mask, True, False, True, inverted, window, by)
        itself = all(added.real >= MASKED_AT_MOST / 10 for added in rows if added.distances.includes(0))
        return AttentionMask(function.mask, False, False, itself, inverted, hides_by=by)
    return None


def _hidden(number: float) -> bool:
    return bool(number <= MASKED_AT_MOST)


def _window(rows: Sequence[_Added]) -> Window | None:
    """How far before and after a query keys are seen, where those around it are and all others are hidden.

    A query sees itself at the least: a row that sees nothing would attend to the keys of padding, too.
    """
    seen = [added.distances for added in rows if added.real == 0]
    if not seen or any(added.real != 0 and not _hidden(added.real) for added in rows):
        return None
    if not all(before.last is not None and before.last + 1 == after.first for before, after in pairwise(seen)):
        return None
    if not any(distances.includes(0) for distances in seen):
        return None
    first, last = seen[0].first, seen[-1].last
    before = None if last is None or last >= _FARTHEST else last
    after = None if first is None or -first >= _FARTHEST else -first
    return Window(before, after)


def _added(function: MaskFunction, *, real_rows: bool) -> Iterator[_Added]:
    """What the bias adds, distance by distance; nothing where it is made of more than keys, queries and distances."""
    comparisons = [view for view in function.views if isinstance(view, AtLeast)]
    others = [view for view in function.views if not isinstance(view, AtLeast)]
    if _KEYS not in others or any(view not in (_KEYS, _QUERIES) for view in others):
        return
    if any((view.row, view.column) != (-2, -1) for view in comparisons):
        return
    for distances in stretches(comparisons):
        state: dict[object, int] = dict(zip(comparisons, distances.holds, strict=True))
        state[_QUERIES] = int(real_rows)
        real, padding = (
            float(function.table[tuple((state | {_KEYS: key})[view] for view in function.views)]) for key in (1, 0)
        )
        yield _Added(distances, real, padding)
