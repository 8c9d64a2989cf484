"""What a run did, as data: the one source of what is printed, saved as JSON, and asked by scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from turbo_onnx.passes.base import PassReport, Rejection
from turbo_onnx.precision import Precision
from turbo_onnx.verify import Verification

Packed = bool | Literal["partial"]


@dataclass
class Report:
    """One run of the optimizer.

    Attributes:
        model: the input, as the caller named it.
        output: the file that was written, or None.
        seconds: wall time of all of it.
        ops_before, ops_after: how many nodes of each operator there are, most frequent first.
        passes: what each pass did.
        packed_node_share: nodes that run on packed rows, in proportion to all nodes of the result.
        own_precision: what the original computes in.
        first_token_pooling: whether the result pools the first real token of each sequence.
        verify: what the comparison found.
        notes: what else a person should know, one sentence each.
    """

    model: str
    output: str | None = None
    seconds: float = 0.0
    ops_before: dict[str, int] = field(default_factory=dict)
    ops_after: dict[str, int] = field(default_factory=dict)
    passes: list[PassReport] = field(default_factory=list)
    packed_node_share: float = 0.0
    own_precision: Precision = "fp32"
    first_token_pooling: bool = False
    verify: Verification = field(default_factory=Verification)
    notes: list[str] = field(default_factory=list)

    @property
    def nodes_before(self) -> int:
        """All nodes of the input."""
        return sum(self.ops_before.values())

    @property
    def nodes_after(self) -> int:
        """All nodes of the result."""
        return sum(self.ops_after.values())

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that passes reported; later passes win."""
        merged: dict[str, Any] = {}
        for step in self.passes:
            merged.update(step.facts)
        return merged

    @property
    def attention_found(self) -> int:
        """How many attentions the model has."""
        return self._everywhere("attention_found")

    @property
    def attention_fused(self) -> int:
        """How many of them run as one operator."""
        return self._everywhere("attention_fused")

    def _everywhere(self, fact: str) -> int:
        """The number in the main graph and in branches."""
        return int(self.facts.get(fact, 0)) + int(self.facts.get(f"{fact}_in_branches", 0))

    @property
    def packed(self) -> Packed:
        """Whether padding was removed: everywhere that it could matter, in part, or not at all."""
        value = self.facts.get("packed", False)
        return "partial" if value == "partial" else bool(value)

    @property
    def precision(self) -> dict[str, Any]:
        """What the result computes in and the original did; how many nodes were widened, and converted.

        Of `half_precision_nodes` and `float32_nodes` there are numbers where half precision is asked for; of
        `widened_nodes` and `half_precision_kept` where the original has it; of `int8_layers` where int8 is asked for.
        """
        facts = self.facts
        keys = ("half_precision_nodes", "float32_nodes", "widened_nodes", "half_precision_kept", "int8_layers")
        counts: dict[str, Any] = {key: facts[key] for key in keys if key in facts}
        return {"type": facts.get("precision", "fp32"), "original": self.own_precision, **counts}

    @property
    def rejected(self) -> list[Rejection]:
        """What was nearly done, and why not."""
        return [rejection for step in self.passes for rejection in step.rejected]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; its keys are an interface."""
        return {
            "model": self.model,
            "output": self.output,
            "seconds": round(self.seconds, 3),
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "ops_before": self.ops_before,
            "ops_after": self.ops_after,
            "passes": [
                {
                    "name": step.name,
                    "applied": step.applied,
                    "rejected": [{"rule": r.rule, "node": r.node, "sentence": r.sentence} for r in step.rejected],
                    "seconds": round(step.seconds, 4),
                }
                for step in self.passes
            ],
            "attention": {"found": self.attention_found, "fused": self.attention_fused},
            "precision": self.precision,
            "packed": self.packed,
            "packed_node_share": round(self.packed_node_share, 4),
            "kernels": self.facts.get("kernels"),
            "nodes_run_by_body": self.facts.get("nodes_run_by_body", []),
            "memory_plan": self.facts.get("memory_plan"),
            "verify": {
                "ok": self.verify.ok,
                "max_abs": self.verify.max_abs,
                "max_rel": self.verify.max_rel,
                "noise": self.verify.noise,
                "cases": self.verify.cases,
                "skipped": list(self.verify.skipped),
                "gpu": self.verify.gpu,
            },
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def compared_counts(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """(operator, before, after) for every operator of either, the most frequent first."""
    names = sorted({*before, *after}, key=lambda op: (-max(before.get(op, 0), after.get(op, 0)), op))
    return [(name, before.get(name, 0), after.get(name, 0)) for name in names]


def grouped(rejections: Sequence[Rejection]) -> list[tuple[str, str, list[str]]]:
    """(rule, sentence, nodes): rejections that say the same, together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for rejection in rejections:
        groups.setdefault((rejection.rule, rejection.sentence), []).append(rejection.node)
    return [(rule, sentence, nodes) for (rule, sentence), nodes in groups.items()]
