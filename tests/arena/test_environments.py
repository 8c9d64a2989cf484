"""The allocator belongs to ONNX Runtime's environment, which a program in C++ may close and open again.

The library may be registered with options before there is an environment, and options may outlive one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest

from tests.arena.build import ROOT, compiler
from tests.arena.planned_models import model, plan, session, variant, with_allocators
from turbo_onnx import runtime

ONNXRUNTIME = next(iter((Path(ort.__file__).parent / "capi").glob("libonnxruntime.*")), None)


@with_allocators
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.skipif(ONNXRUNTIME is None, reason="this onnxruntime has no library of its own")
def test_plans_are_kept_to_in_every_environment_and_outputs_may_outlive_it(tmp_path):
    artifact, program = tmp_path / "model.onnx", tmp_path / "environments"
    artifact.write_bytes(model(plan(variant(session(model())))))
    source = ROOT / "tests/arena/environments.cc"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'turbo_onnx'}", "-o", str(program), "-ldl"]
    subprocess.run([str(compiler()), str(source), *flags], check=True)
    command = [str(program), str(ONNXRUNTIME), runtime.library_path(), str(artifact)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{run} {run} 0" for run in range(1, 7)]
