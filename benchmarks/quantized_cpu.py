"""How fast is a layer of 8-bit integers by itself: QuantizedMatMul against ONNX Runtime's operators for such a layer.

Those are DynamicQuantizeMatMul, which its own quantization leads to, with one scale for all rows, and MatMul and Add in
float32. Eight layers, each with a weight of its own, read the same rows, so that the cost of calling a session is small
beside them and a processor's first caches do not hold all weights. Prints microseconds for one layer, and ratios.

    python -m benchmarks.quantized_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import machine
from benchmarks.operators_cpu import arguments, serialized, session
from benchmarks.timing import alternate, ratio
from turbo_onnx.custom_ops.quantized_mat_mul.layout import tiled
from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.passes.quantized_weights import quantized

LAYERS = 8
ROWS = (1, 8, 64, 1024)
SIZES = (
    (384, 384), (384, 1536), (1536, 384), (576, 576), (576, 1536), (1536, 576), (768, 768), (768, 3072), (3072, 768)
)  # fmt: skip
OURS, INTEGERS, FLOATS = "ours", "DynamicQuantizeMatMul", "float32"


def layers(side: str, depth: int, width: int) -> bytes:
    """Layers [depth, width] that read the same rows, as one side computes them."""
    random = np.random.default_rng(0)
    nodes, stored = [], {"bias": random.standard_normal(width).astype(np.float32)}
    for number in range(LAYERS):
        weight = random.standard_normal((depth, width)).astype(np.float32) / np.float32(np.sqrt(depth))
        made, output = quantized(weight), f"output_{number}"
        names = [f"{name}_{number}" for name in ("weight", "scale", "sums")]
        if side == OURS:
            stored |= zip(names, (tiled(made.integers), made.scale, made.column_sums), strict=True)
            nodes.append(helper.make_node("QuantizedMatMul", ["x", *names, "bias"], [output], domain=DOMAIN))
        elif side == INTEGERS:
            stored |= zip(names[:2], (made.integers, made.scale), strict=True)
            inputs = ["x", *names[:2], "", "bias"]
            nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [output], domain="com.microsoft"))
        else:
            stored[names[0]] = made.integers * made.scale
            nodes.append(helper.make_node("MatMul", ["x", names[0]], [f"product_{number}"]))
            nodes.append(helper.make_node("Add", [f"product_{number}", "bias"], [output]))
    rows = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", depth])]
    results = [helper.make_tensor_value_info(f"output_{i}", TensorProto.FLOAT, ["T", width]) for i in range(LAYERS)]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "layers", rows, results, tensors)
    if side == INTEGERS:  # an operator that the checker does not know
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return serialized(graph, 17)


def sides(rows: int, depth: int, width: int, threads: int) -> dict[str, Callable[[], object]]:
    """The three, checked against each other as far as one scale for all rows allows."""
    x = np.random.default_rng(1).standard_normal((rows, depth)).astype(np.float32)
    runs = {
        side: session(layers(side, depth, width), threads, library=side == OURS) for side in (OURS, INTEGERS, FLOATS)
    }
    found = {side: run.run(None, {"x": x})[-1] for side, run in runs.items()}
    for side in (OURS, INTEGERS):
        assert float(np.std(found[side] - found[FLOATS])) < 0.02 * float(np.std(found[FLOATS])), side
    return {side: lambda run=run: run.run(None, {"x": x}) for side, run in runs.items()}  # type: ignore[misc]


def main() -> None:
    """Print the table."""
    given = arguments(__doc__)
    print(machine.describe())
    titles = f"{'rows':>6}{'K x N':>14}{'float32 us':>12}{'theirs us':>11}{'ours us':>9}{'GOP/s':>7}"
    print(f"{titles}  float32 / ours      theirs / ours")
    for (depth, width), rows in itertools.product(SIZES, ROWS):
        seconds = alternate(sides(rows, depth, width, given.threads), given.rounds)
        floats, integers, ours = (1e6 * statistics.median(seconds[side]) / LAYERS for side in (FLOATS, INTEGERS, OURS))
        speed = 2 * rows * depth * width / ours / 1e3
        times = f"{rows:6}{f'{depth} x {width}':>14}{floats:12.1f}{integers:11.1f}{ours:9.1f}{speed:7.0f}"
        ratios = [str(ratio(seconds[side], seconds[OURS])) for side in (FLOATS, INTEGERS)]
        print(f"{times}  {ratios[0]:20}{ratios[1]}", flush=True)


if __name__ == "__main__":
    main()
