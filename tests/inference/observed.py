"""Compare what is inferred of a model's tensors with what ONNX Runtime finds when it runs the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort

from turbo_onnx import shapes
from turbo_onnx.dims import Dim
from turbo_onnx.dims import parse as parse_dim
from turbo_onnx.inference.values import Affine, Elements, Stack, Uniform, Value
from turbo_onnx.model import Model
from turbo_onnx.passes.convert_constants import ConvertConstants

LARGEST_READ = 1 << 16  # elements of a tensor whose values are compared


def observed(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the main graph, as ONNX Runtime computes it with its optimizations off."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    del exposed.graph.value_info[:]
    outputs = {entry.name for entry in exposed.graph.output}
    computed = {name for node in exposed.graph.node for name in node.output if name}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(computed - outputs))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    feeds = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def input_sizes(model: Model, inputs: dict[str, np.ndarray]) -> dict[str, int]:
    """What the sizes that inputs name are in this run."""
    sizes: dict[str, int] = {}
    for tensor in model.graph.inputs:
        for item, size in zip(tensor.shape, inputs[tensor.name].shape, strict=True):
            dim = parse_dim(item) if isinstance(item, str) else item
            if isinstance(dim, Dim) and dim.name is not None:
                sizes.setdefault(dim.name, size)
    return sizes


def number(item: object, sizes: dict[str, int]) -> int | None:
    """What the item is in this run; None if it is unknown or has a size that was made up."""
    if not isinstance(item, Dim):
        return item  # type: ignore[return-value]
    return item.substitute(sizes) if item.symbols <= sizes.keys() else None  # type: ignore[return-value]


def wrong_shape(shape: list[int | str], real: tuple[int, ...], made_up: dict[str, int], sizes: dict[str, int]) -> bool:
    """Whether the shape is not what is inferred; a size that was made up must be the same wherever it stands."""
    if len(shape) != len(real):
        return True
    for item, size in zip(shape, real, strict=True):
        dim = parse_dim(item) if isinstance(item, str) else item
        if isinstance(dim, Dim) and dim.name is not None and dim.name not in sizes:
            expected: int | None = made_up.setdefault(dim.name, size)
        else:
            expected = number(dim, sizes | made_up)
        if expected is not None and expected != size:
            return True
    return False


def claimed(value: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> Iterator[tuple[object, np.ndarray]]:
    """What the value says of the elements: numbers, and where they must stand (as a mask)."""
    everywhere = np.ones(shape, bool)
    if isinstance(value, Elements):
        assert value.items.shape == shape
        for index, item in np.ndenumerate(value.items):
            here = np.zeros(shape, bool)
            here[index] = True
            yield number(item, sizes), here
    elif isinstance(value, Uniform):
        yield number(value.item, sizes), everywhere
    elif isinstance(value, Affine):
        yield affine(value, shape, sizes), everywhere
    elif isinstance(value, Stack):
        assert len(value.parts) == shape[-1]
        for part, entry in enumerate(value.parts):
            numbers = affine(entry, shape[:-1], sizes)
            here = np.zeros(shape, bool)
            here[..., part] = True
            yield None if numbers is None else numbers[..., None], here


def affine(value: Affine, shape: tuple[int, ...], sizes: dict[str, int]) -> np.ndarray | None:
    """The numbers of an affine tensor, if its coefficients are known in this run."""
    offset, steps = number(value.offset, sizes), [number(step, sizes) for step in value.coefficients]
    if offset is None or any(step is None for step in steps):
        return None
    assert len(steps) == len(shape)
    result = np.full(shape, offset)
    for axis, step in enumerate(steps):
        result = result + step * np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return result


def mistakes(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> tuple[list[str], int]:
    """Everything inferred that is not so, and how many tensors were compared."""
    real = observed(proto, inputs)
    model = Model.from_proto(proto)
    ConvertConstants().run(model)
    facts = shapes.infer(model)
    sizes, compared = input_sizes(model, inputs), 0
    made_up: dict[str, int] = {}
    found: list[str] = []
    for node in model.graph.nodes:
        for tensor in node.outputs:
            if tensor.name not in real or not isinstance(real[tensor.name], np.ndarray):
                continue
            array, place = real[tensor.name], f"{node.op} {tensor.name}"
            compared += 1
            if tensor.dtype is not None and np.dtype(tensor.dtype) != array.dtype:
                found.append(f"{place}: {tensor.dtype} is {array.dtype}")
            if tensor.shape is not None and wrong_shape(tensor.shape, array.shape, made_up, sizes):
                found.append(f"{place}: {tensor.shape} is {array.shape}")
            value = facts[tensor].value
            if value is None or array.size > LARGEST_READ:
                continue
            for item, here in claimed(value, array.shape, sizes | made_up):
                if item is not None and not (np.broadcast_to(item, array.shape)[here] == array[here]).all():
                    found.append(f"{place}: {value} is {array.tolist()}"[:300])
    return found, compared
