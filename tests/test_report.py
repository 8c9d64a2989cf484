"""The report has the keys that scripts rely on, and reads well in every form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turbo_onnx import report_text
from turbo_onnx.passes.base import PassReport, Rejection
from turbo_onnx.report import Report, compared_counts, grouped
from turbo_onnx.verify import Verification

KEYS = {
    "model", "output", "seconds", "nodes", "ops_before", "ops_after", "passes", "attention", "packed",
    "packed_node_share", "verify",
}  # fmt: skip


@pytest.fixture
def report() -> Report:
    why = "the <mask> is read | elsewhere"
    return Report(
        model="in.onnx",
        output="out.onnx",
        seconds=1.23456,
        ops_before={"Add": 7, "MatMul": 3},
        ops_after={"turbo_onnx.VarlenAttention": 2, "MatMul": 3},
        passes=[
            PassReport("raise-attention", 2, facts={"attention_found": 3}, seconds=0.5),
            PassReport(
                "fuse-multi-head-attention",
                2,
                [Rejection("fuse-multi-head-attention", f"node_{index}", why) for index in range(5)],
                {"attention_fused": 2},
            ),
            PassReport("remove-padding", 1, facts={"packed": "partial", "mask_input": "mask"}),
        ],
        packed_node_share=0.4,
        verify=Verification(True, 2e-6, 1e-6, cases=9, skipped=["one token: the original does not run on it"]),
    )


def test_the_json_has_every_promised_key(report: Report) -> None:
    found = json.loads(report.to_json())
    assert found.keys() >= KEYS
    assert found["nodes"] == {"before": 10, "after": 5}
    assert found["attention"] == {"found": 3, "fused": 2}
    assert found["packed"] == "partial"
    assert found["packed_node_share"] == 0.4
    assert found["verify"].keys() >= {"ok", "max_abs", "max_rel", "noise", "cases"}
    assert found["passes"][0].keys() == {"name", "applied", "rejected", "seconds"}
    assert found["passes"][1]["rejected"][0] == {
        "rule": "fuse-multi-head-attention",
        "node": "node_0",
        "sentence": "the <mask> is read | elsewhere",
    }


def test_the_text_tells_what_was_done_once_for_each_pass_that_did_something() -> None:
    passes = [
        PassReport("fold-constants", 2, summary="Fold."),
        PassReport("raise-gelu", 0, summary="Raise."),
        PassReport("fold-constants", 3, summary="Fold."),
    ]
    done = next(rows for title, _, rows in report_text.tables(Report("in.onnx", passes=passes)) if title == "Done")
    assert done == [["fold-constants", "5", "Fold."]]


def test_a_run_in_which_nothing_happened_has_the_same_keys() -> None:
    found = json.loads(Report("in.onnx").to_json())
    assert found.keys() >= KEYS
    assert found["packed"] is False
    assert found["attention"] == {"found": 0, "fused": 0}
    assert found["verify"]["ok"] is None


def test_text_says_what_was_done_and_what_was_not_and_why(report: Report) -> None:
    text = report_text.to_text(report)
    assert "10 nodes before, 5 after" in text
    assert "2 of 3 fused" in text
    assert "removed in part" in text
    assert "node_0, node_1, node_2 and 2 more" in text
    assert "the <mask> is read | elsewhere" in text
    assert "equal in 9 cases" in text
    assert "Not compared: one token" in text


def test_html_is_one_page_with_everything_escaped(report: Report) -> None:
    page = report_text.to_html(report)
    assert page.startswith("<!DOCTYPE html>")
    assert "the &lt;mask&gt; is read" in page
    assert "<mask>" not in page
    assert "src=" not in page
    assert "href=" not in page


def test_markdown_escapes_what_would_end_a_cell(report: Report) -> None:
    assert r"is read \| elsewhere |" in report_text.to_markdown(report)


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("r.json", "{"), ("r.HTML", "<!DOCTYPE"), ("r.md", "# in.onnx"), ("r.txt", "Operators"), ("r", "Operators")],
)
def test_the_files_name_chooses_the_form(report: Report, name: str, beginning: str) -> None:
    assert report_text.for_file(report, Path(name)).startswith(beginning)


def test_operators_are_listed_with_both_counts() -> None:
    assert compared_counts({"Add": 5, "Erf": 1}, {"Add": 2, "Gelu": 9}) == [
        ("Gelu", 0, 9),
        ("Add", 5, 2),
        ("Erf", 1, 0),
    ]


def test_rejections_that_say_the_same_are_grouped() -> None:
    same = [Rejection("a", "n1", "why"), Rejection("b", "n2", "why"), Rejection("a", "n3", "why")]
    assert grouped(same) == [("a", "why", ["n1", "n3"]), ("b", "why", ["n2"])]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"planned": 3, "outputs": 1, "unknown": 0}, "every shape; 3 buffers in one block, 1 output on the heap."),
        ({"planned": 1, "outputs": 2, "unknown": 1}, "every shape; 1 buffer in one block, 2 outputs and 1 other on"),
    ],
)
def test_buffers_are_counted_in_the_singular_and_the_plural(
    report: Report, plan: dict[str, object], sentence: str
) -> None:
    report.passes.append(PassReport("plan-memory", 1, facts={"memory_plan": {**plan, "exceptions": [], "assumed": []}}))
    assert any(sentence in line for line in report_text.headline(report))
