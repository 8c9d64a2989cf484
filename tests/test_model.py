"""A model survives being read and written: nothing is lost, nothing is held twice, and bytes do not vary."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from models import deep
from tests.corpus import CorpusGraph, graphs
from tests.small_models import encoder, feed, save, save_external
from turbo_onnx.graph import Editor, producer
from turbo_onnx.model import Model
from turbo_onnx.serialization.reading import read
from turbo_onnx.serialization.weights import StoredValues

SMALL_GRAPHS = [graph for graph in graphs() if graph.family != "minilm"]
SPARSE_SIZE = 2_200_000_000


def run(model: onnx.ModelProto | Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return list(ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, inputs))


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("graph", SMALL_GRAPHS, ids=lambda graph: graph.name)
def test_every_node_and_weight_of_a_real_export_comes_back(graph: CorpusGraph, tmp_path: Path) -> None:
    original = graph.load()
    read(save(original, tmp_path / "in.onnx")).save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written)
    assert [node.SerializeToString() for node in written.graph.node] == [
        node.SerializeToString() for node in original.graph.node
    ]
    kept, given = values(written), values(original)
    used = {name for node in original.graph.node for name in node.input}
    assert kept.keys() == given.keys() & used
    assert all(np.array_equal(kept[name], given[name], equal_nan=True) for name in kept)


def test_documentation_metadata_and_versions_are_kept() -> None:
    model = encoder()
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "7", "org.example", 3
    model.doc_string = "about the model"
    helper.set_model_props(model, {"b": "2", "a": "1"})
    model.graph.doc_string = "about the graph"
    model.graph.metadata_props.add(key="graph", value="yes")
    model.graph.node[1].doc_string = "about the node"
    model.graph.node[1].metadata_props.add(key="node", value="yes")
    after = Model.from_proto(onnx.ModelProto.FromString(model.SerializeToString())).to_proto()
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(after, name) == getattr(model, name)
    assert [(p.key, p.value) for p in after.metadata_props] == [("b", "2"), ("a", "1")]
    assert after.graph.doc_string == "about the graph"
    assert after.graph.metadata_props == model.graph.metadata_props
    assert after.graph.node == model.graph.node


@pytest.mark.parametrize(
    "attribute",
    [
        helper.make_attribute("empty", [], attr_type=AttributeProto.FLOATS),
        helper.make_attribute("bytes", b"\xff\xfe"),
        helper.make_attribute("type", helper.make_tensor_type_proto(TensorProto.FLOAT, [1])),
        helper.make_attribute("tensors", [numpy_helper.from_array(np.ones(2), "t")]),
        helper.make_attribute("floats", [1.0, 2.0]),
        helper.make_attribute("strings", ["a", "b"]),
    ],
    ids=lambda attribute: attribute.name,
)
def test_attributes_of_every_type_are_kept_in_place(attribute: onnx.AttributeProto) -> None:
    node = helper.make_node("Thing", ["x"], ["y"], domain="com.microsoft", first=1)
    node.attribute.append(attribute)
    node.attribute.append(helper.make_attribute("last", 2))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]))
    expected = node.SerializeToString()
    assert Model.from_proto(model).to_proto().graph.node[0].SerializeToString() == expected


def branching() -> onnx.ModelProto:
    """y = x + shared if flag else x * shared + own, where both branches read `shared` from outside."""
    out = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2])
    then = helper.make_graph([helper.make_node("Add", ["x", "shared"], ["r"])], "then", [], [out])
    own = numpy_helper.from_array(np.array([5, 6], np.float32), "own")
    nodes = [helper.make_node("Mul", ["x", "shared"], ["m"]), helper.make_node("Add", ["m", "own"], ["r"])]
    otherwise = helper.make_graph(nodes, "else", [], [out], [own])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=otherwise)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    shared = numpy_helper.from_array(np.array([2, 3], np.float32), "shared")
    graph = helper.make_graph([node], "g", [x, flag], [y], [shared])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_constants_that_branches_read_from_outside_are_written_once() -> None:
    model = branching()
    after = Model.from_proto(branching()).to_proto()
    onnx.checker.check_model(after)
    assert [tensor.name for tensor in after.graph.initializer] == ["shared"]
    inner = {a.name: [t.name for t in a.g.initializer] for a in after.graph.node[0].attribute}
    assert inner == {"then_branch": [], "else_branch": ["own"]}
    for flag in (True, False):
        inputs = {"x": np.array([1, 1], np.float32), "flag": np.array(flag)}
        np.testing.assert_array_equal(run(after, inputs)[0], run(model, inputs)[0])


def test_local_functions_are_kept() -> None:
    model = encoder()
    body = [helper.make_node("Tanh", ["a"], ["b"])]
    function = helper.make_function("local", "Squash", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Squash", "local"
    after = Model.from_proto(onnx.ModelProto.FromString(model.SerializeToString())).to_proto()
    assert list(after.functions) == [function]
    np.testing.assert_array_equal(run(after, feed())[0], run(model, feed())[0])


def test_an_initializer_that_is_listed_as_an_input_becomes_a_constant() -> None:
    model = encoder()
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [8, 8]))
    after = Model.from_proto(model).to_proto()
    assert [value.name for value in after.graph.input] == ["ids", "mask"]


def test_weights_stay_in_the_file_until_they_are_asked_for(tmp_path: Path) -> None:
    model = read(save(encoder(rows=1000), tmp_path / "in.onnx"))
    table = model.graph.nodes[0].inputs[0]
    assert isinstance(table._values, StoredValues)
    view = table.values
    assert not view.flags.owndata
    assert not view.flags.writeable
    np.testing.assert_array_equal(view, values(encoder(rows=1000))["table"])


@pytest.mark.parametrize("external", [False, True])
def test_a_model_with_external_data_moves_to_another_folder_whole(tmp_path: Path, external: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    save_external(encoder(rows=400), source / "in.onnx")
    read(source / "in.onnx").save(tmp_path / "out.onnx", external)
    (source / "weights.bin").unlink()
    assert (tmp_path / "out.onnx.data").exists() == external
    assert run(tmp_path / "out.onnx", feed())[0].tolist() == run(encoder(rows=400), feed())[0].tolist()


def test_tensors_that_share_external_bytes_share_them_afterwards(tmp_path: Path) -> None:
    model = encoder()
    weight = model.graph.initializer[1]
    twin = model.graph.initializer.add()
    twin.CopyFrom(weight)
    twin.name = "twin"
    model.graph.node.insert(2, helper.make_node("MatMul", ["product", "twin"], ["again"]))
    model.graph.node[5].input[0] = "again"
    path = save_external(model, tmp_path / "in.onnx")
    proto = onnx.load(path, load_external_data=False)
    place = next(t for t in proto.graph.initializer if t.name == "weight").external_data
    target = next(t for t in proto.graph.initializer if t.name == "twin")
    del target.external_data[:]
    target.external_data.extend(place)
    save(proto, path)
    read(path).save(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert {tensor.name for tensor in written.graph.initializer} == {"table", "weight", "last"}
    assert run(written, feed())[0].tolist() == run(model, feed())[0].tolist()


def test_a_model_over_2_gb_is_held_by_pointer(tmp_path: Path) -> None:
    stats = os.statvfs(tmp_path)
    if stats.f_bavail * stats.f_frsize < 3 * SPARSE_SIZE:
        pytest.skip("the disk is too full")
    model = encoder()
    table = model.graph.initializer[0]
    rows = SPARSE_SIZE // 32
    table.ClearField("raw_data")
    table.dims[0] = rows
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "big.bin"), ("offset", "0"), ("length", str(rows * 32))):
        table.external_data.add(key=key, value=value)
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(rows * 32)
    start = time.process_time()
    loaded = read(save(model, tmp_path / "in.onnx"))
    assert time.process_time() - start < 2
    assert isinstance(loaded.graph.nodes[0].inputs[0]._values, StoredValues)
    proto, weights = loaded.without_weights()
    assert proto.ByteSize() < 10_000
    assert weights["table"]._values.nbytes == rows * 32


def test_types_that_numpy_lacks_come_back_after_their_values_were_read() -> None:
    four_bit = helper.make_tensor("w", TensorProto.INT4, [4], [1, -2, 3, -4])
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    proto = helper.make_model(
        helper.make_graph([node], "g", [], [y], [four_bit, scale]), opset_imports=[helper.make_opsetid("", 21)]
    )
    model = Model.from_proto(proto)
    assert model.graph.nodes[0].inputs[0].values.astype(int).tolist() == [1, -2, 3, -4]
    after = model.to_proto()
    assert after.graph.initializer[0].data_type == TensorProto.INT4
    assert numpy_helper.to_array(after.graph.initializer[0]).astype(int).tolist() == [1, -2, 3, -4]


def test_every_dimension_of_a_saved_model_has_a_name() -> None:
    model = Model.from_proto(encoder())
    for node in model.graph.nodes:
        node.outputs[0].dtype, node.outputs[0].shape = np.dtype(np.float32), ["batch", None, -1]
    proto = model.to_proto()
    dims = [dim for value in proto.graph.value_info for dim in value.type.tensor_type.shape.dim]
    assert len(dims) == 15
    names = [dim.dim_param for dim in dims]
    assert all(names)
    assert len(set(names)) == 15


def test_two_tensors_of_one_name_are_not_written() -> None:
    model = Model.from_proto(encoder())
    model.graph.nodes[2].outputs[0].name = "rows"
    with pytest.raises(ValueError, match="'rows'"):
        model.to_proto()


def test_equal_constants_made_by_a_pass_share_one_initializer() -> None:
    model = Model.from_proto(encoder())
    value = np.ones(8, np.float32)
    for name in ("one", "two"):
        edit = Editor(model.graph)
        hidden = model.graph.outputs[0]
        before = producer(hidden).inputs[0]  # type: ignore[union-attr]
        producer(hidden).inputs[0] = edit.node("Mul", [before, gs.Constant(name, value)])  # type: ignore[union-attr]
        edit.sort()
    after = model.to_proto()
    assert [tensor.name for tensor in after.graph.initializer if list(tensor.dims) == [8]] == ["one"]
    onnx.checker.check_model(after)


@pytest.mark.parametrize("external", [False, True])
def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path, external: bool) -> None:
    save(encoder(rows=500), tmp_path / "in.onnx")
    program = (
        "import sys; from pathlib import Path; from turbo_onnx.serialization.reading import read\n"
        f"read(sys.argv[1]).save(Path(sys.argv[2]), {external})"
    )
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        command = [sys.executable, "-c", program, str(tmp_path / "in.onnx"), str(folder / "out.onnx")]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        written.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert written[0] == written[1]
    assert len(written[0]) == 1 + external


def test_twenty_thousand_nodes_are_read_sorted_and_written_in_seconds(tmp_path: Path) -> None:
    path = save(deep.load(20_000), tmp_path / "deep.onnx")
    start = time.process_time()
    model = read(path)
    Editor(model.graph).sort()
    model.save(tmp_path / "out.onnx")
    assert len(model.graph.nodes) >= 20_000
    assert time.process_time() - start < 20
