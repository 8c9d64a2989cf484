"""A bias that hides what comes after a row is known for one, and what only looks like it is not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.support import graph, parse, run
from turbo_onnx import shapes
from turbo_onnx.attention_masks import AttentionMask, attention_mask
from turbo_onnx.distances import AtLeast
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model

CONSTANTS = """
    int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[2] axes12 = {1, 2}, int64 first = {0}, int64 step = {1},
    int64 two = {2}, int64 ever = {1073741824}, float one = {1}, float zero = {0},
    float lowest = {-3.4028234663852886e+38}, float infinite = {-inf}, float half = {0.5},
    float shy = {-1}, float few = {-10000}, float large = {900}, bool yes = {1}
"""
PARTS = """
    sh = Shape(mask) size = Gather(sh, step) at = Range(first, size, step) row = Unsqueeze(at, axis1)
    column = Unsqueeze(at, axis0) early = Sub(row, two) late = Add(row, two)
    k4 = Unsqueeze(mask, axes12) keys = Cast<to = 9>(k4) kf = Cast<to = 1>(k4) hidden = Sub(one, kf)
"""
CAUSAL = {
    "keys that are not after": "c = LessOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest)",
    "rows that are not before": "c = GreaterOrEqual(row, column) b = And(c, keys) bias = Where(b, zero, infinite)",
    "not keys that are after": "c = Greater(column, row) n = Not(c) b = And(n, keys) bias = Where(b, zero, infinite)",
    "filled where either hides": (
        "c = Less(row, column) n = Not(keys) b = Or(c, n) b2 = And(b, yes) bias = Where(b2, lowest, zero)"
    ),
    "two biases added": (
        "c = Greater(column, row) cf = Cast<to = 1>(c) one_bias = Mul(cf, lowest) other = Mul(hidden, lowest) "
        "bias = Add(one_bias, other)"
    ),
    "the lower of two biases": (
        "c = Greater(column, row) one_bias = Where(c, lowest, zero) other = Mul(hidden, lowest) "
        "bias = Min(one_bias, other)"
    ),
    "one bias filled into the other": (
        "c = Greater(column, row) one_bias = Where(c, lowest, zero) gone = Not(keys) "
        "bias = Where(gone, lowest, one_bias)"
    ),
}
Window = tuple[int | None, int | None]  # how far before and after itself a row sees
WINDOWS: dict[str, tuple[str, Window]] = {
    "what is before is hidden": (
        "c = GreaterOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest)",
        (0, None),
    ),
    "one more is seen": ("c = Less(column, late) b = And(c, keys) bias = Where(b, zero, lowest)", (None, 1)),
    "a window of what is before": (
        "c = LessOrEqual(column, row) w = Greater(column, early) cw = And(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        (1, 0),
    ),
    "one more of what is before": (
        "c = LessOrEqual(column, row) w = GreaterOrEqual(column, early) cw = And(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        (2, 0),
    ),
    "no farther away than two": (
        "away = Sub(row, column) far = Abs(away) w = LessOrEqual(far, two) b = And(w, keys) "
        "bias = Where(b, zero, lowest)",
        (2, 2),
    ),
    "nearer than two": (
        "away = Sub(column, row) far = Abs(away) w = Greater(two, far) b = And(w, keys) "
        "bias = Where(b, zero, infinite)",
        (1, 1),
    ),
    "not farther away than two": (
        "away = Sub(row, column) far = Abs(away) w = Greater(far, two) n = Not(keys) h = Or(w, n) "
        "bias = Where(h, lowest, zero)",
        (2, 2),
    ),
    "more after than before": (
        "w = Greater(column, early) v = LessOrEqual(column, late) vw = And(v, w) b = And(vw, keys) "
        "bias = Where(b, zero, lowest)",
        (1, 2),
    ),
    "itself only": (
        "away = Sub(row, column) far = Abs(away) w = Less(far, step) b = And(w, keys) bias = Where(b, zero, lowest)",
        (0, 0),
    ),
    "two biases added, of padding and of a window": (
        "away = Sub(row, column) far = Abs(away) w = Greater(far, two) wf = Cast<to = 1>(w) one_bias = Mul(wf, lowest) "
        "other = Mul(hidden, lowest) bias = Add(one_bias, other)",
        (2, 2),
    ),
    "a window that is wider than all positions": (
        "back = Sub(row, ever) w = Greater(column, back) b = And(w, keys) bias = Where(b, zero, lowest)",
        (None, None),
    ),
    "a causal window that is wider than all positions": (
        "back = Sub(row, ever) w = Greater(column, back) c = LessOrEqual(column, row) cw = And(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        (None, 0),
    ),
}
OTHERS = {
    "itself hidden": ("c = Less(column, row) b = And(c, keys) bias = Where(b, zero, lowest)", False),
    "a window with a hole": (
        "c = LessOrEqual(column, early) w = GreaterOrEqual(column, row) cw = Or(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        True,
    ),
    "a window that leaves out itself": (
        "c = Greater(column, row) w = Less(column, late) cw = And(c, w) b = And(cw, keys) "
        "bias = Where(b, zero, lowest)",
        False,
    ),
    "what is after counts less": (
        "c = Greater(column, row) s = Where(c, shy, zero) other = Mul(hidden, lowest) bias = Add(s, other)",
        True,
    ),
    "what is before counts less": (
        "c = Greater(column, row) s = Where(c, lowest, shy) other = Mul(hidden, lowest) bias = Add(s, other)",
        True,
    ),
}
MASK = np.array([[1, 1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]])


NUMBERS = ", ".join(f"int64 {f'below{-n}' if n < 0 else f'is{n}'} = {{{n}}}" for n in range(-4, 6))


def load(nodes: str) -> Model:
    model = parse(graph(f"g (int64[B,S] mask) => (float[B,H,Q,S] bias) <{CONSTANTS}, {NUMBERS}> {{ {PARTS} {nodes} }}"))
    shapes.infer(model)
    return model


def mask_of(nodes: str) -> AttentionMask | None:
    model = load(nodes)
    return attention_mask(model.graph.outputs[0], MaskFunctions(model, shapes.infer(model)))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_mask_with_padding_is_known(name: str) -> None:
    found = mask_of(CAUSAL[name])
    assert found is not None
    assert (found.mask.name, found.alone, found.window.causal, found.inverted) == ("mask", True, True, False)
    assert found.from_tokens, "a token sees itself"
    assert not found.from_all, "with padding on the left, the first rows see no token"


@pytest.mark.parametrize("name", OTHERS)
def test_other_masks_of_positions_are_not_causal(name: str) -> None:
    nodes, sees_itself = OTHERS[name]
    found = mask_of(nodes)
    assert found is not None
    assert (found.alone, found.window.causal, found.from_all) == (False, False, False)
    assert found.from_tokens is sees_itself


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_with_padding_is_known(name: str) -> None:
    nodes, window = WINDOWS[name]
    found = mask_of(nodes)
    assert found is not None
    assert found.window == window
    assert (found.alone, found.from_tokens, found.from_all, found.inverted) == (True, True, False, False)
    assert found.window.causal is (window == (None, 0))


def test_a_window_as_wide_as_a_size_of_the_graph_is_not_known() -> None:
    found = mask_of(
        "away = Sub(row, column) far = Abs(away) quotient = Div(size, two) w = LessOrEqual(far, quotient) "
        "b = And(w, keys) bias = Where(b, zero, lowest)"
    )
    assert found is None


@pytest.mark.parametrize("first", ["first_row", "Expand(first_row, square)", "Add(first_row, nothing)"])
def test_one_position_that_is_broadcast_is_not_that_of_each_row(first: str) -> None:
    spread = f"position = {first if '(' in first else f'Identity({first})'}"
    found = mask_of(
        "first_row = Slice(row, axis0, axis1, axis0) length = Reshape(size, axis1) "
        f"square = Concat<axis = 0>(length, axis1) nothing = Sub(column, column) {spread} "
        "c = LessOrEqual(column, position) b = And(c, keys) bias = Where(b, zero, lowest)"
    )
    assert found is None or not found.alone


def test_terms_beside_a_window_leave_it_padding_that_is_hidden() -> None:
    found = mask_of(
        "away = Sub(row, column) far = Abs(away) w = LessOrEqual(far, two) b = And(w, keys) "
        "window = Where(b, zero, lowest) slope = Cast<to = 1>(far) bias = Sub(window, slope)"
    )
    assert found is None or not found.alone


def test_a_causal_mask_without_padding_is_no_mask() -> None:
    model = load(
        "c = LessOrEqual(column, row) b = And(c, keys) bias = Where(b, zero, lowest) alone = Where(c, zero, lowest)"
    )
    alone = next(tensor for node in model.graph.nodes for tensor in node.outputs if tensor.name == "alone")
    assert attention_mask(alone, MaskFunctions(model, shapes.infer(model))) is None


def test_padding_hidden_from_what_is_before_only_is_not_hidden() -> None:
    assert mask_of("c = LessOrEqual(column, row) b = Or(c, keys) bias = Where(b, zero, lowest)") is None


def test_a_comparison_of_other_axes_is_not_the_attentions() -> None:
    assert mask_of("c = LessOrEqual(row, column) t = Transpose<perm = [1,0]>(c) b = And(t, keys) "
                   "bias = Where(b, zero, lowest)") is None  # fmt: skip


@pytest.mark.parametrize("name", [*CAUSAL, *WINDOWS, *OTHERS])
def test_every_function_of_mask_and_positions_is_what_it_is_said_to_be(name: str) -> None:
    model = load(CAUSAL.get(name) or (WINDOWS.get(name) or OTHERS[name])[0])
    function = MaskFunctions(model, shapes.infer(model)).of(model.graph.outputs[0])
    if function is None:
        assert name == "one bias filled into the other", "-inf and numbers may be chosen, not computed with"
        return
    (bias,) = run(model, {"mask": MASK})
    distance = np.arange(5)[:, None] - np.arange(5)
    index = tuple(
        (distance >= view.least).astype(int) if isinstance(view, AtLeast) else MASK[:, None, None, :]
        for view in function.views
    )
    np.testing.assert_array_equal(np.broadcast_to(function.table[index], bias.shape), bias)


def test_the_opposite_of_a_mask_leaves_positions_as_they_are() -> None:
    found = mask_of("c = LessOrEqual(column, row) n = Not(keys) b = And(c, n) bias = Where(b, zero, lowest)")
    assert found is not None
    assert (found.inverted, found.window.causal, found.alone) == (True, True, True)


POSITIONS = 19
PADDED = np.ones((3, POSITIONS), np.int64)
PADDED[1, :5] = PADDED[1, 9:12] = PADDED[1, 16] = 0  # on the left, and holes
PADDED[2, 8:] = 0
COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


class Formula:
    """Random formulas of positions, as text and by what they say of the distance of query and key."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.text = ""
        self._count = 0

    def node(self, call: str) -> str:
        """A node more; the name of its result."""
        self._count += 1
        self.text += f"t{self._count} = {call} "
        return f"t{self._count}"

    def constant(self, number: int) -> str:
        """The name of a number, see `NUMBERS`."""
        return f"below{-number}" if number < 0 else f"is{number}"

    def comparison(self) -> str:
        """A comparison of positions, one side of which may be shifted, or of their distance with a number."""
        operator, far = self._random.choice(COMPARISONS), int(self._random.integers(-4, 6))
        sides = [str(side) for side in self._random.permutation(["row", "column"])]
        form = self._random.integers(4)
        if form == 0:
            sides = [self.node(f"{self._random.choice(['Add', 'Sub'])}({sides[0]}, {self.constant(far)})"), sides[1]]
        elif form == 1:
            sides = [self.node(f"Sub({', '.join(sides)})"), self.constant(far)]
        elif form == 2:
            sides = [self.node(f"Abs({self.node(f'Sub({sides[0]}, {sides[1]})')})"), self.constant(max(far, 0))]
        return self.node(f"{operator}({', '.join(sides[:: self._random.choice([1, -1])])})")

    def formula(self, depth: int) -> str:
        """Comparisons joined by And, Or and Not."""
        form = self._random.integers(5)
        if depth == 0 or form == 0:
            return self.comparison()
        if form == 1:
            return self.node(f"Not({self.formula(depth - 1)})")
        operator = "And" if form < 4 else "Or"
        return self.node(f"{operator}({self.formula(depth - 1)}, {self.formula(depth - 1)})")


def seen_window(shown: np.ndarray) -> Window | None:
    """How far before and after itself each of the rows [S, S] sees; None where that is no window."""
    rows = np.arange(POSITIONS)
    distances = sorted({int(d) for d in (rows[:, None] - rows)[shown]})
    if 0 not in distances or distances != list(range(distances[0], distances[-1] + 1)):
        return None
    before, after = distances[-1], -distances[0]
    return None if before == POSITIONS - 1 else before, None if after == POSITIONS - 1 else after


@pytest.mark.parametrize("seed", range(80))
def test_whatever_is_said_of_a_formula_of_positions_is_so(seed: int) -> None:
    drawn = Formula(seed)
    seen = drawn.formula(3)
    endings = (
        f"b = And({seen}, keys) bias = Where(b, zero, lowest)",
        f"n = Not(keys) g = Not({seen}) h = Or(n, g) bias = Where(h, infinite, zero)",
        f"g = Not({seen}) gf = Cast<to = 1>(g) own = Mul(gf, lowest) other = Mul(hidden, lowest) "
        "bias = Add(own, other)",
    )
    model = load(drawn.text + endings[seed % 3])
    found = attention_mask(model.graph.outputs[0], MaskFunctions(model, shapes.infer(model)))
    (bias,) = run(model, {"mask": PADDED})
    window = seen_window(bias[0, 0] == 0)
    if window is None:
        assert found is None or not found.alone
        return
    assert found is not None
    assert found.alone
    assert found.window == window
    at = np.arange(POSITIONS)
    distance = at[:, None] - at
    before, after = (POSITIONS if side is None else side for side in window)
    expected = PADDED[:, None, :].astype(bool) & (distance <= before) & (distance >= -after)
    for row, mask in enumerate(PADDED.astype(bool)):
        np.testing.assert_array_equal((bias[row, 0] == 0)[mask], expected[row][mask])


def test_formulas_of_positions_are_windows_often_enough() -> None:
    windows = 0
    for seed in range(80):
        drawn = Formula(seed)
        seen = drawn.formula(3)
        found = mask_of(f"{drawn.text} b = And({seen}, keys) bias = Where(b, zero, lowest)")
        windows += found is not None and found.window not in ((None, None), (None, 0))
    assert windows >= 12


@pytest.mark.parametrize(("terms", "sees_itself"), [(1, True), (2, False)])
def test_terms_that_hide_little_each_may_hide_together(terms: int, sees_itself: bool) -> None:
    hidden = "f = Cast<to = 1>(row) g = Tanh(f) t = Mul(g, large) b0 = Mul(hidden, few) "
    sums = "".join(f"b{n + 1} = Add(b{n}, t) " for n in range(terms))
    found = mask_of(hidden + sums.replace(f"b{terms} =", "bias ="))
    assert found is not None
    assert found.from_tokens is sees_itself
