"""Graphs with an If whose weights lie outside of its branches, among them a decoder merged from two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tests.decoders import CONSTANTS, WEIGHTS, attention
from tests.passes.support import graph, normal, parse
from turbo_onnx.graph import subgraphs
from turbo_onnx.model import Model

BOOL = onnx.TensorProto.BOOL


def merged_decoder(masked: bool = False) -> Model:
    """A layer of a decoder with a cache, as it is merged: with a past or without, by a flag.

    Args:
        masked: of ids, and with a mask [B, T] for all keys, so that without a past it is as long as the ids.
    """
    outputs = "float[B,S,16] y, float[B,2,L,8] keys, float[B,2,L,8] values"
    behind = attention("keys = Concat<axis = 2>(past_keys, k)", "values = Concat<axis = 2>(past_values, v)", "y")
    first = attention("keys = Identity(k)", "values = Identity(v)", "y")
    inputs = "float[B,S,16] x"
    if masked:
        inputs = "int64[B,S] ids, int64[B,T] mask"
        added = "m = Cast<to = 1>(mask) u = Unsqueeze(m, middle) c = Add(t, u) p = Softmax<axis = -1>(c)"
        behind, first = (
            f"x = Gather(words, ids) {nodes.replace('p = Softmax<axis = -1>(t)', added)}" for nodes in (behind, first)
        )
    body = (
        f"g ({inputs}, float[B,2,P,8] past_keys, float[B,2,P,8] past_values, bool[1] use_past) => "
        "(float[B,S,16] out, float[B,2,N,8] present_keys, float[B,2,N,8] present_values) "
        f"<{CONSTANTS}, int64[2] middle = {{1, 2}}> {{ "
        f"out, present_keys, present_values = If(use_past) <then_branch = behind () => ({outputs}) {{ {behind} }}, "
        f"else_branch = first () => ({outputs}) {{ {first} }}> }}"
    )
    return parse(graph(body), {**WEIGHTS, "words": normal(11, 16)})


def branch_model(
    then: str,
    otherwise: str,
    *,
    inputs: str = "",
    before: str = "",
    constants: str = "",
    weights: Mapping[str, np.ndarray] | None = None,
) -> Model:
    """Two branches that compute `y` from x [B, S, 16], by the flag `which`.

    Args:
        then, otherwise: the nodes of the branches.
        inputs: further ones of the model.
        before: nodes in front of the If.
        constants: further ones of the main graph.
        weights: instead of `WEIGHTS`.
    """
    body = (
        f"g (float[B,S,16] x, bool which{inputs}) => (float[B,S,16] z) <{CONSTANTS}{constants}> {{ {before} "
        f"z = If(which) <then_branch = yes () => (float[B,S,16] y) {{ {then} }}, "
        f"else_branch = no () => (float[B,S,16] y) {{ {otherwise} }}> }}"
    )
    return parse(graph(body), WEIGHTS if weights is None else weights)


def branches(model: Model) -> list[gs.Graph]:
    """The graphs of the main graph's nodes, in order."""
    return [inner for node in model.graph.nodes for inner in subgraphs(node)]


def operators_in(model: Model) -> list[list[str]]:
    """The operators of each branch, in order."""
    return [[node.op for node in branch.nodes] for branch in branches(model)]


def large_initializers(proto: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """The names of the initializers with 1 KiB and more, of the main graph and of graphs inside it."""
    inner = [
        tensor
        for node in proto.graph.node
        for attribute in node.attribute
        for tensor in attribute.g.initializer
    ]  # fmt: skip
    return (
        sorted(t.name for t in proto.graph.initializer if len(t.raw_data) >= 1024),
        sorted(t.name for t in inner if len(t.raw_data) >= 1024),
    )
