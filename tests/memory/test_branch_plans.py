"""The plans of branches are one plan for those who ask: in all sizes, and with what only some branches assume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.memory.plans import formula, plan, variant
from turbo_onnx.memory import shapes_asked
from turbo_onnx.memory.branch_plans import together
from turbo_onnx.memory.plan import Assumption, MemoryPlan, from_json
from turbo_onnx.memory.run_layout import Layouts
from turbo_onnx.runtime.peak import peak_bytes

THEN = plan([variant("a b -a -b", {"a": "64*batch*past", "b": "64"}, ["batch", "past"])], ["batch", "past"])
ELSE = plan([variant("a -a", {"a": "64*length*batch"}, ["length", "batch"])], ["length", "batch"])


def assuming(one: MemoryPlan, name: str, *parts: int) -> MemoryPlan:
    return replace(one, assumptions=(*one.assumptions, Assumption(name, 0, 3, parts)))


def test_sizes_are_those_of_all_branches_and_formulas_are_in_them() -> None:
    both = together({"then_branch": THEN, "else_branch": ELSE})
    assert both.names == ["batch", "past", "length"]
    assert [variant.branch for variant in both.variants] == ["then_branch", "else_branch"]
    assert both.variants[0].buffers[0].size == formula("64*batch*past", both.names)
    assert both.variants[1].buffers[0].size == formula("64*batch*length", both.names)


def test_a_run_needs_what_the_branch_needs_that_needs_most() -> None:
    both = together({"then_branch": THEN, "else_branch": ELSE})
    assert peak_bytes(both, batch=2, past=3, length=1) == 64 * 2 * 3 + 64
    assert peak_bytes(both, batch=2, past=3, length=9) == 64 * 2 * 9
    apart = Layouts(THEN).peaks(np.array([[2, 3]])), Layouts(ELSE).peaks(np.array([[9, 2]]))
    assert Layouts(both).peaks(np.array([[2, 3, 9]])).peak == max(int(one.peak[0]) for one in apart)


def test_sizes_that_a_branch_does_not_see_are_0_in_its_exceptions() -> None:
    odd = replace(ELSE, variants=(replace(ELSE.variants[0], exceptions=((1, 4),)),))
    assert together({"then_branch": THEN, "else_branch": odd}).variants[1].exceptions == ((4, 0, 1),)


def test_what_all_branches_assume_is_said_once_and_the_rest_with_its_branch() -> None:
    then = assuming(assuming(THEN, "mask", 0), "total", 0, 1)
    other = assuming(assuming(ELSE, "mask", 1), "total", 0)
    both = together({"then_branch": then, "else_branch": other})
    assert both.assumed == ["mask = batch", "total = batch + past in then_branch", "total = length in else_branch"]


def test_what_a_branch_lets_vary_is_by_default_what_another_assumes() -> None:
    names = ["length", "total"]
    free = plan([variant("a -a", {"a": "64*total + 128*length"}, names)], names)
    both = together({"then_branch": assuming(THEN, "total", 0, 1), "else_branch": free})
    assert peak_bytes(both, batch=2, past=1, length=1) == 64 * 3 + 128
    assert peak_bytes(both, batch=2, past=1, length=1, total=9) == 64 * 9 + 128
    assert all("total" not in sizes for sizes in shapes_asked.usual(both))


def test_it_is_read_as_it_was_written() -> None:
    both = together({"then_branch": assuming(THEN, "total", 0, 1), "else_branch": ELSE})
    assert from_json(both.to_json(), "the model") == both
