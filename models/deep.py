"""A graph of any number of nodes, as an exporter without shape inference would write it: for timing the optimizer.

Blocks of a written-out normalization, a written-out GELU, a product with a small weight, the clutter of run-time shape
arithmetic and a residual, one after the other.

    python -m models.deep OUT.onnx [--nodes N]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def weight(self, value: np.ndarray) -> str:
        name = f"weight_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name


def load(nodes: int) -> onnx.ModelProto:
    """A model over `x` [batch, sequence, 8] of at least `nodes` nodes at opset 14; the same on every call."""
    writer = _Writer()
    generator = np.random.default_rng(0)
    x = "x"
    while len(writer.nodes) < nodes:
        x = _block(writer, generator, x)
    writer.nodes.append(helper.make_node("Identity", [x], ["y"]))
    shape: list[str | int | None] = ["batch", "sequence", WIDTH]
    graph = helper.make_graph(
        writer.nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        writer.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def _block(w: _Writer, generator: np.random.Generator, x: str) -> str:
    centred = w.op("Sub", x, w.op("ReduceMean", x, axes=[-1]))
    variance = w.op("ReduceMean", w.op("Pow", centred, w.scalar(2.0)), axes=[-1])
    deviation = w.op("Sqrt", w.op("Add", variance, w.scalar(1e-5)))
    scaled = w.op("Mul", w.op("Div", centred, deviation), w.weight(np.ones(WIDTH, np.float32)))
    normal = w.op("Add", scaled, w.weight(np.zeros(WIDTH, np.float32)))
    batch = w.op("Gather", w.op("Shape", normal), w.constant(np.array(0, np.int64)))
    target = w.op(
        "Concat", w.op("Unsqueeze", batch, w.constant(np.zeros(1, np.int64))), w.constant(np.array([-1, WIDTH])), axis=0
    )
    rows = w.op("Reshape", normal, target)
    weight = w.weight(generator.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(0.1))
    wide = w.op("Add", w.weight(np.zeros(WIDTH, np.float32)), w.op("MatMul", rows, weight))
    error = w.op("Erf", w.op("Div", wide, w.scalar(1.4142135381698608)))
    gelu = w.op("Mul", w.op("Mul", wide, w.op("Add", error, w.scalar(1.0))), w.scalar(0.5))
    return w.op("Add", x, gelu)


def main() -> None:
    """Write one to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nodes", type=int, default=20_000)
    arguments = parser.parse_args()
    onnx.save(load(arguments.nodes), arguments.out)
    print(f"{arguments.out}: at least {arguments.nodes} nodes")


if __name__ == "__main__":
    main()
