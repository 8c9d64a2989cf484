"""Random encoders give the same after optimization, for every row and sequence of which that can be said.

Run more of them by hand: `RANDOM_MODELS=1000:2000 pytest tests/test_random_models.py`.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest

import turbo_onnx
from tests.optimized import Optimized, optimized
from tests.random_models.encoders import Arrays, RandomModel, difference, feeds, random_model, with_odd_masks
from turbo_onnx.sessions import Session, library_available, open_session

FIRST, LAST = (int(number) for number in os.environ.get("RANDOM_MODELS", "0:36").split(":"))
LIBRARIES = (True, False) if library_available() else (False,)


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_random_encoder_computes_what_it_did(seed: int) -> None:
    model = random_model(seed)
    artifact = _optimized(seed).artifact
    onnx.checker.check_model(artifact)
    before = _session(model.proto.SerializeToString())
    after = {with_library: _session(artifact, library=with_library) for with_library in LIBRARIES}
    for arrays, masks in feeds(model, seed):
        expected = before.run(None, arrays)
        for with_library, session in after.items():
            different = difference(model, masks, expected, session.run(None, arrays))
            where = f"{model.builder.parts}, with{'' if with_library else 'out'} the library, masks {masks}"
            assert not different, f"{different}: {where}"
    odd = with_odd_masks(model, arrays, seed)
    if odd is not None:
        _is_the_same_or_refused(model, before, after, *odd)


def _is_the_same_or_refused(
    model: RandomModel, before: Session, after: dict[bool, Session], arrays: Arrays, masks: list[np.ndarray]
) -> None:
    """A mask of other numbers than 0 and 1 is an error, or does what it did."""
    try:
        expected = before.run(None, arrays)
    except Exception:  # a sum of the mask's numbers is outside of a table
        return
    for with_library, session in after.items():
        try:
            actual = session.run(None, arrays)
        except Exception as error:  # onnxruntime's classes differ between releases
            if not any(part in str(error) for part in ("optimized for zeros and ones", "_must_hold_0_and_1_only")):
                raise
            continue
        different = difference(model, masks, expected, actual)
        assert not different, f"{different}: {model.builder.parts}, with{'' if with_library else 'out'} the library"


def _optimized(seed: int) -> Optimized:
    unplanned = ["plan-memory"] if seed % 4 else []  # a plan takes longer to record than all the rest
    return optimized(
        f"random {seed}",
        lambda: random_model(seed).proto,
        packing="on",
        skip_passes=unplanned,
        checks=seed % 10 == 0,
    )


def _session(content: bytes, *, library: bool = False) -> Session:
    return open_session(content, level="none", library=library, threads=1)


def test_the_comparison_finds_a_token_that_is_different() -> None:
    model = random_model(1)
    session = _session(model.proto.SerializeToString())
    arrays, masks = next(feeds(model, 1))
    expected = session.run(None, arrays)
    changed = [array.copy() for array in expected]
    for array in changed:
        array += array.dtype.type(1)
    assert not difference(model, masks, expected, expected)
    assert difference(model, masks, expected, changed)


def test_a_float_mask_under_sizes_of_its_own_is_known_to_be_a_mask_when_inputs_are_made() -> None:
    model = random_model(165)
    assert model.inputs["mask"] == "float16"
    report = turbo_onnx.optimize(model.proto, packing="on").report
    assert report.facts["mask_input"] == "mask"
    assert report.verify.cases > 0
    assert ("memory_plan" in report.facts) == library_available()


def test_a_random_encoder_with_windows_and_shared_heads_has_operators_with_both() -> None:
    model = random_model(18)
    assert {"near", "shared keys"} <= set(model.builder.parts)
    nodes = onnx.load_from_string(_optimized(18).artifact).graph.node
    found = [{attribute.name: attribute.i for attribute in node.attribute} for node in nodes]
    assert any(attributes.get("window_before", -1) >= 0 for attributes in found)
    assert any(attributes.get("kv_num_heads", 0) > 0 for attributes in found)


def test_most_random_encoders_are_packed_at_least_in_part() -> None:
    assert sum(bool(_optimized(seed).report["packed"]) for seed in range(20)) >= 10
