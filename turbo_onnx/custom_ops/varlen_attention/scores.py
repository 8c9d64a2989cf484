"""What is done to a tile of scores between the product of queries and keys and the softmax, on CUDA.

Scores are bounded by a soft cap, and those of keys that a query does not see become -inf: keys behind it, outside of
its window, or none at all.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_FAR = tl.constexpr(1 << 30)  # positions of one sequence are less than this apart


@triton.jit
def capped(scores, softcap):
    """Scores between -softcap and softcap: softcap * tanh(scores / softcap).

    Near 0 by a polynomial, whose relative error is about 2e-7; else by an exponential that does not overflow.
    """
    part = scores / softcap
    magnitude = tl.abs(part)
    square = part * part
    bend = ((0.020639086 - 0.0057049850 * square) * square - 0.053739715) * square + 0.13331442
    near_zero = part + part * square * (bend * square - 0.33333281)
    small = tl.exp2(magnitude * (-2.0 * _LOG2_E))
    far = (1.0 - small) / (1.0 + small)
    return softcap * tl.where(magnitude < 0.625, near_zero, tl.where(part < 0.0, -far, far))


@triton.jit
def hide(scores, left, ahead, CAUSAL: tl.constexpr, BLOCK_QUERIES: tl.constexpr, BLOCK_KEYS: tl.constexpr):
    """-inf for the keys of a block that query i does not see: behind i + ahead if CAUSAL, else from `left` on."""
    column = tl.arange(0, BLOCK_KEYS)[None, :]
    if CAUSAL:  # keys that there are not lie behind those that a query sees
        seen = column <= tl.arange(0, BLOCK_QUERIES)[:, None] + ahead
    else:
        seen = column < left
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _from(base, positions):
    """How far positions are from `base`, in 32 bits. What is as far as _FAR is told from what is nearer only."""
    return tl.minimum(tl.maximum(positions - base, -_FAR), _FAR).to(tl.int32)


@triton.jit
def reach(positions, base, rows, before, after, POSITIONS: tl.constexpr, BLOCK_QUERIES: tl.constexpr):
    """The first and the last position that each query sees, counted from that of the first query.

    Where there are no positions, rows stand side by side. No sum is beyond int32: `before` and `after` are less than
    2^31 by more than a tile's rows.
    """
    row = tl.arange(0, BLOCK_QUERIES)
    if POSITIONS:
        at = tl.load(positions + row, mask=row < rows, other=0)
        low = _from(base, at - before)
        high = _from(base, at + after)
    else:
        low = row - before
        high = row + after
    return low, high


@triton.jit
def hide_outside(scores, low, high, left, positions, base, start, ahead, POSITIONS: tl.constexpr,
                  BLOCK_KEYS: tl.constexpr):  # fmt: skip
    """-inf for the keys of a block that stand outside of low … high, for each query, and for those from `left` on."""
    column = tl.arange(0, BLOCK_KEYS)
    if POSITIONS:
        at = _from(base, tl.load(positions + start + column, mask=column < left, other=0))
    else:
        at = column + (start - ahead)
    at = tl.where(column < left, at, 2147483647)  # more than `high` is
    seen = (at[None, :] >= low[:, None]) & (at[None, :] <= high[:, None])
    return tl.where(seen, scores, float("-inf"))
