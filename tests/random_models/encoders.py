"""One random encoder from one seed, inputs for it, and the comparison of two runs of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tests.random_models import heads, mixers
from tests.random_models.builder import LONGEST, VOCABULARY, Builder, Kind, Stream
from tests.random_models.parts import Encoder
from turbo_onnx.sessions import open_session

Arrays = dict[str, np.ndarray]
OPSETS = (11, 13, 17, 17, 20, 23)


@dataclass
class RandomModel:
    """A model and what is to be known of it.

    Attributes:
        proto: the model. All inputs are [B, S].
        inputs: NumPy types by name; "mask" and "other_mask" are derived from the ids where they are not among them.
        outputs: (stream, what the leading axes are) by name. "token": [B, S]; "flat": [B*S]; "swapped": [S, B];
            "swapped flat": [S*B]; "sequence" and "batch": [B]; "whole": compared as it is.
        builder: what it was drawn with.
        both_masks: whether a stream sees itself through the other's mask.
    """

    proto: onnx.ModelProto
    inputs: dict[str, str]
    outputs: dict[str, tuple[int, Kind]]
    builder: Builder
    both_masks: bool


def random_model(seed: int) -> RandomModel:
    """The model of this seed."""
    random = np.random.default_rng(seed)
    b = Builder(random, int(random.choice(OPSETS)), plain=bool(random.random() < 0.4))
    e = Encoder(b, hidden=int(random.choice([8, 12])), heads=int(random.choice([1, 2, 2, 4])))
    e.rms = bool(np.random.default_rng((seed, 1)).random() < 0.3)  # of its own, so that the other models stay
    inputs: dict[str, str] = {}
    streams = [_stream(b, inputs, "")]
    if b.maybe(0.25) and not b.plain:
        streams.append(_stream(b, inputs, "other_"))
        e.other = streams[1]
        e.same_length = b.pick("same length", "other length") == "same length"
    for stream in reversed(streams):
        types = given = None
        if stream is streams[0]:
            types = _input(inputs, "token_type_ids", "int64") if b.maybe() else None
            given = _input(inputs, "position_ids", "int64") if b.maybe(0.3) else None
        x = e.embed(stream, types, given)
        stream.x = e.normalize(x) if b.maybe(0.8) else x
    outputs: dict[str, tuple[int, Kind]] = {}
    for _ in range(int(random.integers(1, 4))):
        for number, stream in enumerate(streams):
            if number == 0 or b.maybe(0.7):
                stream.x = e.layer(stream)
                if b.maybe(0.25):
                    stream.x = mixers.row_by_row(e, stream)
                if b.maybe(0.12) and not b.plain:
                    stream.x = mixers.across_rows(e, stream)
    for number, stream in enumerate(streams):
        for _ in range(1 if number else int(random.integers(1, 4))):
            chosen = heads.of_sequences if b.plain or b.maybe(0.8) else heads.of_anything
            chosen = heads.of_tokens if b.maybe() else chosen
            name, kind = chosen(e, stream)
            outputs[name] = number, kind
    both = "other mask" in b.parts and e.other is not None and e.same_length
    return RandomModel(_proto(b, inputs, outputs), inputs, outputs, b, both)


def _input(inputs: dict[str, str], name: str, dtype: str) -> str:
    inputs[name] = dtype
    return name


def _stream(b: Builder, inputs: dict[str, str], prefix: str) -> Stream:
    ids = _input(inputs, f"{prefix}input_ids", "int64")
    if b.maybe(0.2):
        pad = b.const(0, np.int64)
        b.parts.append("mask of ids")
        mask = b.op("Not", b.op("Equal", ids, pad)) if b.maybe() else b.op("Greater", ids, pad)
        return Stream(ids, mask, np.dtype(np.bool_))
    dtype = b.pick("int64", "int64", "int32", "float32", "bool", "uint8", "float16", "float64", usual=5)
    return Stream(ids, _input(inputs, f"{prefix}mask", dtype), np.dtype(dtype))


def _proto(b: Builder, inputs: dict[str, str], outputs: dict[str, tuple[int, Kind]]) -> onnx.ModelProto:
    shared = b.pick("one name", "one name", "own names", "unnamed")
    given = []
    for number, (name, dtype) in enumerate(inputs.items()):
        own = [None, None] if shared == "unnamed" else [f"b{number}", f"s{number}"]
        length = "other_sequence" if name.startswith("other_") and "other length" in b.parts else "sequence"
        shape = ["batch", length] if shared == "one name" else own
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        given.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(b.nodes, "random", given, [onnx.ValueInfoProto(name=name) for name in outputs], b.weights)
    imports = [helper.make_opsetid("", b.opset)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8 if b.opset < 23 else 11)
    _declare_outputs(proto, inputs)
    onnx.checker.check_model(proto)
    return proto


def _declare_outputs(proto: onnx.ModelProto, inputs: dict[str, str]) -> None:
    """Give the outputs types and ranks: as inferred, or as a run shows them."""
    session = open_session(proto.SerializeToString(), level="none", threads=1)
    results = session.run(None, {name: np.ones((1, 1), dtype) for name, dtype in inputs.items()})
    for output, result in zip(proto.graph.output, results, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(result.dtype)
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind, [None] * result.ndim))


def feeds(model: RandomModel, seed: int, count: int = 3) -> Iterator[tuple[Arrays, list[np.ndarray]]]:
    """Inputs, and the mask of each stream: ragged, with holes, from the left, of one token, of none at all."""
    random = np.random.default_rng(seed)
    streams = 2 if "other_input_ids" in model.inputs else 1
    special = random.permutation(np.array([(1, 1), (1, 6), (4, 1), (2, 7)]))[0]
    for number in range(count):
        rows, length = special if number == count - 1 else random.integers((2, 2), (6, 11))
        lengths = [length, length if "other length" not in model.builder.parts else int(random.integers(1, 11))]
        masks = [_mask(random, int(rows), int(size), model.builder) for size in lengths[:streams]]
        arrays: Arrays = {}
        for name, dtype in model.inputs.items():
            which = masks[int(name.startswith("other_"))]
            if name.endswith("mask"):
                arrays[name] = which.astype(dtype)
            elif name.endswith("input_ids"):
                arrays[name] = np.where(which, random.integers(1, VOCABULARY, which.shape), 0)
            elif name == "position_ids":
                arrays[name] = np.tile(np.arange(length), (rows, 1)) % LONGEST
            else:
                arrays[name] = random.integers(0, 2, which.shape)
        yield arrays, masks


def with_odd_masks(model: RandomModel, arrays: Arrays, seed: int) -> tuple[Arrays, list[np.ndarray]] | None:
    """The inputs with other numbers than 1 in their masks, and which tokens are real; None without such masks."""
    random = np.random.default_rng(seed)
    odd, masks = dict(arrays), []
    for name, array in arrays.items():
        if not name.endswith("mask") or array.dtype == np.bool_:
            continue
        # Their sum is never next to nothing, and (1 - 2) times the lowest number is not yet infinite.
        choices = [0.5, 2, 1e-3] if array.dtype.kind == "f" else [2]
        other = random.choice(choices, array.shape).astype(array.dtype)
        odd[name] = np.where((array != 0) & (random.random(array.shape) < 0.5), other, array)
    if all(odd[name] is arrays[name] or np.array_equal(odd[name], arrays[name]) for name in arrays):
        return None
    for prefix in ("", "other_"):
        ids, mask = odd.get(f"{prefix}input_ids"), odd.get(f"{prefix}mask")
        if ids is not None:
            masks.append((ids if mask is None else mask) != 0)
    return odd, masks


def _mask(random: np.random.Generator, rows: int, length: int, b: Builder) -> np.ndarray:
    kind = random.choice(["right", "right", "left", "holes", "full", "sparse"])
    counts = random.integers(0 if random.random() < 0.3 else 1, length + 1, (rows, 1))
    mask: np.ndarray = np.arange(length)[None] < counts
    if kind == "left":
        mask = mask[:, ::-1].copy()
    elif kind in ("holes", "sparse"):
        mask = random.random((rows, length)) < (0.7 if kind == "holes" else 0.15)
    elif kind == "full":
        mask[:] = True
    if b.from_left:
        mask[mask.any(axis=1), 0] = True
    if b.mixes_batch:
        empty = ~mask.any(axis=1)
        mask[empty, random.integers(length)] = True
        if b.takes_first or b.from_left:
            mask[:, 0] = True
    return mask


def difference(
    model: RandomModel, masks: list[np.ndarray], expected: list[np.ndarray], actual: list[np.ndarray]
) -> str:
    """What is different where both mean something, in words; empty where nothing is."""
    found: list[str] = []
    if any(
        old.dtype.kind == "f" and np.isnan(old).any() and _has_nan(model, masks, number, old)
        for number, old in enumerate(expected)
    ):
        return ""  # a token that sees nothing has spread: what the original says then means nothing
    for (name, (stream, kind)), old, new in zip(model.outputs.items(), expected, actual, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            found.append(f"{name} ({kind}) is {new.dtype}{list(new.shape)}, not {old.dtype}{list(old.shape)}")
            continue
        keep = _compared(model, masks, stream, kind)
        a, b = (array if keep is None else array[keep] for array in (old, new))
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                found.append(f"{name} ({kind}) has {int((a != b).sum())} other values of {a.size}")
            continue
        scale = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)), 1e-3)
        infinite, finite = np.isinf(a), np.isfinite(a)
        if not np.array_equal(a[infinite], b[infinite]) or not np.isfinite(b[finite]).all():
            found.append(f"{name} ({kind}) has NaN or infinity at other places")
            continue
        worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / min(scale, 1e6)
        if worst > 2e-5:
            found.append(f"{name} ({kind}) differs by {worst:.2g} of its scale")
    return "; ".join(found)


def _has_nan(model: RandomModel, masks: list[np.ndarray], number: int, array: np.ndarray) -> bool:
    stream, kind = list(model.outputs.values())[number]
    keep = _compared(model, masks, stream, kind)
    return bool(np.isnan(array if keep is None else array[keep]).any())


def _compared(model: RandomModel, masks: list[np.ndarray], stream: int, kind: Kind) -> np.ndarray | None:
    """Which of the leading elements are compared; None for all."""
    used = masks if len(masks) > 1 else masks[:1]
    real = masks[stream] if not model.both_masks else np.logical_and.reduce(masks)
    valid = np.logical_and.reduce([mask.any(axis=1) for mask in used])
    if model.builder.takes_first:
        valid = valid & np.logical_and.reduce([mask[:, 0] for mask in used])
    if kind in ("sequence", "batch"):
        return valid
    if kind == "whole":
        return None
    rows = real & valid[:, None]
    rows = rows.T if kind.startswith("swapped") else rows
    return rows.reshape(-1) if kind.endswith("flat") else rows
