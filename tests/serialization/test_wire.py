"""Models are taken apart without being parsed, and what is put together again is the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.small_models import encoder
from turbo_onnx.serialization import wire


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_numbers_are_read_as_they_were_written(value: int) -> None:
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value, len(data))


def test_large_weights_are_pointed_at_and_the_rest_is_parsed() -> None:
    content = encoder(rows=500).SerializeToString()
    shell, graph, initializers = wire.split_model(content, 1024)
    assert onnx.ModelProto.FromString(shell).ir_version == 8
    assert len(onnx.GraphProto.FromString(graph).node) == 6
    table, weight, last = initializers
    assert isinstance(table, wire.RawData)
    assert isinstance(weight, bytes)
    assert isinstance(last, bytes)
    header = onnx.TensorProto.FromString(table.header)
    assert header.name == "table"
    assert not header.HasField("raw_data")
    data = np.frombuffer(content[table.offset : table.offset + table.length], np.float32)
    np.testing.assert_array_equal(data, numpy_helper.to_array(encoder(rows=500).graph.initializer[0]).reshape(-1))


@given(st.data())
def test_a_file_cut_anywhere_is_an_error_or_a_shorter_message(data: st.DataObject) -> None:
    content = encoder(rows=500).SerializeToString()
    end = data.draw(st.integers(0, len(content) - 1))
    try:
        shell, graph, _ = wire.split_model(content[:end], 1024)
    except wire.WireError as error:
        complaint = error
    else:
        assert len(shell) + len(graph) < len(content)
        return
    assert complaint.truncated


@pytest.mark.parametrize("content", [b"\x00\x00", b"\x0f\x01", b"\xff" * 12])
def test_other_bytes_are_an_error(content: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.split_model(content, 1024)
