"""RemovePadding: rows that are not the mask's tokens, and rows of padding that somebody reads, stay what they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.passes.padded_graphs import (
    BIAS,
    EMBEDDING,
    VARLEN,
    WIDTH,
    batches,
    layer,
    model,
    pack,
    same_on_tokens,
    session,
    sessions,
)
from tests.passes.support import count, normal

ONE_LAYER = EMBEDDING + BIAS + layer(1)
SWAPPED = "sw = Transpose<perm = [1, 0, 2]>(h1) fl = Reshape(sw, flat) ml = MatMul(fl, wf) y = Tanh(ml)"
OTHER_STREAM = f"""
    qo = MatMul(x, wq) ko = MatMul(h1, wk) vo = MatMul(h1, wv)
    ao = {VARLEN}<num_heads = 2, scale = 0.5>(qo, ko, vo, , , bias) mo = MatMul(ao, wo) y = Add(mo, x)
"""
WHOLE = {
    "rows of positions first": (SWAPPED, "float[R,8] y", ""),
    "rows backwards": ("ba = Slice(h1, last_one, backwards, axis1, last_one) y = Tanh(ba)", "float[B,S,8] y", ""),
    "another stream of tokens": (OTHER_STREAM, "float[B,S,8] y", ", float[B,S,8] x"),
    "another stream without attention": (
        "mo = MatMul(x, wo) y = Tanh(mo) z = Tanh(h1)",
        "float[B,S,8] y, float[B,S,8] z",
        ", float[B,S,8] x",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_output_whose_rows_are_not_the_masks_tokens_is_whole(name: str) -> None:
    nodes, outputs, inputs = WHOLE[name]
    constants = ", int64[1] last_one = {-1}, int64[1] backwards = {-9223372036854775807}"
    before, after = (
        model(ONE_LAYER + nodes, outputs, inputs=f"int64[B,S] ids, int64[B,S] mask{inputs}", constants=constants)
        for _ in range(2)
    )
    pack(after)
    reference = session(before.to_proto())
    names = [entry.name for entry in reference.get_inputs()]
    for mask, data in batches():
        if not mask.any(axis=1).all():
            continue
        data["x"] = normal(*mask.shape, WIDTH)
        given = {name: data[name] for name in names}
        for candidate in sessions(after):
            expected, actual = reference.run(None, given)[0], candidate.run(None, given)[0]
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_first_row_of_another_stream_is_not_the_masks_first_token() -> None:
    nodes = ONE_LAYER + OTHER_STREAM.replace("y = ", "ro = ") + "y = Gather<axis = 1>(ro, first) z = Tanh(h1)"
    inputs = "int64[B,S] ids, int64[B,S] mask, float[B,S,8] x"
    before, after = (model(nodes, "float[B,8] y, float[B,S,8] z", inputs=inputs) for _ in range(2))
    pack(after)
    mask = np.array([[0, 1, 1], [1, 0, 1]])
    data = {"mask": mask, "ids": mask * 3, "x": normal(2, 3, WIDTH)}
    expected = session(before.to_proto()).run(None, data)[0]
    for candidate in sessions(after):
        np.testing.assert_allclose(candidate.run(None, data)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_branch_that_mixes_rows_is_given_the_rows_of_padding() -> None:
    branches = "<then_branch = yes () => (float[B,S,8] t) { t = CumSum(t1, along) }, "
    branches += "else_branch = no () => (float[B,S,8] e) { e = Neg(t1) }>"
    nodes, outputs = ONE_LAYER + f"z = If(flag){branches}", "float[B,S,8] h1, float[B,S,8] z"
    inputs, constants = "int64[B,S] ids, int64[B,S] mask, bool flag", ", int64 along = {1}"
    before, after = (model(nodes, outputs, inputs=inputs, constants=constants) for _ in range(2))
    pack(after)
    same_on_tokens(before, after, zeros=False)


POSITIONS = """
    sh = Shape(ids) length = Gather(sh, second) here = Range(zero_index, length, second)
    row = Unsqueeze(here, axis0) column = Unsqueeze(here, axis1)
"""
TERMS = {
    "tokens before it, shyly": POSITIONS + "sees = LessOrEqual(row, column) term = Where(sees, shy, lowest)",
    "tokens before it, without itself": POSITIONS + "sees = Less(row, column) term = Where(sees, zero, lowest)",
    "itself, shyly": (
        POSITIONS + "away = Sub(row, column) far = Abs(away) sees = Less(far, second) term = Where(sees, shy, lowest)"
    ),
}


def _with(term: str, readers: str) -> str:
    both = f"{TERMS[term]} t4 = Unsqueeze(term, axes01) sum = Add(t4, bias)"
    return EMBEDDING + BIAS + both + layer(1, bias="sum") + readers


@pytest.mark.parametrize("readers", ["y = Tanh(h1)", "y = CumSum(h1, second)"])
@pytest.mark.parametrize("term", TERMS)
def test_attention_with_more_than_a_padding_mask_sees_the_padding_where_that_is_all_it_sees(
    term: str, readers: str
) -> None:
    constants = ", int64 second = {1}, int64 zero_index = {0}, int64[2] axes01 = {0, 1}"
    before, after = (model(_with(term, readers), constants=constants) for _ in range(2))
    pack(after)
    proven = term != "tokens before it, without itself" and readers.startswith("y = Tanh")
    assert count(after)["turbo_onnx.RestorePadding"] == readers.startswith("y = Tanh") + 3 * proven
    same_on_tokens(before, after, zeros=False)


@pytest.mark.parametrize("kind", [onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32])
def test_an_output_of_a_type_that_cannot_be_restored_is_made_of_padded_rows(kind: int) -> None:
    nodes = ONE_LAYER + f"signs = Sign(h1) y = Cast<to = {kind}>(signs)"
    name = onnx.TensorProto.DataType.Name(kind).lower()
    before, after = (model(nodes.replace("Sign(", "Abs("), f"{name}[B,S,8] y") for _ in range(2))
    pack(after)
    assert count(after)["turbo_onnx.RestorePadding"] == 1
    same_on_tokens(before, after, zeros=False)


@pytest.mark.parametrize(
    "first", ["one = Slice(h1, axis0, axis1, axis1)", "v = Gather<axis = 1>(h1, first) one = Unsqueeze(v, axis1)"]
)
def test_rows_moved_by_one_position_are_not_a_pooling_of_first_tokens(first: str) -> None:
    moved = f"rest = Slice(h1, axis1, end, axis1) {first.replace('one =', 'start =')} y = Concat<axis = 1>(rest, start)"
    before, after = (model(ONE_LAYER + moved) for _ in range(2))
    pack(after)
    assert count(after)["turbo_onnx.SegmentPooling"] == 0
    same_on_tokens(before, after, zeros=False)


def test_an_input_that_is_compared_with_2_is_more_than_a_mask() -> None:
    special = "sp = Equal(mask, two) sf = Cast<to = 1>(sp) su = Unsqueeze(sf, axis2) sw = Mul(h1, su) "
    nodes = ONE_LAYER + special + "y = ReduceSum<keepdims = 0>(sw, axis1)"
    before, after = (model(nodes, "float[B,8] y") for _ in range(2))
    pack(after)
    mask = np.array([[1, 2, 1], [1, 1, 2]])
    data = {"mask": mask, "ids": mask * 3}
    expected = session(before.to_proto()).run(None, data)[0]
    for candidate in sessions(after):
        np.testing.assert_allclose(candidate.run(None, data)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_mask_may_be_written_out_as_text() -> None:
    after = model(ONE_LAYER + "z = Cast<to = 8>(mask)", "float[B,S,8] h1, string[B,S] z")
    assert pack(after).facts["packed"] is True
