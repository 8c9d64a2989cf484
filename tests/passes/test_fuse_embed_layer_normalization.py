"""FuseEmbedLayerNormalization: look-ups of equal shape, in any order of addition, and rows that all tokens share."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import sessions
from tests.passes.support import apply, count, equivalent, graph, normal, operators, parse, run, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.fuse_embed_layer_normalization import FuseEmbedLayerNormalization

HEADER = "g (int64[B,S] a, int64[B,S] b, int64[B,S] c, int64[1,S] p) => (float[B,S,4] y)"
LOOKUPS = "u = Gather(words, a) v = Gather(types, b) w = Gather(positions, c)"
NORM = "y = LayerNormalization<epsilon=0.001>(t, gamma, beta)"


def model_of(nodes: str, header: str = HEADER) -> Model:
    weights = {
        "words": normal(9, 4),
        "types": normal(2, 4, seed=1),
        "positions": normal(5, 4, seed=2),
        "gamma": normal(4, seed=3),
        "beta": normal(4, seed=4),
        "row": normal(1, 1, 4, seed=5),
        "flat_row": normal(4, seed=6),
        "table": normal(3, 4, seed=7),
    }
    used = {name: value for name, value in weights.items() if name in nodes}
    return parse(graph(f"{header} {{{nodes}}}"), used)


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    ids = {name: random.integers(0, high, (2, 3)) for name, high in (("a", 9), ("b", 2), ("c", 5))}
    return {**ids, "p": np.arange(3)[None]}


SPELLINGS = {
    "one": f"t = Gather(words, a) {NORM}",
    "two": f"u = Gather(words, a) v = Gather(types, b) t = Add(u, v) {NORM}",
    "three": f"{LOOKUPS} s = Add(u, v) t = Add(s, w) {NORM}",
    "three, the other way round": f"{LOOKUPS} s = Add(w, v) t = Add(u, s) {NORM}",
    "no shift": f"{LOOKUPS} s = Add(u, w) t = Add(s, v) y = LayerNormalization<epsilon=0.001>(t, gamma)",
    "two and a row": f"u = Gather(words, a) w = Gather(positions, c) s = Add(u, row) t = Add(s, w) {NORM}",
    "one and a flat row": f"u = Gather(words, a) t = Add(flat_row, u) {NORM}",
    "three and a row": f"{LOOKUPS} s = Add(u, v) r = Add(s, flat_row) t = Add(r, w) {NORM}",
    "three and a row in pairs": f"{LOOKUPS} s = Add(u, v) r = Add(w, row) t = Add(s, r) {NORM}",
    "one table twice": f"u = Gather(words, a) v = Gather(words, b) t = Add(u, v) {NORM}",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_operator(name: str) -> None:
    model = model_of(SPELLINGS[name])
    before = run(model, inputs())
    report = apply(FuseEmbedLayerNormalization(), model)
    assert report.applied == 1
    assert operators(model) == ["turbo_onnx.EmbedLayerNormalization"]
    equivalent(before, model, inputs())


def test_a_shared_row_goes_into_the_smallest_table() -> None:
    model = model_of(SPELLINGS["three and a row"])
    apply(FuseEmbedLayerNormalization(), model)
    word, kind, position = model.graph.nodes[0].inputs[3:6]
    assert [tensor.shape[0] for tensor in (word, kind, position)] == [9, 2, 5]
    np.testing.assert_allclose(kind.values, normal(2, 4, seed=1) + normal(4, seed=6), rtol=1e-6)
    assert word.name == "words"


def test_negative_ids_count_from_the_end() -> None:
    model = model_of(SPELLINGS["three"])
    data = {**inputs(), "a": np.array([[-1, -9, 8], [0, -2, 3]])}
    before = run(model, data)
    apply(FuseEmbedLayerNormalization(), model)
    equivalent(before, model, data)


REFUSALS = {
    "positions shared by the batch": (
        f"u = Gather(words, a) w = Gather(positions, p) t = Add(u, w) {NORM}",
        "a ['B', 'S'] broadcasts against p [1, 'S']",
    ),
    "a computed addend": (
        f"{LOOKUPS} r = Relu(w) s = Add(u, v) t = Add(s, r) {NORM}",
        "expected Gather, but r is computed by Relu (Relu of r)",
    ),
    "a table that is added": (
        f"u = Gather(words, a) t = Add(u, table) {NORM}",
        "table [3, 4] is not the same row of 4 numbers for every token",
    ),
    "four tables": (
        f"{LOOKUPS} s = Add(u, v) r = Add(s, w) x = Gather(table, a) t = Add(r, x) {NORM}",
        "4 tables are looked up, and one operator takes 3",
    ),
    "a sum that is read elsewhere": (
        f"{LOOKUPS} s = Add(u, v) t = Add(s, w) n = LayerNormalization(t, gamma, beta) y = Add(n, t)",
        "t is also read by Add of y",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_it_cannot_take_stays_and_the_report_says_why(name: str) -> None:
    nodes, sentence = REFUSALS[name]
    model = model_of(nodes)
    before = count(model)
    report = apply(FuseEmbedLayerNormalization(), model)
    assert count(model) == before
    assert sentence in sentences(report)


def test_a_residual_in_front_of_the_normalization_is_no_near_miss() -> None:
    model = parse(
        graph(
            "g (float[B,4] x, float[B,4] z) => (float[B,4] y) <float[4] gamma = {1,2,3,4}> "
            "{t = Add(x, z) y = LayerNormalization(t, gamma)}"
        )
    )
    assert apply(FuseEmbedLayerNormalization(), model).rejected == []


NAMES = {
    "one name": ("B,S", "B,S", "B,S"),
    "names of their own": ("B,S", "P,Q", "C,D"),
    "no names": ("?,?", "?,?", "?,?"),
    "two of one name": ("P,Q", "B,S", "B,S"),
    "one batch of its own": ("B,S", "P,S", "B,S"),
}
UNEVEN = [
    ("names of their own", "a", 1),
    ("names of their own", "b", 2),
    ("names of their own", "ac", 1),
    ("no names", "bc", 1),
    ("two of one name", "a", 1),
    ("two of one name", "bc", 2),
    ("one batch of its own", "b", 1),
]


def model_with_sizes(name: str) -> Model:
    sizes = (f"int64[{size.replace('?', 'B')}] {key}" for key, size in zip("abc", NAMES[name], strict=True))
    model = model_of(SPELLINGS["three"], f"g ({', '.join(sizes)}) => (float[X,Y,4] y)")
    proto = model.to_proto()
    if name == "no names":  # the text has no way to say that
        for entry in proto.graph.input:
            for size in entry.type.tensor_type.shape.dim:
                size.Clear()
    model = Model.from_proto(proto)
    for _ in range(2):  # sizes without names get some at first, and are inputs' sizes after that
        shapes.infer(model)
    return model


@pytest.mark.parametrize(("name", "broadcast", "axes"), UNEVEN)
def test_ids_of_one_sequence_are_broadcast_as_before(name: str, broadcast: str, axes: int) -> None:
    model = model_with_sizes(name)
    data = {key: inputs()[key] for key in "abc"}
    uneven = data | {key: data[key][(slice(1),) * axes] for key in broadcast}
    before, before_uneven = run(model, data), run(model, uneven)
    assert apply(FuseEmbedLayerNormalization(), model).applied == 1
    for candidate in sessions(model):
        for feed, (expected,) in ((data, before), (uneven, before_uneven)):
            np.testing.assert_allclose(candidate.run(None, feed)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("one name", 0), ("two of one name", 3), ("names of their own", 6)])
def test_only_ids_that_may_be_uneven_are_broadcast(name: str, expected: int) -> None:
    model = model_with_sizes(name)
    apply(FuseEmbedLayerNormalization(), model)
    assert count(model)["Expand"] == expected
