"""Graphs kept without their large weights, so that real exports fit in a repository.

A skeleton is an ordinary ONNX file, compressed with gzip, in which each large floating-point initializer has lost its
data. In its place stands a recipe, kept in the initializer's own `external_data` entries:

    location   always "recipe"
    mean, std  of the values that were taken out
    seed       of the normal numbers that can stand in for them; equal values were given equal seeds, so tensors that
               were copies of each other still are
    tensor     optional: the name under which the real values are found in the model's own weight file
    transpose  optional: "1" where the file holds the transpose
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

SMALLEST_STRIPPED = 2048
"""Initializers of fewer bytes keep their values."""

_LOCATION = "recipe"
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def recipe(tensor: onnx.TensorProto) -> dict[str, str]:
    """The recipe of a stripped initializer, by key."""
    return {entry.key: entry.value for entry in tensor.external_data}


def stripped(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The initializers that have a recipe instead of data."""
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def set_recipe(tensor: onnx.TensorProto, values: np.ndarray, more: Mapping[str, str] | None = None) -> None:
    """Take the data out of `tensor` and leave the recipe for numbers of the same scale.

    Args:
        tensor: the initializer; changed in place.
        values: its data, for the mean, the standard deviation and the seed.
        more: further entries.
    """
    wide = values.astype(np.float64)
    entries = {
        "location": _LOCATION,
        "mean": f"{wide.mean():.6g}",
        "std": f"{wide.std():.6g}",
        "seed": str(int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:4], "little")),
        **(more or {}),
    }
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.ClearField("double_data")
    tensor.ClearField("int32_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def strip(model: onnx.ModelProto) -> None:
    """Replace the data of every large floating-point initializer by a recipe, in place."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and tensor.data_location == onnx.TensorProto.DEFAULT:
            values = numpy_helper.to_array(tensor)
            if values.nbytes >= SMALLEST_STRIPPED:
                set_recipe(tensor, values)


def seeded(tensor: onnx.TensorProto) -> np.ndarray:
    """Normal numbers by the tensor's recipe, in its shape and type; the same on every call."""
    how = recipe(tensor)
    generator = np.random.default_rng(int(how["seed"]))
    values = generator.standard_normal(tuple(tensor.dims), dtype=np.float32)
    values *= np.float32(how["std"])
    values += np.float32(how["mean"])
    return values.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), copy=False)


def fill(model: onnx.ModelProto, weights: Callable[[onnx.TensorProto], np.ndarray] = seeded) -> onnx.ModelProto:
    """Give every stripped initializer its data back, in place.

    Args:
        model: a skeleton.
        weights: the values for one stripped initializer; the seeded ones unless given.

    Returns:
        The same model, for chaining.

    Raises:
        ValueError: `weights` returned another shape or type than the initializer has.
    """
    for tensor in list(stripped(model)):
        values = weights(tensor)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if values.shape != tuple(tensor.dims) or values.dtype != dtype:
            raise ValueError(
                f"{tensor.name} is {dtype}{list(tensor.dims)}, but its weights are {values.dtype}{list(values.shape)}"
            )
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = np.ascontiguousarray(values).tobytes()
    return model


def read(path: Path) -> onnx.ModelProto:
    """Read a skeleton."""
    model = onnx.ModelProto()
    model.ParseFromString(gzip.decompress(path.read_bytes()))
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write a skeleton; the same model gives the same bytes."""
    path.write_bytes(gzip.compress(model.SerializeToString(deterministic=True), 9, mtime=0))
