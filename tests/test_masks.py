"""A padding mask is found by what the graph computes from it, in every spelling, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tests.passes.support import graph, parse, run
from turbo_onnx import pipeline, shapes
from turbo_onnx.attention_masks import AttentionMask, attention_mask
from turbo_onnx.graph import Tensor
from turbo_onnx.masks import MaskFunctions, is_index
from turbo_onnx.model import Model

CONSTANTS = """
    int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[1] axis2 = {2}, int64[1] last = {-1}, int64[2] axes12 = {1, 2},
    int64[3] after = {1, 2, 3}, int64[3] before = {0, 1, 2}, int64[1] flat = {-1}, int64 first = {0}, int64 step = {1},
    float one = {1}, float zero = {0}, float lowest = {-3.4028234663852886e+38}, float infinite = {-inf},
    float tenthousand = {-10000}, float billion = {1e9}, float shy = {-1}, bool yes = {1},
    int64 pad = {0}, int64 two = {2}
"""
SIZES = """
    sh = Shape(mask) b0 = Gather(sh, first) s0 = Gather(sh, step) b1 = Unsqueeze(b0, axis0) s1 = Unsqueeze(s0, axis0)
"""
GRID = f"""
    {SIZES} sequences = Range(first, b0, step) positions = Range(first, s0, step) rows = Unsqueeze(sequences, after)
    columns = Unsqueeze(positions, before)
"""


def load(nodes: str, *, inputs: str = "int64[B,S] mask", clean: bool = True) -> Model:
    """The graph that computes `bias`, cleaned as it is before packing."""
    model = parse(graph(f"g ({inputs}) => (float[B,H,Q,S] bias) <{CONSTANTS}> {{ {nodes} }}"))
    if clean:
        pipeline.run(model, pipeline.CLEAN)
    else:
        shapes.infer(model)
    return model


def mask_of(model: Model) -> AttentionMask | None:
    return attention_mask(model.graph.outputs[0], MaskFunctions(model, shapes.infer(model)))


SPELLINGS = {
    "one minus the mask, times the lowest number": (
        "m3 = Unsqueeze(mask, axis1) m4 = Unsqueeze(m3, axis2) f = Cast<to = 1>(m4) i = Sub(one, f) "
        "bias = Mul(i, lowest)"
    ),
    "one minus the mask, times ten thousand": (
        "m4 = Unsqueeze(mask, axes12) f = Cast<to = 1>(m4) i = Sub(one, f) bias = Mul(tenthousand, i)"
    ),
    "expanded, inverted and filled": (
        f"{SIZES} m4 = Unsqueeze(mask, axes12) to = Concat<axis = 0>(b1, axis1, s1, s1) e = Expand(m4, to) "
        "f = Cast<to = 1>(e) i = Sub(one, f) c = Cast<to = 9>(i) bias = Where(c, lowest, i)"
    ),
    "a flattened mask indexed by aranges": (
        f"{GRID} k = Cast<to = 9>(mask) fl = Flatten<axis = 0>(k) all = Reshape(fl, flat) base = Mul(rows, s0) "
        "index = Add(base, columns) g = Gather(all, index) both = And(yes, g) "
        "to = Concat<axis = 0>(b1, axis1, s1, s1) e = Expand(both, to) bias = Where(e, zero, infinite)"
    ),
    "a mask indexed by stacked aranges": (
        f"{GRID} k = Cast<to = 9>(mask) to = Concat<axis = 0>(b1, axis1, axis1, s1) r4 = Expand(rows, to) "
        "c4 = Expand(columns, to) r5 = Unsqueeze(r4, last) c5 = Unsqueeze(c4, last) "
        "index = Concat<axis = -1>(r5, c5) g = GatherND(k, index) both = And(g, yes) bias = Where(both, zero, lowest)"
    ),
    "zeros filled where the mask is 0": (
        "e = Equal(mask, pad) e4 = Unsqueeze(e, axes12) bias = Where(e4, infinite, zero)"
    ),
    "the mask minus one, times a large number": (
        "f = Cast<to = 1>(mask) m = Sub(f, one) t = Mul(m, billion) bias = Unsqueeze(t, axes12)"
    ),
    "the negative inverse, times a large number": (
        "f = Cast<to = 1>(mask) i = Sub(one, f) n = Neg(i) t = Mul(n, billion) bias = Unsqueeze(t, axes12)"
    ),
    "placed by a transposition": (
        "f = Cast<to = 1>(mask) i = Sub(one, f) t = Mul(i, lowest) u = Unsqueeze(t, axes12) "
        "v = Transpose<perm = [3,1,2,0]>(u) bias = Transpose<perm = [3,2,1,0]>(v)"
    ),
    "hidden by the lowest of several": (
        "m4 = Unsqueeze(mask, axes12) f = Cast<to = 1>(m4) i = Sub(one, f) t = Mul(i, lowest) bias = Min(t, zero, zero)"
    ),
}
KINDS = ["int64", "int32", "bool", "float", "uint8"]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_mask_is_found_in_every_spelling(name: str) -> None:
    found = mask_of(load(SPELLINGS[name]))
    assert found is not None
    assert (found.mask.name, found.alone, found.from_all, found.from_tokens) == ("mask", True, True, True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_may_be_of_any_type(kind: str) -> None:
    model = load(SPELLINGS["one minus the mask, times the lowest number"], inputs=f"{kind}[B,S] mask")
    found = mask_of(model)
    assert found is not None
    assert found.mask is model.graph.inputs[0]


MASK = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])


def spread(tensor_rank: int, view: tuple[int, int]) -> np.ndarray:
    """The mask with its axes at the two places."""
    shape = [1] * tensor_rank
    shape[view[0]], shape[view[1]] = MASK.shape
    return MASK.reshape(shape) if view[0] < view[1] else MASK.T.reshape(shape)


@pytest.mark.parametrize("name", [*SPELLINGS, "two-sided"])
def test_every_function_of_the_mask_is_what_it_is_said_to_be(name: str) -> None:
    model = load(SPELLINGS.get(name, TWO_SIDED), clean=False)
    functions = MaskFunctions(model, shapes.infer(model))
    computed = [tensor for node in model.graph.nodes for tensor in node.outputs]
    known = [t for t in computed if getattr(functions.of(t), "mask", None) is model.graph.inputs[0]]
    outputs = list(model.graph.outputs)
    model.graph.outputs = [*outputs, *(t for t in known if t is not outputs[0])]
    tensors = {id(t): array for t, array in zip(model.graph.outputs, run(model, {"mask": MASK}), strict=True)}
    assert known
    for tensor in known:
        function, array = functions.of(tensor), tensors[id(tensor)]
        assert function is not None
        index = tuple(spread(array.ndim, view) for view in function.views)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(np.broadcast_to(function.table[index], array.shape), array)


TWO_SIDED = """
    k4 = Unsqueeze(mask, axes12) keys = Cast<to = 9>(k4) q3 = Unsqueeze(mask, axis2) q4 = Unsqueeze(q3, axis1)
    queries = Cast<to = 9>(q4) both = And(keys, queries) bias = Where(both, zero, lowest)
"""


INVERTED = {
    "the mask times the lowest number": "m4 = Unsqueeze(mask, axes12) f = Cast<to = 1>(m4) bias = Mul(f, lowest)",
    "filled where it is true": "b = Cast<to = 9>(mask) b4 = Unsqueeze(b, axes12) bias = Where(b4, infinite, zero)",
}


@pytest.mark.parametrize("name", INVERTED)
def test_a_mask_that_is_1_for_padding_is_known_to_be_inverted(name: str) -> None:
    model = load(INVERTED[name])
    found = mask_of(model)
    assert found is not None
    assert (found.mask.name, found.alone, found.inverted) == ("mask", True, True)
    functions = MaskFunctions(model, shapes.infer(model))
    opposite = gs.Variable("opposite")
    functions.restate(found.mask, opposite)
    restated = attention_mask(model.graph.outputs[0], functions)
    assert restated is not None
    assert (restated.mask is opposite, restated.inverted) == (True, False)


def test_a_two_sided_mask_shows_padding_to_padding() -> None:
    found = mask_of(load(TWO_SIDED))
    assert found is not None
    assert (found.alone, found.from_all, found.from_tokens) == (True, False, True)


POSITIONS = (
    "relative = Gather(distances, near) headed = Transpose<perm = [2,0,1]>(relative) r4 = Unsqueeze(headed, axis0)"
)


@pytest.mark.parametrize("order", ["hidden, extra", "extra, hidden"])
def test_another_term_is_added_to_the_mask(order: str) -> None:
    nodes = SPELLINGS["one minus the mask, times the lowest number"].replace("bias =", "hidden =")
    model = load(f"{nodes} bias = Add({order})", inputs="int64[B,S] mask, float[1,2,S,S] extra")
    found = mask_of(model)
    assert found is not None
    assert (found.mask.name, found.alone) == ("mask", False)


CHOSEN = {
    "shown where the mask is 1": ("bias = Where(c, extra, infinite)", False, True),
    "hidden where the opposite is 1": ("o = Not(c) bias = Where(o, lowest, extra)", False, True),
    "shown where the mask is 0": ("bias = Where(c, infinite, extra)", True, True),
    "not hidden enough": ("bias = Where(c, extra, shy)", False, False),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_another_bias_is_chosen_by_the_mask(name: str) -> None:
    nodes, inverted, hides = CHOSEN[name]
    model = load(
        f"m4 = Unsqueeze(mask, axes12) c = Cast<to = 9>(m4) {nodes}", inputs="int64[B,S] mask, float[1,2,S,S] extra"
    )
    found = mask_of(model)
    assert (found is not None) == hides
    if found is not None:
        assert (found.alone, found.from_all, found.from_tokens, found.inverted) == (False, False, False, inverted)


COMPUTED = {
    "ids above the padding": ("r = Greater(ids, pad)", "int64[B,S] ids", "r"),
    "ids cast to truth": ("r0 = Identity(ids) r = Cast<to = 9>(r0)", "int64[B,S] ids", "r"),
    "positions below the lengths": (
        "sh = Shape(ids) s0 = Gather(sh, step) p = Range(first, s0, step) c = Unsqueeze(lengths, axis1) r = Less(p, c)",
        "int64[B,S] ids, int64[B] lengths",
        "r",
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_truth_for_each_token_is_a_mask(name: str) -> None:
    nodes, inputs, expected = COMPUTED[name]
    looked_up = "w = Gather(table, ids) n = ReduceSum<keepdims = 0>(w) "
    nodes = (
        f"{looked_up} {nodes} r4 = Unsqueeze(r, axes12) h = Where(r4, zero, lowest) m = Mul(n, zero) bias = Add(h, m)"
    )
    model = parse(
        graph(f"g ({inputs}) => (float[B,H,Q,S] bias) <{CONSTANTS}> {{ {nodes} }}"),
        {"table": np.ones((9, 4), np.float32)},
    )
    functions = MaskFunctions(model, shapes.infer(model))
    hidden = next(tensor for node in model.graph.nodes for tensor in node.outputs if tensor.name == "h")
    found = attention_mask(hidden, functions)
    assert found is not None
    assert found.mask.name == expected


REFUSED = {
    "not hidden enough": SPELLINGS["one minus the mask, times the lowest number"].replace("lowest", "shy"),
    "real tokens preferred": (
        "m4 = Unsqueeze(mask, axes12) f = Cast<to = 1>(m4) i = Sub(one, f) t = Mul(i, lowest) bias = Add(t, one)"
    ),
    "queries instead of keys": (
        "q3 = Unsqueeze(mask, axis2) q4 = Unsqueeze(q3, axis1) f = Cast<to = 1>(q4) i = Sub(one, f) "
        "bias = Mul(i, lowest)"
    ),
    "three axes": "m3 = Unsqueeze(mask, axis1) f = Cast<to = 1>(m3) i = Sub(one, f) bias = Mul(i, lowest)",
    "no mask at all": f"{SIZES} to = Concat<axis = 0>(b1, axis1, s1, s1) bias = Expand(zero, to)",
    "moved along the positions": (
        "a = Slice(mask, axis0, axis1, axis1) r = Slice(mask, axis1, far, axis1) m = Concat<axis = 1>(r, a) "
        "m4 = Unsqueeze(m, axes12) f = Cast<to = 1>(m4) i = Sub(one, f) bias = Mul(i, lowest)"
    ),
    "sums of the mask": (
        "c = CumSum(mask, step) m4 = Unsqueeze(c, axes12) f = Cast<to = 1>(m4) i = Sub(one, f) bias = Mul(i, lowest)"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_provably_hide_padding_is_no_mask(name: str) -> None:
    nodes = REFUSED[name].replace("far", "end")
    body = f"g (int64[B,S] mask) => (float bias) <{CONSTANTS}, int64[1] end = {{9223372036854775807}}> {{ {nodes} }}"
    rank = 3 if name == "three axes" else 4
    model = parse(graph(body.replace("(float bias)", f"(float[{','.join('BHQS'[:rank])}] bias)")))
    assert mask_of(model) is None


def tensor(model: Model, name: str) -> Tensor:
    return next(entry for entry in model.graph.inputs if entry.name == name)


LOOKUPS = {
    "themselves": "l = Gather(table, ids)",
    "in another type": "c = Cast<to = 6>(ids) l = Gather(table, c)",
    "flattened": "r = Reshape(ids, flat) l = Gather(table, r)",
    "moved by a constant": "c = Add(ids, two) l = Gather(table, c)",
    "element by element": "l0 = GatherElements<axis = 1>(other, ids) l = Cast<to = 1>(l0)",
    "as one of many": "l = OneHot(ids, two, values)",
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_ids_that_are_looked_up_are_no_mask(name: str) -> None:
    nodes = f"{LOOKUPS[name]} s = ReduceSum<keepdims = 0>(l) m4 = Unsqueeze(ids, axes12) f = Cast<to = 1>(m4) "
    nodes += "i = Sub(one, f) h = Mul(i, lowest) z = Mul(s, zero) bias = Add(h, z)"
    text = f"g (int64[B,S] ids, int64[B,S] other) => (float[B,H,Q,S] bias) <{CONSTANTS}, float[2] values = {{0, 1}}> "
    model = parse(graph(text + f"{{ {nodes} }}"), {"table": np.ones((9, 4), np.float32)})
    assert is_index(tensor(model, "ids"))
    assert not is_index(tensor(model, "other"))
    functions = MaskFunctions(model, shapes.infer(model))
    assert functions.of(tensor(model, "ids")) is None
    assert mask_of(model) is None


def test_a_mask_that_counts_positions_is_still_a_mask() -> None:
    nodes = "c = CumSum(mask, step) p = Mul(c, mask) l = Gather(table, p) bias = ReduceSum<keepdims = 0>(l)"
    text = f"g (int64[B,S] mask) => (float bias) <{CONSTANTS}> {{ {nodes} }}"
    model = parse(graph(text), {"table": np.ones((9, 4), np.float32)})
    assert not is_index(tensor(model, "mask"))
