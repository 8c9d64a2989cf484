"""Which sizes a memory plan is made for: those that vary by themselves in the runs that are recorded.

Files give sizes different names that are equal in practice: each layer's cache has a length of its own, the mask a
batch of its own. Sizes that play the same role in the inputs that are made for a model (`verify_inputs.Layout`) are
drawn apart, one by one. Where the model runs on that, and no more sizes vary than a plan is made for, they are
variables of the plan. All others are assumed to be what they were in every run: the first size of their role, or the
sum of the length and the past. The library checks that when a run begins, and a run of which it does not hold uses the
heap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.memory.plan import Assumption, Variable
from turbo_onnx.verify_inputs import InputSpec, Layout, own_size

MOST_VARIABLES = 5
SUM = "length + past"


@dataclass(frozen=True)
class PlanSizes:
    """The sizes of one plan.

    Attributes:
        variables: those that vary by themselves.
        axes: which of the extents that a recording has are their values.
        assumptions: what the others are.
    """

    variables: tuple[Variable, ...]
    axes: tuple[int, ...]
    assumptions: tuple[Assumption, ...]


@dataclass(frozen=True)
class SeenSizes:
    """All sizes that the node that begins a run sees.

    Attributes:
        variables: one for each.
        axes: which of the extents that a recording has are their values.
        declared: what the file calls each in the model's inputs; nothing for what is computed in front of the node.
    """

    variables: tuple[Variable, ...] = ()
    axes: tuple[int, ...] = ()
    declared: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def of(node: gs.Node, variables: Sequence[Variable], specs: Sequence[InputSpec]) -> SeenSizes:
        """What the node that begins a run sees of these sizes, of a model with these inputs."""
        starts = np.cumsum([0, *(len(tensor.shape) for tensor in node.inputs)]).tolist()
        shapes = {spec.name: spec.shape for spec in specs}
        names: dict[object, list[str]] = {}
        for tensor in node.inputs:
            for size, name in zip(tensor.shape, shapes.get(tensor.name, ()), strict=False):
                if isinstance(name, str):
                    names.setdefault(size, []).append(name)
        axes = tuple(starts[variable.input] + variable.axis for variable in variables)
        declared = tuple(tuple(dict.fromkeys(names.get(variable.name, ()))) for variable in variables)
        return SeenSizes(tuple(variables), axes, declared)

    def chosen(self, layout: Layout) -> PlanSizes:
        """The plan's sizes, where the model's inputs are made by the layout.

        Raises:
            Reject: more vary than a plan is made for.
        """
        roles = self._roles(layout)
        first = {role: index for index, role in reversed(list(enumerate(roles))) if role}
        parts: dict[int, tuple[int, ...]] = {
            index: (first[role],) for index, role in enumerate(roles) if role and first[role] != index
        }
        if {"length", "past"} <= first.keys():
            both = (first["length"], first["past"])
            parts |= {index: both for index, role in enumerate(roles) if role == SUM}
        free = [index for index in range(len(roles)) if index not in parts]
        variables = [self._variable(index, roles[index]) for index in free]
        if len(free) > MOST_VARIABLES:
            listed = ", ".join(variable.name for variable in variables)
            raise Reject("{} sizes vary ({}), and a plan is made for at most {}", len(free), listed, MOST_VARIABLES)
        assumptions = [
            Assumption(seen.name, seen.input, seen.axis, tuple(free.index(part) for part in parts[index]))
            for index, seen in enumerate(self.variables)
            if index in parts
        ]
        return PlanSizes(tuple(variables), tuple(self.axes[index] for index in free), tuple(assumptions))

    def _roles(self, layout: Layout) -> list[str]:
        return [layout.get(names[0], "") if names else "" for names in self.declared]

    def _variable(self, index: int, role: str) -> Variable:
        variable = self.variables[index]
        return replace(variable, role="past") if role == "past" and not variable.role else variable

    def drawn_apart(self, layout: Layout, runs: Callable[[Layout], bool]) -> Layout:
        """The layout with sizes of their own for those that the model lets differ from others of their role.

        Args:
            layout: on which the model runs.
            runs: whether it does so on another one, too.
        """
        roles = self._roles(layout)
        for role in dict.fromkeys(filter(None, roles)):
            members = [index for index, other in enumerate(roles) if other == role]
            found: Layout = {}
            for index in members if role == SUM else members[1:]:
                own = dict.fromkeys(self.declared[index], own_size(self.variables[index].name))
                if runs(layout | own):
                    found |= own
                if not self._fits(layout | found):
                    break
            if found and self._fits(layout | found) and runs(layout | found):
                layout = layout | found
        return layout

    def _fits(self, layout: Layout) -> bool:
        try:
            self.chosen(layout)
        except Reject:
            return False
        return True
