"""Sizes that a model could not run without being equal are one size, whatever the file calls them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.passes.support import equivalent, graph, normal, parse, run
from turbo_onnx import pipeline, shapes
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.sessions import library_available, open_session

DEMANDS = {
    "a product": ("float[B,S,K] a, float[B,V,D] b", "y = MatMul(a, b)", {"V": "K"}),
    "a product of vectors": ("float[K] a, float[V] b", "y = MatMul(a, b)", {"V": "K"}),
    "a product of sums": (
        "float[B,K,4] a, float[B,N,4] n, float[B,V,4] b",
        "left = Concat<axis = 1>(a, n) t = Transpose<perm = [0, 2, 1]>(left) right = Concat<axis = 1>(b, n) "
        "y = MatMul(t, right)",
        {"V": "K"},
    ),
    "a product with what it is joined of": (
        "float[S,T] a, float[K,4] b, float[N,4] n",
        "right = Concat<axis = 0>(b, n) y = MatMul(a, right)",
        {"T": "K + N"},
    ),
    "a linear layer": ("float[S,K] a, float[V,D] b", "y = Gemm(a, b)", {"V": "K"}),
    "a transposed linear layer": ("float[K,S] a, float[D,V] b", "y = Gemm<transA = 1, transB = 1>(a, b)", {"V": "K"}),
    "other axes of what is joined": ("float[B,K] a, float[C,L] b", "y = Concat<axis = 1>(a, b)", {"C": "B"}),
}


CONSTANTS = """int64[1] far = {2147483647}, int64[1] one = {1}, int64[1] zero = {0}, int64[1] two = {2},
    int64[1] back = {-1}, int64[1] second = {-2}, int64[1] fifth = {-5}"""


def inferred(inputs: str, nodes: str) -> Model:
    proto = onnx.parser.parse_graph(f"g ({inputs}) => (y) <{CONSTANTS}> {{ {nodes} }}")
    opsets = [onnx.helper.make_opsetid("", 17)]
    return Model.from_proto(onnx.helper.make_model(proto, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize("name", DEMANDS)
def test_what_an_operator_demands_is_known(name: str) -> None:
    inputs, nodes, equal = DEMANDS[name]
    model = inferred(inputs, nodes)
    for facts in (shapes.infer_proven(model), shapes.infer(model)):
        assert facts.symbols.equalities == [f"{one} = {other}" for one, other in equal.items()]
    assert not set(equal) & {size for tensor in model.graph.inputs for size in tensor.shape}
    assert shapes.assumed_equal(model) == set()


CACHED = "float[B,K,4] a, float[B,N,4] n, float[B,K,4] b"
WINDOWS = {
    "the latest of a cache and what is new": (
        "part = Slice(a, fifth, far, one) "
        "left = Concat<axis = 1>(part, n) right = Concat<axis = 1>(b, n) y = Add(left, right)",
        ["B", "K + N", 4],
    ),
    "the latest of an axis": (
        "part = Slice(a, second, far, one) y = Add(part, b)",
        ["B", "K", 4],
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_as_much_of_an_axis_as_there_is_joined_with_all_of_it_is_all(name: str) -> None:
    nodes, shape = WINDOWS[name]
    model = inferred(CACHED, nodes)
    proto = model.to_proto()
    for facts in (shapes.infer_proven(model), shapes.infer(model)):
        assert facts.symbols.equalities == []
        assert [str(size) for size in facts[model.graph.outputs[0]].shape or ()] == [str(size) for size in shape]
    assert shapes.assumed_equal(model) == set()
    most = 5 if "new" in name else 2
    for past, new in [(past, new) for past in range(8) for new in range(4)]:
        data = {"a": normal(2, past, 4), "n": normal(2, new, 4, seed=1), "b": normal(2, past, 4, seed=2)}
        if past <= most:
            size = past + new if "new" in name else past
            assert run(proto, data)[0].shape == (2, size, 4)
        else:  # what the proof stands on: sizes that differ are never joined
            with pytest.raises(Exception, match=r"(?i)broadcast"):
                run(proto, data)


APART = {
    "the last one, which is broadcast": (
        "part = Slice(a, back, far, one) y = Add(part, b)",
        ["B", "K", 4],
    ),
    "the latest less one": (
        "part = Slice(a, fifth, far, one) left = Slice(part, zero, back, one) "
        "right = Slice(b, zero, back, one) y = Add(left, right)",
        None,
    ),
    "the latest of another axis": (
        "part = Slice(n, fifth, far, one) y = Add(part, b)",
        None,
    ),
    "every other one of the latest": (
        "part = Slice(a, fifth, far, one, two) y = Add(part, b)",
        None,
    ),
}


@pytest.mark.parametrize("name", APART)
def test_a_part_that_may_be_broadcast_is_not_taken_for_all(name: str) -> None:
    nodes, shape = APART[name]
    model = inferred(CACHED, nodes)
    facts = shapes.infer(model)
    found = facts[model.graph.outputs[0]].shape
    if shape is None:
        assert all(str(size) != "K" for size in (found or ())[1:2])
        assert all(not name.startswith("most") for name in facts.symbols.same)
    else:
        assert [str(size) for size in found or ()] == [str(size) for size in shape]


NOT_DEMANDED = {
    "what is broadcast": ("float[B,S] a, float[C,S] b", "y = Add(a, b)"),
    "sums, one of which may be 1 and broadcast": (
        "float[B,K,4] a, float[B,V,4] b, float[B,N,4] n",
        "left = Concat<axis = 1>(a, n) right = Concat<axis = 1>(b, n) y = Add(left, right)",
    ),
    "batches of products, which are broadcast": ("float[B,S,4] a, float[C,4,S] b", "y = MatMul(a, b)"),
    "the axis of what is joined": ("float[B,K] a, float[B,L] b", "y = Concat<axis = 1>(a, b)"),
    "factors, one of which may be 0": (
        "float[B,K,4] a, float[B,V,4] b",
        "p = Flatten<axis = 2>(a) q = Flatten<axis = 2>(b) t = Transpose<perm = [1, 0]>(p) y = MatMul(t, q)",
    ),
}


@pytest.mark.parametrize("name", NOT_DEMANDED)
def test_what_no_operator_demands_is_not_proven(name: str) -> None:
    assert shapes.infer_proven(inferred(*NOT_DEMANDED[name])).symbols.equalities == []


def test_sums_that_are_joined_have_equal_parts_unless_one_is_broadcast() -> None:
    model = inferred(*NOT_DEMANDED["sums, one of which may be 1 and broadcast"])
    assert shapes.infer(model).symbols.equalities == ["V = K"]
    assert shapes.assumed_equal(model) == {"K"}
    assert model.graph.outputs[0].shape == ["B", "K + N", 4]


UNEQUAL = {
    "a sum with what may have any length": (
        "float[B,K,4] a, float[4] b, float[B,N,4] n",
        "left = Concat<axis = 1>(a, n) places = NonZero(b) rows = Transpose<perm = [1, 0]>(places) "
        "found = Cast<to = 1>(rows) y = Add(left, found)",
    ),
    "twice a size and a number": ("float[B,K,4] a, float[B,5,4] n, float[B,V,4] b",
        "left = Concat<axis = 1>(a, n) right = Concat<axis = 1>(b, b) y = Add(left, right)"),
    "sums of several sizes that differ": ("float[B,K,4] a, float[B,N,4] n, float[B,V,4] b, float[B,W,4] m",
        "left = Concat<axis = 1>(a, n) right = Concat<axis = 1>(b, m) y = Add(left, right)"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNEQUAL)
def test_sums_that_do_not_say_which_parts_are_equal_say_nothing(name: str) -> None:
    assert shapes.infer(inferred(*UNEQUAL[name])).symbols.equalities == []


HEADS = "".join(
    f"m{to} = MatMul(x, {weight}) r{to} = Reshape(m{to}, split) {to} = Transpose<perm = [0, 2, 1, 3]>(r{to}) "
    for to, weight in (("q", "wq"), ("k", "wk"), ("v", "wv"))
)
SCORES = """
    key = Concat<axis = 2>(past_key, k) value = Concat<axis = 2>(past_value, v)
    keys = Transpose<perm = [0, 1, 3, 2]>(key) product = MatMul(q, keys) scaled = Mul(product, half)
"""
SUM = """
    p = Softmax<axis = -1>(scores) o = MatMul(p, value) to = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(to, merge)
"""


def decoder(mask: str, nodes: str) -> Model:
    text = graph(
        f"g (float[B,S,8] x, float[B,2,K,4] past_key, float[B,2,V,4] past_value, {mask}) "
        f"=> (float[B,S,8] y, float[B,2,K1,4] key, float[B,2,V1,4] value) "
        f"<float half = {{0.5}}, float hidden = {{-inf}}, float shown = {{0}}, int64[4] split = {{0, 0, 2, 4}},"
        f" int64[3] merge = {{0, 0, 8}}, int64[1] last = {{-1}}, int64 begin = {{0}}, int64 step = {{1}},"
        f" int64[1] batch = {{0}}, int64[1] length = {{2}}, int64[3] beside = {{0, 1, 2}},"
        f" int64[3] above = {{1, 2, 3}}>"
        f"{{ {HEADS} {SCORES} {nodes} {SUM} }}"
    )
    return parse(text, {name: normal(8, 8, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))})


def feed(length: int, keys: int, values: int, mask: np.ndarray) -> dict[str, np.ndarray]:
    cache = {"past_key": normal(2, 2, keys, 4, seed=3), "past_value": normal(2, 2, values, 4, seed=4)}
    return {"x": normal(2, length, 8, seed=5), "mask": mask} | cache


# The mask is flattened, given its batch again, and read at positions that say how long it is.
WALKED = """
    flat = Reshape(mask, last) ids = Shape(x) b1 = Gather(ids, batch) target = Concat<axis = 0>(b1, last)
    rows = Reshape(flat, target) all = Shape(key) b = Squeeze(b1) t1 = Gather(all, length) t = Squeeze(t1)
    sequences = Range(begin, b, step) r = Unsqueeze(sequences, above) positions = Range(begin, t, step)
    c = Unsqueeze(positions, beside) grid = Max(r, c) full = Shape(grid) r4 = Expand(r, full) c4 = Expand(c, full)
    r5 = Unsqueeze(r4, last) c5 = Unsqueeze(c4, last) index = Concat<axis = -1>(r5, c5) kept = GatherND(rows, index)
    bias = Where(kept, shown, hidden) scores = Add(scaled, bias)
"""


def test_attention_on_a_cache_with_sizes_of_their_own_is_fused() -> None:
    model = decoder("bool[M,T] mask", WALKED)
    before = model.to_proto()
    pipeline.run(model, pipeline.select(Options()), checks=True)
    assert [node.op for node in model.graph.nodes if node.domain == DOMAIN] == ["VarlenAttention"]
    assert [tensor.shape for tensor in model.graph.inputs[1:3]] == [["B", 2, "K", 4]] * 2
    assert model.to_proto().graph.input == before.graph.input
    for past in (0, 1, 5):
        mask = np.random.default_rng(past).random((2, 3 + past)) < 0.7
        mask[:, 0] = True
        equivalent(before, model, feed(3, past, past, mask))
    equivalent(before, model, feed(3, 5, 5, np.ones((1, 16), bool)))


def test_one_key_for_many_values_is_refused_rather_than_broadcast() -> None:
    if not library_available():
        pytest.skip("the kernels are not built")
    model = decoder("float[S,V1] mask", "scores = Add(scaled, mask)")
    before = model.to_proto()
    pipeline.run(model, pipeline.select(Options()), checks=True)
    assert [node.op for node in model.graph.nodes if node.domain == DOMAIN] == ["VarlenAttention"]
    fits, broadcast = feed(1, 4, 4, normal(1, 5)), feed(1, 0, 4, normal(1, 5))
    original = open_session(before.SerializeToString(), level="none")
    session = open_session(model.to_proto().SerializeToString(), library=True)
    np.testing.assert_allclose(session.run(["y"], fits)[0], original.run(["y"], fits)[0], atol=1e-5)
    assert original.run(["y"], broadcast)[0].shape == (2, 1, 8)  # one score, to which five numbers are added
    with pytest.raises(Exception, match=r"key and value have shapes \[2, 1, 8\], \[2, 2, 1, 4\], \[2, 2, 5, 4\]"):
        session.run(["y"], broadcast)


LAYERS = """
    key = Concat<axis = 2>(past_key, k) value = Concat<axis = 2>(past_value, v)
    other_key = Concat<axis = 2>(past_other_key, k) other_value = Concat<axis = 2>(past_other_value, v)
    scores = MatMul(q, turned) biased = Add(scores, bias) p = Softmax<axis = -1>(biased) o = MatMul(p, value)
    to = Transpose<perm = [0, 2, 1, 3]>(o) first = Reshape(to, merge)
    other_scores = MatMul(q, other_turned) other_biased = Add(other_scores, bias)
    other_p = Softmax<axis = -1>(other_biased) other_o = MatMul(other_p, other_value)
    other_to = Transpose<perm = [0, 2, 1, 3]>(other_o) second = Reshape(other_to, merge) sum = Add(first, second)
"""


def two_layers(more: str = "y = Identity(sum)") -> Model:
    """Two attentions on caches of lengths of their own, which add one bias that is as long as the first's.

    Args:
        more: nodes that make y of the layers' `sum` [B, S, 8], and of sizes of either cache.
    """
    turned = "".join(f"{name}turned = Transpose<perm = [0, 1, 3, 2]>({name}key) " for name in ("", "other_"))
    caches = ", ".join(
        f"float[B,2,{size},4] past_{name}"
        for name, size in (("key", "K"), ("value", "V"), ("other_key", "L"), ("other_value", "W"))
    )
    mask = "places = Shape(key) length1 = Gather(places, two) long = Range(begin, length1, step) "
    mask += "far = Unsqueeze(long, beside) wide = Cast<to = 1>(far) bias = Neg(wide) "
    nodes = LAYERS.replace("scores = MatMul(q, turned)", f"{turned} {mask} scores = MatMul(q, turned)", 1)
    text = graph(
        f"g (float[B,S,8] x, {caches}) => (float[B,S,8] y) <int64[4] split = {{0, 0, 2, 4}},"
        f" int64[3] merge = {{0, 0, 8}}, int64 two = {{2}}, int64 begin = {{0}}, int64 step = {{1}},"
        f" int64[3] beside = {{0, 1, 2}}, int64[1] axis = {{2}}, int64[1] none = {{0}}, int64[1] rest = {{-1}},"
        f" int64[1] four = {{4}}> {{ {HEADS} {nodes} {more} }}"
    )
    return parse(text, {name: normal(8, 8, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))})


def two_caches(length: int, first: int, second: int) -> dict[str, np.ndarray]:
    sizes = {"key": first, "value": first, "other_key": second, "other_value": second}
    caches = {f"past_{name}": normal(2, 2, size, 4, seed=len(name)) for name, size in sizes.items()}
    return {"x": normal(2, length, 8, seed=5)} | caches


def test_layers_that_add_one_mask_to_caches_of_lengths_of_their_own_are_all_fused() -> None:
    model = two_layers()
    before = model.to_proto()
    pipeline.run(model, pipeline.select(Options()), checks=True)
    assert [node.op for node in model.graph.nodes if node.domain == DOMAIN] == ["VarlenAttention"] * 2
    for length, past in ((1, 0), (1, 6), (3, 0), (3, 5)):
        equivalent(before, model, two_caches(length, past, past))
    equivalent(before, model, two_caches(1, 0, 4))  # a bias for one key, which is broadcast to those of the other layer
    for each in (before, model):  # lengths that differ otherwise
        with pytest.raises(Exception, match=r"(?i)broadcast|must have|shape"):
            run(each, two_caches(1, 3, 5))


PAST_LENGTHS = "s0 = Shape(past_key) p0 = Gather(s0, two) s1 = Shape(past_other_key) p1 = Gather(s1, two) "
APART_AT_RUN_TIME = {
    "how much longer one is": f"{PAST_LENGTHS} less = Sub(p1, p0) number = Cast<to = 1>(less) y = Add(sum, number)",
    "whether they are equal": f"{PAST_LENGTHS} same = Equal(p1, p0) number = Cast<to = 1>(same) y = Add(sum, number)",
    "whether one is longer": f"{PAST_LENGTHS} more = Less(p0, p1) number = Cast<to = 1>(more) y = Add(sum, number)",
    "as many of one as the other has": (
        "s = Shape(key) t = Gather(s, two) at = Range(begin, t, step) part = Gather<axis = 2>(other_key, at) "
        "number = ReduceMax<keepdims = 0>(part) y = Add(sum, number)"
    ),
    "one in as many rows as the other has": (
        "s = Shape(key) t = Gather(s, axis) target = Concat<axis = 0>(none, rest, t, four) "
        "rows = Reshape(other_key, target) most = ReduceMax<axes = [2], keepdims = 0>(rows) "
        "number = ReduceSum<keepdims = 0>(most) y = Add(sum, number)"
    ),
}


@pytest.mark.parametrize("name", APART_AT_RUN_TIME)
def test_what_is_computed_of_lengths_that_are_only_assumed_to_be_equal_is_computed_in_each_run(name: str) -> None:
    model = two_layers(APART_AT_RUN_TIME[name])
    before = model.to_proto()
    pipeline.run(model, pipeline.select(Options()), checks=True)
    assert [node.op for node in model.graph.nodes if node.domain == DOMAIN] == ["VarlenAttention"] * 2
    for length, first, second in ((3, 5, 5), (1, 0, 0), (1, 0, 4), (1, 0, 1)):  # a bias for one key is broadcast
        equivalent(before, model, two_caches(length, first, second))
