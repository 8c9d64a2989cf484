"""RemovePadding on CUDA: count the tokens of each sequence, sum the counts up, list the tokens.

Counting and listing have one program for each sequence, which goes over its row of the mask in blocks; summing up has
one program. How many tokens there are sizes the outputs of the last step, so the host reads that one number in between.

Where the mask may hold zeros and ones only, anything else is found while counting, and takes the place of the number:
-1 - i for the first such element i of the flat mask. What is listed then is never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from turbo_onnx.custom_ops.cuda.variant import Use, Variant, key, pointer
from turbo_onnx.errors import Reject

_BLOCK = 1024  # mask elements, or sequences, at a time
_NONE = tl.constexpr(2**31 - 1)  # an index that no element has


@triton.jit
def count_tokens(mask, cu_seqlens, length, BLOCK: tl.constexpr):
    """cu_seqlens[b + 1] = the nonzero elements of mask [B, length] in row b."""
    sequence = tl.program_id(0).to(tl.int64)
    tokens = tl.zeros([BLOCK], tl.int32)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        element = tl.load(mask + sequence * length + column, mask=column < length, other=0)
        tokens += (element != 0).to(tl.int32)
    tl.store(cu_seqlens + sequence + 1, tl.sum(tokens))


@triton.jit
def count_ones(mask, cu_seqlens, length, BLOCK: tl.constexpr):
    """As `count_tokens`, but -1 - i where element i of the flat mask is the first in row b that is neither 0 nor 1."""
    sequence = tl.program_id(0).to(tl.int64)
    tokens = tl.zeros([BLOCK], tl.int32)
    first = tl.full([], _NONE, tl.int32)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        element = tl.load(mask + sequence * length + column, mask=column < length, other=0)
        tokens += (element != 0).to(tl.int32)
        is_other = (element != 0) & (element != 1)
        first = tl.minimum(first, tl.min(tl.where(is_other, (sequence * length + column).to(tl.int32), _NONE)))
    tl.store(cu_seqlens + sequence + 1, tl.where(first == _NONE, tl.sum(tokens), -1 - first))


@triton.jit
def sum_up_tokens(cu_seqlens, max_seqlen, sequences, HAS_MAX_SEQLEN: tl.constexpr, BLOCK: tl.constexpr):
    """Turns the counts in cu_seqlens[1:] into their running sum behind a 0, and stores the largest of them.

    Where some of them are negative, the one nearest to zero is stored as the last.
    """
    tl.store(cu_seqlens, 0)
    before = tl.full([], 0, tl.int32)
    longest = tl.full([], 0, tl.int32)
    refused = tl.full([], -_NONE - 1, tl.int32)
    for start in range(0, sequences, BLOCK):
        sequence = start + tl.arange(0, BLOCK)
        tokens = tl.load(cu_seqlens + sequence + 1, mask=sequence < sequences, other=0)
        tl.debug_barrier()  # nothing is overwritten before every thread has read
        refused = tl.maximum(refused, tl.max(tl.where(tokens < 0, tokens, -_NONE - 1)))
        running = before + tl.cumsum(tokens, 0)
        last = (sequence == sequences - 1) & (refused > -_NONE - 1)
        tl.store(cu_seqlens + sequence + 1, tl.where(last, refused, running), mask=sequence < sequences)
        before += tl.sum(tokens)
        longest = tl.maximum(longest, tl.max(tokens))
    if HAS_MAX_SEQLEN:
        tl.store(max_seqlen, longest)


@triton.jit
def list_tokens(
    mask,
    cu_seqlens,
    token_index,
    token_position,
    length,
    HAS_INDEX: tl.constexpr,
    HAS_POSITION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Stores for each token of mask [B, length] its index in the flat mask, and its column."""
    sequence = tl.program_id(0).to(tl.int64)
    token = tl.load(cu_seqlens + sequence).to(tl.int64)
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        element = tl.load(mask + sequence * length + column, mask=column < length, other=0)
        real = element != 0
        counted = tl.cumsum(real.to(tl.int32), 0)
        place = token + counted - 1
        if HAS_INDEX:
            tl.store(token_index + place, sequence * length + column, mask=real)
        if HAS_POSITION:
            tl.store(token_position + place, column.to(tl.int64), mask=real)
        token += tl.sum(real.to(tl.int32))


def variants(use: Use, capability: int) -> list[Variant]:
    """The three kernels for masks of the node's type.

    Raises:
        Reject: nothing reads cu_seqlens, in whose memory the tokens are counted.
    """
    if not use.has("cu_seqlens"):
        raise Reject("the output cu_seqlens is left out, and tokens are counted in its memory")
    element = use.types["mask"]
    count = "count_ones" if use.attributes.get("binary_input") else "count_tokens"
    longest, index, position = (use.has(name) for name in ("max_seqlen", "token_index", "token_position"))
    return [
        Variant(
            key=key(count, element),
            module=__name__,
            function=count,
            arguments={"mask": pointer(element), "cu_seqlens": "*i32", "length": "i64"},
            constants={"BLOCK": _BLOCK},
        ),
        Variant(
            key=key("sum_up_tokens", max_seqlen=longest),
            module=__name__,
            function="sum_up_tokens",
            arguments={"cu_seqlens": "*i32", "max_seqlen": "*i32", "sequences": "i64"},
            constants={"HAS_MAX_SEQLEN": longest, "BLOCK": _BLOCK},
        ),
        Variant(
            key=key("list_tokens", element, index=index, position=position),
            module=__name__,
            function="list_tokens",
            arguments={
                "mask": pointer(element),
                "cu_seqlens": "*i32",
                "token_index": "*i64",
                "token_position": "*i64",
                "length": "i64",
            },
            constants={"HAS_INDEX": index, "HAS_POSITION": position, "BLOCK": _BLOCK},
        ),
    ]


def candidates(variant: Variant, capability: int) -> Sequence[Variant]:
    """None: the host waits for the number of tokens, and that is what this takes, however the kernels run."""
    return ()
