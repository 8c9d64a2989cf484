"""Run one node on its compiled kernels without a GPU.

ONNX Runtime calls the C++ operator, which launches through the fake driver, which calls back here; the kernel is then
interpreted on the same memory. What is real: the kernel's source, the operator, its choice of kernel, the grid, the
arguments. What is not: the machine code and the device.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from tests import shared
from tests.cuda import fake_driver
from tests.custom_ops.single_node import Array, Case, between_casts
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda.archive import Code, Rule, pack
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.variant import Use, Variant

ROOT = Path(__file__).parents[2]
OPERATORS = "operators.so"
CAPABILITY = 90
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def _build(folder: Path) -> Path:
    """Compile the operators and the fake driver into the folder."""
    fake_driver.build(folder)
    sources = [ROOT / "tests/cuda/register.cc", *sorted((ROOT / "turbo_onnx/custom_ops/cuda").glob("*.cc"))]
    fake_driver.build_shared(folder / OPERATORS, sources, "-O0")
    return folder


@functools.cache
def _library() -> str:
    """The operators' path. Also puts the fake driver in the driver's place and the interpreter behind it."""
    folder = shared.once("operators", _build)
    os.environ["TURBO_ONNX_CUDA_DRIVER"] = str(folder / fake_driver.NAME)
    fake_driver.FakeDriver(folder / fake_driver.NAME).set_launch(_launch)
    return str(folder / OPERATORS)


_variants: dict[str, Variant] = {}
_errors: list[BaseException] = []


def _launch(image: str, symbol: str, grid: Sequence[int], block: int, shared: int, parameters: int) -> int:
    """What the fake driver calls for a launch. `parameters`: the address of an array of addresses of arguments."""
    from tests.cuda.interpreter import interpret

    try:
        variant = _variants[image.split(" ", 3)[3]]
        assert symbol == variant.function
        assert block == 32 * variant.num_warps
        count = len(variant.arguments)
        addresses = (ctypes.c_void_p * (count + 2)).from_address(parameters)
        scratch = [ctypes.c_uint64.from_address(addresses[i] or 0).value for i in (count, count + 1)]
        assert scratch == [0, 0]
        interpret(variant, grid, [int(address or 0) for address in addresses[:count]])
    except BaseException as error:
        _errors.append(error)
        return 1
    return 0


def use_of(case: Case, element: str = "float32") -> Use:
    """What the optimizer would know of the node: widths and the shapes of weights, but not how many rows there are."""
    declared = spec(case.operator)
    named = dict(case.feeds) | dict(zip((o.name for o in declared.outputs), case.expected(), strict=False))
    types = {
        name: element if array.dtype == np.float32 and name not in case.in_float32 else array.dtype.name
        for name, array in named.items()
    }
    shapes = {name: _known_shape(case.operator, name, array) for name, array in named.items()}
    return Use(case.operator, types, shapes, case.complete_attributes)


def _known_shape(operator: str, name: str, array: Array) -> tuple[int | str, ...]:
    unknown = {0} if array.ndim != 1 or array.dtype.kind != "f" else set()
    if array.ndim > 2 and operator != "RestorePadding":
        unknown |= set(range(1, array.ndim - 1))
    if name == "mask" or (array.dtype.kind != "f" and operator != "RestorePadding"):
        unknown = set(range(array.ndim))
    return tuple(f"{name}_{axis}" if axis in unknown else size for axis, size in enumerate(array.shape))


def fake_codes(variants: Iterable[Variant]) -> list[Code]:
    """Compiled kernels whose code is the text by which the fake driver knows them; it runs them by their sources."""
    codes = []
    for variant in variants:
        _variants[variant.key] = variant
        data = f"FAKE {CAPABILITY} {int(Rule.EXACT)} {variant.key}\0".encode()
        facts = (variant.function, variant.letters, variant.num_warps, 0, variant.tile, data)
        codes += [Code(variant.key, CAPABILITY, Rule.EXACT, aligned, *facts) for aligned in (True, False)]
    return codes


def with_kernels(case: Case, element: str = "float32") -> onnx.ModelProto:
    """The case as the optimizer would leave it for CUDA, in an element type that is given by its NumPy name."""
    codes = fake_codes(variants_of(use_of(case, element), CAPABILITY))
    archive = numpy_helper.from_array(np.frombuffer(pack(codes), np.uint8), "kernels")
    return between_casts(case, ELEMENTS[element], archive)


def by_device(case: Case, element: str = "float32") -> list[Array]:
    """What the compiled kernels' sources give."""
    return run(with_kernels(case, element), case.feeds)


def run(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a model whose kernels are fake: its operators run as on a device, the others on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(_library())
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    try:
        return list(session.run(None, dict(feeds)))
    except Exception:
        if _errors:
            raise _errors.pop() from None
        raise
