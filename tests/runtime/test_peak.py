"""How much memory a run will need is known from the artifact alone, in a process that has no onnx."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import turbo_onnx
from tests.memory.plans import packed, padded, plan, variant
from turbo_onnx.errors import InputError, ModelFormatError
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, Variable
from turbo_onnx.memory.run_layout import Layouts
from turbo_onnx.runtime import peak

PADDED = padded("a out -a", {"a": "64*batch*length", "out": "4*batch"}, outputs="out")
PACKED = packed("a out -a", {"a": "64*tokens", "out": "4*batch*length"}, outputs="out")


def save(path: Path, carried: MemoryPlan | None, weights: int = 0) -> Path:
    """A model that does nothing, with a plan in its metadata."""
    kind = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    constant = onnx.numpy_helper.from_array(np.zeros(weights, np.uint8), "weight")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [kind], [result], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    texts = {"turbo_onnx.version": "1"} | ({METADATA_KEY: carried.to_json()} if carried is not None else {})
    helper.set_model_props(model, texts)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_a_session_and_a_plan_give_the_same_number(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", PADDED, weights=5000)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for model in (path, str(path), session, PADDED, Layouts(PADDED)):
        assert turbo_onnx.peak_bytes(model, batch=3, length=10) == 64 * 30 + 4 * 3


def test_without_the_number_of_tokens_there_is_no_padding() -> None:
    assert turbo_onnx.peak_bytes(PACKED, batch=3, length=10, tokens=12) == 64 * 12 + 4 * 30
    assert turbo_onnx.peak_bytes(PACKED, batch=3, length=10) == 64 * 30 + 4 * 30


def test_numbers_of_numpy_are_numbers() -> None:
    assert turbo_onnx.peak_bytes(PACKED, batch=np.int64(3), length=np.int32(10), tokens=np.uint8(12)) == 888


def test_the_number_of_tokens_makes_no_difference_to_a_model_that_keeps_its_padding() -> None:
    assert turbo_onnx.peak_bytes(PADDED, batch=3, length=10, tokens=12) == 64 * 30 + 4 * 3


def test_sizes_go_by_the_names_of_the_model_too() -> None:
    names = ("batch_size", "past")
    one = plan([variant("a -a", {"a": "64*batch_size*past"}, names)], names)
    named = MemoryPlan((Variable("batch_size", "batch", 0, 0), *one.variables[1:]), one.variants)
    assert turbo_onnx.peak_bytes(named, batch_size=3, past=7) == 64 * 21
    assert turbo_onnx.peak_bytes(named, batch=3, past=7) == 64 * 21


def test_an_axis_that_is_called_like_another_role_is_not_mistaken_for_it() -> None:
    names = ("batch", "tokens", "total")
    one = variant("a out -a", {"a": "64*total", "out": "4*batch*tokens"}, names, outputs="out")
    variables = (
        Variable("batch", "batch", 0, 0),
        Variable("tokens", "length", 0, 1),
        Variable("total", "tokens", 1, 0),
    )
    odd = MemoryPlan(variables, (one,))
    assert turbo_onnx.peak_bytes(odd, batch=3, length=10, tokens=12) == 64 * 12 + 4 * 30
    assert turbo_onnx.peak_bytes(odd, batch=3, length=10) == 64 * 30 + 4 * 30
    names = ("batch", "tokens")
    one = variant("a -a", {"a": "64*batch*tokens"}, names)
    padded_only = MemoryPlan(variables[:2], (one,))
    for sizes in ({"length": 10}, {"tokens": 10}, {"length": 10, "tokens": 12}):
        assert turbo_onnx.peak_bytes(padded_only, batch=3, **sizes) == 64 * 30


def test_a_size_that_makes_no_difference_need_not_be_given() -> None:
    only_tokens = packed("a -a", {"a": "64*tokens"})
    assert turbo_onnx.peak_bytes(only_tokens, tokens=100) == 6400
    with pytest.raises(InputError, match="needs the size tokens"):
        turbo_onnx.peak_bytes(only_tokens, batch=4)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"batch": 3}, "the plan needs the sizes length and tokens; its sizes are batch, length, tokens"),
        ({"batch": 3, "length": 10, "tokens": 31}, "31 tokens are more than batch 3 times length 10"),
        ({"batch": -3, "length": 10}, "cannot be negative"),
        ({"batch": 3, "length": 10, "width": 1}, "the plan has no size 'width'"),
    ],
)
def test_sizes_that_are_not_right_are_one_sentence(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        turbo_onnx.peak_bytes(PACKED, **sizes)


def test_parts_of_a_sequence_do_not_exist() -> None:
    with pytest.raises(TypeError, match="float"):
        turbo_onnx.peak_bytes(PADDED, batch=2.5, length=10)  # type: ignore[arg-type]


def test_a_model_without_a_plan_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", None)
    sentence = "it has no memory plan; optimize the original model with this version"
    with pytest.raises(InputError, match=rf"m\.onnx: {sentence}"):
        turbo_onnx.peak_bytes(path, batch=1, length=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with pytest.raises(InputError, match=rf"the session's model: {sentence}"):
        turbo_onnx.peak_bytes(session, batch=1, length=1)


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", PADDED)
    broken = tmp_path / "broken.onnx"
    for content in (path.read_bytes()[:-3], b"not a model at all", b"\xff" * 40):
        broken.write_bytes(content)
        with pytest.raises(ModelFormatError, match=r"broken\.onnx: it is no ONNX model, or not whole"):
            turbo_onnx.peak_bytes(broken, batch=1, length=1)
    broken.write_bytes(b"")
    with pytest.raises(ModelFormatError, match="the file is empty"):
        turbo_onnx.peak_bytes(broken, batch=1, length=1)
    with pytest.raises(ModelFormatError, match=r"absent\.onnx: it cannot be opened: No such file"):
        turbo_onnx.peak_bytes(tmp_path / "absent.onnx", batch=1, length=1)
    with pytest.raises(ModelFormatError, match="it cannot be opened: Is a directory"):
        turbo_onnx.peak_bytes(tmp_path, batch=1, length=1)
    with pytest.raises(InputError, match="a int is neither the path of a model, nor a session, nor a memory plan"):
        turbo_onnx.peak_bytes(7, batch=1, length=1)


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m.onnx", PADDED)
    reads: list[Path] = []
    original = peak.metadata_of

    def counted(file: Path) -> dict[str, str]:
        reads.append(file)
        return original(file)

    monkeypatch.setattr(peak, "metadata_of", counted)
    assert [turbo_onnx.peak_bytes(path, batch=b, length=1) for b in (1, 2, 3)] == [68, 136, 204]
    assert len(reads) == 1
    save(path, padded("a -a", {"a": "128*batch"}))
    assert turbo_onnx.peak_bytes(path, batch=1) == 128
    os.utime(path, ns=(1, 1))
    assert turbo_onnx.peak_bytes(path, batch=1) == 128
    assert len(reads) == 3


def test_a_session_is_asked_once_and_not_kept_alive(tmp_path: Path) -> None:
    class Meta:
        custom_metadata_map = {METADATA_KEY: PADDED.to_json()}  # noqa: RUF012

    class Session:
        asked = 0

        def get_modelmeta(self) -> Any:
            self.asked += 1
            return Meta()

    session = Session()
    assert [turbo_onnx.peak_bytes(session, batch=b, length=1) for b in (1, 2)] == [68, 136]
    assert session.asked == 1
    known = len(peak._of_sessions)
    del session
    gc.collect()
    assert len(peak._of_sessions) == known - 1


def test_a_serving_process_needs_no_onnx_for_it(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", PADDED)
    program = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = sys.modules['onnx_graphsurgeon'] = None\n"
        f"import turbo_onnx; print(turbo_onnx.peak_bytes({str(path)!r}, batch=3, length=10))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1932"
