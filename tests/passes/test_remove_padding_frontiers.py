"""RemovePadding: how far it goes where a graph is not packed from end to end, and what it says about it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.padded_graphs import (
    BIAS,
    EMBEDDING,
    MEAN,
    VARLEN,
    WIDTH,
    compare,
    layer,
    model,
    pack,
    same_on_tokens,
    session,
    sessions,
)
from tests.passes.support import count, normal, operators, sentences
from turbo_onnx import shapes
from turbo_onnx.model import Model
from turbo_onnx.passes.remove_padding import RemovePadding

TWO_LAYERS = EMBEDDING + BIAS + layer(1) + layer(2)
RELATIVE = """
    sh = Shape(ids) len = Slice(sh, axis1, end) top = Squeeze(len, axis0) at = Range(first, top, step)
    across = Unsqueeze(at, axis0) down = Unsqueeze(at, axis1) far = Sub(across, down) near = Abs(far)
    looked = Gather(distances, near) headed = Transpose<perm = [2,0,1]>(looked) relative = Unsqueeze(headed, axis0)
"""


def packed_operands(target: Model) -> list[bool]:
    """For each attention, in order, whether it runs on packed rows."""
    return [len(node.inputs[0].shape) == 2 for node in target.graph.nodes if node.op == "VarlenAttention"]


def test_nothing_that_feeds_an_attention_without_mask_is_packed() -> None:
    nodes = EMBEDDING + BIAS + layer(1) + layer(2, bias="")
    before, after = (model(nodes, "float[B,S,8] h2") for _ in range(2))
    report = pack(after)
    assert packed_operands(after) == [False, False]
    assert report.facts["attention_packed"] == 0
    assert "it has no mask" in sentences(report)
    same_on_tokens(before, after)


def test_packing_that_moves_more_rows_than_it_spares_products_is_left_out_unless_asked_for() -> None:
    nodes = EMBEDDING + BIAS + layer(1) + layer(2, bias="")
    nodes = nodes.replace("g2 = MatMul(f2, wf) t2 = Tanh(g2)", "t2 = Tanh(f2)").replace(
        "o2 = MatMul(a2, wo)", "o2 = Neg(a2)"
    )
    reports = []
    for always in (False, True):
        target = model(nodes, "float[B,S,8] h2")
        shapes.infer(target)
        reports.append(RemovePadding(always=always).run(target))
    assert [report.facts["packed"] for report in reports] == [False, "partial"]
    assert any(sentence.endswith("`--packing on` does it all the same") for sentence in sentences(reports[0]))


def test_what_follows_an_attention_without_mask_is_packed() -> None:
    nodes = EMBEDDING + BIAS + layer(1, bias="") + layer(2)
    before, after = (model(nodes, "float[B,S,8] h2") for _ in range(2))
    report = pack(after)
    assert packed_operands(after) == [False, True]
    assert report.facts["packed"] == "partial"
    same_on_tokens(before, after)


def test_a_bias_besides_the_mask_keeps_attention_padded_and_packs_the_rest() -> None:
    nodes = EMBEDDING + RELATIVE + BIAS.replace("bias =", "hidden =") + "bias = Add(hidden, relative)"
    nodes += layer(1) + layer(2)
    changes = {"extra": {"distances": normal(32, 2)}, "constants": ", int64 step = {1}"}
    before, after = (model(nodes, "float[B,S,8] h2", **changes) for _ in range(2))
    report = pack(after)
    assert packed_operands(after) == [False, False]
    assert report.facts["packed"] == "partial"
    assert all("more than a padding mask" in sentence for sentence in sentences(report))
    feed_forward = [node for node in after.graph.nodes if node.op == "Tanh"]
    assert [node.inputs[0].shape for node in feed_forward] == [["total_tokens", 8]] * 2
    same_on_tokens(before, after)


REFUSED = {
    "no attention": ("y = Add(h0, h0)", "no fused attention"),
    "no mask": (layer(1, bias="").replace("h1 =", "y ="), "it has no mask"),
    "a mask that does not hide enough": (
        BIAS.replace("lowest", "shy") + layer(1).replace("h1 =", "y ="),
        "its bias bias is not proven to hide the padding",
    ),
    "a bias of numbers": (
        "w = Gather(table, mask) s = ReduceMean<axes = [2], keepdims = 0>(w) bias = Unsqueeze(s, axes12)"
        + layer(1).replace("h1 =", "y ="),
        "its bias bias is not proven to hide the padding",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_without_a_proven_mask_nothing_changes(name: str) -> None:
    nodes, sentence = REFUSED[name]
    target = model(EMBEDDING + nodes)
    before = operators(target)
    report = pack(target)
    assert operators(target) == before
    assert (report.applied, report.facts["packed"]) == (0, False)
    assert any(sentence in said for said in sentences(report)), sentences(report)


def test_fixed_sizes_are_left_alone() -> None:
    target = model(EMBEDDING + BIAS + layer(1), "float[2,4,8] h1", inputs="int64[2,4] ids, int64[2,4] mask")
    report = pack(target)
    assert count(target)["turbo_onnx.RemovePadding"] == 0
    assert sentences(report) == ["the mask mask has fixed sizes [2, 4]; export with dynamic axes to pack"]


def test_attention_hidden_by_another_mask_stays() -> None:
    other = BIAS.replace("mask", "types").replace("bias =", "second =")
    for name in ("m4", "mf", "inv"):
        other = other.replace(name, f"{name}_other")
    nodes = EMBEDDING + BIAS + other + layer(1) + layer(2) + layer(3, bias="second")
    inputs = "int64[B,S] ids, int64[B,S] mask, int64[B,S] types"
    before, after = (model(nodes, "float[B,S,8] h3", inputs=inputs) for _ in range(2))
    report = pack(after)
    assert report.facts["mask_input"] == "mask"
    assert packed_operands(after) == [False, False, False]
    reference = session(before.to_proto())
    for candidate in sessions(after):
        mask = np.array([[1, 1, 0], [1, 0, 1]])
        types = np.array([[1, 0, 1], [1, 1, 1]])
        data = {"ids": np.array([[3, 4, 0], [5, 0, 6]]), "mask": mask, "types": types}
        compare(reference, candidate, mask, data, zeros=False)


def test_attention_to_another_sequence_stays() -> None:
    cross = f"q = MatMul(x, wq) k = MatMul(h0, wk) v = MatMul(h0, wv) y = {VARLEN}<num_heads = 2, scale = 0.5>"
    nodes = EMBEDDING + BIAS + cross + "(q, k, v, , , bias)"
    inputs = "int64[B,S] ids, int64[B,S] mask, float[B,L,8] x"
    before, after = (model(nodes, "float[B,L,8] y", inputs=inputs) for _ in range(2))
    pack(after)
    assert packed_operands(after) == [False]
    reference, mask = session(before.to_proto()), np.array([[1, 1, 0], [1, 0, 1]])
    data = {"ids": np.array([[3, 4, 0], [5, 0, 6]]), "mask": mask, "x": normal(2, 5, WIDTH)}
    for candidate in sessions(after):
        compare(reference, candidate, mask, data)


OTHER_READERS = {
    "the mask elsewhere": (
        TWO_LAYERS + "b = Cast<to = 9>(mask) hidden = Not(b) n = ReduceSum(mask, axis1)",
        "float[B,S,8] h2, bool[B,S] hidden, int64[B,1] n",
    ),
    "a branch": (
        TWO_LAYERS + "z = If(flag)<then_branch = yes () => (float[B,S,8] t) { t = Tanh(h1) }, "
        "else_branch = no () => (float[B,S,8] e) { e = Neg(h1) }>",
        "float[B,S,8] h2, float[B,S,8] z",
    ),
    "a pooling in a branch": (
        TWO_LAYERS + "b = Cast<to = 9>(mask) real = Unsqueeze(b, axis2) w = Where(real, h2, lowest) "
        "y = ReduceMax<axes = [1], keepdims = 0>(w) "
        "z = If(flag)<then_branch = yes () => (float[B,8] t) { t = ReduceMax<axes = [1], keepdims = 0>(w) }, "
        "else_branch = no () => (float[B,8] e) { m = ReduceMax<axes = [1], keepdims = 0>(w) e = Neg(m) }>",
        "float[B,8] y, float[B,8] z",
    ),
    "something along the positions": (
        TWO_LAYERS + "y = CumSum(h2, first_axis)",
        "float[B,S,8] y",
    ),
}


@pytest.mark.parametrize("name", OTHER_READERS)
def test_other_readers_are_given_what_they_had(name: str) -> None:
    nodes, outputs = OTHER_READERS[name]
    changes = {"inputs": "int64[B,S] ids, int64[B,S] mask, bool flag", "constants": ", int64 first_axis = {1}"}
    if "flag" not in nodes:
        changes["inputs"] = "int64[B,S] ids, int64[B,S] mask"
    before, after = (model(nodes, outputs, **changes) for _ in range(2))
    pack(after)
    assert count(after)["turbo_onnx.RemovePadding"] == 1
    same_on_tokens(before, after, zeros=False)


DIFFERENT_NAMES = {
    "mask": ("int64[B,S] ids, int64[M,S] mask", EMBEDDING, ("mask",)),
    "ids": ("int64[N,S] ids, int64[B,S] mask", EMBEDDING, ("ids",)),
    "types": (
        "int64[B,S] ids, int64[M,S] mask, int64[N,S] types",
        EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)",
        ("mask", "types"),
    ),
    "no name at all": (
        "int64[_,_] ids, int64[_,_] mask, int64[_,_] types",
        EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)",
        ("mask", "types"),
    ),
    "hidden states": (
        "float[N,S,8] x, int64[M,S] mask",
        "h0 = Mul(x, x)",
        ("x", "mask"),
    ),
    "a row of each sequence": (
        "int64[B,S] ids, int64[B,S] mask, float[N,1,8] each",
        EMBEDDING.replace("h0", "e0") + "h0 = Add(e0, each)",
        ("each",),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_NAMES)
def test_a_batch_of_one_is_broadcast_where_the_file_names_the_sizes_differently(name: str) -> None:
    inputs, embedding, small = DIFFERENT_NAMES[name]
    nodes = embedding + BIAS + layer(1)
    before, after = (model(nodes, "float[X,Y,8] h1", inputs=inputs) for _ in range(2))
    for tensor in after.graph.inputs:  # as cleaning leaves it, having found that scores and mask are added
        tensor.shape = ["B", *(("S",) if tensor.name != "each" else (1,)), *tensor.shape[2:]]
    shapes.infer(after)
    assert pack(after).facts["packed"] is True
    random = np.random.default_rng(1)
    full = {
        "ids": random.integers(1, 28, (3, 4)),
        "mask": np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]]),
        "types": random.integers(0, 3, (3, 4)),
        "x": normal(3, 4, WIDTH),
        "each": normal(3, 1, WIDTH, seed=2),
    }
    reference = session(before.to_proto())
    names = [entry.name for entry in reference.get_inputs()]
    for candidate in sessions(after):
        for one in (None, *small):
            given = {name: full[name][:1] if name == one else full[name] for name in names}
            whole = {name: np.broadcast_to(given[name], full[name].shape) for name in names}
            real = whole["mask"] != 0
            (expected,), (actual,) = reference.run(None, whole), candidate.run(None, given)
            assert actual.shape == expected.shape
            np.testing.assert_allclose(actual[real], expected[real], rtol=1e-5, atol=1e-5)


def renamed(nodes: str, inputs: str) -> Model:
    """As cleaning leaves it, having found that sizes are added."""
    target = model(nodes, "float[X,Y,8] h1", inputs=inputs)
    for tensor in target.graph.inputs:
        tensor.shape = ["B", "S"]
    shapes.infer(target)
    assert pack(target).facts["packed"] is True
    return target


LONGER = {
    "ids": ("int64[B,S] ids, int64[P,Q] mask", EMBEDDING, False),
    "ids of another batch": ("int64[N,S] ids, int64[B,S] mask", EMBEDDING, False),
    "ids without names": ("int64[_,_] ids, int64[_,_] mask", EMBEDDING, False),
    "ids and types": (
        "int64[B,S] ids, int64[P,Q] mask, int64[C,D] types",
        EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)",
        False,
    ),
    "ids but not types": (
        "int64[B,S] ids, int64[P,Q] mask, int64[C,D] types",
        EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)",
        True,
    ),
    "ids but not types of the mask's names": (
        "int64[B,S] ids, int64[P,Q] mask, int64[P,Q] types",
        EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)",
        True,
    ),
}


@pytest.mark.parametrize("name", LONGER)
def test_a_mask_that_is_longer_than_all_other_inputs_is_refused(name: str) -> None:
    inputs, embedding, runs = LONGER[name]
    after = renamed(embedding + BIAS + layer(1), inputs)
    ones = np.ones((3, 1), np.int64)
    data = {"ids": ones, "mask": np.ones((3, 4), np.int64), "types": ones.repeat(4 if runs else 1, axis=1)}
    for candidate in sessions(after):
        given = {entry.name: data[entry.name] for entry in candidate.get_inputs()}
        assert candidate.run(None, given | {"mask": ones} | ({"types": ones} if "types" in given else {}))
        if runs:
            assert candidate.run(None, given)[0].shape == (3, 4, WIDTH)
            continue
        with pytest.raises(Exception, match="mask_must_not_be_longer_than_other_inputs"):
            candidate.run(None, given)


def test_inputs_of_the_masks_names_are_broadcast_with_it() -> None:
    nodes = EMBEDDING.replace("h0", "e0") + "te = Gather(table, types) h0 = Add(e0, te)" + BIAS + layer(1)
    nodes += "column = Unsqueeze(mask, axis2) f = Cast<to = 1>(column) y = Concat<axis = -1>(h1, f)"
    after = model(nodes, "float[X,Y,9] y", inputs="int64[B,S] ids, int64[M,S] mask, int64[M,S] types")
    before = session(
        model(nodes, "float[X,Y,9] y", inputs="int64[B,S] ids, int64[B,S] mask, int64[B,S] types").to_proto()
    )
    for tensor in after.graph.inputs:
        tensor.shape = ["B", "S"]
    shapes.infer(after)
    assert pack(after).facts["packed"] is True
    random = np.random.default_rng(1)
    full = {"ids": random.integers(1, 28, (3, 4)), "mask": np.array([[1, 0, 1, 1]]), "types": np.array([[1, 2, 0, 1]])}
    whole = {name: np.broadcast_to(array, (3, 4)) for name, array in full.items()}
    (expected,) = before.run(None, whole)
    for candidate in sessions(after):
        (actual,) = candidate.run(None, full)
        np.testing.assert_allclose(actual[whole["mask"] != 0], expected[whole["mask"] != 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 4), (3, 1), (1, 1)])
def test_a_mask_that_is_broadcast_is_counted_as_it_was_given(size: tuple[int, int]) -> None:
    nodes = EMBEDDING + BIAS + layer(1).replace("h1 =", "last =") + MEAN.replace("Shape(last)", "Shape(mask3)")
    nodes = nodes.replace("um_like", "mask3 = Unsqueeze(mask, axis2) um_like", 1)
    before, after = (
        model(nodes, "float[X,8] y, float[Y,Z] count", inputs="int64[B,S] ids, int64[P,Q] mask") for _ in range(2)
    )
    for tensor in after.graph.inputs:
        tensor.shape = ["B", "S"]
    shapes.infer(after)
    assert pack(after).facts["packed"] is True
    assert "SegmentPooling" in [node.op for node in after.graph.nodes]
    data = {"ids": np.random.default_rng(1).integers(1, 28, (3, 4)), "mask": np.ones(size, np.int64)}
    expected = session(before.to_proto()).run(None, data)
    for candidate in sessions(after):
        for one, other in zip(candidate.run(None, data), expected, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_packed_graph_is_not_packed_again() -> None:
    target = model(TWO_LAYERS, "float[B,S,8] h2")
    pack(target)
    again = RemovePadding(always=True).run(target)
    assert (again.applied, again.facts["packed"]) == (0, False)
