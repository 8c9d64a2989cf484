"""How fast is the gate of a feed-forward layer, and whether gate and up are better one product or two.

First GatedActivation by itself against what ONNX Runtime makes of its definition; then with the products in front of
it: as they are exported, with the operator behind two products, and behind one. Prints microseconds and ratios.

    python -m benchmarks.gated_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks import machine
from benchmarks.timing import alternate, ratio
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions
from turbo_onnx.custom_ops.specification import DOMAIN

HIDDEN, WIDTH = 768, 2048
ROWS = (1024, 32, 1)
TWO_PRODUCTS = (("MatMul", "x gate_weight", "gate"), ("MatMul", "x up_weight", "up"))
SILU = (("Sigmoid", "gate", "share"), ("Mul", "gate share", "activated"), ("Mul", "activated up", "y"))
Nodes = Sequence[tuple[str, str, str]]


def model(nodes: Nodes, columns: int, activation: str) -> onnx.ModelProto:
    """A model of these nodes (operator, inputs, output) on rows x [T, columns], with the weights that they read."""
    random = np.random.default_rng(0)
    gate, up = (random.standard_normal((HIDDEN, WIDTH)).astype(np.float32) * HIDDEN**-0.5 for _ in range(2))
    weights = {"gate_weight": gate, "up_weight": up, "weight": np.concatenate([gate, up], axis=1)}
    made = [
        helper.make_node(kind, read.split(), [written], domain=DOMAIN, activation=activation)
        if kind == "GatedActivation"
        else helper.make_node(kind, read.split(), [written])
        for kind, read, written in nodes
    ]
    used = {name for node in made for name in node.input}
    graph = helper.make_graph(
        made,
        "gate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    functions.attach(proto, {entry.name: entry for entry in SPECS})
    onnx.checker.check_model(proto)
    return proto


def running(proto: onnx.ModelProto, x: np.ndarray, threads: int, *, library: bool) -> Callable[[], list[np.ndarray]]:
    """What runs the model on the rows."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    content = proto.SerializeToString()
    session = (
        runtime.InferenceSession(content, options)
        if library
        else ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    )
    return lambda: list(session.run(None, {"x": x}))


def compare(sides: dict[str, Callable[[], list[np.ndarray]]], rounds: int, label: str) -> None:
    """Print the time of each side, and that of the first over each other's."""
    first, *others = sides
    for other in others:
        np.testing.assert_allclose(sides[other]()[0], sides[first]()[0], rtol=1e-4, atol=1e-5)
    seconds = alternate(sides, rounds)
    times = "".join(f"  {name} {1e6 * statistics.median(seconds[name]):.1f} us" for name in sides)
    ratios = "".join(f"  {first} / {other} {ratio(seconds[first], seconds[other])}" for other in others)
    print(f"{label:28}{times}{ratios}", flush=True)


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    threads, rounds = arguments.threads, arguments.rounds
    print(machine.describe())
    random = np.random.default_rng(1)
    for activation, rows in itertools.product(("gelu", "silu"), ROWS):
        x = random.standard_normal((rows, 2 * WIDTH)).astype(np.float32)
        alone = model([("GatedActivation", "x", "y")], 2 * WIDTH, activation)
        sides = {"stock": running(alone, x, threads, library=False), "ours": running(alone, x, threads, library=True)}
        compare(sides, rounds, f"{activation}, {rows} rows")
    forms: dict[str, Nodes] = {
        "exported": (*TWO_PRODUCTS, *SILU),
        "two products": (*TWO_PRODUCTS, ("GatedActivation", "gate up", "y")),
        "one product": (("MatMul", "x weight", "joined"), ("GatedActivation", "joined", "y")),
    }
    for rows in ROWS:
        x = random.standard_normal((rows, HIDDEN)).astype(np.float32)
        sides = {name: running(model(nodes, HIDDEN, "silu"), x, threads, library=True) for name, nodes in forms.items()}
        compare(sides, rounds, f"products and silu, {rows} rows")
        compare({name: sides[name] for name in ("two products", "one product")}, rounds, "")


if __name__ == "__main__":
    main()
