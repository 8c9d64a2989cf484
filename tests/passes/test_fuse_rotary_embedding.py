"""FuseRotaryEmbedding: every spelling of heads that are rotated by their positions, and what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import apply, count, equivalent, normal, operators, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.fuse_rotary_embedding import FuseRotaryEmbedding

FUSED = "turbo_onnx.RotaryEmbedding"
FAR = 2**62
CONSTANTS = {
    "zero": [0], "one": [1], "two": [2], "three": [3], "four": [4], "six": [6], "eight": [8], "sixteen": [16],
    "last": [-1], "far": [FAR], "heads": [0, 2, 4], "flat": [0, 8], "pairs": [0, 2, 2, 2], "even": [0, 2, 4, 6],
    "evens": [0, 2], "odds": [1, 3], "swapped": [2, 3, 0, 1],
}  # fmt: skip
WEIGHTS = {name: np.array(values, np.int64) for name, values in CONSTANTS.items()} | {
    "w": normal(8, 8, seed=1),
    "b": normal(8, seed=2),
    "ones": np.array([-1, -1, 1, 1], np.float32),
    "half": np.array(0.5, np.float32),
}
ROWS = "float[T,8] x, float[T,1,4] cos, float[T,1,4] sin"
DENSE = "float[B,S,8] x, float[1,S,1,4] cos, float[1,S,1,4] sin"
SPLIT = "q = Reshape(x, heads) "
JOIN = " y = Reshape(z, flat)"
LOW, HIGH = "low = Slice(q, zero, two, last) ", "high = Slice(q, two, far, last) "
TURNED = f"{LOW}{HIGH}minus = Neg(high) r = Concat<axis = -1>(minus, low) "
SUM = "a = Mul(q, cos) c = Mul(r, sin) z = Add(a, c)"
PLAIN = SPLIT + TURNED + SUM + JOIN
EVENS, ODDS = "even4 = Slice(q, zero, far, last, two) ", "odd4 = Slice(q, one, far, last, two) "


def model(
    body: str,
    inputs: str = ROWS,
    outputs: str = "float[T,8] y",
    *,
    opset: int = 17,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}, "turbo_onnx": 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    used = WEIGHTS | dict(weights or {})
    words = set("".join(letter if letter.isalnum() or letter == "_" else " " for letter in text).split())
    result = parse(text, {name: value for name, value in used.items() if name in words})
    shapes.infer(result)
    return result


def fused(target: Model) -> PassReport:
    report = apply(FuseRotaryEmbedding(), target)
    shapes.infer(target)
    return report


def rotations(target: Model) -> list[gs.Node]:
    return [node for node in target.graph.nodes if node.op == "RotaryEmbedding"]


def arrays(target: Model, **sizes: int) -> dict[str, np.ndarray]:
    """Random inputs; sizes by their names in the graph."""
    shape = {tensor.name: [sizes.get(size, size) for size in tensor.shape] for tensor in target.graph.inputs}
    return {name: normal(*size, seed=len(name) + number) for number, (name, size) in enumerate(shape.items())}


def same(body: str, inputs: str = ROWS, outputs: str = "float[T,8] y", **options: object) -> Model:
    """The graph after the pass, which gives what it gave before."""
    before, after = (model(body, inputs, outputs, **options) for _ in range(2))  # type: ignore[arg-type]
    assert fused(after).rejected == []
    for sizes in ({"T": 5, "B": 2, "S": 3}, {"T": 1, "B": 1, "S": 1}, {"T": 0, "B": 3, "S": 0}):
        feed = arrays(before, **sizes)
        equivalent(run(before, feed), after, feed)
    return after


@pytest.mark.parametrize(
    ("body", "interleaved"),
    [
        (PLAIN, 0),
        (PLAIN.replace("Add(a, c)", "Add(c, a)").replace("Mul(q, cos)", "Mul(cos, q)"), 0),
        (SPLIT + f"{LOW}{HIGH}j = Concat<axis = 2>(high, low) r = Mul(j, ones) " + SUM + JOIN, 0),
        (SPLIT + "g = Gather<axis = -1>(q, swapped) r = Mul(g, ones) " + SUM + JOIN, 0),
        (
            SPLIT + "low, high = Split<axis = -1>(q) minus = Neg(high) r = Concat<axis = -1>(minus, low) " + SUM + JOIN,
            0,
        ),
        (
            SPLIT + "i = Neg(q) " + LOW + "high = Slice(i, two, far, last) r = Concat<axis = -1>(high, low) "
            "a = Mul(q, cos) c = Mul(r, sin) z = Add(a, c)" + JOIN,
            0,
        ),
        (
            SPLIT + LOW + HIGH + "minus = Neg(low) r = Concat<axis = -1>(high, minus) a = Mul(q, cos) c = Mul(r, sin) "
            "z = Sub(a, c)" + JOIN,
            0,
        ),
        (
            SPLIT + "p = Reshape(q, pairs) low1 = Gather<axis = 2>(p, first) high1 = Gather<axis = 2>(p, second) "
            "minus = Neg(high1) r = Concat<axis = -1>(minus, low1) " + SUM + JOIN,
            0,
        ),
        (
            SPLIT + EVENS + ODDS + "minus = Neg(odd4) left = Unsqueeze(minus, last) right = Unsqueeze(even4, last) "
            "s = Concat<axis = -1>(left, right) r = Reshape(s, heads) " + SUM + JOIN,
            1,
        ),
        (
            SPLIT + "p = Reshape(q, pairs) even4, odd4 = Split<axis = -1>(p) minus = Neg(odd4) "
            "s = Concat<axis = 3>(minus, even4) r = Reshape(s, heads) " + SUM + JOIN,
            1,
        ),
    ],
)
def test_each_spelling_becomes_one_node(body: str, interleaved: int) -> None:
    weights = {"first": np.array(0, np.int64), "second": np.array(1, np.int64)}
    after = same(body, weights=weights)
    (node,) = rotations(after)
    assert node.attrs["interleaved"] == interleaved
    assert (node.attrs["num_heads"], node.attrs["rotated_heads"]) == (2, 0)
    assert count(after) == {FUSED: 1, "Reshape": 2}  # those of cosines and sines


@pytest.mark.parametrize("interleaved", [0, 1])
def test_halves_that_are_rotated_apart_take_their_cosines_twice(interleaved: int) -> None:
    cut = EVENS + ODDS if interleaved else LOW + HIGH
    left, right = ("even4", "odd4") if interleaved else ("low", "high")
    join = (
        "u = Unsqueeze(e, last) v = Unsqueeze(f, last) s = Concat<axis = -1>(u, v) z = Reshape(s, heads)"
        if interleaved
        else "z = Concat<axis = -1>(e, f)"
    )
    body = f"""
        {SPLIT} {cut}
        e1 = Mul({left}, cos) e2 = Mul({right}, sin) e = Sub(e1, e2)
        f1 = Mul({left}, sin) f2 = Mul({right}, cos) f = Add(f1, f2)
        {join} {JOIN}
    """
    after = same(body, "float[T,8] x, float[T,1,2] cos, float[T,1,2] sin")
    assert rotations(after)[0].attrs["interleaved"] == interleaved
    assert count(after) == {FUSED: 1, "Reshape": 2, "Gather": 2}


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_part_of_each_head_is_rotated_and_the_rest_copied(opset: int) -> None:
    body = f"""
        h = Reshape(x, wide) q = Slice(h, zero, four, last) rest = Slice(h, four, far, last)
        {TURNED} {SUM} whole = Concat<axis = -1>(z, rest) y = Reshape(whole, flat)
    """
    weights = {"wide": np.array([0, 2, 6]), "flat": np.array([0, 12])}
    after = same(body, ROWS.replace("T,8", "T,12"), "float[T,12] y", weights=weights, opset=opset)
    (node,) = rotations(after)
    assert node.attrs["num_heads"] == 2
    assert node.inputs[2].shape == ["T", 4]
    assert count(after) == {FUSED: 1, "Reshape": 2}


def test_scaled_rows_are_rotated_before_they_are_scaled() -> None:
    after = same(SPLIT.replace("q =", "o =") + "q = Mul(o, half) " + TURNED + SUM + JOIN)
    assert operators(after)[-2:] == [FUSED, "Mul"]


def test_a_factor_of_the_scores_goes_into_the_attention() -> None:
    attention = "o = turbo_onnx.VarlenAttention<num_heads = 2, scale = 0.25>(y, x, x, , cu)"
    body = SPLIT.replace("q =", "o4 =") + "q = Mul(o4, half) " + TURNED + SUM + JOIN + attention
    before, after = (model(body, ROWS + ", int32[N] cu", "float[T,8] o") for _ in range(2))
    fused(after)
    assert after.graph.nodes[-1].attrs["scale"] == 0.125
    assert count(after)["Mul"] == 0
    feed = arrays(before, T=5, N=3) | {"cu": np.array([0, 2, 5], np.int32)}
    equivalent(run(before, feed), after, feed)


def test_a_bias_in_front_is_added_by_the_operator() -> None:
    after = same("m = MatMul(i, w) x = Add(b, m) " + PLAIN, ROWS.replace("x,", "i,"))
    assert count(after) == {"MatMul": 1, FUSED: 1, "Reshape": 2}
    assert rotations(after)[0].inputs[1].name == "b"


def test_a_bias_that_others_read_with_the_rows_stays() -> None:
    after = same(
        "m = MatMul(i, w) x = Add(b, m) also = Relu(x) " + PLAIN,
        ROWS.replace("x,", "i,"),
        "float[T,8] y, float[T,8] also",
    )
    assert count(after) == {"MatMul": 1, "Add": 1, "Relu": 1, FUSED: 1, "Reshape": 2}


TABLE = """
    index, cu, longest, position = turbo_onnx.RemovePadding(mask)
    x = Gather(all, index)
    t = Reshape(table, rows) cos = Gather<axis = 0>(t, position) t2 = Reshape(table2, rows) sin = Gather(t2, position)
"""


def again(body: str, **names: str) -> str:
    """The same nodes for a second rotation: other names for all that they compute, and these for what they read."""
    made = re.findall(r"(\w+)(?= =|, \w+ =)", body.replace("axis =", "axis="))
    words = {word: f"{word}_2" for word in made} | names
    return re.sub(r"\w+", lambda word: words.get(word[0], word[0]), body)


def test_the_table_and_the_positions_are_handed_over_and_shared_by_all_layers() -> None:
    body = TABLE + PLAIN + again(PLAIN)
    inputs = "float[N,8] all, int64[B,S] mask, float[1,S,4] table, float[1,S,4] table2"
    options = {"weights": {"rows": np.array([-1, 1, 4])}}
    before, after = (model(body, inputs, "float[T,8] y, float[T,8] y_2", **options) for _ in range(2))
    fused(after)
    assert count(after) == {"turbo_onnx.RemovePadding": 1, "Gather": 1, "Reshape": 2, FUSED: 2}
    first, other = rotations(after)
    assert list(first.inputs[2:]) == list(other.inputs[2:])
    assert first.inputs[4].name == "position"
    feed = arrays(before, N=6, S=3, B=2) | {"mask": np.array([[1, 1, 0], [1, 1, 1]])}
    equivalent(run(before, feed), after, feed)


def test_heads_may_be_rotated_twice() -> None:
    assert count(same(PLAIN + again(PLAIN, x="y"), outputs="float[T,8] y_2"))[FUSED] == 2


def test_indices_that_may_be_negative_stay_with_their_gather() -> None:
    body = "cos = Gather<axis = 0>(table, at) sin = Gather(table2, at) " + PLAIN
    inputs = "float[T,8] x, int64[T] at, float[P,1,4] table, float[P,1,4] table2"
    before, after = (model(body, inputs) for _ in range(2))
    fused(after)
    assert count(after) == {"Gather": 2, "Reshape": 2, FUSED: 1}
    feed = arrays(before, T=3, P=4) | {"at": np.array([-1, 0, 2])}
    equivalent(run(before, feed), after, feed)


@pytest.mark.parametrize("batch", ["1", "B"])
def test_a_padded_batch_is_rotated_too(batch: str) -> None:
    inputs = DENSE.replace("[1,S,1,4]", f"[{batch},S,1,4]")
    weights = {"heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8])}
    after = same(PLAIN, inputs, "float[B,S,8] y", weights=weights)
    assert rotations(after)[0].inputs[2].shape == [1 if batch == "1" else "B", "S", 4]


def test_heads_that_stand_in_front_of_the_rows_are_brought_beside_each_other() -> None:
    body = f"""
        h = Reshape(x, heads) q = Transpose<perm = [0,2,1,3]>(h) {TURNED} {SUM} y = Transpose<perm = [0,1,3,2]>(z)
    """
    inputs = DENSE.replace("[1,S,1,4]", "[S,4]")
    after = same(body, inputs, "float[B,2,4,S] y", weights={"heads": np.array([0, 0, 2, 4])})
    assert count(after) == {"Reshape": 3, FUSED: 1, "Transpose": 1}


def test_constant_tables_of_a_fixed_length_are_taken_as_they_are() -> None:
    weights = {
        "heads": np.array([0, 0, 2, 4]),
        "flat": np.array([0, 0, 8]),
        "cos": normal(1, 3, 1, 4),
        "sin": normal(1, 3, 1, 4, seed=1),
    }
    before, after = (model(PLAIN, "float[B,3,8] x", "float[B,3,8] y", weights=weights) for _ in range(2))
    fused(after)
    assert operators(after) == [FUSED]
    feed = arrays(before, B=2)
    equivalent(run(before, feed), after, feed)


QKV = """
    h = Reshape(x, three)
    q0 = Slice(h, zero, one, one) k0 = Slice(h, one, two, one) v0 = Slice(h, two, far, one)
    v = Reshape(v0, flat)
"""


def test_two_parts_of_one_projection_are_rotated_apart() -> None:
    rotated = "q = Reshape(q0, heads) " + TURNED + SUM + JOIN
    after = same(
        QKV + rotated + again(rotated, q0="k0"),
        ROWS.replace("T,8", "T,24"),
        "float[T,8] y, float[T,8] y_2, float[T,8] v",
        weights={"three": np.array([0, 3, 2, 4])},
    )
    first, second = rotations(after)
    assert list(first.inputs[2:]) == list(second.inputs[2:])
    assert count(after)["Slice"] == 3


def test_values_that_pass_the_rotation_of_queries_and_keys_are_cut_out_in_front() -> None:
    body = f"""
        all = Reshape(x, six_heads) q = Slice(all, zero, four, one) v0 = Slice(all, four, far, one)
        {TURNED} {SUM} whole = Concat<axis = 1>(z, v0)
        qk = Slice(whole, zero, four, one) v1 = Slice(whole, four, far, one)
        y = Reshape(qk, sixteen_columns) v = Reshape(v1, flat)
    """
    after = same(
        body,
        ROWS.replace("T,8", "T,24"),
        "float[T,16] y, float[T,8] v",
        weights={"six_heads": np.array([0, 6, 4]), "sixteen_columns": np.array([0, 16])},
    )
    assert count(after) == {"Slice": 2, "Reshape": 2, FUSED: 1}
    assert rotations(after)[0].attrs["num_heads"] == 4


def test_the_first_heads_of_a_row_are_rotated_and_the_others_copied() -> None:
    body = f"""
        all = Reshape(x, six_heads) q = Slice(all, zero, four, one) v0 = Slice(all, four, far, one)
        {TURNED} {SUM} whole = Concat<axis = 1>(z, v0) y = Reshape(whole, columns)
    """
    after = same(
        body,
        ROWS.replace("T,8", "T,24"),
        "float[T,24] y",
        weights={"six_heads": np.array([0, 6, 4]), "columns": np.array([0, 24])},
    )
    assert (rotations(after)[0].attrs["num_heads"], rotations(after)[0].attrs["rotated_heads"]) == (6, 4)
    assert count(after) == {"Reshape": 2, FUSED: 1}


def test_heads_with_queries_keys_and_values_side_by_side_keep_their_view() -> None:
    body = f"h = Reshape(x, wide) q = Slice(h, four, eight, last) {TURNED} {SUM} {JOIN}"
    after = same(body, ROWS.replace("T,8", "T,24"), weights={"wide": np.array([0, 2, 12])})
    assert count(after) == {"Reshape": 4, "Slice": 1, FUSED: 1}


def test_other_readers_of_the_rows_keep_what_they_read() -> None:
    after = same(PLAIN + " also = Relu(q)", outputs="float[T,8] y, float[T,2,4] also")
    assert count(after)[FUSED] == 1
    assert count(after)["Relu"] == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (PLAIN.replace("minus = Neg(high)", "minus = Identity(high)"), "other signs"),
        (PLAIN.replace("Add(a, c)", "Sub(a, c)"), "other signs"),
        (PLAIN.replace("Concat<axis = -1>(minus, low)", "Concat<axis = -1>(low, minus)"), "other signs"),
        (PLAIN.replace("Mul(r, sin)", "Mul(r, cos)"), "multiplied with 1 different tensors"),
        (SPLIT + TURNED + "a = Mul(q, cos) c = Mul(r, sin) d = Mul(c, half) z = Add(a, d)" + JOIN, "other signs"),
        (SPLIT + TURNED + "a = Mul(q, cos) d = Mul(a, half) c = Mul(r, sin) z = Add(d, c)" + JOIN, "other signs"),
    ],
)
def test_what_only_looks_like_a_rotation_stays(body: str, sentence: str) -> None:
    after = model(body)
    before = operators(after)
    report = fused(after)
    assert report.applied == 0
    assert sentence in sentences(report)[0]
    assert operators(after) == before


def test_an_odd_number_of_columns_is_no_rotation() -> None:
    body = PLAIN.replace("Slice(q, zero, two,", "Slice(q, zero, one,").replace("Slice(q, two,", "Slice(q, one,")
    after = model(body, "float[T,3] x, float[T,1,3] cos, float[T,1,3] sin", "float[T,3] y", weights={
        "heads": np.array([0, 1, 3]), "flat": np.array([0, 3])})  # fmt: skip
    assert "odd number" in sentences(fused(after))[0]


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ("float[1,4] cos, float[1,4] sin", "not one row for each position"),
        ("float[T,2,4] cos, float[T,2,4] sin", "partners"),
        ("float[T,1,4] cos, float[1,1,4] sin", "not one row for each position"),
        ("float[T,1,1] cos, float[T,1,4] sin", None),
    ],
)
def test_cosines_that_are_not_one_row_for_each_token_are_left_alone(tables: str, sentence: str | None) -> None:
    inputs = f"float[T,8] x, {tables}"
    before, after = (model(PLAIN, inputs) for _ in range(2))
    report = fused(after)
    feed = arrays(before, T=3)
    equivalent(run(before, feed), after, feed)
    assert report.applied == (sentence is None)
    if sentence is not None:
        assert sentence in sentences(report)[0]


def test_an_output_of_the_graph_inside_of_the_rotation_keeps_it() -> None:
    after = model(PLAIN, outputs="float[T,8] y, float[T,2,4] c")
    report = fused(after)
    assert report.applied == 0
    assert "c, which is inside of it, is read elsewhere too" in sentences(report)[0]


def test_a_type_without_a_kernel_stays() -> None:
    after = model(PLAIN.replace("half", "half"), ROWS.replace("float", "double"), "double[T,8] y")
    report = fused(after)
    assert report.applied == 0
    assert "there is no kernel" in sentences(report)[0]


def test_a_gate_of_two_products_is_no_rotation_and_not_mentioned() -> None:
    body = "u, v = Split<axis = -1>(x) a = Mul(u, g) c = Mul(v, g) y = Add(a, c)"
    after = model(body, "float[T,8] x, float[T,4] g", "float[T,4] y")
    assert fused(after).applied == 0
