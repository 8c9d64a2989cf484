"""The command line as a shell sees it: what it prints where, what it writes, and its exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.command_line import Run, runner
from tests.small_models import encoder, feed, save
from turbo_onnx import __version__, inspection, optimizer, pipeline
from turbo_onnx.memory.plan import METADATA_KEY
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.base import Pass, PassReport


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(encoder(), tmp_path / "model.onnx")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def test_optimize_writes_beside_the_input_and_says_what_it_did(run: Run, source: Path) -> None:
    found = run("optimize", source)
    assert found.code == 0
    assert found.err == ""
    assert source.with_name("model.turbo.onnx").is_file()
    assert "operator" in found.out
    assert "6 nodes before" in found.out
    assert "Verified: equal" in found.out
    onnx.checker.check_model(str(source.with_name("model.turbo.onnx")))


def test_json_is_all_that_goes_to_stdout(run: Run, source: Path) -> None:
    found = run("optimize", source, "-o", source.with_name("out.onnx"), "--json")
    report = json.loads(found.out)
    assert found.code == 0
    assert found.err == ""
    assert report["output"] == str(source.with_name("out.onnx"))
    assert report["verify"]["ok"] is True


def test_a_dry_run_writes_nothing(run: Run, source: Path) -> None:
    found = run("optimize", source, "--dry-run", "--json")
    assert found.code == 0
    assert json.loads(found.out)["output"] is None
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize(("name", "beginning"), [("r.html", "<!DOCTYPE html>"), ("r.json", "{")])
def test_the_report_is_written_in_the_form_of_its_name(run: Run, source: Path, name: str, beginning: str) -> None:
    assert run("optimize", source, "--report", source.with_name(name)).code == 0
    assert source.with_name(name).read_text().startswith(beginning)


def test_the_plan_is_written_as_the_artifact_has_it(run: Run, source: Path) -> None:
    file = source.with_name("plan.json")
    assert run("optimize", source, "--plan", file).code == 0
    artifact = onnx.load(source.with_name("model.turbo.onnx"))
    carried = {entry.key: entry.value for entry in artifact.metadata_props}[METADATA_KEY]
    assert json.loads(file.read_text()) == json.loads(carried)


def test_a_plan_that_was_not_made_cannot_be_written(run: Run, source: Path) -> None:
    file = source.with_name("plan.json")
    result = run("optimize", source, "--plan", file, "--skip-pass", "plan-memory")
    assert result.code == 2
    assert "it has no memory plan" in result.err
    assert not file.exists()


def test_external_data_goes_beside_the_output(run: Run, tmp_path: Path) -> None:
    source = save(encoder(rows=200), tmp_path / "model.onnx")
    assert run("optimize", source, "--save-as-external-data").code == 0
    assert (tmp_path / "model.turbo.onnx.data").stat().st_size >= 200 * 32
    assert run("verify", source, tmp_path / "model.turbo.onnx").code == 0


def test_two_runs_write_the_same_bytes(run: Run, source: Path) -> None:
    outputs = [source.with_name(name) for name in ("a.onnx", "b.onnx")]
    for output in outputs:
        assert run("optimize", source, "-o", output, "--no-verify").code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_artifact_says_what_made_it_and_from_what(run: Run, source: Path) -> None:
    assert run("optimize", source, "--packing", "off", "--skip-pass", "raise-gelu").code == 0
    model = onnx.load(source.with_name("model.turbo.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["turbo_onnx.version"] == __version__
    assert len(properties["turbo_onnx.input_sha256"]) == 64
    options = json.loads(properties["turbo_onnx.options"])
    assert options["packing"] == "off"
    assert options["skip_passes"] == ["raise-gelu"]
    assert str(source.parent) not in str(model)


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize"],
        ["optimize", "nowhere.onnx"],
        ["optimize", ""],
        ["optimize", "."],
        ["optimize", "/"],
        ["optimize", "{source}", "--packing", "perhaps"],
        ["optimize", "{source}", "--passes", "no-such-pass"],
        ["optimize", "{source}", "-o", "{source}"],
        ["optimize", "{source}", "-o", "-"],
        ["optimize", "{source}", "--report", "-"],
        ["optimize", "{source}", "--report", "{source}"],
        ["optimize", "{source}", "--report", "{folder}/nowhere/report.html"],
        ["optimize", "{source}", "--plan", "{source}"],
        ["optimize", "{source}", "--plan", "{folder}/nowhere/plan.json"],
        ["optimize", "{source}", "--inputs", "nowhere.npz"],
        ["inspect", "nowhere.onnx"],
        ["explain", "{source}", "--pass", "no-such-pass"],
        ["verify", "{source}", "nowhere.onnx"],
        ["verify", "{source}", "{source}", "--atol", "nan"],
        ["frobnicate"],
    ],
    ids=" ".join,
)
def test_a_mistake_exits_with_2_and_writes_nothing(run: Run, source: Path, arguments: list[str]) -> None:
    found = run(*(a.format(source=source, folder=source.parent) for a in arguments))
    assert found.code == 2
    assert found.out == ""
    assert found.err.strip()
    assert "Traceback" not in found.err
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "other"),
    [
        (["--report", "one.json", "--plan", "one.json"], "plan would overwrite the report"),
        (["--report", "one.json", "--plan", "folder/../one.json"], "plan would overwrite the report"),
        (["-o", "one", "--report", "one"], "report would overwrite the model"),
        (["-o", "one", "--save-as-external-data", "--plan", "one.data"], "plan would overwrite the weights"),
    ],
)
def test_no_file_is_written_twice(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], other: str
) -> None:
    monkeypatch.chdir(source.parent)
    Path("folder").mkdir()
    found = run("optimize", source, *arguments)
    assert found.code == 2
    assert f"the {other}; choose another file" in found.err
    assert sorted(source.parent.iterdir()) == [source.parent / "folder", source]


def test_the_measurements_of_kernels_do_not_overwrite_a_model(run: Run, source: Path) -> None:
    before = source.read_bytes()
    found = run("autotune", source, "-o", source)
    assert found.code == 2
    assert "the tuning would overwrite the model" in found.err
    assert source.read_bytes() == before


def test_each_pass_is_listed_once(run: Run, source: Path) -> None:
    found = run("explain", source, "--pass", "no-such-pass")
    listed = found.err.partition("the passes are ")[2].rstrip(".\n").split(", ")
    assert len(listed) == len(set(listed)) > 20


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_what_is_no_file_is_not_replaced_by_one(run: Run, source: Path, option: str) -> None:
    pipe = source.parent / "pipe.txt"
    os.mkfifo(pipe)
    found = run("optimize", source, "--no-verify", option, pipe)
    assert found.code == 2
    assert sorted(source.parent.iterdir()) == [source, pipe]
    assert found.err == f"turbo-onnx: {pipe}: it is no file, and would be replaced by one; name a file.\n"
    assert pipe.is_fifo()


@pytest.mark.parametrize("command", [("optimize", "--dry-run", "--report"), ("cost", "-o"), ("plan", "--html")])
def test_weights_beside_the_model_are_not_written_over(capsys, tmp_path: Path, command: tuple[str, ...]) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(encoder(), model, save_as_external_data=True, location="model.data", size_threshold=0)
    before = (tmp_path / "model.data").read_bytes()
    name, *options = command
    found = runner(capsys, name)(model, *options, tmp_path / "model.data")
    assert found.code == 2
    assert "would overwrite the model" in found.err
    assert (tmp_path / "model.data").read_bytes() == before


def test_an_optimized_model_is_not_optimized_again(run: Run, source: Path) -> None:
    run("optimize", source)
    found = run("optimize", source.with_name("model.turbo.onnx"))
    assert found.code == 2
    assert "already optimized" in found.err
    assert len(found.err.strip().splitlines()) == 1


class Spoil(Pass):
    """A pass that makes a wrong model, or crashes."""

    name = "spoil"
    summary = "For tests."

    def __init__(self, crash: bool) -> None:
        self.crash = crash

    def run(self, model: Model) -> PassReport:
        if self.crash:
            raise IndexError("out of range")
        model.graph.nodes[-1].op = "Sin"
        return PassReport(self.name, 1)


def test_a_wrong_result_exits_with_3_and_writes_nothing(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "select", lambda _: [Spoil(crash=False)])
    found = run("optimize", source)
    assert found.code == 3
    assert "differs from the original" in found.err
    assert list(source.parent.iterdir()) == [source]
    assert run("optimize", source, "--no-verify").code == 0


def test_where_a_model_quantizes_itself_the_refusal_says_what_to_optimize(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "select", lambda _: [Spoil(crash=False)])
    nodes = "{ q, s, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, s, z) y = Relu(d) }"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) {nodes}'
    found = run("optimize", save(onnx.parser.parse_model(text), tmp_path / "quantized.onnx"))
    assert found.code == 3
    assert found.err.endswith("any rounding in front of them may change: optimize the model that it was made of.\n")


def test_a_full_disk_behind_stdout_is_no_bug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inspection, "operators", full)
    found = run("ops")
    assert found.code == 2
    assert found.err == "turbo-onnx: the output cannot be printed: there is no space left for it.\n"


def test_a_bug_exits_with_1_and_says_where(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "select", lambda _: [Spoil(crash=True)])
    found = run("optimize", source)
    assert found.code == 1
    assert "the pass spoil failed" in found.err
    assert "IndexError" in found.err
    assert list(source.parent.iterdir()) == [source]


def test_a_required_fusion_that_did_not_happen_exits_with_4(run: Run, source: Path) -> None:
    found = run("optimize", source, "--require-fusion")
    assert found.code == 4
    assert "no attention was found" in found.err
    assert list(source.parent.iterdir()) == [source]


def test_verify_says_equal_or_what_differs(run: Run, source: Path) -> None:
    assert run("optimize", source).code == 0
    found = run("verify", source, source.with_name("model.turbo.onnx"), "--seed", 3)
    assert found.code == 0
    assert "Equal in" in found.out
    other = encoder()
    weight = numpy_helper.to_array(other.graph.initializer[1]) + np.float32(1e-3)
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "weight"))
    changed = save(other, source.with_name("other.onnx"))
    found = run("verify", source, changed)
    assert found.code == 3
    assert "output 'hidden' differs" in found.out
    assert run("verify", source, changed, "--atol", 0.5).code == 0
    assert run("verify", source, changed, "--json").code == 3


def test_verify_on_a_gpu_needs_one(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", str(source.with_name("none.so")))
    found = run("verify", source, source, "--gpu")
    assert found.code == 2
    assert "it was not run on a GPU: there is no NVIDIA GPU here" in found.err


def test_verify_takes_the_callers_inputs(run: Run, source: Path) -> None:
    np.savez(source.with_name("own.npz"), **feed())
    found = run("verify", source, source, "--inputs", source.with_name("own.npz"), "--json")
    assert found.code == 0
    assert json.loads(found.out)["cases"] == 10


def test_verify_refuses_models_with_other_inputs(run: Run, source: Path) -> None:
    other = encoder()
    other.graph.input[0].name = other.graph.node[0].input[1] = "words"
    found = run("verify", source, save(other, source.with_name("other.onnx")))
    assert found.code == 2
    assert "words" in found.err


def test_inspect_says_what_is_in_a_model(run: Run, source: Path) -> None:
    found = run("inspect", source)
    assert found.code == 0
    assert "ids int64[batch, tokens]" in found.out
    assert "Gather" in found.out
    assert "217 parameters" in found.out
    assert json.loads(run("inspect", source, "--json").out)["optimized_by"] is None
    run("optimize", source)
    assert json.loads(run("inspect", source.with_name("model.turbo.onnx"), "--json").out)["optimized_by"] == __version__


def test_explain_goes_through_the_passes_and_writes_nothing(run: Run, source: Path) -> None:
    found = run("explain", source)
    assert found.code == 0
    asked = [name for name in pipeline.names(pipeline.select(Options())) if name not in pipeline.LAST]
    assert len(asked) > 20
    assert [name for name in asked if f"{name}:" not in found.out] == []
    only = run("explain", source, "--pass", "raise-attention")
    assert only.out.startswith("raise-attention:")
    assert "raise-gelu" not in only.out
    assert list(source.parent.iterdir()) == [source]


def test_ops_lists_every_operator(run: Run) -> None:
    from turbo_onnx.custom_ops import SPECS

    found = run("ops")
    assert found.code == 0
    assert all(spec.name in found.out for spec in SPECS)


def test_doctor_says_what_is_installed(run: Run) -> None:
    found = run("doctor")
    assert found.code in (0, 2)
    assert __version__ in found.out
    assert "onnxruntime" in found.out


def test_the_default_output_keeps_the_folder() -> None:
    assert optimizer.default_output(Path("a/b/model.onnx")) == Path("a/b/model.turbo.onnx")
    assert optimizer.default_output(Path("model.v2")) == Path("model.v2.turbo.onnx")


def test_a_process_that_is_terminated_leaves_nothing_behind(tmp_path: Path) -> None:
    source = save(encoder(), tmp_path / "model.onnx")
    program = (
        "import sys, time\nfrom turbo_onnx import cli, proof\n"
        "def wait(*a, **k):\n    print('verifying', flush=True)\n    time.sleep(30)\n"
        "proof.refer = wait\ncli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "optimize", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "verifying\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == [source]


def test_importing_the_package_imports_nothing_that_serving_does_not_need() -> None:
    program = (
        "import sys, turbo_onnx\n"
        "heavy = {'onnx', 'onnx_graphsurgeon', 'numpy', 'onnxruntime', 'click', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from turbo_onnx import runtime\n"
        "assert not {'onnx', 'onnx_graphsurgeon', 'click', 'rich'} & set(sys.modules)\n"
        "assert callable(turbo_onnx.register) and callable(turbo_onnx.library_path)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ})


def test_help_is_quick() -> None:
    before = os.times().children_user
    subprocess.run([sys.executable, "-m", "turbo_onnx.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    assert os.times().children_user - before < 2
