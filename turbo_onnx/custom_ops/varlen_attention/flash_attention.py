"""The Triton kernel of VarlenAttention: FlashAttention over packed sequences, or over a batch.

One program computes one head of a tile of queries of one sequence. It goes over the keys block by block and keeps for
each query the largest score, the sum of weights and the weighted sum of values so far (Milakov and Gimelshein, "Online
normalizer calculation for softmax", 2018; Dao, "FlashAttention-2", 2023). Products are of the element type, sums and
the softmax in float32; weights are rounded to the element type for the product with the values.

DECISION on the work of programs, for packed rows: the host does not know how long sequences are, only that tiles of
m queries cut T rows of B sequences into at most T // m + B tiles. Sequence b owns the programs from
s(b) = cu_seqlens[b] // m + b on, which are at least as many as its tiles: with cu_seqlens[b] = a m + r and n rows,
s(b + 1) - s(b) = (r + n) // m + 1 >= n // m + 1 >= ceil(n / m). A program finds b by searching s, which ascends, and
leaves at once if its tile lies beyond the sequence. So a long sequence spreads over the device like many short ones,
and at most 2 programs a sequence and head do nothing.

DECISION on their order: tiles fastest, heads slowest. Programs that run at the same time are then tiles of few
sequences and heads that read the same keys and values, which the second-level cache holds. The long sequences of a
batch come once for each head, so that short ones fill in around them, and what is left at the end is at most the tiles
of one head. Tiles of a causal sequence go from its end, which sees the most keys, to its start: the dear ones first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from turbo_onnx.custom_ops.varlen_attention.scores import capped, hide, hide_outside, reach

_LOG2_E = tl.constexpr(1.4426950408889634)
_SEARCH = tl.constexpr(128)  # sequences that are looked at in one step of the search


@triton.jit
def _find_sequence(cu_seqlens, sequences, program, TILE: tl.constexpr):
    """The sequence that owns the program, and the program's number among those of the sequence.

    Each step cuts the range to a part of 1 / _SEARCH with one load, where halving it would wait for seven.
    """
    low = tl.full([], 0, tl.int32)
    high = sequences
    while high - low > 1:
        step = (high - low + _SEARCH - 1) // _SEARCH
        candidate = low + step * tl.arange(0, _SEARCH)
        inside = candidate < high
        starts = tl.load(cu_seqlens + candidate, mask=inside, other=0) // TILE + candidate
        passed = tl.sum((inside & (starts <= program)).to(tl.int32))
        low += step * tl.maximum(passed - 1, 0)
        high = tl.minimum(high, low + step)
    return low, program - (tl.load(cu_seqlens + low) // TILE + low)


@triton.jit
def _load_rows(data, rows, STRIDE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """A tile [ROWS, BLOCK] from `data` on; zeros beyond WIDTH columns and, where MASKED, beyond `rows` rows."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    pointers = data + row * STRIDE + column
    if MASKED and WIDTH != BLOCK:
        tile = tl.load(pointers, mask=(row < rows) & (column < WIDTH), other=0.0)
    elif MASKED:
        tile = tl.load(pointers, mask=row < rows, other=0.0)
    elif WIDTH != BLOCK:
        tile = tl.load(pointers, mask=column < WIDTH, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def _load_bias(data, stride, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BY_QUERY: tl.constexpr,
               BY_KEY: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """The attention bias of a tile, from `data` on, in float32: [ROWS or 1, COLUMNS or 1].

    Zeros beyond `rows` rows and, where MASKED, beyond `columns` columns.
    """
    row = tl.arange(0, ROWS if BY_QUERY else 1)[:, None]
    column = tl.arange(0, COLUMNS if BY_KEY else 1)[None, :]
    pointers = data + (row * stride + column)
    if BY_QUERY and BY_KEY and MASKED:
        bias = tl.load(pointers, mask=(row < rows) & (column < columns), other=0.0)
    elif BY_QUERY:
        bias = tl.load(pointers, mask=row < rows, other=0.0)
    elif BY_KEY and MASKED:
        bias = tl.load(pointers, mask=column < columns, other=0.0)
    else:
        bias = tl.load(pointers)
    return bias.to(tl.float32)


@triton.jit
def _attend(
    largest,
    total,
    weighted,
    query,
    key,
    value,
    attention_bias,
    positions,
    low,
    high,
    base,
    bias_stride,
    first,
    last,
    whole,
    rows,
    keys,
    ahead,
    scale,
    softcap,
    shift,
    HEAD: tl.constexpr,
    VALUE: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    POSITIONS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    ATTENTION_BIAS: tl.constexpr,
    BIAS_BY_QUERY: tl.constexpr,
    BIAS_BY_KEY: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    MASKED: tl.constexpr,
    ONE_LOOP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Takes the keys in [first, last) into account. Without MASKED they are whole blocks that every query sees.

    query is [BLOCK_QUERIES, BLOCK_HEAD] with `rows` real rows, of which row i sees the keys up to i + ahead if CAUSAL;
    key and value point to the first of `keys` rows; all queries see the first `whole` keys, which are whole blocks.
    With a WINDOW each query sees what is from its `low` to its `high`, counted from `base` where there are POSITIONS,
    which point to those of the keys, and else from key `ahead`.
    scale is the node's where there is a SOFTCAP or an ATTENTION_BIAS; otherwise it is positive, and what comes out are
    powers of 2. `shift` is what the bias of the keys adds to the products of each query, where there is a SOFTCAP.
    """
    for start in tl.range(first, last, BLOCK_KEYS, num_stages=STAGES):
        left = keys - start
        begin = tl.cast(start, tl.int64)  # rows times stride may be beyond int32
        k = _load_rows(key + begin * KEY_STRIDE, left, KEY_STRIDE, HEAD, BLOCK_KEYS, BLOCK_HEAD, MASKED)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee")
        if SOFTCAP:
            scores = capped((scores + shift[:, None]) * scale, softcap)
        elif ATTENTION_BIAS:
            scores = scores * scale
        if ATTENTION_BIAS:
            added = attention_bias + begin if BIAS_BY_KEY else attention_bias
            scores += _load_bias(
                added, bias_stride, rows, left, BLOCK_QUERIES, BLOCK_KEYS, BIAS_BY_QUERY, BIAS_BY_KEY, MASKED
            )
        if WINDOW:
            scores = hide_outside(scores, low, high, left, positions, base, start, ahead, POSITIONS, BLOCK_KEYS)
        elif MASKED and ONE_LOOP:
            if start >= whole:
                scores = hide(scores, left, ahead - start, CAUSAL, BLOCK_QUERIES, BLOCK_KEYS)
        elif MASKED:
            scores = hide(scores, left, ahead - start, CAUSAL, BLOCK_QUERIES, BLOCK_KEYS)
        before = largest
        largest = tl.maximum(before, tl.max(scores, 1))
        # A query that has seen nothing but -inf must not subtract it from itself.
        least = tl.where(largest == float("-inf"), 0.0, largest)
        if SOFTCAP or ATTENTION_BIAS:
            # Subtracted first: times log2(e), a bias of float32's lowest value would be -inf.
            weights = tl.exp2((scores - least[:, None]) * _LOG2_E)
            keep = tl.exp2((before - least) * _LOG2_E)
        else:
            weights = tl.exp2(scores * scale - (least * scale)[:, None])
            keep = tl.exp2((before - least) * scale)
        total = total * keep + tl.sum(weights, 1)
        v = _load_rows(value + begin * VALUE_STRIDE, left, VALUE_STRIDE, VALUE, BLOCK_KEYS, BLOCK_VALUE, MASKED)
        weighted = tl.dot(weights.to(v.dtype), v, weighted * keep[:, None], input_precision="ieee")
    return largest, total, weighted


@triton.jit
def varlen_attention(
    query,
    key,
    value,
    bias,
    cu_seqlens,
    attention_bias,
    positions,
    output,
    sequences,
    query_rows,
    key_rows,
    window_before,
    window_after,
    bias_batch_stride,
    bias_head_stride,
    bias_query_stride,
    scale,
    softcap,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    VALUE: tl.constexpr,
    JOINED: tl.constexpr,
    BY_HEAD: tl.constexpr,
    PACKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    POSITIONS: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GUARD: tl.constexpr,
    BIAS: tl.constexpr,
    ATTENTION_BIAS: tl.constexpr,
    BIAS_BY_QUERY: tl.constexpr,
    BIAS_BY_KEY: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    ONE_LOOP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Output = softmax(scale * query key^T + attention_bias) value, for each head of each sequence.

    With SOFTCAP what the attention bias is added to is softcap * tanh(scale * query key^T / softcap).

    query, key and value are rows of HEADS * HEAD, KV_HEADS * HEAD and KV_HEADS * VALUE columns; HEADS / KV_HEADS heads
    of the queries share one of keys and values. Where JOINED, query holds all three side by side, and the others are
    not read. Where BY_HEAD, keys and values are [KV_HEADS, key_rows, HEAD or VALUE] for each sequence, one after the
    other. query_rows and key_rows are those of one sequence, or of all where PACKED: then cu_seqlens
    [sequences + 1] says where each starts. bias is for the columns of query, key and value, one after the other. The
    attention bias has strides in elements; BIAS_BY_QUERY and BIAS_BY_KEY say whether it has values of its own for each
    query and each key, and those of the keys are neighbours. With a WINDOW a query sees the keys that stand at most
    window_before before it and window_after after it, by their POSITIONS [rows], or else by their order. GUARD: a row
    without a softmax is 0 instead of NaN. Whatever cu_seqlens and positions hold, no memory outside of the tensors is
    touched.
    """
    head = tl.program_id(1)
    if PACKED:
        sequence, tile = _find_sequence(cu_seqlens, sequences, tl.program_id(0), BLOCK_QUERIES)
        begin = tl.minimum(tl.maximum(tl.load(cu_seqlens + sequence), 0), query_rows)
        queries = tl.maximum(tl.minimum(tl.load(cu_seqlens + sequence + 1), query_rows), begin) - begin
        tiles = tl.cdiv(queries, BLOCK_QUERIES)
        if (tile < 0) | (tile >= tiles):
            return
        keys = queries
        query_begin = begin.to(tl.int64)
        key_begin = query_begin
    else:
        tiles = tl.cdiv(query_rows, BLOCK_QUERIES)
        sequence = tl.program_id(0) // tiles
        tile = tl.program_id(0) % tiles
        queries = query_rows
        keys = key_rows
        query_begin = sequence.to(tl.int64) * query_rows
        key_begin = sequence.to(tl.int64) * key_rows
    if CAUSAL:
        tile = tiles - 1 - tile
    first = tile * BLOCK_QUERIES
    rows = queries - first
    query_begin += first

    QUERY_WIDTH: tl.constexpr = HEADS * HEAD
    KEY_WIDTH: tl.constexpr = KV_HEADS * HEAD
    VALUE_WIDTH: tl.constexpr = KV_HEADS * VALUE
    OUTPUT_WIDTH: tl.constexpr = HEADS * VALUE
    QUERY_STRIDE: tl.constexpr = QUERY_WIDTH + 2 * KEY_WIDTH if JOINED else QUERY_WIDTH
    KEY_STRIDE: tl.constexpr = QUERY_STRIDE if JOINED else HEAD if BY_HEAD else KEY_WIDTH
    VALUE_STRIDE: tl.constexpr = QUERY_STRIDE if JOINED else VALUE if BY_HEAD else VALUE_WIDTH
    shared = head // (HEADS // KV_HEADS)
    if JOINED:
        key = query + QUERY_WIDTH
        value = query + (QUERY_WIDTH + KEY_WIDTH)
    if BY_HEAD:
        key_begin = key_begin * KV_HEADS + shared.to(tl.int64) * key_rows
        key += key_begin * HEAD
        value += key_begin * VALUE
    else:
        key += key_begin * KEY_STRIDE + shared * HEAD
        value += key_begin * VALUE_STRIDE + shared * VALUE
    query += query_begin * QUERY_STRIDE + head * HEAD
    q = _load_rows(query, rows, QUERY_STRIDE, HEAD, BLOCK_QUERIES, BLOCK_HEAD, True)

    largest = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    weighted = tl.zeros([BLOCK_QUERIES, BLOCK_VALUE], tl.float32)
    exact = q.to(tl.float32)
    shift = tl.zeros([BLOCK_QUERIES], tl.float32)
    if BIAS:
        # The bias of the queries is added in float32, and the sum rounded to the element type for the product. That of
        # the keys adds q b to all scores of a query, which its softmax does not see where there is no SOFTCAP, unless
        # q b is not finite: then total becomes NaN. That of the values passes through the weighted mean, and is added
        # to the result.
        column = tl.arange(0, BLOCK_HEAD)
        exact += tl.load(bias + head * HEAD + column, mask=column < HEAD, other=0.0).to(tl.float32)[None, :]
        of_keys = tl.load(bias + QUERY_WIDTH + shared * HEAD + column, mask=column < HEAD, other=0.0).to(tl.float32)
        shift = tl.sum(exact * of_keys[None, :], 1)
        if not SOFTCAP:  # which bounds what is not finite
            total += 0.0 * shift
    if SOFTCAP or ATTENTION_BIAS:
        rate = scale
    if ATTENTION_BIAS:
        attention_bias += sequence.to(tl.int64) * bias_batch_stride + head * bias_head_stride
        attention_bias += first * bias_query_stride
    if not (SOFTCAP or ATTENTION_BIAS):
        # Weights are powers of 2. The factor is positive, so that the largest product is the largest score: its sign
        # goes to the queries, and 0 becomes so little that weights are 1, and 0 for keys that are masked.
        exact = tl.where(scale < 0.0, -exact, exact)
        rate = tl.maximum(tl.abs(scale) * _LOG2_E, 1e-30)
    q = exact.to(q.dtype)

    ahead = first + keys - queries
    seen = keys  # by the last query
    whole = keys  # by all queries
    if CAUSAL:
        seen = tl.minimum(keys, ahead + BLOCK_QUERIES)
        whole = tl.minimum(keys, tl.maximum(ahead + 1, 0))
    whole = whole // BLOCK_KEYS * BLOCK_KEYS
    begin_key = 0
    base = tl.full([], 0, tl.int64)
    low = 0
    high = 0
    if WINDOW:  # Rows are never nearer in positions than in their order, which bounds the blocks.
        begin_key = tl.where(ahead > window_before, ahead - window_before, 0) // BLOCK_KEYS * BLOCK_KEYS
        behind = ahead + BLOCK_QUERIES
        seen = tl.where(window_after < keys - behind, behind + window_after, keys)
        whole = begin_key
        if POSITIONS:
            base = tl.load(positions + query_begin)
        low, high = reach(positions + query_begin, base, rows, window_before, window_after, POSITIONS, BLOCK_QUERIES)
        if POSITIONS:
            positions += key_begin
    if ONE_LOOP:
        # Done once or, where there is nothing to see, not at all. As a loop, in which the queries change, it lets the
        # tensor cores read them from shared memory, though they were computed; and as the loop over keys is never
        # skipped in here, its last product need not be waited for at once. Without both, ptxas lets the tensor cores of
        # 9.0 finish every instruction before the next.
        for _ in tl.range(0, tl.minimum(seen - begin_key, 1)):
            largest, total, weighted = _attend(
                largest, total, weighted, q, key, value, attention_bias, positions, low, high, base,
                bias_query_stride.to(tl.int32), begin_key, seen, whole, rows, keys, ahead, rate, softcap, shift,
                HEAD, VALUE, KEY_STRIDE, VALUE_STRIDE, CAUSAL, WINDOW, POSITIONS, SOFTCAP, ATTENTION_BIAS,
                BIAS_BY_QUERY, BIAS_BY_KEY, BLOCK_QUERIES, BLOCK_KEYS, BLOCK_HEAD, BLOCK_VALUE, True, ONE_LOOP, STAGES,
            )  # fmt: skip
            q = tl.zeros_like(q)
    else:
        for MASKED in tl.static_range(1 if WINDOW else 0, 2):
            largest, total, weighted = _attend(
                largest, total, weighted, q, key, value, attention_bias, positions, low, high, base,
                bias_query_stride.to(tl.int32), whole if MASKED else 0, seen if MASKED else whole, whole, rows, keys,
                ahead, rate, softcap, shift, HEAD, VALUE, KEY_STRIDE, VALUE_STRIDE, CAUSAL, WINDOW, POSITIONS, SOFTCAP,
                ATTENTION_BIAS, BIAS_BY_QUERY, BIAS_BY_KEY, BLOCK_QUERIES, BLOCK_KEYS, BLOCK_HEAD, BLOCK_VALUE, MASKED,
                ONE_LOOP, STAGES,
            )  # fmt: skip

    result = weighted * (1.0 / total)[:, None]
    column = tl.arange(0, BLOCK_VALUE)[None, :]
    if BIAS:
        of_values = bias + (QUERY_WIDTH + KEY_WIDTH) + shared * VALUE + column
        result += tl.load(of_values, mask=column < VALUE, other=0.0).to(tl.float32)
    undefined = tl.where(GUARD or keys == 0, 0.0, float("nan"))
    result = tl.where((total > 0.0)[:, None], result, undefined)
    row = tl.arange(0, BLOCK_QUERIES)[:, None]
    tl.store(
        output + query_begin * OUTPUT_WIDTH + head * VALUE + row * OUTPUT_WIDTH + column,
        result.to(output.dtype.element_ty),
        mask=(row < rows) & (column < VALUE),
    )
