"""Lines of function bodies that lay packed rows out as a padded batch, as long as the longest sequence.

The batch is at least one long, and a row appended to the packed rows stands for the padding, so that nothing is out of
range where there is no token at all.
"""

from __future__ import annotations


def constants() -> str:
    """The int64 vectors zero, one, two, minus_one, far of one element, and the scalars nil and unit."""
    vectors = {"zero": 0, "one": 1, "two": 2, "minus_one": -1, "far": 9223372036854775807}
    lines = [f"{name} = Constant <value = int64[1] {{{value}}}> ()\n" for name, value in vectors.items()]
    return "".join(lines) + "nil = Constant <value = int64 {0}> ()\nunit = Constant <value = int64 {1}> ()\n"


def padded_index(rows: str) -> str:
    """Where each place of the batch lies in the packed tensor `rows` [T, ...].

    Gives lengths [B], valid [B, longest] (whether the place is a token), and index [B, longest] (its row; T where it is
    not). Needs `constants()` and the input cu_seqlens.
    """
    return f"""
        bounds = Cast <to = 7> (cu_seqlens)
        starts = Slice (bounds, zero, minus_one)
        ends = Slice (bounds, one, far)
        lengths = Sub (ends, starts)
        lengths_and_one = Concat <axis = 0> (lengths, one)
        longest = ReduceMax <keepdims = 0> (lengths_and_one)
        position = Range (nil, longest, unit)
        column = Constant <value = int64[2] {{-1, 1}}> ()
        lengths_column = Reshape (lengths, column)
        starts_column = Reshape (starts, column)
        valid = Less (position, lengths_column)
        places = Add (position, starts_column)
        rows_shape = Shape ({rows})
        total = Slice (rows_shape, zero, one)
        index = Where (valid, places, total)
        blank = Constant <value = int64[4] {{0, 0, 1, 0}}> ()
    """


def gather_padded(rows: str, output: str) -> str:
    """`output` [B, longest, W] from the packed `rows` [T, W], with zeros for padding."""
    return f"{output}_more = Pad ({rows}, blank)\n{output} = Gather <axis = 0> ({output}_more, index)\n"
