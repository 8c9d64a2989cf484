"""Random models on the arena, under sanitizers. What each mode checks is said in `arena_probe.cc`."""

from __future__ import annotations

import subprocess

import pytest


def run(program, mode: str, rounds: int) -> dict[str, int]:
    """What the program counted."""
    result = subprocess.run(
        [str(program), mode, "7", str(rounds)], capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 0, result.stderr[-4000:]
    words = result.stdout.replace("over limit", "over_limit").partition(": ")[2].split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.long
def test_runs_that_follow_their_plan_are_served_and_others_are_right_all_the_same(programs):
    seen = run(programs["address"], "runs", 600)
    assert min(seen.values()) > 0


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_threads_share_sessions_pass_memory_on_and_end_in_the_middle_of_runs(programs, sanitizer):
    seen = run(programs[sanitizer], "threads", 60)
    assert min(seen.values()) > 0


def test_a_child_of_a_process_whose_threads_run_waits_for_none_of_their_locks_and_counts_none_of_their_blocks(programs):
    seen = run(programs["thread"], "forks", 12)
    assert seen["kept"] > 0


def test_a_damaged_plan_is_refused_or_does_no_harm(programs):
    assert run(programs["address"], "plans", 3000)["announced"] > 100


def test_whatever_memory_cannot_be_had_nothing_is_lost_or_broken(programs):
    assert run(programs["address"], "failures", 12)["over_limit"] > 10


def test_the_heap_hands_out_any_sizes_and_keeps_no_more_than_it_should(programs):
    run(programs["address"], "heap", 4000)
