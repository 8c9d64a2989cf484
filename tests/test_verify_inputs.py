"""Verification makes inputs that mean something, out of nothing but the model."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import graphs
from tests.small_models import VOCABULARY, encoder, parsed
from turbo_onnx.model import Model
from turbo_onnx.verify import verify
from turbo_onnx.verify_inputs import (
    RECIPES,
    RECIPES_OF_DECODERS,
    InputSpec,
    describe,
    layouts,
    make,
    telling,
    token_mask,
)

ENCODER = describe(Model.from_proto(encoder()))


def test_ids_are_known_by_the_table_that_they_index() -> None:
    assert [(spec.name, spec.kind, spec.low, spec.high) for spec in ENCODER] == [
        ("ids", "ids", 0, VOCABULARY),
        ("mask", "mask", 0, 2),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Constant <value = float[3, 2] {1, 2, 3, 4, 5, 6}> () y = Gather (t, i)", None),
        ("y = Gather (table, i)", (0, 5)),
        ("j = Cast <to = 6> (i) k = Unsqueeze (j, one) y = Gather (table, k)", (0, 5)),
        ("j = Add (i, one) y = Gather (table, j)", (0, 4)),
        ("j = Sub (i, one) y = Gather (table, j)", (1, 6)),
        ("u = Transpose <perm = [1, 0]> (table) y = Gather <axis = 1> (u, i)", (0, 5)),
        ("y = OneHot (i, three, offon)", (0, 3)),
        ("a = Gather (table, i) y = OneHot (i, three, offon)", (0, 3)),
        ("y = Cast <to = 1> (i)", None),
    ],
)
def test_the_range_of_ids_follows_what_is_done_to_them(body: str, expected: tuple[int, int] | None) -> None:
    found = parsed(
        f"""g (int64[b, s] i) => (float[a, c, d] y)
        <float[5, 2] table = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, int64[1] one = {{1}}, int64[1] three = {{3}},
         float[2] offon = {{0, 1}}> {{ {body} }}"""
    )
    (spec,) = describe(found)
    assert ((spec.low, spec.high) if spec.kind == "ids" else None) == expected


@pytest.mark.parametrize("graph", [g for g in graphs() if g.family != "minilm"][::6], ids=lambda graph: graph.name)
def test_inputs_of_a_real_export_are_all_understood_and_some_layout_runs(graph: object) -> None:
    proto = graph.load()  # type: ignore[attr-defined]
    content = proto.SerializeToString()
    specs = describe(Model.from_proto(proto))
    found = verify(content, content, specs)
    assert found.ok, found
    assert found.cases >= (6 if any(spec.kind in ("ids", "mask") for spec in specs) else 3)


def test_floats_of_the_ids_own_shape_are_a_mask() -> None:
    found = parsed(
        """g (int64[b, s] i, float[b, s] m, float[b, 3] x) => (float[b, s, d] y)
        <float[5, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}> { y = Gather (table, i) }"""
    )
    assert [spec.kind for spec in describe(found)] == ["ids", "mask", "numbers"]


def test_the_mask_that_packing_found_is_a_mask_whatever_it_looks_like() -> None:
    assert describe(Model.from_proto(encoder()), "ids")[0].kind == "mask"


@given(st.sampled_from(RECIPES), st.integers(0, 2**31))
def test_made_inputs_have_the_recipes_sizes_and_stay_in_range(recipe: object, seed: int) -> None:
    layout, multiple = next(layouts(ENCODER))
    made = make(ENCODER, recipe, layout, multiple, seed)  # type: ignore[arg-type]
    assert made["ids"].shape == made["mask"].shape == (recipe.batch, recipe.length)  # type: ignore[attr-defined]
    assert made["ids"].min() >= 0
    assert made["ids"].max() < VOCABULARY
    assert set(np.unique(made["mask"])) <= {0, 1}


def test_equal_seeds_give_equal_inputs_and_others_do_not() -> None:
    layout, multiple = next(layouts(ENCODER))
    first, again, other = (make(ENCODER, RECIPES[0], layout, multiple, seed)["ids"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_recipes_cover_what_breaks_ragged_code() -> None:
    masks = {r.name: token_mask(r.batch, r.length, r.pattern, np.random.default_rng(0)) for r in RECIPES}
    lengths = {name: mask.sum(axis=1) for name, mask in masks.items()}
    assert any(mask.shape == (1, 1) for mask in masks.values())
    assert any(mask.shape[0] == 1 and mask.shape[1] > 1 for mask in masks.values())
    assert any(mask.shape[0] > 1 and mask.all() for mask in masks.values())
    assert any((count == 0).any() and (count > 0).any() for count in lengths.values())
    assert any((count == 0).all() for count in lengths.values())
    assert any((~mask[:, 0] & mask[:, -1]).any() for mask in masks.values())
    assert any((np.diff(mask.astype(int), axis=1) != 0).sum(axis=1).max() > 1 for mask in masks.values())


def test_static_dimensions_are_kept() -> None:
    specs = [InputSpec("x", np.dtype(np.float32), (2, 3, "t"), "numbers")]
    layout, multiple = next(layouts(specs))
    assert make(specs, RECIPES[0], layout, multiple, 0)["x"].shape == (2, 3, RECIPES[0].length)


def test_a_past_length_is_found_by_trying() -> None:
    text = """g (int64[b, s] i, int64[b, t] m, float[b, p, 2] past) => (float[b, t, 2] y)
        <float[5, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, int64[1] last = {2}>
        { n = Gather (table, i) all = Concat <axis = 1> (past, n)
          f = Cast <to = 1> (m) c = Unsqueeze (f, last) y = Mul (all, c) }"""
    proto = parsed(text).to_proto().SerializeToString()
    found = verify(proto, proto, describe(parsed(text)))
    assert found.ok
    assert found.cases == len(RECIPES) + len(RECIPES_OF_DECODERS)


def test_a_difference_behind_a_long_past_only_is_found() -> None:
    """A window of 64 positions is all there is to short caches."""
    text = """g (int64[b, s] i, int64[b, t] m, float[b, p, 2] past) => (float[b, u, 2] y)
        <float[5, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, int64[1] last = {2}, int64[1] first = {FIRST},
         int64[1] one = {1}, int64[1] far = {4611686018427387904}>
        { n = Gather (table, i) all = Concat <axis = 1> (past, n) f = Cast <to = 1> (m) c = Unsqueeze (f, last)
          z = Mul (all, c) y = Slice (z, first, far, one) }"""
    whole, windowed = (text.replace("FIRST", first) for first in ("-4611686018427387904", "-64"))
    before, after = (parsed(each).to_proto().SerializeToString() for each in (whole, windowed))
    assert verify(before, before, describe(parsed(whole))).ok
    failures = verify(before, after, describe(parsed(whole))).failures
    assert failures
    assert all("behind a long past" in failure for failure in failures)


def test_a_mask_and_positions_have_lengths_of_their_own() -> None:
    """They are both integers that index nothing; only one of them covers the past."""
    text = """g (int64[b, s] i, int64[b, t] m, int64[b, q] at, float[b, p, 2] past) => (float[b, u, 2] y)
        <float[5, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, int64[1] last = {2}>
        { n = Gather (table, i) a = Cast <to = 1> (at) turn = Unsqueeze (a, last) r = Mul (n, turn)
          all = Concat <axis = 1> (past, r) f = Cast <to = 1> (m) c = Unsqueeze (f, last) y = Mul (all, c) }"""
    proto = parsed(text).to_proto().SerializeToString()
    found = verify(proto, proto, describe(parsed(text)))
    assert (found.ok, found.skipped) == (True, [])


@pytest.mark.parametrize("index", ["k", "j"])
def test_an_index_into_the_sequences_of_a_cache_stays_within_them(index: str) -> None:
    text = f"""g (float[b, p, 2] past, int64[b] k) => (float[b, p, 2] y)
        <int64[1] flat = {{-1}}> {{ j = Reshape (k, flat) y = Gather (past, {index}) }}"""
    specs = describe(parsed(text))
    assert [(spec.kind, spec.within) for spec in specs] == [("numbers", None), ("ids", "b")]
    proto = parsed(text).to_proto().SerializeToString()
    found = verify(proto, proto, specs)
    assert (found.ok, found.skipped) == (True, [])


def test_an_index_into_what_is_computed_is_only_integers() -> None:
    text = """g (float[b, p, 2] past, int64[b] k) => (float[b, p, 2] y) { a = Abs (past) y = Gather (a, k) }"""
    assert [spec.kind for spec in describe(parsed(text))] == ["numbers", "integers"]


def test_a_length_that_must_be_a_multiple_is_found_by_trying() -> None:
    text = """g (float[b, s] x) => (float[b, c, 8] y) <int64[3] shape = {0, -1, 8}> { y = Reshape (x, shape) }"""
    proto = parsed(text).to_proto().SerializeToString()
    assert verify(proto, proto, describe(parsed(text))).cases == len(RECIPES)


def test_numbers_of_equal_sizes_are_one_case() -> None:
    image = InputSpec("image", np.dtype(np.float32), ("B", 3, 8, 8), "numbers")
    batches = {recipe.batch for recipe in RECIPES}
    assert sorted(recipe.batch for recipe in telling(RECIPES, [image], {"batch"})) == sorted(batches)
    assert telling(RECIPES, [image], set()) == list(RECIPES[:3])
    assert telling(RECIPES, [image], {"batch", "length"}) == list(RECIPES)


@pytest.mark.parametrize("kind", ["ids", "mask", "integers"])
def test_other_inputs_are_made_for_every_case(kind: Literal["ids", "mask", "integers"]) -> None:
    assert telling(RECIPES, [InputSpec("x", np.dtype(np.int64), ("B", 4), kind)], {"batch"}) == list(RECIPES)
