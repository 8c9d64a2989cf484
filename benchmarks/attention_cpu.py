"""How fast is attention by itself: VarlenAttention on packed rows against ONNX Runtime's MatMul, Softmax, MatMul.

ONNX Runtime runs the operator's own definition, which is what exporters write, on the batch padded to its longest
sequence, with a mask where lengths differ. Eight layers in a row, so that the cost of calling a session is small
beside them. Prints milliseconds and GFLOP/s of real tokens (4 S^2 D for each head and sequence), and the ratio. Then
how much faster attention within a window is than all of it, and attention whose heads share keys than one whose heads
have keys of their own. Then one query of each sequence to a cache of keys and values by head, as in decoding, each
layer with a cache of its own.

    python -m benchmarks.attention_cpu [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from benchmarks import machine
from benchmarks.operators_cpu import arguments, serialized, session
from benchmarks.timing import alternate, ratio
from turbo_onnx.custom_ops import spec
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


WINDOW = 64  # positions before and after a query
LONG = (512, 1024, 2048, 4096)
SHARED = (32, 8, 64)  # heads of queries, heads of keys and values, size of a head
CACHES = {
    "1 x 64, 12x64": (1, 64, 12, 12, 64),
    "1 x 512, 12x64": (1, 512, 12, 12, 64),
    "1 x 2048, 12x64": (1, 2048, 12, 12, 64),
    "8 x 256, 12x64": (8, 256, 12, 12, 64),
    "1 x 513, 9x64 on 3": (1, 513, 9, 3, 64),
    "1 x 1024, 32x128 on 8": (1, 1024, 32, 8, 128),
}
"""Sequences, keys of each, heads of queries, heads of keys and values, size of a head."""
_Operands = Mapping[str, tuple[int, Sequence[str | int]]]


def layers(heads: int, size: int, extra: _Operands, rank: int, shared: int = 0, **window: int) -> bytes:
    """Layers that each attend from the output of the one before to the same keys and values."""
    names = [operand.name for operand in spec("VarlenAttention").inputs]
    shape: Sequence[str | int] = ["T", heads * size] if rank == 2 else ["B", "S", heads * size]
    rows = dict.fromkeys(("query", "key", "value"), (int(TensorProto.FLOAT), shape))
    if shared:
        rows |= dict.fromkeys(("key", "value"), (int(TensorProto.FLOAT), [*shape[:-1], shared * size]))
    given = {**rows, **extra}
    nodes = []
    for layer in range(LAYERS):
        inputs = [name if name in given else "" for name in names]
        inputs[0] = "query" if layer == 0 else f"output_{layer - 1}"
        attributes = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, **window}
        nodes.append(helper.make_node("VarlenAttention", inputs, [f"output_{layer}"], domain=DOMAIN, **attributes))
    infos = [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in given.items()]
    results = [helper.make_tensor_value_info(f"output_{LAYERS - 1}", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "attention", infos, results)
    return serialized(graph, 17)


def sides(heads: int, size: int, lengths: list[int], threads: int) -> dict[str, Callable[[], object]]:
    """The kernel on packed rows and ONNX Runtime on the padded batch, checked against each other."""
    random = np.random.default_rng(0)
    width, longest = heads * size, max(lengths)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rows = [random.standard_normal((int(starts[-1]), width)).astype(np.float32) for _ in range(3)]
    ours = session(layers(heads, size, {"cu_seqlens": (TensorProto.INT32, ["N"])}, 2), threads, library=True)
    feeds = dict(zip(("query", "key", "value"), rows, strict=True)) | {"cu_seqlens": starts}

    valid = np.arange(longest) < np.array(lengths)[:, None]
    padded_feeds = {}
    for name, array in zip(("query", "key", "value"), rows, strict=True):
        padded_feeds[name] = np.zeros((len(lengths), longest, width), np.float32)
        padded_feeds[name][valid] = array
    masked: dict[str, tuple[int, Sequence[str | int]]] = {}
    if not valid.all():
        masked["attention_bias"] = (TensorProto.FLOAT, ["B", 1, 1, "S"])
        padded_feeds["attention_bias"] = np.where(valid, 0.0, -np.inf).astype(np.float32)[:, None, None]
    stock = session(layers(heads, size, masked, 3), threads, library=False)

    (mine,), (theirs,) = ours.run(None, feeds), stock.run(None, padded_feeds)
    np.testing.assert_allclose(mine, theirs[valid], rtol=1e-4, atol=1e-5)
    return {"ours": lambda: ours.run(None, feeds), "stock": lambda: stock.run(None, padded_feeds)}


def packed(heads: int, size: int, length: int, threads: int, shared: int = 0, **window: int) -> Callable[[], object]:
    """A run of the kernel on one packed sequence."""
    extra = {"cu_seqlens": (int(TensorProto.INT32), ["N"])}
    ours = session(layers(heads, size, extra, 2, shared, **window), threads, library=True)
    random = np.random.default_rng(0)
    widths = [heads * size, *[(shared or heads) * size] * 2]
    rows = [random.standard_normal((length, width)).astype(np.float32) for width in widths]
    feeds = dict(zip(("query", "key", "value"), rows, strict=True)) | {"cu_seqlens": np.array([0, length], np.int32)}
    return lambda: ours.run(None, feeds)


def decoding(sequences: int, keys: int, heads: int, shared: int, size: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """Layers that attend with one query of each sequence to caches of their own, and what to feed them."""
    random = np.random.default_rng(0)
    query = [sequences, 1, heads * size]
    cache = [sequences, shared, keys, size]
    feeds = {"query": random.standard_normal(query).astype(np.float32)}
    nodes = []
    for layer in range(LAYERS):
        names = [f"key_{layer}", f"value_{layer}"]
        feeds |= {name: random.standard_normal(cache).astype(np.float32) for name in names}
        given = {"num_heads": heads, "kv_num_heads": shared, "scale": size**-0.5, "keys_by_head": 1}
        rows = f"output_{layer - 1}" if layer else "query"
        nodes.append(helper.make_node("VarlenAttention", [rows, *names], [f"output_{layer}"], domain=DOMAIN, **given))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    results = [helper.make_tensor_value_info(f"output_{LAYERS - 1}", TensorProto.FLOAT, query)]
    return serialized(helper.make_graph(nodes, "decoding", infos, results), 17), feeds


def decoding_sides(content: bytes, feeds: dict[str, np.ndarray], threads: int) -> dict[str, Callable[[], object]]:
    """The kernel and ONNX Runtime on the same caches, checked against each other."""
    stock, ours = (session(content, threads, library=library) for library in (False, True))
    np.testing.assert_allclose(ours.run(None, feeds)[0], stock.run(None, feeds)[0], rtol=1e-4, atol=1e-5)
    return {"stock": lambda: stock.run(None, feeds), "ours": lambda: ours.run(None, feeds)}


def compare(name: str, sides: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Print a line of the tables below the first for two sides."""
    seconds = alternate(sides, rounds)
    one, two = seconds.values()
    first, second = (1e3 * statistics.median(times) / LAYERS for times in (one, two))
    print(f"{name:44}{first:10.3f}{second:10.3f}  {ratio(one, two)}", flush=True)


def main() -> None:
    """Print the table."""
    given = arguments(__doc__)
    print(machine.describe())
    print(f"{'heads':16}{'batch':14}{'stock ms':>10}{'ours ms':>10}{'GFLOP/s':>9}  stock / ours")
    for (model, (heads, size)), (batch, lengths) in itertools.product(HEADS.items(), BATCHES.items()):
        seconds = alternate(sides(heads, size, lengths, given.threads), given.rounds)
        stock, ours = (statistics.median(seconds[name]) / LAYERS for name in ("stock", "ours"))
        rate = sum(4 * n * n * size * heads for n in lengths) / ours / 1e9
        times = ratio(seconds["stock"], seconds["ours"])
        print(f"{model:16}{batch:14}{1e3 * stock:10.3f}{1e3 * ours:10.3f}{rate:9.0f}  {times}", flush=True)
    print(f"\n{'ours':44}{'all ms':10}{'less ms':10}  all / less")
    threads, rounds = given.threads, given.rounds
    for length in LONG:
        within = packed(12, 64, length, threads, window_before=WINDOW, window_after=WINDOW)
        both = {"all": packed(12, 64, length, threads), "less": within}
        compare(f"12x64, 1 x {length}, within {WINDOW} positions", both, rounds)
    heads, shared, size = SHARED
    for length in LONG[:2]:
        both = {"all": packed(heads, size, length, threads), "less": packed(heads, size, length, threads, shared)}
        compare(f"{heads}x{size}, 1 x {length}, {shared} heads of keys", both, rounds)
    print(f"\n{'one query to a cache of keys':44}{'stock ms':10}{'ours ms':10}  stock / ours")
    for name, sizes in CACHES.items():
        compare(name, decoding_sides(*decoding(*sizes), threads), rounds)


if __name__ == "__main__":
    main()
