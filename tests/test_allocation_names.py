"""Allocations are called by the tensor that they hold, or by the node that wanted them as scratch memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.recorded_models import model, needs_recorder, subject
from turbo_onnx.allocation_names import Allocation, name
from turbo_onnx.recording import Recording, record
from turbo_onnx.sessions import open_session

START = 1_000_000_000  # nanoseconds, when the profile began
Ran = tuple[str, int, int, list[dict[str, list[int]]]]


def profile(folder: Path, ran: Sequence[Ran]) -> Path:
    """A profile in which nodes ran: name, begin and duration in microseconds, outputs."""
    events = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 5, "args": {}}]
    for node, begin, duration, outputs in ran:
        args = {"op_name": "Conv", "output_type_shape": outputs}
        events.append({"cat": "Node", "name": f"{node}_kernel_time", "ts": begin, "dur": duration, "args": args})
        events.append({"cat": "Node", "name": f"{node}_fence_before", "ts": begin, "dur": 0, "args": {}})
    (folder / "profile.json").write_text(json.dumps(events))
    return folder / "profile.json"


def named(folder: Path, ran: Sequence[Ran], wanted: Sequence[tuple[float, int]], **outputs: Sequence[str]) -> list[str]:
    """What allocations (microseconds since the profile began, bytes) are called."""
    times = tuple(START + int(time * 1000) for time, _ in wanted)
    recording = Recording((), tuple(size for _, size in wanted), times, (0,) * len(wanted))
    found = name([recording], profile(folder, ran), START, outputs)
    assert all(one.scratch == (one.name.endswith("(scratch)") or one.name == "(between nodes)") for one in found)
    return [one.name for one in found]


def test_an_allocation_of_an_outputs_size_holds_the_output(tmp_path: Path) -> None:
    ran: list[Ran] = [("first", 10, 5, [{"float": [2, 8]}]), ("second", 20, 5, [{"int64": [3]}, {"bool": [7]}])]
    outputs = {"first": ["a"], "second": ["b", "c"]}
    assert named(tmp_path, ran, [(12, 64), (21, 7), (22, 24)], **outputs) == ["a", "c", "b"]


def test_other_sizes_are_scratch_memory_of_the_node_that_ran(tmp_path: Path) -> None:
    ran: list[Ran] = [("first", 10, 5, [{"float": [2, 8]}])]
    assert named(tmp_path, ran, [(11, 64), (12, 64), (13, 63)], first=["a"]) == ["a", *["first (scratch)"] * 2]


def test_what_the_runtime_made_is_called_by_its_operator(tmp_path: Path) -> None:
    ran: list[Ran] = [("fused_17", 10, 5, [{"float16": [4]}])]
    assert named(tmp_path, ran, [(11, 8), (12, 9)]) == ["Conv of ONNX Runtime", "Conv of ONNX Runtime (scratch)"]


def test_an_allocation_that_no_node_was_near_is_between_nodes(tmp_path: Path) -> None:
    ran: list[Ran] = [("first", 10, 5, [{"float": [1]}]), ("second", 100, 5, [{"float": [1]}])]
    assert named(tmp_path, ran, [(2, 4), (50, 4)], first=["a"], second=["b"]) == ["(between nodes)"] * 2


def test_times_that_were_rounded_to_microseconds_do_not_mislead(tmp_path: Path) -> None:
    ran: list[Ran] = [("first", 10, 0, [{"float": [2]}]), ("second", 10, 1, [{"float": [3]}])]
    assert named(tmp_path, ran, [(9.4, 8), (10.9, 12)], first=["a"], second=["b"]) == ["a", "b"]


def test_types_that_are_not_known_have_no_size(tmp_path: Path) -> None:
    ran: list[Ran] = [("first", 10, 5, [{"complex_9": [2]}, {}])]
    assert named(tmp_path, ran, [(11, 8)], first=["a", "b"]) == ["first (scratch)"]


def test_what_most_runs_say_is_right_where_a_clock_was_off(tmp_path: Path) -> None:
    ran: list[Ran] = [
        (node, begin + 1000 * run, 5, [{"float": [2 + run]}])
        for run in range(5)
        for node, begin in (("first", 10), ("second", 50))
    ]
    runs = [
        Recording(
            (), (4 * (2 + run),) * 2, tuple(START + 1000 * (1000 * run + begin) for begin in (12, 52 + late)), (0, 0)
        )
        for run, late in enumerate((0, 200, 0, -40, 0))
    ]
    found = name(runs, profile(tmp_path, ran), START, {"first": ["a"], "second": ["b"]})
    assert found == [Allocation("a", False), Allocation("b", False)]


BODY = """g (float[N,1,8,8] x) => (float[N,3] z) {
    a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, k)
    b = ReduceMean<axes = [2, 3], keepdims = 0>(a) z = Softmax(b)
}"""


@needs_recorder
def test_a_real_runs_tensors_are_named(tmp_path: Path) -> None:
    made = subject(model(BODY, {"k": np.ones((3, 1, 3, 3), np.float32)}), tmp_path)
    session = open_session(made.path, level="none", library=True, threads=1, profile=tmp_path / "profile")
    found = record(session, {"x": np.ones((4, 1, 8, 8), np.float32)})
    start = session.get_profiling_start_time_ns()
    allocations = name([found], Path(session.end_profiling()), start, made.outputs)
    tensors = {a.name: size for a, size in zip(allocations, found.sizes, strict=True) if not a.scratch}
    assert tensors == {"a": 4 * 3 * 64 * 4, "b": 4 * 3 * 4, "z": 4 * 3 * 4}


@needs_recorder
@pytest.mark.parametrize("operator", ['a = Einsum<equation = "ij,jk->ik">(x, w)'])
def test_scratch_of_a_real_operator_is_called_by_its_node(operator: str, tmp_path: Path) -> None:
    made = subject(
        model(f"g (float[N,4] x) => (float[N,2] a) {{ {operator} }}", {"w": np.ones((4, 2), np.float32)}), tmp_path
    )
    (node,) = [key for key, names in made.outputs.items() if names == ["a"]]
    session = open_session(made.path, level="none", library=True, threads=1, profile=tmp_path / "profile")
    found = record(session, {"x": np.ones((5, 4), np.float32)})
    start = session.get_profiling_start_time_ns()
    allocations = name([found], Path(session.end_profiling()), start, made.outputs)
    assert Allocation("a", False) in allocations
    assert {a.name for a in allocations} <= {"a", f"{node} (scratch)"}
