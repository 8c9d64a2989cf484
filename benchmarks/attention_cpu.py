"""How fast is attention by itself: VarlenAttention on packed rows against ONNX Runtime's MatMul, Softmax, MatMul.

ONNX Runtime runs the operator's own definition, which is what exporters write, on the batch padded to its longest
sequence, with a mask where lengths differ. Eight layers in a row, so that the cost of calling a session is small
beside them. Prints milliseconds and GFLOP/s of real tokens (4 S^2 D for each head and sequence), and the ratio.

    python -m benchmarks.attention_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks import machine
from benchmarks.timing import alternate, ratio
from turbo_onnx import runtime
from turbo_onnx.custom_ops import SPECS, functions, spec
from turbo_onnx.custom_ops.specification import DOMAIN

LAYERS = 8
HEADS = {"BERT-base 12x64": (12, 64), "MiniLM 12x32": (12, 32)}
BATCHES = {
    "1 x 16": [16],
    "1 x 128": [128],
    "8 x 128": [128] * 8,
    "1 x 512": [512],
    "16, 1 to 128": [int(n) for n in np.linspace(1, 128, 16)],
    "8, 1 to 384": [int(n) for n in np.linspace(1, 384, 8)],
}


def layers(heads: int, size: int, extra: Mapping[str, tuple[int, Sequence[str | int]]], rank: int) -> bytes:
    """Layers that each attend from the output of the one before to the same keys and values."""
    names = [operand.name for operand in spec("VarlenAttention").inputs]
    shape: Sequence[str | int] = ["T", heads * size] if rank == 2 else ["B", "S", heads * size]
    rows = dict.fromkeys(("query", "key", "value"), (int(TensorProto.FLOAT), shape))
    given = {**rows, **extra}
    nodes = []
    for layer in range(LAYERS):
        inputs = [name if name in given else "" for name in names]
        inputs[0] = "query" if layer == 0 else f"output_{layer - 1}"
        attributes = {"num_heads": heads, "scale": size**-0.5}
        nodes.append(helper.make_node("VarlenAttention", inputs, [f"output_{layer}"], domain=DOMAIN, **attributes))
    infos = [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in given.items()]
    results = [helper.make_tensor_value_info(f"output_{LAYERS - 1}", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "attention", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    functions.attach(model, {entry.name: entry for entry in SPECS})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def sides(heads: int, size: int, lengths: list[int], threads: int) -> dict[str, Callable[[], object]]:
    """The kernel on packed rows and ONNX Runtime on the padded batch, checked against each other."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    random = np.random.default_rng(0)
    width, longest = heads * size, max(lengths)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rows = [random.standard_normal((int(starts[-1]), width)).astype(np.float32) for _ in range(3)]
    ours = runtime.InferenceSession(layers(heads, size, {"cu_seqlens": (TensorProto.INT32, ["N"])}, 2), options)
    feeds = dict(zip(("query", "key", "value"), rows, strict=True)) | {"cu_seqlens": starts}

    stock_options = ort.SessionOptions()
    stock_options.intra_op_num_threads = threads
    valid = np.arange(longest) < np.array(lengths)[:, None]
    padded_feeds = {}
    for name, array in zip(("query", "key", "value"), rows, strict=True):
        padded_feeds[name] = np.zeros((len(lengths), longest, width), np.float32)
        padded_feeds[name][valid] = array
    masked: dict[str, tuple[int, Sequence[str | int]]] = {}
    if not valid.all():
        masked["attention_bias"] = (TensorProto.FLOAT, ["B", 1, 1, "S"])
        padded_feeds["attention_bias"] = np.where(valid, 0.0, -np.inf).astype(np.float32)[:, None, None]
    stock = ort.InferenceSession(layers(heads, size, masked, 3), stock_options, providers=["CPUExecutionProvider"])

    (mine,), (theirs,) = ours.run(None, feeds), stock.run(None, padded_feeds)
    np.testing.assert_allclose(mine, theirs[valid], rtol=1e-4, atol=1e-5)
    return {"ours": lambda: ours.run(None, feeds), "stock": lambda: stock.run(None, padded_feeds)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(machine.describe())
    print(f"{'heads':16}{'batch':14}{'stock ms':>10}{'ours ms':>10}{'GFLOP/s':>9}  stock / ours")
    for (model, (heads, size)), (batch, lengths) in itertools.product(HEADS.items(), BATCHES.items()):
        seconds = alternate(sides(heads, size, lengths, arguments.threads), arguments.rounds)
        stock, ours = (statistics.median(seconds[name]) / LAYERS for name in ("stock", "ours"))
        rate = sum(4 * n * n * size * heads for n in lengths) / ours / 1e9
        times = ratio(seconds["stock"], seconds["ours"])
        print(f"{model:16}{batch:14}{1e3 * stock:10.3f}{1e3 * ours:10.3f}{rate:9.0f}  {times}", flush=True)


if __name__ == "__main__":
    main()
