"""RaiseAttention: every way to scale, mask, guard and transpose becomes one operator; what only looks alike stays."""

from __future__ import annotations

import pytest

from tests.passes.attention_graphs import KEY, MERGE, RAISED, VALUE, batches, check_equivalent, cleaned, layer
from tests.passes.support import apply, count, equivalent, graph, normal, parse, run, sentences
from turbo_onnx.model import Model
from turbo_onnx.passes.raise_attention import RaiseAttention

TAIL = "p = Softmax<axis = -1>(s) o = MatMul(p, v)"
GUARD = "sm = Softmax<axis = -1>(s) nan = IsNaN(sm) p = Where(nan, zero, sm) o = MatMul(p, v)"

SPELLINGS = {
    "no scale, no mask": f"s = MatMul(q, kt) {TAIL}",
    "scores times a number": f"a = MatMul(q, kt) s = Mul(a, half) {TAIL}",
    "a number times scores": f"a = MatMul(q, kt) s = Mul(half, a) {TAIL}",
    "scores divided": f"a = MatMul(q, kt) s = Div(a, two) {TAIL}",
    "queries scaled": f"qs = Mul(q, half) s = MatMul(qs, kt) {TAIL}",
    "keys scaled": f"ks = Div(kt, two) s = MatMul(q, ks) {TAIL}",
    "both scaled by a root": f"qs = Mul(q, root) ks = Mul(root, kt) s = MatMul(qs, ks) {TAIL}",
    "mask of -inf added": f"a = MatMul(q, kt) b = Where(keep, zero, infinite) s = Add(a, b) {TAIL}",
    "mask of the lowest number added, on the left": (
        f"a = MatMul(q, kt) h = Mul(a, half) b = Where(keep, zero, lowest) s = Add(b, h) {TAIL}"
    ),
    "mask computed": (
        "a = MatMul(q, kt) h = Mul(a, half) f = Cast<to = 1>(m4) inverse = Sub(unit, f) b = Mul(inverse, tenthousand) "
        f"s = Add(h, b) {TAIL}"
    ),
    "mask subtracted": f"a = MatMul(q, kt) b = Where(keep, zero, infinite) n = Neg(b) s = Sub(a, n) {TAIL}",
    "guard against NaN": f"a = MatMul(q, kt) b = Where(keep, zero, infinite) s = Add(a, b) {GUARD}",
    "scores replaced by -inf": f"a = MatMul(q, kt) s = Where(keep, a, infinite) {TAIL}",
    "scores replaced by -inf where hidden, guarded": f"a = MatMul(q, kt) s = Where(hide, infinite, a) {GUARD}",
    "scores replaced by the lowest number": f"a = MatMul(q, kt) h = Div(a, two) s = Where(keep, h, lowest) {TAIL}",
    "scores replaced by a large number": f"a = MatMul(q, kt) h = Div(a, two) s = Where(hide, billion, h) {TAIL}",
    "position bias and mask": (
        f"a = MatMul(q, kt) h = Div(a, two) c = Add(h, position) b = Where(keep, zero, lowest) s = Add(c, b) {TAIL}"
    ),
    "bias scaled with the scores": f"a = MatMul(q, kt) c = Add(position, a) s = Mul(c, half) {TAIL}",
    "bias, then scores replaced": f"a = MatMul(q, kt) c = Add(a, position) s = Where(keep, c, lowest) {TAIL}",
    "scores replaced, then bias": f"a = MatMul(q, kt) c = Where(keep, a, lowest) s = Add(c, position) {TAIL}",
    "scores bounded": f"a = MatMul(q, kt) s = Tanh(a) {TAIL}",
    "scores bounded by a number": f"a = MatMul(q, kt) d = Div(a, two) t = Tanh(d) s = Mul(t, two) {TAIL}",
    "scores scaled, bounded and masked": (
        "a = MatMul(q, kt) h = Mul(a, half) d = Div(h, two) t = Tanh(d) c = Mul(two, t) "
        f"b = Where(keep, zero, lowest) s = Add(c, b) {GUARD}"
    ),
    "scores bounded and replaced": (
        f"qs = Mul(q, half) a = MatMul(qs, kt) t = Tanh(a) c = Div(t, half) s = Where(keep, c, lowest) {TAIL}"
    ),
    "scores bounded, biased and scaled": (
        f"a = MatMul(q, kt) t = Tanh(a) c = Mul(t, two) d = Add(position, c) s = Mul(d, half) {TAIL}"
    ),
    "dropout at rest": "a = MatMul(q, kt) sm = Softmax<axis = 3>(a) p = Dropout(sm) o = MatMul(p, v)",
    "a copy in between": f"a = MatMul(q, kt) s = Identity(a) {TAIL}",
}


def position_layer(scores: str) -> Model:
    """The layer with a third input: a bias [1, 2, S, S]."""
    return layer(scores, inputs=", float[1,2,S,S] position")


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_operator(name: str) -> None:
    before, after = position_layer(SPELLINGS[name]), position_layer(SPELLINGS[name])
    report = apply(RaiseAttention(), after)
    assert (report.facts["attention_found"], report.applied) == (1, 1)
    assert count(after)[RAISED] == 1
    assert count(after)["Softmax"] == 0
    check_equivalent(before, after, position=True)


def attention(model: Model) -> dict[str, object]:
    RaiseAttention().run(model)
    node = next(node for node in model.graph.nodes if node.domain == "turbo_onnx.raised")
    return {"shapes": [list(tensor.shape) for tensor in node.inputs], **node.attrs}


def test_operands_and_attributes_are_those_of_the_contract() -> None:
    found = attention(layer(SPELLINGS["guard against NaN"]))
    assert found["shapes"] == [["B", 2, "S", 4], ["B", 2, "S", 4], ["B", 2, "S", 4], ["B", 1, 1, "S"]]
    assert (found["scale"], found["guard"], found["causal"]) == (1.0, 1, 0)


def test_scales_on_both_operands_are_multiplied() -> None:
    assert attention(layer(SPELLINGS["both scaled by a root"]))["scale"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [
        ("scores bounded", 1.0, 1.0),
        ("scores bounded by a number", 1.0, 2.0),
        ("scores scaled, bounded and masked", 0.5, 2.0),
        ("scores bounded and replaced", 1.0, 2.0),
        ("scores bounded, biased and scaled", 1.0, 1.0),
    ],
)
def test_a_tangent_and_the_factors_around_it_are_a_soft_cap(name: str, scale: float, softcap: float) -> None:
    found = attention(position_layer(SPELLINGS[name]))
    assert (found["scale"], found["softcap"]) == (scale, softcap)


def test_two_layers_share_the_bias_made_of_their_mask() -> None:
    second = "s2 = Where(keep, b2, infinite) p2 = Softmax<axis = -1>(s2) o = MatMul(p2, v)"
    first = "a = MatMul(q, kt) s = Where(keep, a, infinite) p = Softmax<axis = -1>(s) o1 = MatMul(p, v) "
    model = layer(f"{first} b2 = MatMul(o1, kt) {second}")
    before = layer(f"{first} b2 = MatMul(o1, kt) {second}")
    apply(RaiseAttention(), model)
    assert (count(model)[RAISED], count(model)["Where"]) == (2, 1)
    check_equivalent(before, model)


KEYS = {
    "transposed after the split": f"{KEY} kt = Transpose<perm = [0,1,3,2]>(k)",
    "as three axes, transposed, and back": (
        f"{KEY} k3 = Reshape(k, flat) k3t = Transpose<perm = [0,2,1]>(k3) kt = Reshape(k3t, unflat)"
    ),
    "scaled between two transposes": f"{KEY} ks = Mul(k, half) kt = Transpose<perm = [0,1,3,2]>(ks)",
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_may_be_transposed_in_any_way(name: str) -> None:
    constants = ", int64[3] flat = {-1, 5, 4}, int64[4] unflat = {-1, 2, 4, 5}"

    def build() -> Model:
        return layer(f"s = MatMul(q, kt) {TAIL}", key=KEYS[name], constants=constants, length="5")

    before, after = build(), build()
    apply(RaiseAttention(), after)
    assert count(after)[RAISED] == 1
    data = next(batches())
    equivalent(run(before, data), after, data)


EINSUMS = {
    "heads first": (
        'a = Einsum<equation = "bhqd,bhkd->bhqk">(q, k) s = Where(hide, infinite, a) p = Softmax<axis = -1>(s) '
        'o = Einsum<equation = "bhqk,bhkd->bhqd">(p, v)',
        MERGE,
    ),
    "heads beside features": (
        'a = Einsum<equation = "bind, bjnd -> bnij">(rq, rk) s = Where(hide, infinite, a) p = Softmax<axis = -1>(s) '
        'to = Einsum<equation = "bnij,bjnd->bind">(p, rv)',
        "merged = Reshape(to, merge) y = MatMul(merged, wo)",
    ),
    "values on the left": (
        'a = Einsum<equation = "bhqd,bhkd->bhqk">(q, k) p = Softmax<axis = -1>(a) '
        'o = Einsum<equation = "bhkd,bhqk->bhqd">(v, p)',
        MERGE,
    ),
}


@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_is_a_product_too(name: str) -> None:
    scores, merge = EINSUMS[name]
    before, after = (layer(scores, key=KEY, merge=merge) for _ in range(2))
    apply(RaiseAttention(), after)
    assert count(after)[RAISED] == 1
    assert count(after)["Einsum"] == 0
    check_equivalent(before, after)


THREE_AXES = (
    "q3 = Reshape(q, three) k3 = Reshape(k, three) v3 = Reshape(v, three) k3t = Transpose<perm = [0,2,1]>(k3) "
    "a = MatMul(q3, k3t) {between} p = Softmax<axis = -1>(s) {after} o = Reshape(o3, four)"
)
THREE_AXES_CONSTANTS = (
    ", int64[3] three = {-1, 5, 4}, int64[4] four = {-1, 2, 5, 4}, int64[4] square = {-1, 2, 5, 5}, "
    "int64[3] flat = {-1, 5, 5}"
)


@pytest.mark.parametrize(
    ("between", "after"),
    [
        ("s = Mul(a, half)", "o3 = MatMul(p, v3)"),
        ("g = Reshape(a, square) c = Where(keep, g, lowest) s = Reshape(c, flat)", "o3 = MatMul(p, v3)"),
        ("g = Reshape(a, square) s = Where(keep, g, lowest)", "pf = Reshape(p, flat) o3 = MatMul(pf, v3)"),
        (
            "e = Expand(keep, wide) f = Reshape(e, flat) b = Where(f, zero, infinite) s = Add(a, b)",
            "o3 = MatMul(p, v3)",
        ),
    ],
    ids=["plain", "mask on four axes", "softmax on four axes", "mask on three axes"],
)
def test_heads_may_be_joined_with_the_batch(between: str, after: str) -> None:
    constants = f"{THREE_AXES_CONSTANTS}, int64[4] wide = {{1, 2, 5, 1}}"
    scores = THREE_AXES.format(between=between, after=after)

    def build() -> Model:
        return layer(scores, key=KEY, constants=constants, length="5")

    before, model = build(), build()
    apply(RaiseAttention(), model)
    node = next(node for node in model.graph.nodes if node.domain == "turbo_onnx.raised")
    assert node.inputs[0].shape[1] == 2
    data = next(batches())
    equivalent(run(before, data), model, data)


ONE_FOR_ALL = {"wk1": normal(8, 4, seed=5), "wv1": normal(8, 4, seed=6)}


def one_for_all(
    value: str = "mv = MatMul(x, wv1) rv = Reshape(mv, single) v = Transpose<perm = [0,2,1,3]>(rv)",
) -> Model:
    """Queries of two heads, keys of one."""
    return layer(
        "a = MatMul(q, kt) b = Where(keep, zero, infinite) s = Add(a, b) p = Softmax<axis = -1>(s) o = MatMul(p, v)",
        key="mk = MatMul(x, wk1) rk = Reshape(mk, single) kt = Transpose<perm = [0,2,3,1]>(rk)",
        value=value,
        constants=", int64[4] single = {0, 0, 1, 4}",
        extra=ONE_FOR_ALL,
    )


def test_one_head_of_keys_may_be_broadcast_by_the_products() -> None:
    before, after = one_for_all(), one_for_all()
    apply(RaiseAttention(), after)
    (node,) = [node for node in after.graph.nodes if node.op == "Attention"]
    assert [tensor.shape[1] for tensor in node.inputs[:3]] == [2, 1, 1]
    check_equivalent(before, after)


def test_one_head_of_keys_for_several_of_values_is_refused() -> None:
    model = one_for_all(VALUE)
    assert "same batches and heads" in sentences(apply(RaiseAttention(), model))[0]


def test_one_head_without_a_head_axis() -> None:
    text = graph(
        "g (float[B,S,8] q, float[B,L,8] k, float[B,L,3] v, float[B,S,L] bias) => (float[B,S,3] y) {"
        "kt = Transpose<perm = [0,2,1]>(k) a = MatMul(q, kt) s = Add(a, bias) p = Softmax<axis = -1>(s) "
        "y = MatMul(p, v) }"
    )
    before, after = cleaned(parse(text)), cleaned(parse(text))
    apply(RaiseAttention(), after)
    assert count(after)[RAISED] == 1
    data = {"q": normal(2, 3, 8), "k": normal(2, 5, 8), "v": normal(2, 5, 3), "bias": normal(2, 3, 5)}
    equivalent(run(before, data), after, data)


@pytest.mark.parametrize("opset", [11, 12])
def test_old_opsets(opset: int) -> None:
    scores = "a = MatMul(q, kt) h = Div(a, two) p = Softmax<axis = 3>(h) o = MatMul(p, v)"
    before, after = (layer(scores, mask="", opset=opset) for _ in range(2))
    apply(RaiseAttention(), after)
    assert count(after)[RAISED] == 1
    check_equivalent(before, after)


REFUSALS = {
    "probabilities multiplied": (
        "a = MatMul(q, kt) sm = Softmax<axis = -1>(a) p = Mul(sm, position) o = MatMul(p, v)",
        "its probabilities go into Mul",
    ),
    "probabilities read twice": (
        "s = MatMul(q, kt) p = Softmax<axis = -1>(s) o1 = MatMul(p, v) o2 = MatMul(p, o1) o = Add(o1, o2)",
        "are read by 2 nodes",
    ),
    "scores read twice": (
        "a = MatMul(q, kt) p = Softmax<axis = -1>(a) o1 = MatMul(p, v) o2 = MatMul(a, v) o = Add(o1, o2)",
        "its scores a are read elsewhere too",
    ),
    "scores multiplied by a mask": (
        f"a = MatMul(q, kt) s = Mul(a, position) {TAIL}",
        "its scores go through Mul",
    ),
    "scores bounded behind a mask": (
        f"a = MatMul(q, kt) r = Where(keep, a, lowest) s = Tanh(r) {TAIL}",
        "its scores go through a Tanh behind a mask or a bias",
    ),
    "scores bounded behind a bias": (
        f"a = MatMul(q, kt) r = Add(a, position) t = Tanh(r) s = Mul(t, two) {TAIL}",
        "its scores go through a Tanh behind a mask or a bias",
    ),
    "scores bounded twice": (
        f"a = MatMul(q, kt) t = Tanh(a) r = Mul(t, two) s = Tanh(r) {TAIL}",
        "its scores go through a Tanh behind another",
    ),
    "scores turned around behind a bound": (
        f"a = MatMul(q, kt) t = Tanh(a) s = Mul(t, tenthousand) {TAIL}",
        "its scores are bounded by -10000.0, not by a number from 0.001 to 1000000.0",
    ),
    "scores bounded by the rows of a bias": (
        f"a = MatMul(q, kt) t = Tanh(a) s = Mul(t, position) {TAIL}",
        "its scores go through Mul",
    ),
    "scores clipped": (
        f"low = Constant<value_float = -2.0>() a = MatMul(q, kt) s = Clip(a, low, two) {TAIL}",
        "its scores go through Clip",
    ),
    "replaced by a number that is not far away": (
        f"a = MatMul(q, kt) s = Where(keep, a, tenthousand) {TAIL}",
        "masked float32 scores are replaced by -10000.0",
    ),
    "a mask added to finitely replaced scores": (
        f"a = MatMul(q, kt) r = Where(keep, a, billion) s = Add(r, position) {TAIL}",
        "position is added to masked scores",
    ),
    "biased scores replaced by a large number": (
        f"a = MatMul(q, kt) r = Add(a, position) s = Where(keep, r, billion) {TAIL}",
        "scores with a bias or a mask are replaced by -1000000000.0",
    ),
    "softmax over another axis": (
        "a = MatMul(q, kt) p = Softmax<axis = 2>(a) o = MatMul(p, v)",
        "over axis 2 of 4",
    ),
    "scores scaled after masking": (
        f"a = MatMul(q, kt) r = Where(keep, a, lowest) s = Mul(r, half) {TAIL}",
        "multiplied by 0.5 after masking",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_attention_is_left_with_a_sentence(name: str) -> None:
    scores, sentence = REFUSALS[name]
    model = position_layer(scores)
    report = apply(RaiseAttention(), model)
    assert count(model)[RAISED] == 0
    assert report.facts["attention_found"] == 1
    assert len(report.rejected) == 1
    assert sentence in sentences(report)[0]
    assert report.rejected[0].rule == "raise-attention"


@pytest.mark.parametrize("step", ["s = Mul(a, halves)", "s = Where(keep, a, infinities)"])
def test_numbers_that_enlarge_the_scores_are_refused(step: str) -> None:
    text = graph(
        "g (float[1,2,S,4] q, float[1,2,4,S] kt, float[3,2,S,4] v, bool[1,1,1,S] keep) => (float[3,2,S,4] o) "
        "<float[3,1,1,1] halves = {0.5, 0.5, 0.5}, float[3,1,1,1] infinities = {-inf, -inf, -inf}> {"
        f"a = MatMul(q, kt) {step} {TAIL} }}"
    )
    model = cleaned(parse(text))
    report = apply(RaiseAttention(), model)
    assert report.applied == 0
    assert len(report.rejected) == 1


def test_a_mask_of_another_batch_is_refused() -> None:
    text = graph(
        "g (float[B,2,S,4] q, float[B,2,4,S] kt, float[B,2,S,4] v, float[C,1,1,S] bias) => (float[B,2,S,4] o) {"
        f"a = MatMul(q, kt) s = Add(a, bias) {TAIL} }}"
    )
    model = parse(text)
    report = RaiseAttention().run(model)
    assert "is not known to broadcast to scores" in sentences(report)[0]


def test_probabilities_that_are_an_output_stay() -> None:
    model = layer(f"s = MatMul(q, kt) {TAIL}", outputs="float[B,S,8] y, float[B,2,S,S] p")
    report = apply(RaiseAttention(), model)
    assert "are an output of the graph" in sentences(report)[0]


def test_the_softmax_of_a_classifier_is_not_attention() -> None:
    model = parse(
        graph("g (float[B,S,8] x) => (float[B,S,8] y) { m = MatMul(x, w) y = Softmax<axis = -1>(m) }"),
        {"w": normal(8, 8)},
    )
    report = apply(RaiseAttention(), model)
    assert (report.facts["attention_found"], report.rejected) == (0, [])


def test_a_softmax_in_higher_precision_keeps_it() -> None:
    text = graph(
        "g (float[B,2,S,4] q, float[B,2,4,S] kt, float[B,2,S,4] v) => (float[B,2,S,4] o) {"
        "a = MatMul(q, kt) w = Cast<to = 11>(a) sm = Softmax<axis = -1>(w) p = Cast<to = 1>(sm) o = MatMul(p, v) }"
    )
    before, after = cleaned(parse(text)), cleaned(parse(text))
    apply(RaiseAttention(), after)
    assert attention_precision(after) == 11
    data = {"q": normal(2, 2, 3, 4), "kt": normal(2, 2, 4, 3), "v": normal(2, 2, 3, 4)}
    equivalent(run(before, data), after, data)


def test_what_is_left_in_half_precision_stays() -> None:
    text = graph(
        "g (float16[B,2,S,4] q, float16[B,2,4,S] kt, float16[B,2,S,4] v) => (float16[B,2,S,4] o) {"
        "a = MatMul(q, kt) p = Softmax<axis = -1>(a) o = MatMul(p, v) }"
    )
    report = apply(RaiseAttention(), cleaned(parse(text)))
    assert sentences(report) == ["q is float16, and what is left in half precision keeps its roundings"]


def attention_precision(model: Model) -> int:
    return int(
        next(node for node in model.graph.nodes if node.domain == "turbo_onnx.raised").attrs["softmax_precision"]
    )
