"""SimplifyShapes: shape arithmetic that is known becomes constants, and no number is believed that is not proven."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.clean_graphs import rewritten
from tests.passes.support import count
from turbo_onnx.dims import symbol
from turbo_onnx.graph import integers
from turbo_onnx.passes.simplify_shapes import SimplifyShapes, constant_target

X = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
CONSTANTS = """
    int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
    int64[1] all = {-1}, int64 first = {0}, int64 second = {1}, int64 third = {2}
"""
SIZES = "s = Shape(x) b0 = Gather(s, first) l0 = Gather(s, second) b = Unsqueeze(b0, zero) l = Unsqueeze(l0, zero)"


def simplified(nodes: str, output: str = "float y", **changes: object):  # type: ignore[no-untyped-def]
    kind, name = output.rsplit(" ", 1)
    body = f"g (float[B,S,4] x) => ({kind} {name}) <{CONSTANTS}> {{ {nodes} }}"
    return rewritten(SimplifyShapes(), body, X, **changes)  # type: ignore[arg-type]


TARGETS = {
    "split of heads": (
        f"{SIZES} t = Concat<axis = 0>(b, l, two, two) y = Reshape(x, t)",
        "float[B,S,2,2] y",
        [0, 0, 2, 2],
    ),
    "split of heads, the rest open": (
        f"{SIZES} t = Concat<axis = 0>(b, l, two, all) y = Reshape(x, t)",
        "float[B,S,2,2] y",
        [0, 0, 2, 2],
    ),
    "flat rows": (f"{SIZES} m = Mul(b, l) t = Concat<axis = 0>(m, four) y = Reshape(x, t)", "float[N,4] y", [-1, 4]),
    "a computed length": (
        f"{SIZES} m = Mul(b, l) d = Div(m, b) t = Concat<axis = 0>(all, d, four) y = Reshape(x, t)",
        "float[B,S,4] y",
        [0, 0, 4],
    ),
    "sizes by a slice": (
        "s = Shape(x) h = Slice(s, zero, two) t = Concat<axis = 0>(h, all) y = Reshape(x, t)",
        "float[B,S,4] y",
        [0, 0, 4],
    ),
    "sizes by part of the shape": (
        "h = Shape<end = 2>(x) t = Concat<axis = 0>(h, four) y = Reshape(x, t)",
        "float[B,S,4] y",
        [0, 0, 4],
    ),
    "zero is no size but a copy": (
        f"{SIZES} t = Concat<axis = 0>(b, l, four) y = Reshape<allowzero = 1>(x, t)",
        "float[B,S,4] y",
        [0, 0, 4],
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_reshape_target_becomes_a_constant(name: str) -> None:
    nodes, output, target = TARGETS[name]
    after, _ = simplified(nodes, output)
    (node,) = after.graph.nodes
    assert integers(node.inputs[1]) == target
    assert "allowzero" not in node.attrs


def test_two_open_sizes_stay_computed() -> None:
    after, _ = simplified(f"{SIZES} t = Concat<axis = 0>(l, b, four) y = Reshape(x, t)", "float[S,B,4] y")
    assert count(after)["Concat"] == 1


def test_a_target_that_is_an_input_stays() -> None:
    body = "g (float[B,S,4] x, int64[2] t) => (float[M,N] y) { y = Reshape(x, t) }"
    after, report = rewritten(SimplifyShapes(), body, X | {"t": np.array([4, 6])})
    assert report.applied == 0
    assert not isinstance(after.graph.nodes[0].inputs[1], type(None))


def test_numbers_known_whole_become_constants() -> None:
    after, _ = simplified(
        f"{SIZES} w = Gather(s, third) v = Add(w, second) f = Cast<to = 1>(v) y = Add(x, f)", "float[B,S,4] y"
    )
    assert count(after) == {"Add": 1, "Cast": 1}


def test_the_choice_of_an_expand_target_is_made() -> None:
    after, _ = simplified(
        f"{SIZES} t = Concat<axis = 0>(b, l, four) f = Shape(t) o = ConstantOfShape<value = int64[1] {{1}}>(f) "
        "minus = Mul(o, all) e = Equal(t, minus) c = Where(e, o, t) y = Reshape(x, c)",
        "float[B,S,4] y",
    )
    assert integers(after.graph.nodes[0].inputs[1]) == [0, 0, 4]


ONE_OF_MANY = {
    "the first position": "p = Slice(x, zero, one, one)",
    "the last position": "p = Slice(x, all, far, one)",
    "the second position": "p = Slice(x, one, two, one)",
    "the first sequence": "p = Slice(x, zero, one, zero)",
    "a position given at run time": "n = Add(at, one) p = Slice(x, at, n, one)",
    "positions given at run time": "p = Slice(x, at, until, one)",
}


@pytest.mark.parametrize("name", ONE_OF_MANY)
def test_a_part_is_never_taken_for_the_whole_that_it_is_added_to(name: str) -> None:
    nodes = f"{ONE_OF_MANY[name]} z = Sub(x, p) s = Shape(x) e = Expand(p, s) y = Neg(e)"
    body = (
        f"g (float[B,S,4] x, int64[1] at, int64[1] until) => (float[B,S,4] y, float[B,S,4] z) "
        f"<{CONSTANTS}, int64[1] far = {{9223372036854775807}}> {{ {nodes} }}"
    )
    after, _ = rewritten(SimplifyShapes(), body, X | {"at": np.array([1]), "until": np.array([2])})
    assert count(after)["Expand"] == 1


@pytest.mark.parametrize("reader", ["Add(x, e)", "Add(e, x)", "Mul(x, e)", "Sub(x, e)", "Where(k, x, e)"])
def test_an_expand_that_its_readers_do_anyway_goes(reader: str) -> None:
    after, _ = simplified(
        f"s = Shape(x) p = Slice(x, zero, one) q = Slice(p, zero, one, one) e = Expand(q, s) "
        f"k = Greater(x, q) y = {reader}",
        "float[B,S,4] y",
    )
    assert count(after)["Expand"] == 0


EXPANDS_KEPT = {
    "read by another operator": "y = Neg(e)",
    "no other operand of the size": "y = Add(e, q)",
    "the output itself": "n = Neg(x) y = Identity(e)",
}


@pytest.mark.parametrize("name", EXPANDS_KEPT)
def test_an_expand_that_gives_the_shape_stays(name: str) -> None:
    after, _ = simplified(
        f"s = Shape(x) p = Slice(x, zero, one) q = Slice(p, zero, one, one) e = Expand(q, s) {EXPANDS_KEPT[name]}",
        "float[B,S,4] y",
    )
    assert count(after)["Expand"] == 1


def test_a_known_output_is_still_computed() -> None:
    after, _ = simplified("s = Shape(x) w = Gather(s, third) y = Mul(w, w)", "int64 y")
    assert count(after) == {"Mul": 1}


UNKNOWN = {
    "half of an unknown size, repeated": (
        f"{SIZES} h = Div(l, two) k = Expand(h, wide) y = Add(k, k)",
        "int64[100] y",
        ", int64[1] wide = {100}",
    ),
    "a difference below 0 of unsigned numbers": (
        "k = Sub(low, high) y = Mul(k, k)",
        "uint8[1] y",
        ", uint8[1] low = {1}, uint8[1] high = {2}",
    ),
    "a sum beyond the type": (
        "k = Add(most, most) y = Add(k, k)",
        "int32[1] y",
        ", int32[1] most = {2147483647}",
    ),
    "the negative of the least number": (
        "k = Neg(least) y = Add(k, k)",
        "int64[1] y",
        ", int64[1] least = {-9223372036854775808}",
    ),
    "a cast that cuts": ("c = Cast<to = 3>(large) y = Add(c, c)", "int8[1] y", ", int64[1] large = {300}"),
    "a remainder with the dividend's sign": (
        "k = Mod<fmod = 1>(minus, three) y = Mul(k, k)",
        "int64[1] y",
        ", int64[1] minus = {-5}",
    ),
    "parts of unknown sizes": (
        f"{SIZES} h = Div(l, two) r = Sub(l, h) p = Concat<axis = 0>(h, r) f, g = Split<axis = 1>(x, p) y = Neg(g)",
        "float[B,R,4] y",
        "",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_to_the_last_digit_is_computed_at_run_time(name: str) -> None:
    nodes, output, constants = UNKNOWN[name]
    body = f"g (float[B,S,4] x) => ({output}) <{CONSTANTS}{constants}> {{ {nodes} }}"
    rewritten(SimplifyShapes(), body, X)


B, S = symbol("B"), symbol("S")


@pytest.mark.parametrize(
    ("source", "result", "target"),
    [
        ((B, S, 8), (B, S, 2, 4), [0, 0, 2, 4]),
        ((B, S, 8), (B * S, 8), [-1, 8]),
        ((B * S, 8), (B, S, 8), None),
        ((B, S, 8), (S, B, 8), None),
        ((B, S), (B, 1, 1, S), [0, 1, 1, -1]),
        ((2, 3), (3, 2), [3, 2]),
        ((2, 0), (0, 2), None),
        ((0, 2), (0, 5), [0, 5]),
        ((), (1, 1), [1, 1]),
    ],
)
def test_targets(source: tuple, result: tuple, target: list[int] | None) -> None:  # type: ignore[type-arg]
    assert constant_target(source, result) == target


@pytest.mark.parametrize("target", ["0, 0, 2, 2", "0, -1, 2, 2", "2, 3, 2, 2"])
def test_a_constant_target_stays_as_it_is(target: str) -> None:
    body = f"g (float[B,S,4] x) => (float[B,S,2,2] y) <int64[4] t = {{{target}}}> {{ y = Reshape(x, t) }}"
    after, report = rewritten(SimplifyShapes(), body, X)
    assert report.applied == 0
    assert integers(after.graph.nodes[0].inputs[1]) == [int(size) for size in target.split(",")]
