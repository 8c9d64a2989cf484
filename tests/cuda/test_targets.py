"""Targets in words and numbers, and what is compiled for them."""

from __future__ import annotations

import pytest

from turbo_onnx.custom_ops.cuda.archive import Rule
from turbo_onnx.custom_ops.cuda.targets import CAPABILITIES, code_rules, compiled_for, parse, shared_limit, spell
from turbo_onnx.errors import InputError
from turbo_onnx.options import Options


@pytest.mark.parametrize(
    ("text", "capabilities"),
    [
        ("cpu", ()),
        ("cuda", (80, 90, 100)),
        ("cuda:sm_80", (80,)),
        ("cuda:sm_90, sm_80,sm_90", (80, 90)),
        ("cuda:sm_90a,sm_120", (90, 120)),
        (" cuda:sm_86 ", (86,)),
    ],
)
def test_a_target_names_capabilities_in_order_and_once(text: str, capabilities: tuple[int, ...]) -> None:
    assert parse(text) == capabilities
    assert parse(spell(capabilities)) == capabilities


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpu", "choose one of cpu, cuda, or cuda with architectures"),
        ("", "choose one of"),
        ("cpu:sm_80", "choose one of"),
        ("CUDA", "choose one of"),
        ("cuda:", "'' is no architecture; write sm_80, or several with commas"),
        ("cuda:sm_80,", "'' is no architecture"),
        ("cuda:80", "'80' is no architecture"),
        ("cuda:sm_9", "'sm_9' is no architecture"),
        ("cuda:sm_٨٠", "is no architecture"),
        ("cuda:sm_75", "sm_75 is too old; sm_80 is the oldest"),
        ("cuda:sm_95", "sm_95 is not known; choose from sm_80, sm_86"),
        ("cuda:sm_80a", "sm_80a is not known"),
        ("cuda:sm_100f", "'sm_100f' is no architecture"),
    ],
)
def test_anything_else_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        parse(text)
    assert str(refusal.value).startswith(f"target is '{text}'")
    assert "\n" not in str(refusal.value)


def test_code_below_90_runs_on_its_generation_and_from_90_on_only_where_it_was_made_for() -> None:
    assert {c: code_rules(c)[0] for c in (80, 86, 89, 90, 100, 120)} == {
        80: Rule.SAME_MAJOR,
        86: Rule.SAME_MAJOR,
        89: Rule.SAME_MAJOR,
        90: Rule.EXACT,
        100: Rule.EXACT,
        120: Rule.EXACT,
    }


def test_only_the_oldest_gives_code_for_later_devices_and_it_is_always_compiled() -> None:
    assert [c for c in CAPABILITIES if Rule.LATER in code_rules(c)] == [80]
    assert compiled_for((100, 90)) == (80, 90, 100)


def test_shared_memory_is_what_the_smallest_device_has_that_the_code_is_for() -> None:
    assert {c: shared_limit(c) // 1024 for c in (80, 86, 89, 90, 100, 103, 120, 121)} == {
        80: 99, 86: 99, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99
    }  # fmt: skip


def test_options_hold_the_target_spelt_out() -> None:
    assert Options().target == "cpu"
    assert Options().capabilities == ()
    options = Options(target="cuda")
    assert options.recorded()["target"] == "cuda:sm_80,sm_90,sm_100"
    assert options.recorded() == Options(target="cuda:sm_100,sm_90a,sm_80").recorded()
    assert options.capabilities == (80, 90, 100)
