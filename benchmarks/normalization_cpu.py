"""How fast is normalization by itself: SkipLayerNormalization against what ONNX Runtime makes of its definition.

Of RMS normalization the definition is the chain that exporters write, which ONNX Runtime makes one operator of when it
loads the model; of LayerNormalization it is the standard operator. Eight layers in a row, so that the cost of calling a
session is small beside them. Prints microseconds for one layer, and the ratio.

    python -m benchmarks.normalization_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks import machine
from benchmarks.operators_cpu import arguments, serialized, session
from benchmarks.timing import alternate, ratio
from turbo_onnx.custom_ops.specification import DOMAIN

LAYERS = 8
KINDS = {"RMS, residual, sum": (1, True), "RMS": (1, False), "LayerNormalization": (0, False)}
ROWS = {"32 x 768": (32, 768), "1024 x 768": (1024, 768), "32 x 1024": (32, 1024), "1024 x 1024": (1024, 1024),
        "32 x 16 x 128": (32, 16, 128), "1024 x 16 x 128": (1024, 16, 128)}  # fmt: skip


def layers(shape: tuple[int, ...], rms: int, *, residual: bool) -> bytes:
    """Layers that each normalize what the one before gives, with the sum of the one before where there are sums."""
    dims: list[str | int | None] = ["T", *shape[1:]]
    nodes, skip = [], "skip"
    for layer in range(LAYERS):
        x = "x" if layer == 0 else f"output_{layer - 1}"
        outputs = [f"output_{layer}", f"sum_{layer}"][: 1 + residual]
        inputs = [x, skip if residual else "", "gamma"]
        nodes.append(helper.make_node("SkipLayerNormalization", inputs, outputs, domain=DOMAIN, epsilon=1e-6, rms=rms))
        skip = outputs[-1]
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "skip")[: 1 + residual]]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in outputs]
    gamma = numpy_helper.from_array(np.linspace(0.5, 1.5, shape[-1], dtype=np.float32), "gamma")
    graph = helper.make_graph(nodes, "normalization", rows, results, [gamma])
    return serialized(graph, 17)


def sides(shape: tuple[int, ...], rms: int, threads: int, *, residual: bool) -> dict[str, Callable[[], object]]:
    """The kernel and ONNX Runtime's, checked against each other."""
    content = layers(shape, rms, residual=residual)
    ours, stock = (session(content, threads, library=library) for library in (True, False))
    random = np.random.default_rng(0)
    feeds = {entry.name: random.standard_normal(shape).astype(np.float32) for entry in stock.get_inputs()}
    for mine, theirs in zip(ours.run(None, feeds), stock.run(None, feeds), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    return {"ours": lambda: ours.run(None, feeds), "stock": lambda: stock.run(None, feeds)}


def main() -> None:
    """Print the table."""
    given = arguments(__doc__)
    print(machine.describe())
    print(f"{'normalization':20}{'rows':18}{'stock us':>10}{'ours us':>10}  stock / ours")
    for (kind, (rms, residual)), (rows, shape) in itertools.product(KINDS.items(), ROWS.items()):
        seconds = alternate(sides(shape, rms, given.threads, residual=residual), given.rounds)
        stock, ours = (1e6 * statistics.median(seconds[name]) / LAYERS for name in ("stock", "ours"))
        print(f"{kind:20}{rows:18}{stock:10.1f}{ours:10.1f}  {ratio(seconds['stock'], seconds['ours'])}", flush=True)


if __name__ == "__main__":
    main()
