"""Whose rows of padding matter to somebody, and whose do not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.passes.padded_graphs import BIAS, EMBEDDING, MEAN, VARLEN, model
from turbo_onnx import shapes
from turbo_onnx.attention_masks import attention_mask
from turbo_onnx.graph import Tensor, input_or_none
from turbo_onnx.layout import TokenLayout
from turbo_onnx.masks import MaskFunctions
from turbo_onnx.model import Model
from turbo_onnx.padding_flow import PaddingFlow

ATTENTION = (
    f"q = MatMul(h0, wq) k = MatMul(h0, wk) v = MatMul(h0, wv) a = {VARLEN}<num_heads = 2, scale = 0.5>"
    "(q, k, v, , , bias)"
)
ENCODER = EMBEDDING + BIAS + ATTENTION
CHOICE = "real = Cast<to = 9>(mask) chosen = Unsqueeze(real, axis2)"


class Flow:
    """The flow of one graph, asked by the names of its tensors."""

    def __init__(self, nodes: str, outputs: str = "float[B,S,8] y", **parts: Any) -> None:
        self.model: Model = model(nodes, outputs, **parts)
        facts = shapes.infer(self.model)
        functions = MaskFunctions(self.model, facts)
        masks = {}
        for node in self.model.graph.nodes:
            bias = input_or_none(node, 5) if node.op == "VarlenAttention" else None
            found = attention_mask(bias, functions) if bias is not None else None
            if found is not None:
                masks[id(node)] = found
        mask = next(tensor for tensor in self.model.graph.inputs if tensor.name == "mask")
        self.flow = PaddingFlow(self.model, mask, TokenLayout("B", "S", 17), functions, masks)

    def tensor(self, name: str) -> Tensor:
        tensors = [t for node in self.model.graph.nodes for t in (*node.inputs, *node.outputs)]
        return next(tensor for tensor in tensors if tensor.name == name)

    def ignorable(self, *names: str) -> list[bool]:
        return [self.flow.ignorable(self.tensor(name)) for name in names]


def test_outputs_and_hidden_keys_do_not_mind() -> None:
    flow = Flow(ENCODER + "y = Add(a, h0)")
    assert flow.ignorable("y", "a", "q", "k", "v", "h0", "words") == [True] * 7


READERS = {
    "first token": ("y = Gather<axis = 1>(a, first)", "float[B,8] y", True),
    "mean over the mask": ("last = Identity(a)" + MEAN, "float[B,8] y", True),
    "mean of all": ("y = ReduceMean<axes = [1], keepdims = 0>(a)", "float[B,8] y", False),
    "running sum": ("ax = Squeeze(axis1) y = CumSum(a, ax)", "float[B,S,8] y", False),
    "transposition": ("y = Transpose<perm = [1,0,2]>(a)", "float[S,B,8] y", False),
    "shape": ("sh = Shape(a) y = Slice(sh, axis0, axis1)", "int64[1] y", True),
    "attention without a mask": (f"y = {VARLEN}<num_heads = 2, scale = 0.5>(a, a, a)", "float[B,S,8] y", False),
    "product with the mask, then mean of all": (
        "u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) w = Mul(a, f) y = ReduceMean<axes = [1], keepdims = 0>(w)",
        "float[B,8] y",
        True,
    ),
    "choice by the mask, then maximum of all": (
        CHOICE + "w = Where(chosen, a, shy) y = ReduceMax<axes = [1], keepdims = 0>(w)",
        "float[B,8] y",
        True,
    ),
    "row-wise work, then mean of all": (
        "t = Tanh(a) m = MatMul(t, wq) y = ReduceMean<axes = [1], keepdims = 0>(m)",
        "float[B,8] y",
        False,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_who_minds(name: str) -> None:
    nodes, output, expected = READERS[name]
    assert Flow(ENCODER + nodes, output).ignorable("a") == [expected]


def test_keys_and_values_need_no_padding_even_where_queries_do() -> None:
    flow = Flow(ENCODER + "y = ReduceMean<axes = [1], keepdims = 0>(a)", "float[B,8] y")
    assert flow.ignorable("a", "q", "k", "v", "h0") == [False, False, True, True, False]


def test_all_readers_are_asked() -> None:
    flow = Flow(
        ENCODER + "y = Gather<axis = 1>(a, first) z = ReduceMean<axes = [1]>(a)", "float[B,8] y, float[B,1,8] z"
    )
    assert flow.ignorable("a") == [False]


PADDING = {
    "the mask as numbers": ("u = Unsqueeze(mask, axis2) t = Cast<to = 1>(u)", 0),
    "its opposite": ("u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) t = Sub(one, f)", 1),
    "a product with the mask": ("u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) t = Mul(f, a)", 0),
    "a product with its opposite": (
        "u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) i = Sub(one, f) t = Mul(i, a)",
        None,
    ),
    "a number chosen": (CHOICE + "t = Where(chosen, a, thousand)", -1000),
    "a number chosen for tokens": (CHOICE + "t = Where(chosen, thousand, a)", None),
    "another view of a choice": (CHOICE + "w = Where(chosen, a, thousand) t = Reshape(w, flat)", -1000),
    "work on a choice": (CHOICE + "w = Where(chosen, a, thousand) t = Tanh(w)", None),
    "computed rows": ("t = Tanh(a)", None),
}


@pytest.mark.parametrize("name", PADDING)
def test_what_padding_holds(name: str) -> None:
    nodes, expected = PADDING[name]
    flow = Flow(ENCODER + nodes + "n = Neg(t) s = ReduceSum<keepdims = 0>(n) y = Add(a, s)")
    assert flow.flow.padding_value(flow.tensor("t")) == expected


def test_zeros_are_restored_where_padding_is_zero_and_read() -> None:
    zeros = "u = Unsqueeze(mask, axis2) f = Cast<to = 1>(u) w = Mul(a, f) y = ReduceMean<axes = [1], keepdims = 0>(w)"
    flow = Flow(ENCODER + zeros, "float[B,8] y")
    assert flow.ignorable("w") == [False]
    assert flow.flow.may_pack(flow.tensor("w"))
    other = Flow(ENCODER + zeros.replace("Mul(a, f)", "Add(a, f)"), "float[B,8] y")
    assert not other.flow.may_pack(other.tensor("w"))
