"""Name the allocations of a run: ONNX Runtime's profile says which node ran when, and an allocation has a time, too."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from turbo_onnx.recording import Recording

_SLACK = 1000  # nanoseconds: the profile counts in microseconds


@dataclass(frozen=True)
class Allocation:
    """One allocation of a run.

    Attributes:
        name: the tensor that it holds, or else the node that asked for it.
        scratch: whether it holds no output of the node, as far as can be told.
    """

    name: str
    scratch: bool


@dataclass
class _Ran:
    """A node's time in a run, in nanoseconds of the clock, and the sizes of its outputs in bytes."""

    node: str
    operator: str
    start: int
    end: int
    sizes: list[int]
    taken: set[int] = field(default_factory=set)


def name(
    recordings: Sequence[Recording], profile: Path, start: int, outputs: Mapping[str, Sequence[str]]
) -> list[Allocation]:
    """Name each allocation of runs that do the same: as in most of them, since a clock is now and then off.

    Args:
        recordings: the runs, with one sequence of events.
        profile: the runtime's profile of the session.
        start: when the profile began, in nanoseconds of the clock.
        outputs: each node's outputs, as `outputs_of` gives them. Nodes that the runtime made are not among them.
    """
    ran = _nodes(json.loads(profile.read_text()), start)
    starts = [node.start for node in ran]
    each = [_in_one(recording, ran, starts, outputs) for recording in recordings]
    return [_most_common(names) for names in zip(*each, strict=True)]


def _most_common(names: Sequence[Allocation]) -> Allocation:
    counts = Counter(names)
    return min(counts, key=lambda one: (-counts[one], one.name))


def _in_one(
    recording: Recording, ran: Sequence[_Ran], starts: Sequence[int], outputs: Mapping[str, Sequence[str]]
) -> list[Allocation]:
    named = []
    for time, size in zip(recording.times, recording.sizes, strict=True):
        index = bisect_right(starts, time + _SLACK) - 1
        near = [node for node in ran[max(index - 1, 0) : index + 1] if node.start - _SLACK <= time <= node.end + _SLACK]
        named.append(_of(near, size, outputs))
    return named


def outputs_of(graph: gs.Graph) -> dict[str, list[str]]:
    """Each node's outputs, by what the runtime's profile calls the node: its name, or else its operator and number."""
    return {
        node.name or f"{node.op}_{number}": [tensor.name for tensor in node.outputs]
        for number, node in enumerate(graph.nodes)
    }


def _of(near: Sequence[_Ran], size: int, outputs: Mapping[str, Sequence[str]]) -> Allocation:
    for node in near:
        for number, expected in enumerate(node.sizes):
            if expected == size and number not in node.taken:
                node.taken.add(number)
                names = outputs.get(node.node, ())
                return Allocation(names[number] if number < len(names) else _called(node, outputs), scratch=False)
    return Allocation(f"{_called(near[-1], outputs)} (scratch)" if near else "(between nodes)", scratch=True)


def _called(node: _Ran, outputs: Mapping[str, Sequence[str]]) -> str:
    """The node's name, or its operator where the runtime made it: it gives other names each time."""
    return node.node if node.node in outputs else f"{node.operator} of ONNX Runtime"


def _nodes(events: Sequence[Mapping[str, Any]], start: int) -> list[_Ran]:
    found = []
    for event in events:
        if event.get("cat") == "Node" and "args" in event and str(event["name"]).endswith("_kernel_time"):
            begun = start + int(event["ts"]) * 1000
            sizes = [_bytes(shape) for shape in event["args"].get("output_type_shape", [])]
            node = event["name"].removesuffix("_kernel_time")
            found.append(
                _Ran(node, str(event["args"].get("op_name", node)), begun, begun + int(event["dur"]) * 1000, sizes)
            )
    return sorted(found, key=lambda node: node.start)


def _bytes(typed: Mapping[str, Sequence[int]]) -> int:
    """Of an output as the profile shows it, such as {"float": [2, 384]}; -1 where the type is not known."""
    for kind, shape in typed.items():
        element = getattr(onnx.TensorProto, kind.upper(), None)
        if element is None:
            return -1
        size = int(helper.tensor_dtype_to_np_dtype(element).itemsize)
        for extent in shape:
            size *= extent
        return size
    return -1
