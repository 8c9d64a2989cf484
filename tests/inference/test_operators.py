"""Every inference rule agrees with ONNX Runtime, for all sizes: a batch of one, one position, and equal sizes too."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.inference.observed import mistakes
from tests.passes.support import graph, normal, parse, run
from turbo_onnx import shapes
from turbo_onnx.graph import Editor
from turbo_onnx.model import Model

CONSTANTS = """
    int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1}, int64[1] far = {2147483647},
    int64[1] back = {-9223372036854775807}, int64[2] halves = {1, 3}, int64[4] heads = {0, 0, 2, 2},
    int64[2] flat = {-1, 4}, int64[3] same = {0, -1, 4}, int64[3] twice = {1, 2, 1}, int64[4] unit4 = {1, 1, 1, 1},
    int64[2,3] triples = {0, 0, 1, 0, 0, 2}, int64 nought = {0}, int64 unit = {1}, int64 minus = {-1}, int64 ten = {10},
    int64 three = {3}, int64[1] wide = {3}, int64[1] seven = {7}, float[4] vector = {1, 2, 3, 4},
    int64[1] second = {-2}, int64[1] seventh = {-7}, int64[3] heads1 = {1, 1, 1},
    int64[6] pads = {0, 1, 0, 0, 2, 0}, float[2] values = {0, 1}
"""

OPERATORS = {
    "slices": """
        a = Slice(x, zero, two, one) b = Slice(x, one, far, one) c = Slice(x, zero, last, one)
        d = Slice(x, last, far, one) e = Slice(x, last, back, one, last) f = Slice(x, zero, far, two, two)
        h = Slice(table, zero, length, zero) i = Slice(x, other, far, two) j = Slice(table, length, far, zero)
        p = Slice(x, one, two, two) q = Add(x, p) r = Sub(x, d) s = Mul(h, vector) t = Add(x, h)
    """,
    "slices from the end": """
        turned = Neg(length) a = Slice(x, turned, far, one) b = Slice(table, zero, length, zero)
        c = Slice(b, turned, far, zero) d = Slice(table, turned, far, zero) e = Slice(x, turned, length, one)
        longer = Add(length, one) f = Neg(longer) g = Slice(x, f, far, one) h = Slice(b, f, far, zero)
        i = Slice(x, turned, far, one, two)
    """,
    "the last of an axis": """
        a = Slice(x, second, far, one) b = Slice(x, seventh, far, one) c = Add(x, b) d = Concat<axis = 1>(a, y)
        l = Squeeze(length) m = Sub(l, two) n = Max(nought, m) o = Mul(minus, n) p = Add(l, o) q = Max(p, nought)
        r = Range(nought, q, unit) s = Add(n, r) t = Max(m, l) u = Slice(table, second, far, zero)
        w = Slice(x, second, far, one, two) z = Expand(a, heads1)
    """,
    "parts": """
        a, b = Split<axis = 2>(x, halves) c, d = Split<axis = -1>(x) n = Exp(x) e = Concat<axis = 1>(x, n)
        f = Concat<axis = -1>(a, b) g = Concat<axis = 0>(x, y)
    """,
    "views": """
        a = Reshape(x, heads) b = Reshape(x, flat) c = Reshape(x, same) d = Flatten<axis = 2>(x)
        e = Flatten<axis = 0>(x) f = Unsqueeze(x, last) g = Squeeze(f, last) h = Transpose(x)
        i = Transpose<perm = [1,2,0]>(x) j = Reshape<allowzero = 1>(x, sizes) k = Flatten<axis = -1>(x)
    """,
    "repeats": """
        o = ReduceMax<axes = [1]>(x) a = Expand(o, sizes) b = Tile(x, twice) c = Expand(x, unit4)
        d = ConstantOfShape(sizes) e = ConstantOfShape<value = int64[1] {7}>(length) f = Expand(seven, length)
        g = Expand(o, other) h = Add(g, x)
    """,
    "lookups": """
        a = Gather<axis = 1>(x, zero) b = Gather<axis = -1>(x, halves) c = Gather(table, whole)
        d = Gather(sizes, last) e = GatherElements<axis = 1>(x, columns) f = GatherND(x, triples)
        g = Gather(halves, zero) h = ScatterND(x, triples, values)
    """,
    "products": """
        t = Transpose<perm = [0,2,1]>(x) a = MatMul(x, t) b = MatMul(x, weight) c = MatMul(vector, weight)
        d = MatMul(x, vector) r = Reshape(x, flat) e = Gemm(r, weight) f = Gemm<transB = 1>(r, r)
        g = Gemm<transA = 1>(r, r)
    """,
    "reductions": """
        a = ReduceSum(x, one) b = ReduceSum<keepdims = 0>(x, one) c = ReduceMean(x) d = ReduceMean<keepdims = 0>(x)
        e = ReduceMax<axes = [-1], keepdims = 0>(x) f = ArgMax<axis = 1>(x) g = ArgMin<axis = -1, keepdims = 0>(x)
        h = ReduceProd<keepdims = 0>(sizes) i = ReduceSum<noop_with_empty_axes = 1>(x) j = ReduceProd(sizes)
    """,
    "ranges": """
        l = Squeeze(length) a = Range(nought, l, unit) b = Range(l, nought, minus) c = Range(nought, ten, three)
        d = Range(ten, nought, minus) e = Range(unit, l, three) f = Unsqueeze(a, zero) g = Add(f, a) h = Mul(f, a)
        i = Transpose(f) j = Mul(a, three) k = Add(j, i) m = Less(a, l) n = GreaterOrEqual(a, nought) o = Sub(ten, a)
        p = Slice(a, one, far) q = Expand(f, twice) r = Reshape(a, last) s = Gather(a, zero) t = Greater(k, minus)
    """,
    "arithmetic of sizes": """
        a = Add(sizes, sizes) b = Mul(sizes, length) c = Div(b, length) d = Sub(c, c) e = Equal(c, sizes)
        f = Where(e, sizes, minus) g = Mod(b, length) h = Max(sizes, d) i = Min(sizes, h) j = Neg(a) k = Abs(j)
        m = Cast<to = 6>(a) n = Cast<to = 9>(a) o = Cast<to = 1>(a) p = Greater(a, minus) q = Not(p) r = And(q, n)
        s = Or(p, q) t = Less(sizes, a) u = Div(a, three) v = Xor(p, q)
    """,
    "parts of sizes": """
        a = Shape<start = 1>(x) b = Shape<start = -2, end = -1>(x) c = Size(x) d = Slice(sizes, last, back, zero, last)
        e = Concat<axis = 0>(a, b) f = Unsqueeze(sizes, zero) g = Transpose(f) h = Div(sizes, three)
        i = Slice(sizes, one, far) j = Squeeze(b)
    """,
    "elementwise": """
        p = Greater(x, vector) a = Exp(x) b = Where(p, x, vector) c = Add(x, vector) d = Softmax(x) e = Clip(x)
        f = Pow(x, x) g = Sum(x, a, vector) h = IsNaN(x) i = CastLike(x, length) j, k = Dropout(x)
    """,
    "normalizations": """
        a, b, c = LayerNormalization(x, vector) d = LayerNormalization<axis = 2>(a, vector)
    """,
    "operators without a rule": """
        a = NonZero(x) b = Pad(x, pads) c, d = TopK(x, one) e = CumSum(x, unit) f = OneHot(whole, ten, values)
        g = Trilu(x) h = Einsum<equation = "bsh,bth->bst">(x, x) i = Unique(x) j = Transpose(a) k = Neg(i)
    """,
    "sizes that meet": """
        o = ReduceMax<axes = [1]>(x) a = Add(o, x) n = Neg(y) b = Add(n, x) c = MatMul(y, weight) d = Sub(x, c)
        e = Range(nought, until, unit) f = Cast<to = 1>(e) g = Unsqueeze(f, one) h = Add(x, g)
    """,
}
BATCHES = [(2, 3), (1, 3), (2, 1), (1, 1), (3, 3)]


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_inferred_of_an_operator_is_so(name: str) -> None:
    proto = onnx.parser.parse_model(
        graph(
            f"g (float[B,S,4] x, float[B,T,4] y, int64[B,S] ids, int64[1] other, int64 until) => () <{CONSTANTS}> "
            "{ sizes = Shape(x) length = Slice(sizes, one, two) "
            "whole = Mul(ids, nought) columns = Unsqueeze(whole, two) "
            f"{OPERATORS[name]} }}"
        )
    )
    for key, value in {"table": normal(9, 4), "weight": normal(4, 4)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    computed = [result for node in proto.graph.node for result in node.output]
    proto.graph.output.extend(onnx.ValueInfoProto(name=result) for result in computed)
    model = Model.from_proto(proto)
    Editor(model.graph).sort()
    for batch, length in BATCHES:
        inputs = {
            "x": normal(batch, length, 4),
            "y": normal(batch, length, 4),
            "ids": np.ones((batch, length), np.int64),
            "other": np.array([1]),
            "until": np.array(1),
        }
        found, compared = mistakes(model.to_proto(), inputs)
        assert found == []
        assert compared == len(computed)


@pytest.mark.parametrize("length", [0, 3, 9, 11])
def test_as_much_from_the_end_as_there_is_at_the_most_is_all(length: int) -> None:
    nodes = "sizes = Shape(x) length = Slice(sizes, one, two) turned = Neg(length) a = Slice(x, turned, far, one) "
    nodes += "b = Slice(table, zero, length, zero) c = Slice(b, turned, far, zero)"
    model = parse(
        graph(f"g (float[B,S,4] x) => (float[B,P,4] a, float[Q,4] b, float[R,4] c) <{CONSTANTS}> {{ {nodes} }}"),
        {"table": normal(9, 4)},
    )
    shapes.infer(model)
    a, b, c = model.graph.outputs
    assert list(a.shape) == ["B", "S", 4]
    assert list(b.shape) == list(c.shape)
    results = run(model, {"x": normal(2, length, 4)})
    assert [result.shape for result in results] == [(2, length, 4), (min(length, 9), 4), (min(length, 9), 4)]
