"""Every operator on a GPU: its compiled kernels and its reference agree on random uses."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.cuda.device import ELEMENTS
from tests.custom_ops.single_node import Case, with_archive
from tests.gpu.device import archive, assert_close, drawn, has_type, session
from turbo_onnx import node_timing
from turbo_onnx.custom_ops import SPECS, spec

OPERATORS = tuple(entry.name for entry in SPECS if entry.on_gpus)
MISALIGNED = (
    "BiasGelu",
    "GatedActivation",
    "SkipLayerNormalization",
    "RotaryEmbedding",
    "VarlenAttention",
    "SegmentPooling",
    "RestorePadding",
)


@pytest.fixture(scope="session")
def kernels(capability: int) -> bytes:
    """The kernels of all cases."""
    return archive(OPERATORS, capability)


@pytest.mark.parametrize("element", list(ELEMENTS))
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_kernel_gives_what_the_reference_says(operator: str, element: str, kernels: bytes) -> None:
    if not has_type(operator, element):
        pytest.skip(f"{operator} has no operand of this type")
    for case in drawn(operator, element):
        actual = session(case, element, kernels).run(None, case.feeds)
        assert_close(actual, case.expected(), element)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("operator", MISALIGNED)
def test_pointers_that_are_not_aligned_are_served(operator: str, dtype: type, kernels: bytes) -> None:
    element = np.dtype(dtype).name
    if not has_type(operator, element):
        pytest.skip(f"{operator} has no operand of this type")
    for case in drawn(operator, element)[:8]:
        if not all(value.size for value in case.feeds.values()):
            continue  # nothing to be misaligned
        actual = run_misaligned(case, dtype, kernels)
        expected = [value.astype(dtype) if value.dtype == np.float32 else value for value in case.expected()]
        for result, reference in zip(actual, expected, strict=True):
            assert_close([as_float(result)], [as_float(reference)], element)


def as_float(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def run_misaligned(case: Case, dtype: type, kernels: bytes) -> list[np.ndarray]:
    """Run the case in an element type, with every input of that type one element behind where memory starts."""
    proto = with_archive(case, numpy_helper.from_array(np.frombuffer(kernels, np.uint8), "kernels"))
    declared = spec(case.operator)
    variables = {"T", *declared.or_float32}
    operands = {operand.name for operand in declared.inputs if operand.type in variables} & case.floats
    for tensor in proto.graph.input:
        if tensor.name in operands:
            tensor.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    opened = node_timing.open_on_device(proto)
    binding, alive = opened.io_binding(), []
    for name, value in case.feeds.items():
        stored = value.astype(dtype) if name in operands else value
        shift = 1 if name in operands else 0
        flat = np.concatenate([np.zeros(shift, stored.dtype), stored.reshape(-1)])
        memory = ort.OrtValue.ortvalue_from_numpy(flat, "cuda", 0)
        alive.append(memory)
        pointer = memory.data_ptr() + shift * stored.itemsize
        assert shift == 0 or pointer % 16 != 0
        binding.bind_input(name, "cuda", 0, stored.dtype.type, stored.shape, pointer)
    for tensor in opened.get_outputs():
        binding.bind_output(tensor.name, "cuda", 0)
    opened.run_with_iobinding(binding)
    return list(binding.copy_outputs_to_cpu())


def test_many_threads_on_one_session_and_two_sessions_agree(kernels: bytes) -> None:
    operator, element = "SkipLayerNormalization", "float16"
    case = max(drawn(operator, element), key=lambda one: one.inputs[0].size)
    sessions = [session(case, element, kernels) for _ in range(2)]
    expected, failures = case.expected(), []

    def work(number: int) -> None:
        try:
            for _ in range(25):
                assert_close(sessions[number % 2].run(None, case.feeds), expected, element)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
