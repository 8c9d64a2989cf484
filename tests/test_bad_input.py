"""Whatever is wrong, a person gets one sentence that names it, the right exit code, and nothing is written."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.small_models import encoder, one_node, save, save_external
from turbo_onnx import optimizer
from turbo_onnx.errors import InputError, ModelFormatError, OutputError, UnsupportedModelError
from turbo_onnx.serialization.metadata import FORMAT, PREFIX
from turbo_onnx.serialization.reading import read


def refusal(path: Path, error: type[InputError] = ModelFormatError) -> str:
    """The sentence with which a file is refused; it is one line that names the file, and nothing is written."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    with pytest.raises(error) as caught:
        optimizer.optimize(path, output=path.with_name("out.onnx"))
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert before == (sorted(path.parent.iterdir()) if path.parent.is_dir() else [])
    return sentence


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.onnx")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    assert "it is a folder" in refusal(tmp_path / "model.onnx")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    assert "not a regular file" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"just some text, and no model at all", "not an ONNX file"),
        (b"\x00" * 100, "not an ONNX file"),
        (b"PK\x03\x04" + b"x" * 50, "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString(), "holds no graph"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert why in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    content = encoder(rows=500).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content[: int(len(content) * share)])
    assert "cut off" in refusal(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Nonsense", ["x"], ["y"], name="culprit"), "Nonsense"),
        (helper.make_node("Relu", ["absent"], ["y"], name="culprit"), "absent"),
        (helper.make_node("Relu", ["x", "x"], ["y"], name="culprit"), "input size 2"),
        (helper.make_node("Relu", ["x"], ["y"], name="culprit", colour=1), "colour"),
        (helper.make_node("Relu", ["y"], ["y"], name="culprit"), "'y'"),
    ],
)
def test_an_invalid_node_is_named(tmp_path: Path, node: onnx.NodeProto, why: str) -> None:
    sentence = refusal(save(one_node(node), tmp_path / "model.onnx"))
    assert "the graph is invalid" in sentence
    assert "culprit" in sentence
    assert why in sentence


def test_an_output_that_nothing_computes(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Relu", ["x"], ["z"]))
    assert "'y'" in refusal(save(model, tmp_path / "model.onnx"))


def test_a_model_without_outputs(tmp_path: Path) -> None:
    proto = encoder()
    del proto.graph.output[:]
    assert "it has no outputs" in refusal(save(proto, tmp_path / "model.onnx"))


def test_a_tensor_that_two_nodes_compute(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Relu", ["x"], ["y"], name="first"))
    model.graph.node.append(helper.make_node("Tanh", ["x"], ["y"], name="second"))
    assert "second" in refusal(save(model, tmp_path / "model.onnx"))


def test_a_type_that_the_operator_does_not_take_is_what_the_runtime_says(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Relu", ["x"], ["y"], name="culprit"), kind=TensorProto.BOOL)
    sentence = refusal(save(model, tmp_path / "model.onnx"))
    assert "ONNX Runtime" in sentence
    assert "culprit" in sentence
    assert "tensor(bool)" in sentence


def test_an_initializer_of_the_wrong_size(tmp_path: Path) -> None:
    model = encoder(rows=500)
    model.graph.initializer[0].dims[0] = 499
    assert "'table'" in refusal(save(model, tmp_path / "model.onnx"))


def test_external_data_that_is_missing(tmp_path: Path) -> None:
    path = save_external(encoder(), tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    sentence = refusal(path)
    assert "weights.bin" in sentence
    assert "'table'" in sentence


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = save_external(encoder(), tmp_path / "model.onnx")
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-10])
    assert "ends at byte" in refusal(path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", ""])
def test_external_data_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(encoder(), folder / "model.onnx")
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = location
    assert "not inside the model's folder" in refusal(save(proto, path))


def test_external_data_of_the_wrong_length(tmp_path: Path) -> None:
    path = save_external(encoder(), tmp_path / "model.onnx")
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "length").value = "8"
    assert "needs 608 bytes" in refusal(save(proto, path))


@pytest.mark.parametrize(
    ("opset", "why"), [(10, "11 is the oldest"), (1000, "the newest that the installed onnx knows")]
)
def test_an_opset_that_is_too_old_or_too_new(tmp_path: Path, opset: int, why: str) -> None:
    model = one_node(helper.make_node("Relu", ["x"], ["y"]))
    model.opset_import[0].version = opset
    assert why in refusal(save(model, tmp_path / "model.onnx"), UnsupportedModelError)


def test_an_opset_that_onnx_knows_and_the_runtime_does_not(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    model = one_node(helper.make_node("Relu", ["x"], ["y"]), opset=newest)
    path = save(model, tmp_path / "model.onnx")
    refusals = []
    try:
        read(path)
    except UnsupportedModelError as error:
        refusals.append(str(error))
    if not refusals:
        pytest.skip("the installed runtime takes the newest opset")
    assert f"its opset is {newest}, which is newer than the installed ONNX Runtime" in refusals[0]


def test_a_newer_ir_version_than_the_runtime_takes(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Relu", ["x"], ["y"]))
    model.ir_version = 999
    assert "999" in refusal(save(model, tmp_path / "model.onnx"), InputError)


def test_no_standard_operators_at_all(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))
    del model.opset_import[0]
    assert "no standard operator set" in refusal(save(model, tmp_path / "model.onnx"), UnsupportedModelError)


def test_an_unknown_domain(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Thing", ["x"], ["y"], name="culprit", domain="my.company"))
    sentence = refusal(save(model, tmp_path / "model.onnx"), UnsupportedModelError)
    assert "'my.company'" in sentence
    assert "culprit" in sentence


def test_the_runtimes_own_domain_is_left_alone(tmp_path: Path) -> None:
    model = one_node(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))
    result = optimizer.optimize(save(model, tmp_path / "model.onnx"))
    assert result.report.ops_after == {"com.microsoft.Gelu": 1}


@pytest.mark.parametrize(("kind", "name"), [(TensorProto.COMPLEX64, "complex64"), (77, "77")])
def test_a_type_that_nobody_supports(tmp_path: Path, kind: int, name: str) -> None:
    model = one_node(helper.make_node("Identity", ["x"], ["y"]), kind=kind)
    assert name in refusal(save(model, tmp_path / "model.onnx"), UnsupportedModelError)


def test_nodes_in_the_wrong_order_are_put_right(tmp_path: Path) -> None:
    model = encoder()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    result = optimizer.optimize(save(model, tmp_path / "model.onnx"))
    assert result.report.verify.ok


def test_a_model_that_was_optimized_already(tmp_path: Path) -> None:
    result = optimizer.optimize(encoder())
    result.save(tmp_path / "model.onnx")
    assert "already optimized" in refusal(tmp_path / "model.onnx", UnsupportedModelError)


def test_our_operators_without_our_metadata(tmp_path: Path) -> None:
    model = one_node(helper.make_node("BiasGelu", ["x"], ["y"], name="culprit", domain="turbo_onnx"))
    assert "culprit" in refusal(save(model, tmp_path / "model.onnx"), UnsupportedModelError)


def test_an_artifact_of_a_newer_format(tmp_path: Path) -> None:
    model = encoder()
    helper.set_model_props(model, {PREFIX + "format": str(FORMAT + 1), PREFIX + "version": "99.0"})
    path = save(model, tmp_path / "model.onnx")
    assert "99.0" in refusal(path, UnsupportedModelError)
    with pytest.raises(UnsupportedModelError, match="upgrade turbo-onnx"):
        read(path, artifacts=True)


# -- outputs --------------------------------------------------------------------------------------------------------


def same(path: Path) -> Path:
    return path


def symbolic(path: Path) -> Path:
    link = path.with_name("link.onnx")
    link.symlink_to(path)
    return link


def hard(path: Path) -> Path:
    link = path.with_name("link.onnx")
    link.hardlink_to(path)
    return link


def dotted(path: Path) -> Path:
    return path.parent / "." / path.name


@pytest.mark.parametrize("output", [same, symbolic, hard, dotted])
def test_an_output_that_is_the_input(tmp_path: Path, output: Callable[[Path], Path]) -> None:
    path = save(encoder(), tmp_path / "model.onnx")
    target = output(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="overwrite the input"):
        optimizer.optimize(path, output=target)
    assert path.read_bytes() == before


def test_an_output_whose_data_would_overwrite_the_inputs(tmp_path: Path) -> None:
    path = save_external(encoder(), tmp_path / "model.onnx", data="out.onnx.data")
    with pytest.raises(OutputError, match=r"out\.onnx\.data"):
        optimizer.optimize(path, output=tmp_path / "out.onnx")


def test_an_output_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = save(encoder(), tmp_path / "model.onnx")
    with pytest.raises(OutputError, match="does not exist"):
        optimizer.optimize(path, output=tmp_path / "nowhere" / "out.onnx")


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    path = save(encoder(), tmp_path / "model.onnx")
    with pytest.raises(OutputError, match="it is a folder"):
        optimizer.optimize(path, output=tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(encoder(), tmp_path / "model.onnx")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match="cannot be written to: Permission denied"):
        optimizer.optimize(path, output=tmp_path / "out.onnx")


def test_a_folder_that_others_write_to_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(encoder(), tmp_path / "model.onnx")
    monkeypatch.setattr("os.access", lambda folder, _: folder != tmp_path)
    done: list[str] = []
    with pytest.raises(OutputError, match=r"out\.onnx: the folder .* cannot be written to: Permission denied"):
        optimizer.optimize(path, output=tmp_path / "out.onnx", progress=done.append)
    assert done == ["read"]


@contextmanager
def small_disk() -> Iterator[None]:
    """A process that can write no file of more than 4 KiB, the report of these tests included: keep it short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_the_old_output_and_nothing_else(tmp_path: Path, external: bool) -> None:
    model = encoder(rows=60)
    old = b"what was there before"
    (tmp_path / "out.onnx").write_bytes(old)
    path = tmp_path / "model.onnx"
    weight = numpy_helper.from_array(np.zeros((60, 8), np.float32), "table")
    assert len(weight.raw_data) < 4096
    save(model, path)
    more = read(path)
    table = more.graph.nodes[0].inputs[0]
    table.values = np.ones((600, 8), np.float32)
    with pytest.raises(OutputError, match="cannot be written"), small_disk():
        more.save(tmp_path / "out.onnx", external)
    assert (tmp_path / "out.onnx").read_bytes() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]
