"""Passes that replace each occurrence of a pattern: the sweep, the one way to refuse, the report of near misses."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeAlias

import onnx_graphsurgeon as gs

from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.load_time import known_when_loaded
from turbo_onnx.matcher import Match, Matcher, Miss, describe
from turbo_onnx.model import Model
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.pattern import Expression

Results: TypeAlias = Tensor | tuple[Tensor | None, ...]

_MAX_SWEEPS = 50


class Fusion(Pass):
    """One pattern and what to write in its place.

    A sweep goes through the nodes from the outputs to the inputs, so that of several patterns which contain each
    other the largest is found first, and sweeps are repeated until one changes nothing. New nodes take the place of
    the root that they replace. Results take over data types and shapes from what they replace, unless they have their
    own.

    Attributes:
        misses_from: how many nodes must have matched before a failed match is worth reporting.
        misses_with: operators of which one must be among those nodes; choose both so that chains which merely begin
            alike are not reported.
    """

    misses_from: int = 4
    misses_with: frozenset[str] = frozenset()

    @abstractmethod
    def pattern(self) -> Expression | tuple[Expression, ...]:
        """What to look for. The first expression's node is the root; only tensors returned here may be read outside.

        A pattern that returns further tensors must not have operands that could be computed from them.
        """

    @abstractmethod
    def rewrite(self, match: Match, edit: Editor) -> Results:
        """Make the replacement, and return the new tensors in the order of the pattern's.

        None stands for a tensor that nothing reads outside of the match. Nodes of the match are taken away afterwards.

        Raises:
            Reject: it must not be done here, and why. Other ways to match at the same root are tried then.
        """

    def run(self, model: Model) -> PassReport:
        """Rewrite until nothing matches any more; the graph is sorted and without dead nodes afterwards."""
        report = PassReport(self.name)
        pattern = self.pattern()
        returns = pattern if isinstance(pattern, tuple) else (pattern,)
        edit = Editor(model.graph)
        for _ in range(_MAX_SWEEPS):
            sweep = _Sweep(self, Matcher(returns, model.graph, model.opset), edit)
            report.rejected = sweep.run()
            report.applied += sweep.applied
            if not sweep.applied:
                break
        return report


class _Sweep:
    """One way through the graph, from the last node to the first."""

    def __init__(self, fusion: Fusion, matcher: Matcher, edit: Editor) -> None:
        self.fusion = fusion
        self.matcher = matcher
        self.edit = edit
        self.applied = 0
        self.gone: set[int] = set()
        self.rejections: list[tuple[gs.Node, Rejection]] = []
        self.misses: list[Miss] = []

    def run(self) -> list[Rejection]:
        """Rewrite wherever it is possible; returns why it was not where it nearly was."""
        graph = self.edit.graph
        nodes = list(graph.nodes)
        graph.nodes = []
        known = known_when_loaded(nodes)
        replacements: dict[int, list[gs.Node]] = {}
        for index in range(len(nodes) - 1, -1, -1):
            node = nodes[index]
            if id(node) in self.gone or id(node) in known or not self.matcher.can_start(node):
                continue
            if self._rewrite_at(node):
                replacements[index] = list(graph.nodes)
                graph.nodes.clear()
        ordered: list[gs.Node] = []
        for index, node in enumerate(nodes):
            ordered.append(node)
            ordered.extend(replacements.get(index, ()))
        graph.nodes = ordered
        if self.applied:
            self.edit.remove_unused()
            self.edit.sort()
        return self._report()

    def _rewrite_at(self, root: gs.Node) -> bool:
        first: Rejection | None = None
        for match in self.matcher.matches(root, self.gone):
            try:
                results = self.fusion.rewrite(match, self.edit)
            except Reject as reason:
                self._discard_new_nodes()
                first = first or Rejection(self.fusion.name, describe(root), str(reason))
                continue
            self._replace(match, results if isinstance(results, tuple) else (results,))
            return True
        if first is not None:
            self.rejections.append((root, first))
        elif (miss := self.matcher.miss(root)) is not None and self._is_near(miss):
            self.misses.append(miss)
        return False

    def _is_near(self, miss: Miss) -> bool:
        wanted = self.fusion.misses_with
        return len(miss.nodes) >= self.fusion.misses_from and (not wanted or not wanted.isdisjoint(miss.operators))

    def _replace(self, match: Match, results: tuple[Tensor | None, ...]) -> None:
        for old, new in zip(match.outputs, results, strict=True):
            if old is None or new is None:
                assert old is None or not match.is_read_outside(old)
                continue
            if isinstance(new, gs.Variable):
                new.dtype = new.dtype if new.dtype is not None else old.dtype
                new.shape = new.shape if new.shape is not None or old.shape is None else list(old.shape)
            self.edit.replace(old, new)
        self.gone.update(id(node) for node in match.nodes)
        self.applied += 1

    def _discard_new_nodes(self) -> None:
        for node in self.edit.graph.nodes:
            node.inputs.clear()
            node.outputs.clear()
        self.edit.graph.nodes.clear()

    def _report(self) -> list[Rejection]:
        """Rejections, then the misses that no rewrite and no deeper miss accounts for."""
        rejected = [(r, rejection) for r, rejection in self.rejections if id(r) not in self.gone]
        taken = set(self.gone).union(id(root) for root, _ in rejected)
        found = [rejection for _, rejection in rejected]
        for miss in sorted(self.misses, key=lambda miss: -len(miss.nodes)):
            if miss.nodes.isdisjoint(taken):
                taken |= miss.nodes
                found.append(Rejection(self.fusion.name, describe(miss.root), miss.sentence))
        return found
