import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.custom_ops.single_node import Case, model, without_body
from turbo_onnx import runtime
from turbo_onnx.errors import InputError

CASE = Case("BiasGelu", [np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4), np.ones(4, np.float32)])


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(without_body(CASE).SerializeToString())  # nothing but a kernel can run it
    return path


def test_a_session_takes_a_path_or_bytes_like_the_one_of_onnxruntime(artifact):
    for source in (artifact, str(artifact), artifact.read_bytes()):
        session = runtime.InferenceSession(source)
        assert isinstance(session, ort.InferenceSession)
        (output,) = session.run(None, CASE.feeds)
        np.testing.assert_allclose(output, CASE.expected()[0], rtol=1e-6, atol=1e-6)


def test_a_session_takes_the_options_and_providers_that_it_is_given(artifact):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = runtime.InferenceSession(artifact, options, ["CPUExecutionProvider"], [{}])
    assert session.get_session_options().intra_op_num_threads == 2
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_one_set_of_options_serves_many_sessions(artifact):
    options = ort.SessionOptions()
    runtime.register(options)
    runtime.register(options)
    for _ in range(2):
        runtime.InferenceSession(artifact, options).run(None, CASE.feeds)
    ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"]).run(None, CASE.feeds)


def test_registering_one_set_of_options_does_not_touch_another(artifact):
    runtime.register(ort.SessionOptions())
    ort.set_default_logger_severity(4)
    with pytest.raises(Exception, match="BiasGelu"):
        ort.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    ort.set_default_logger_severity(2)


def test_the_kernel_is_taken_where_the_model_carries_the_definition_too(tmp_path):
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model(CASE).SerializeToString(), options)
    session.run(None, CASE.feeds)
    text = Path(session.end_profiling()).read_text()
    assert '"op_name" : "BiasGelu"' in text
    assert '"op_name" : "Erf"' not in text


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_serving_needs_nothing_of_the_optimizer():
    result = run("""
        import sys
        for name in ("onnx", "onnx_graphsurgeon", "click", "rich"):
            sys.modules[name] = None
        from turbo_onnx import runtime
        import onnxruntime
        runtime.register(onnxruntime.SessionOptions())
        print(runtime.library_path())
    """)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == runtime.library_path()


def test_without_a_runtime_one_sentence_says_what_to_install():
    result = run("""
        import sys
        sys.modules["onnxruntime"] = None
        from turbo_onnx import runtime
        from turbo_onnx.errors import InputError
        runtime.library_path()
        try:
            runtime.InferenceSession("model.onnx")
        except InputError as error:
            print(error)
    """)
    assert result.stdout.count("\n") == 1
    assert "pip install turbo-onnx[cpu]" in result.stdout
    assert "pip install turbo-onnx[gpu]" in result.stdout


def test_an_old_runtime_is_refused_with_its_version(monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.19.2")
    with pytest.raises(InputError, match=r"1\.19\.2 is installed, and 1\.20 is the oldest"):
        runtime.register(ort.SessionOptions())
