"""How fast is the gate of a feed-forward layer, and whether gate and up are better one product or two.

First GatedActivation by itself against what ONNX Runtime makes of its definition; then with the products in front of
it: as they are exported, with the operator behind two products, and behind one. Prints microseconds and ratios.

    python -m benchmarks.gated_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks import machine
from benchmarks.operators_cpu import arguments, serialized, session
from benchmarks.timing import alternate, ratio
from turbo_onnx.custom_ops.specification import DOMAIN

HIDDEN, WIDTH = 768, 2048
ROWS = (1024, 32, 1)
TWO_PRODUCTS = (("MatMul", "x gate_weight", "gate"), ("MatMul", "x up_weight", "up"))
SILU = (("Sigmoid", "gate", "share"), ("Mul", "gate share", "activated"), ("Mul", "activated up", "y"))
Nodes = Sequence[tuple[str, str, str]]


def model(nodes: Nodes, columns: int, activation: str) -> bytes:
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
    return serialized(graph, 20)


def running(content: bytes, x: np.ndarray, threads: int, *, library: bool) -> Callable[[], list[np.ndarray]]:
    """What runs the model on the rows."""
    made = session(content, threads, library=library)
    return lambda: list(made.run(None, {"x": x}))


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
    given = arguments(__doc__)
    threads, rounds = given.threads, given.rounds
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
