"""VarlenAttention as standard operators, for runtimes that do not have its kernel: right, and slow.

Packed rows are laid out as a padded batch by gathering; attention runs on the batch with the padding masked; and the
rows of tokens are gathered back.
"""

from __future__ import annotations

from turbo_onnx.custom_ops.bodies import CAST_LIKE_OPSET, number
from turbo_onnx.custom_ops.functions import float_attribute
from turbo_onnx.custom_ops.packed_rows import constants, gather_padded, padded_index
from turbo_onnx.custom_ops.specification import Attributes
from turbo_onnx.custom_ops.varlen_attention.window import Window, key_heads, keys_by_head, window_of


def body_text(opset: int, present: frozenset[str], attributes: Attributes) -> str:
    """The nodes of the function for one form of the operator."""
    packed, biased = "cu_seqlens" in present, "attention_bias" in present
    by_head = keys_by_head(attributes, present)
    like = "attention_bias" if biased else "query"
    heads, shared = int(attributes["num_heads"]), key_heads(attributes)
    window = window_of(attributes)
    parts = [
        _scale(opset),
        number(opset, "lowest", float("-inf"), like),
        constants(),
        f"heads = Constant <value = int64[1] {{{heads}}}> ()\n",
        f"key_heads = Constant <value = int64[1] {{{shared}}}> ()\n",
        _separate("bias" in present, by_head) if "key" in present else _joined("bias" in present, heads + 2 * shared),
        _pad() if packed else "q = Identity (q_rows)\nk = Identity (k_rows)\nv = Identity (v_rows)\n",
        _scores(heads, shared, by_head),
    ]
    scores = "scores"
    if float(attributes["softcap"]):
        parts.append(_capped(opset))
        scores = "capped"
    if biased:
        parts.append(f"{_cast_like(opset, 'wide', scores, like)}biased = Add (wide, attention_bias)\n")
        scores = "biased"
    if not window.unbounded:
        by_position = packed and window.by_distance and "positions" in present
        parts.append(_distances_of_positions() if by_position else _distances(scores))
        parts.append(_within(window, scores, "scores_within"))
        scores = "scores_within"
    if packed:
        parts.append(f"masked = Where (key_valid, {scores}, lowest)\n")
        scores = "masked"
    weights = "weights"
    parts.append(f"weights = Softmax <axis = -1> ({scores})\n")
    if int(attributes["guard"]):
        parts.append(f"{number(opset, 'nought', 0.0, like)}undefined = IsNaN (weights)\n")
        parts.append("guarded = Where (undefined, nought, weights)\n")
        weights = "guarded"
    if biased:
        parts.append(_cast_like(opset, "narrow", weights, "query"))
        weights = "narrow"
    parts.append(_weighted_sum(weights, "rows" if packed else "output"))
    if packed:
        parts.append(_unpad())
    return "".join(parts)


def _scale(opset: int) -> str:
    if opset < CAST_LIKE_OPSET:
        return float_attribute(opset, "scale", "factor")
    return f"{float_attribute(opset, 'scale', 'factor_float')}factor = CastLike (factor_float, query)\n"


def _capped(opset: int) -> str:
    """`capped` = the scores between -softcap and softcap."""
    limit = float_attribute(opset, "softcap", "limit_float")
    return f"""
        {limit}
        {_cast_like(opset, "limit", "limit_float", "scores")}
        part = Div (scores, limit)
        squashed = Tanh (part)
        capped = Mul (squashed, limit)
    """


def _cast_like(opset: int, output: str, x: str, like: str) -> str:
    """`output` = `x` in the type of the tensor `like`; below opset 15 all is float32."""
    cast = f"CastLike ({x}, {like})" if opset >= CAST_LIKE_OPSET else f"Identity ({x})"
    return f"{output} = {cast}\n"


def _joined(bias: bool, joined_heads: int) -> str:
    """Lines for q_rows, k_rows, v_rows, the projections with their bias, and for q_size and v_size, those of a head."""
    rows = "all_rows = Add (query, bias)\n" if bias else "all_rows = Identity (query)\n"
    return f"""
        {rows}
        all_shape = Shape (query)
        all_width = Slice (all_shape, minus_one, far)
        all_heads = Constant <value = int64[1] {{{joined_heads}}}> ()
        q_size = Div (all_width, all_heads)
        v_size = Identity (q_size)
        q_width = Mul (q_size, heads)
        k_width = Mul (q_size, key_heads)
        k_end = Add (q_width, k_width)
        q_rows = Slice (all_rows, zero, q_width, minus_one)
        k_rows = Slice (all_rows, q_width, k_end, minus_one)
        v_rows = Slice (all_rows, k_end, far, minus_one)
    """


def _separate(bias: bool, by_head: bool) -> str:
    """The same of three operands; where keys and values are by head, so are k_rows and v_rows."""
    sizes = f"""
        q_shape = Shape (query)
        q_width = Slice (q_shape, minus_one, far)
        q_size = Div (q_width, heads)
        v_shape = Shape (value)
        v_last = Slice (v_shape, minus_one, far)
        v_size = {"Identity (v_last)" if by_head else "Div (v_last, key_heads)"}
    """
    if not bias:
        return f"{sizes}q_rows = Identity (query)\nk_rows = Identity (key)\nv_rows = Identity (value)\n"
    shifts = "k_shift = Identity (k_bias)\nv_shift = Identity (v_bias)\n"
    if by_head:
        shifts = """
            k_shift_dims = Concat <axis = 0> (key_heads, one, q_size)
            v_shift_dims = Concat <axis = 0> (key_heads, one, v_size)
            k_shift = Reshape (k_bias, k_shift_dims)
            v_shift = Reshape (v_bias, v_shift_dims)
        """
    return f"""
        {sizes}
        k_width = Mul (q_size, key_heads)
        k_end = Add (q_width, k_width)
        q_bias = Slice (bias, zero, q_width)
        k_bias = Slice (bias, q_width, k_end)
        v_bias = Slice (bias, k_end, far)
        {shifts}
        q_rows = Add (query, q_bias)
        k_rows = Add (key, k_shift)
        v_rows = Add (value, v_shift)
    """


def _pad() -> str:
    """Lines for q, k, v [B, longest, width] from packed rows; valid [B, longest]; key_valid [B, 1, 1, longest]."""
    gathered = "".join(gather_padded(f"{name}_rows", name) for name in "qkv")
    return f"""
        {padded_index("query")}
        {gathered}
        valid_shape = Shape (valid)
        batch = Slice (valid_shape, zero, one)
        length = Slice (valid_shape, one, two)
        key_valid_shape = Concat <axis = 0> (batch, one, one, length)
        key_valid = Reshape (valid, key_valid_shape)
    """


def _scores(heads: int, shared: int, by_head: bool) -> str:
    """The scores [B, H, S, L], and the values by head, as which keys and values may be given.

    ONNX Runtime's ReshapeFusion would put -1 for the one dimension that is not constant, which fails on an empty batch;
    Abs, which changes nothing, keeps it from looking.
    """
    again = ""
    if shared != heads:
        numbers = ", ".join(str(head // (heads // shared)) for head in range(heads))
        again = f"""
            key_head = Constant <value = int64[{heads}] {{{numbers}}}> ()
            k_by_head = Gather <axis = 1> (k_by_key_head, key_head)
            v_by_head = Gather <axis = 1> (v_by_key_head, key_head)
        """
    name = "by_key_head" if again else "by_head"
    turned = f"""
        k_dims = Concat <axis = 0> (zero, zero, key_heads, q_size)
        v_dims = Concat <axis = 0> (zero, zero, key_heads, v_size)
        k_split = Abs (k_dims)
        v_split = Abs (v_dims)
        k_by_row = Reshape (k, k_split)
        v_by_row = Reshape (v, v_split)
        k_{name} = Transpose <perm = [0, 2, 3, 1]> (k_by_row)
        v_{name} = Transpose <perm = [0, 2, 1, 3]> (v_by_row)
    """
    if by_head:
        turned = f"k_{name} = Transpose <perm = [0, 1, 3, 2]> (k)\nv_{name} = Identity (v)\n"
    return f"""
        q_dims = Concat <axis = 0> (zero, zero, heads, q_size)
        q_split = Abs (q_dims)
        q_by_row = Reshape (q, q_split)
        q_by_head = Transpose <perm = [0, 2, 1, 3]> (q_by_row)
        {turned}
        {again}
        q_scaled = Mul (q_by_head, factor)
        scores = MatMul (q_scaled, k_by_head)
        output_width = Mul (v_size, heads)
    """


def _distances(scores: str) -> str:
    """`distance` [S, L]: how far key j stands behind query i, which stands at i + L - S."""
    return f"""
        three = Constant <value = int64[1] {{3}}> ()
        scores_shape = Shape ({scores})
        query_count = Slice (scores_shape, two, three)
        key_count = Slice (scores_shape, three, far)
        scalar = Constant <value = int64[0] {{}}> ()
        queries = Reshape (query_count, scalar)
        keys = Reshape (key_count, scalar)
        query_index = Range (nil, queries, unit)
        key_index = Range (nil, keys, unit)
        ahead = Sub (keys, queries)
        query_place = Add (query_index, ahead)
        upright = Constant <value = int64[2] {{-1, 1}}> ()
        query_column = Reshape (query_place, upright)
        distance = Sub (key_index, query_column)
    """


def _distances_of_positions() -> str:
    """`distance` [B, 1, longest, longest] between the positions of packed rows."""
    return """
        positions_more = Concat <axis = 0> (positions, zero)
        place = Gather <axis = 0> (positions_more, index)
        query_place_shape = Concat <axis = 0> (batch, one, length, one)
        key_place_shape = Concat <axis = 0> (batch, one, one, length)
        query_place = Reshape (place, query_place_shape)
        key_place = Reshape (place, key_place_shape)
        distance = Sub (key_place, query_place)
    """


def _within(window: Window, scores: str, output: str) -> str:
    """`output` = the scores of keys within the window, by `distance`, and -inf for others."""
    lines, before = "", scores
    if window.before is not None:
        before = f"{output}_before" if window.after is not None else output
        lines += f"first_distance = Constant <value = int64 {{{-window.before}}}> ()\n"
        lines += (
            f"too_far_before = Less (distance, first_distance)\n{before} = Where (too_far_before, lowest, {scores})\n"
        )
    if window.after is not None:
        lines += f"last_distance = Constant <value = int64 {{{window.after}}}> ()\n"
        lines += (
            f"too_far_after = Greater (distance, last_distance)\n{output} = Where (too_far_after, lowest, {before})\n"
        )
    return lines


def _weighted_sum(weights: str, output: str) -> str:
    return f"""
        by_head = MatMul ({weights}, v_by_head)
        by_row = Transpose <perm = [0, 2, 1, 3]> (by_head)
        joined_dims = Concat <axis = 0> (zero, zero, output_width)
        joined = Abs (joined_dims)
        {output} = Reshape (by_row, joined)
    """


def _unpad() -> str:
    """The output's rows of tokens: the places where `valid` holds are in the order of the packed rows."""
    return """
        flat_shape = Concat <axis = 0> (minus_one, output_width)
        flat_rows = Reshape (rows, flat_shape)
        flat_valid = Reshape (valid, minus_one)
        token_row = NonZero (flat_valid)
        token = Reshape (token_row, minus_one)
        output = Gather <axis = 0> (flat_rows, token)
    """
