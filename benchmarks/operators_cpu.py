"""What the benchmarks of single operators on a CPU share: models of a few nodes, sessions, and the command line."""

from __future__ import annotations

import argparse

import onnx
import onnxruntime as ort
from onnx import helper

import turbo_onnx
from turbo_onnx.custom_ops import SPECS, functions


def serialized(graph: onnx.GraphProto, opset: int) -> bytes:
    """A model of the graph with the definitions of our operators in it, checked."""
    ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=max(ir_version, 8))
    functions.attach(proto, {entry.name: entry for entry in SPECS})
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def session(content: bytes, threads: int, *, library: bool) -> ort.InferenceSession:
    """A session with ONNX Runtime's own defaults but for the number of threads.

    Args:
        content: the serialized model.
        threads: of the session.
        library: whether our operators run on our kernels, or as ONNX Runtime makes them of their definitions.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        turbo_onnx.register(options)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def arguments(description: str | None) -> argparse.Namespace:
    """The command line: `threads` of a session, and `rounds` for which each side is timed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()
