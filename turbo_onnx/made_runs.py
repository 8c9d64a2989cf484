"""Run a model on inputs that are made for it, and find out so what its dynamic dimensions are.

What was tried is not run again where it is asked for: of a large model, a run takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from turbo_onnx.sessions import Session, explain
from turbo_onnx.verify_inputs import ONE_SEQUENCE, RECIPES, Feed, InputSpec, Layout, Recipe, layouts, make, with_flags

Outputs = dict[str, np.ndarray[Any, Any]]
Reading = tuple[Layout, int]
"""What the dynamic dimensions are, and what lengths are a multiple of."""

_RAGGED = RECIPES[:2]


class MadeRuns:
    """Runs of one model.

    Args:
        session: of the model.
        specs: what its inputs are.
        seed: for the inputs.
    """

    def __init__(self, session: Session, specs: Sequence[InputSpec], seed: int) -> None:
        self._session = session
        self._specs = specs
        self._seed = seed
        self._refusal = ""
        self._known: dict[tuple[Recipe, str], tuple[Feed, Outputs]] = {}

    def find_layout(self) -> tuple[Reading | None, str]:
        """What the dynamic dimensions are, and what the runtime said where nothing runs.

        It is the first reading with which two ragged batches run, else the first with which anything does.
        """
        second_best: Reading | None = None
        for reading in layouts(self._specs):
            ran = [self._runs(recipe, reading) for recipe in _RAGGED]
            if all(ran):
                return reading, ""
            if second_best is None and (any(ran) or self._runs(ONE_SEQUENCE, reading)):
                second_best = reading
        return second_best, self._refusal

    def _runs(self, recipe: Recipe, reading: Reading) -> bool:
        try:
            for variant in with_flags(recipe, self._specs):
                self.run(variant, reading)
        except Exception as error:  # the runtime's
            self._refusal = self._refusal or explain(error)
            return False
        return True

    def run(self, recipe: Recipe, reading: Reading) -> tuple[Feed, Outputs]:
        """The inputs made for a case, and the outputs; without a past where flags refuse one. Raises what the run does.

        Args:
            recipe: the case.
            reading: as `find_layout` gives it.
        """
        case = recipe, repr(reading)
        if case not in self._known:
            self._known[case] = self._run(recipe, reading)
        return self._known[case]

    def _run(self, recipe: Recipe, reading: Reading) -> tuple[Feed, Outputs]:
        feed = make(self._specs, recipe, *reading, self._seed)
        try:
            return feed, run(self._session, feed)
        except Exception:
            if recipe.flags is None or not recipe.past:
                raise
        feed = make(self._specs, replace(recipe, past=0), *reading, self._seed)
        return feed, run(self._session, feed)


def run(session: Session, feed: Feed) -> Outputs:
    """All outputs of a model, by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def find_layout(session: Session, specs: Sequence[InputSpec], seed: int) -> tuple[Reading | None, str]:
    """As `MadeRuns.find_layout`, for one question."""
    return MadeRuns(session, specs, seed).find_layout()
