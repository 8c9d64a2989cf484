"""An artifact runs in a C++ program that knows ONNX Runtime's public C functions and where our library is."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.custom_ops.single_node import Case, without_body
from turbo_onnx import runtime

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
ONNXRUNTIME = next(iter((Path(ort.__file__).parent / "capi").glob("libonnxruntime.*")), None)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif(ONNXRUNTIME is None, reason="this onnxruntime has no library of its own")
def test_a_cpp_program_runs_an_artifact_through_the_library(tmp_path):
    case = Case("BiasGelu", [np.arange(8, dtype=np.float32).reshape(2, 4), np.ones(4, np.float32)])
    artifact, program = tmp_path / "model.onnx", tmp_path / "serve"
    artifact.write_bytes(without_body(case).SerializeToString())
    source = ROOT / "tests/runtime/serve.cc"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'turbo_onnx'}", "-o", str(program), "-ldl"]
    subprocess.run([str(COMPILER), str(source), *flags], check=True)
    result = subprocess.run(
        [str(program), str(ONNXRUNTIME), runtime.library_path(), str(artifact)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    output = np.array(result.stdout.split(), np.float32).reshape(2, 4)
    np.testing.assert_allclose(output, case.expected()[0], rtol=1e-6)
