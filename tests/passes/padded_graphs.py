"""Small transformer graphs over padded batches, the ragged masks to run them on, and what packing must keep.

A graph is given by its nodes alone. They may use the inputs `ids` and `mask` [B, S], the constants and weights below,
and the parts: an embedding, a layer with attention, a mean over the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from tests.passes.attention_graphs import cleaned
from tests.passes.support import check_invariants, normal, operators
from turbo_onnx import runtime, shapes
from turbo_onnx.errors import InputError
from turbo_onnx.model import Model
from turbo_onnx.passes.base import PassReport
from turbo_onnx.passes.remove_padding import RemovePadding

WIDTH, VOCABULARY = 8, 30
CONSTANTS = """
    int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[1] axis2 = {2}, int64[2] axes12 = {1, 2}, int64 first = {0},
    int64[2] flat = {-1, 8}, int64[1] end = {9223372036854775807}, int64 pad = {0}, int64 two = {2},
    float one = {1.0}, float zero = {0.0}, float lowest = {-3.4028234663852886e+38}, float infinite = {-inf},
    float tiny = {1e-9}, float thousand = {-1000.0}, float shy = {-1.0}
"""
BIAS = "m4 = Unsqueeze(mask, axes12) mf = Cast<to = 1>(m4) inv = Sub(one, mf) bias = Mul(inv, lowest)"
EMBEDDING = "words = Gather(table, ids) h0 = LayerNormalization<epsilon = 1e-5>(words, gamma, beta)"
MEAN = """
    um = Unsqueeze(mask, axis2) um_like = Shape(last) ue = Expand(um, um_like) uf = Cast<to = 1>(ue)
    weighed = Mul(last, uf) total = ReduceSum<keepdims = 0>(weighed, axis1)
    counted = ReduceSum<keepdims = 0>(uf, axis1) count = Clip(counted, tiny) y = Div(total, count)
"""
VARLEN = "turbo_onnx.VarlenAttention"


def layer(number: int, bias: str = "bias", *, source: str | None = None, **attributes: int) -> str:
    """One layer: reads `h{number - 1}`, gives `h{number}`; attention, residual, LayerNormalization, feed-forward."""
    n, x = number, source or f"h{number - 1}"
    extra = "".join(f", {key} = {value}" for key, value in attributes.items())
    operands = f"q{n}, k{n}, v{n}" + (f", , , {bias}" if bias else "")
    return f"""
        q{n} = MatMul({x}, wq) k{n} = MatMul({x}, wk) v{n} = MatMul({x}, wv)
        a{n} = {VARLEN}<num_heads = 2, scale = 0.5{extra}>({operands})
        o{n} = MatMul(a{n}, wo) p{n} = Add(o{n}, bo) r{n} = Add(p{n}, {x})
        f{n} = LayerNormalization<epsilon = 1e-5>(r{n}, gamma, beta)
        g{n} = MatMul(f{n}, wf) t{n} = Tanh(g{n}) h{n} = Add(t{n}, f{n})
    """


def weights() -> dict[str, np.ndarray]:
    """By name; every projection is [8, 8], every vector [8]."""
    squares = {name: normal(WIDTH, WIDTH, seed=k) * 0.4 for k, name in enumerate(("wq", "wk", "wv", "wo", "wf"))}
    vectors = {name: normal(WIDTH, seed=k + 20) for k, name in enumerate(("gamma", "beta", "bo"))}
    tables = {"table": normal(VOCABULARY, WIDTH, seed=30), "positions": normal(1, 32, WIDTH, seed=31)}
    return squares | vectors | tables


def model(
    nodes: str,
    outputs: str = "float[B,S,8] y",
    *,
    inputs: str = "int64[B,S] ids, int64[B,S] mask",
    constants: str = "",
    extra: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
) -> Model:
    """The model of these nodes, as the pass is given it."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "turbo_onnx": 1]>\n'
        f"g ({inputs}) => ({outputs}) <{CONSTANTS}{constants}> {{ {nodes} }}"
    )
    for entry in proto.graph.input:
        for size in entry.type.tensor_type.shape.dim:
            if size.dim_param == "_":  # the text has no way to leave a size without a name
                size.Clear()
    for name, value in (weights() | dict(extra or {})).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return cleaned(Model.from_proto(proto))


MASKS = {
    "right padding": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "left padding": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [1, 1, 0, 0, 1]],
    "a row of padding": [[1, 1, 0], [0, 0, 0], [1, 0, 1]],
    "one sequence": [[1, 1, 0, 1]],
    "one position": [[1], [0], [1]],
    "equal lengths": [[1, 1, 1], [1, 1, 1]],
    "no token": [[0, 0], [0, 0]],
}


def batches() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Each mask [B, S], and data for every input that a graph here may have; ids are 0 exactly at padding."""
    for seed, rows in enumerate(MASKS.values()):
        mask = np.array(rows, np.int64)
        random = np.random.default_rng(seed)
        batch, length = mask.shape
        yield (
            mask,
            {
                "mask": mask,
                "padding": 1 - mask,
                "ids": random.integers(1, VOCABULARY - 2, mask.shape) * mask,
                "types": random.integers(0, 3, mask.shape),
                "x": normal(batch, length, WIDTH, seed=seed),
                "each": normal(batch, 1, WIDTH, seed=seed + 50),
                "where": random.permutation(length).reshape(1, length),
                "flag": np.array(True),
            },
        )


def session(proto: onnx.ModelProto, *, library: bool = False) -> ort.InferenceSession:
    """A session without optimizations, on the operators' definitions or on the library's kernels."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library:
        runtime.register(options)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def sessions(packed: Model) -> list[ort.InferenceSession]:
    """The packed model on stock onnxruntime, and with the library where it has been built."""
    proto = packed.to_proto()
    try:
        runtime.library_path()
    except InputError:
        return [session(proto)]
    return [session(proto), session(proto, library=True)]


def pack(target: Model) -> PassReport:
    """Run the pass, and assert what every pass promises: a whole graph, consistent shapes, nothing left to do."""
    report = RemovePadding(always=True).run(target)
    shapes.infer(target)
    check_invariants(target)
    before = operators(target)
    assert RemovePadding(always=True).run(target).applied == 0
    assert operators(target) == before
    return report


def same_on_tokens(original: Model, packed: Model, *, first: bool = False, zeros: bool = True) -> None:
    """Assert that both compute the same for real tokens, on every mask.

    Args:
        original, packed: before and after.
        first: outputs of one row a sequence hold its first position: compared where that is a real token.
        zeros: whether the rows of padding must be 0 (they are only where the output comes from packed rows).
    """
    reference = session(original.to_proto())
    for number, candidate in enumerate(sessions(packed)):
        for mask, data in batches():
            compare(reference, candidate, mask, data, first=first, zeros=zeros, where=f"session {number}")


def compare(
    reference: ort.InferenceSession,
    candidate: ort.InferenceSession,
    mask: np.ndarray,
    data: Mapping[str, np.ndarray],
    *,
    first: bool = False,
    zeros: bool = True,
    where: str = "",
) -> None:
    """Assert that two sessions agree on one batch; see `same_on_tokens`."""
    feeds = {entry.name: data[entry.name].astype(_TYPES[entry.type]) for entry in reference.get_inputs()}
    real = mask != 0
    sequences = real[:, 0] if first else real.any(axis=1)
    pairs = zip(reference.get_outputs(), reference.run(None, feeds), candidate.run(None, feeds), strict=True)
    for entry, old, new in pairs:
        message = f"{entry.name}, {where}, mask {mask.tolist()}"
        assert new.dtype == old.dtype, message
        assert new.shape == old.shape, message
        if entry.shape[:1] == ["rows"]:
            old, new = (array.reshape(*mask.shape, *array.shape[1:]) for array in (old, new))
        tokens = old.shape[:2] == mask.shape and entry.shape[:2] != ["B", 1]
        rows = real if tokens else sequences if old.shape[:1] == mask.shape[:1] else slice(None)
        scale = np.abs(old[rows].astype(np.float64)).max(initial=1e-3)
        np.testing.assert_allclose(new[rows], old[rows], rtol=1e-5, atol=1e-5 * scale, err_msg=message)
        if tokens and zeros:
            assert not new[~real].any(), message


_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
