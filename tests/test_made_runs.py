"""What inputs are made of is found by trying, and what was tried is not run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from turbo_onnx.made_runs import MadeRuns
from turbo_onnx.verify_inputs import ONE_SEQUENCE, RECIPES, Feed, InputSpec

INT64 = np.dtype(np.int64)
ENCODER = [InputSpec("ids", INT64, ("B", "S"), "ids", high=9), InputSpec("mask", INT64, ("B", "M"), "mask")]


@dataclass
class Session:
    """Doubles its ids, and takes the feeds that it is told to."""

    takes: Any = lambda feed: True
    ran: list[Feed] = field(default_factory=list)

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y")]

    def run(self, names: list[str], feed: Feed) -> list[np.ndarray]:
        assert names == ["y"]
        self.ran.append(feed)
        if not self.takes(feed):
            raise RuntimeError(f"refusal {len(self.ran)}")
        return [2 * feed["ids"]]


def test_what_was_tried_is_not_run_again() -> None:
    session = Session()
    runs = MadeRuns(session, ENCODER, seed=0)
    found, refusal = runs.find_layout()
    assert found is not None
    assert found[0] == {"B": "batch", "S": "length", "M": "length"}
    assert refusal == ""
    assert len(session.ran) == 2
    feed, outputs = runs.run(RECIPES[1], found)
    assert len(session.ran) == 2
    assert feed is session.ran[1]
    np.testing.assert_array_equal(outputs["y"], 2 * feed["ids"])
    other, _ = runs.run(RECIPES[4], found)
    assert len(session.ran) == 3
    assert other is session.ran[2]


def test_the_same_case_of_another_reading_is_another_run() -> None:
    session = Session(lambda feed: feed["mask"].shape[1] == feed["ids"].shape[1] + 3)
    runs = MadeRuns(session, ENCODER, seed=0)
    found, _ = runs.find_layout()
    assert found is not None
    assert found[0]["M"] == "length + past"
    tried = len(session.ran)
    feed, _ = runs.run(RECIPES[0], found)
    assert len(session.ran) == tried
    assert feed["mask"].shape[1] == feed["ids"].shape[1] + 3


def test_a_model_of_one_sequence_is_read_as_the_first_thing_that_runs() -> None:
    session = Session(lambda feed: len(feed["ids"]) == 1)
    found, refusal = MadeRuns(session, ENCODER, seed=0).find_layout()
    assert found == ({"B": "batch", "S": "length", "M": "length"}, 1)
    assert refusal == "refusal 1"
    assert sum(len(feed["ids"]) == ONE_SEQUENCE.batch for feed in session.ran) == 1


def test_the_first_refusal_is_told_where_nothing_runs() -> None:
    session = Session(lambda feed: False)
    runs = MadeRuns(session, ENCODER, seed=0)
    assert runs.find_layout() == (None, "refusal 1")
    with pytest.raises(RuntimeError):
        runs.run(RECIPES[0], ({"B": "batch", "S": "length", "M": "length"}, 1))
