"""What stands inside of branches and loops is said."""

from __future__ import annotations

import pytest

from tests.passes.support import apply, graph, parse
from turbo_onnx import report_text
from turbo_onnx.passes.optimize_branches import OptimizeBranches
from turbo_onnx.report import Report

CPU_ONLY, IF_ONLY = "branches are rewritten for the CPU only", "only branches of an If are rewritten"
IF = """g (float[N,4] x, float[4,4] w, bool flag) => (float[N,4] y) {
    y = If(flag) <
        then_branch = t () => (float[N,4] a) { m = MatMul(x, w) a = Softmax(m) },
        else_branch = e () => (float[N,4] b) { b = Neg(x) }
    >
}"""
LOOP = """g (float[4] x, int64 count, bool go) => (float[4] y) {
    y = Loop(count, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] r)
        { d = Identity(c) r = Softmax(s) }>
}"""
SMALL = """g (float[N,4] x, bool flag) => (float[N,4] y) {
    y = If(flag) <
        then_branch = t () => (float[N,4] a) { a = Abs(x) }, else_branch = e () => (float[N,4] b) { b = Neg(x) }
    >
}"""


@pytest.mark.parametrize(
    ("node", "body", "sentence"),
    [
        (
            "If",
            IF,
            f"2 nodes, 1 of them products, are in its then_branch, which is left as it is: {CPU_ONLY}",
        ),
        (
            "Loop",
            LOOP,
            f"2 nodes, 0 of them products, are in its body, which is left as it is: {IF_ONLY}",
        ),
    ],
)
def test_what_stands_inside_is_said(node: str, body: str, sentence: str) -> None:
    report = apply(OptimizeBranches(), parse(graph(body)))
    assert [(one.node, one.sentence) for one in report.rejected] == [(f"{node} y", sentence)]


def test_small_branches_are_not_worth_a_sentence() -> None:
    assert apply(OptimizeBranches(), parse(graph(SMALL))).rejected == []


@pytest.mark.parametrize(
    ("body", "line"),
    [(IF, "Attention: none was found outside of branches and loops."), (SMALL, "Attention: none was found.")],
)
def test_the_headline_does_not_speak_for_what_nobody_looked_into(body: str, line: str) -> None:
    report = Report("m.onnx", passes=[OptimizeBranches().run(parse(graph(body)))])
    assert report_text.headline(report)[1] == line
