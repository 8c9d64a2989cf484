"""What of a graph is known before its inputs are: ONNX Runtime computes it once, when it loads the model.

It does that for standard operators. One of ours in their place would be computed anew in every run.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from turbo_onnx.graph import STANDARD_DOMAINS, subgraphs

NOT_REPEATABLE = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
"""Standard operators that may give other numbers for the same operands."""


def known_when_loaded(nodes: Iterable[gs.Node]) -> set[int]:
    """The identities of nodes that depend on constants only.

    Args:
        nodes: in topological order.
    """
    known: set[int] = set()
    for node in nodes:
        if node.domain not in STANDARD_DOMAINS or node.op in NOT_REPEATABLE or any(True for _ in subgraphs(node)):
            continue
        if all(
            isinstance(t, gs.Constant) or t.is_empty() or (t.inputs and id(t.inputs[0]) in known) for t in node.inputs
        ):
            known.add(id(node))
    return known
