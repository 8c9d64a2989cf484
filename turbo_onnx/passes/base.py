"""What every pass is: a name, one sentence, and `run(model) -> PassReport`. No state on the pass object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turbo_onnx.model import Model


@dataclass(frozen=True)
class Rejection:
    """Why a rewrite did not happen at one place: the rule, the node's name, one sentence."""

    rule: str
    node: str
    sentence: str


@dataclass
class PassReport:
    """What one run of a pass did.

    Attributes:
        name: the pass.
        applied: how many rewrites were done; with none the graph is as it was.
        rejected: where one nearly was, and why not.
        facts: numbers for the final report, such as `attention_found`.
        summary: what the pass does; the pipeline fills it in.
        seconds: wall time; the pipeline fills it in.
        inside: of a pass that runs others, what those did.
    """

    name: str
    applied: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    summary: str = ""
    seconds: float = 0.0
    inside: list[PassReport] = field(default_factory=list)


class Pass(ABC):
    """One rewrite of the whole model. Subclasses hold no state between runs.

    Attributes:
        name: as given to `--passes` and printed in reports, kebab-case.
        summary: one sentence for people.
        repeats: whether a second run has nothing to do; one that runs others raises again what they lowered.
    """

    name: str
    summary: str
    repeats: bool = True

    @abstractmethod
    def run(self, model: Model) -> PassReport:
        """Rewrite `model` in place. Leaves the graph sorted, without dead nodes, and able to run."""
