"""Time one node of ours on a GPU, as it is served: through ONNX Runtime, our library and the kernels in the model.

A model with 2N equal nodes takes longer than one with N by the time of N nodes; what a run costs beside its nodes is in
both and falls out. The host launches ahead of the device: what is measured is the kernels, as long as each takes longer
than its launch, which is about ten microseconds. So no second copy of how kernels are launched is needed here, and no
CUDA toolkit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda import compiler
from turbo_onnx.custom_ops.cuda.archive import pack
from turbo_onnx.custom_ops.cuda.samples import Array, is_float
from turbo_onnx.custom_ops.cuda.targets import compiled_for
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN, DOMAIN_VERSION, KERNELS
from turbo_onnx.errors import InputError
from turbo_onnx.sessions import PROVIDER, Session, runtime

OrtValue = Any  # onnxruntime has no type information
DEVICE = "cuda"
NODES = 16
"""N."""
COPIES = 2
"""How often the inputs are in memory."""
_EXACT_MEMORY = {"arena_extend_strategy": "kSameAsRequested"}  # so that checkers of memory see where tensors end
_OPSET = 17
_IR_VERSION = 8
_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}


def archive(variants: Iterable[Variant], capability: int) -> bytes:
    """These kernels, compiled for devices of one capability only.

    Raises:
        PassError: one of them cannot be compiled.
    """
    kernels = {number: list(variants) if number == capability else [] for number in compiled_for([capability])}
    return pack(code for one in compiler.compile_kernels(kernels, [capability]) for code in one.codes)


def model(use: Use, inputs: Mapping[str, Array], kernels: bytes, nodes: int = 1, copies: int = 1) -> onnx.ModelProto:
    """A model of equal nodes that do not depend on each other.

    Its inputs and outputs are float32 where the nodes' are floating-point numbers. The outputs are the last node's.

    Args:
        use: the node.
        inputs: by operand, as `samples.sample` makes them.
        kernels: the archive.
        nodes: how many.
        copies: how often the inputs are in memory; nodes take turns, so that the caches do not hold what
            the next one reads.
    """
    declared = spec(use.operator)
    body: list[onnx.NodeProto] = []
    feeds, names = [], []
    for copy in range(copies):
        local = {}
        for name, value in inputs.items():
            fed = f"{name}.{copy}"
            feeds.append(helper.make_tensor_value_info(fed, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
            local[name] = fed
            if is_float(use.types[name]) and use.types[name] != "float32":
                local[name] = f"{fed}.cast"
                body.append(helper.make_node("Cast", [fed], [local[name]], to=_element(use.types[name])))
        names.append([local.get(operand.name, "") for operand in declared.inputs] + [KERNELS])
    asked = [operand.name if use.has(operand.name) or not operand.optional else "" for operand in declared.outputs]
    while not asked[-1]:
        asked.pop()
    attributes = {name: value for name, value in use.attributes.items() if value is not None}
    for number in range(nodes):
        outputs = [f"{name}.{number}" if name else "" for name in asked]
        body.append(helper.make_node(use.operator, names[number % copies], outputs, domain=CUDA_DOMAIN, **attributes))
    results = []
    for name in filter(use.has, asked):
        element = "float32" if is_float(use.types[name]) else use.types[name]
        if element != use.types[name]:
            body.append(helper.make_node("Cast", [f"{name}.{nodes - 1}"], [name], to=TensorProto.FLOAT))
        else:
            body.append(helper.make_node("Identity", [f"{name}.{nodes - 1}"], [name]))
        results.append(helper.make_tensor_value_info(name, _element(element), _dims(use, name)))
    stored = numpy_helper.from_array(np.frombuffer(kernels, np.uint8), KERNELS)
    graph = helper.make_graph(body, use.operator, feeds, results, [stored])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CUDA_DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _dims(use: Use, name: str) -> list[int | None] | None:
    known = use.shapes.get(name)
    return None if known is None else [size if isinstance(size, int) else None for size in known]


def _element(name: str) -> int:
    return int(TensorProto.DataType.Value(_ONNX_NAMES.get(name, name.upper())))


def open_on_device(proto: onnx.ModelProto) -> Session:
    """A session whose every node runs on the GPU, as it is written.

    Raises:
        InputError: the provider could not start, or has no kernel for a node.
    """
    from turbo_onnx.runtime import register

    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # equal nodes would be made one
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    register(options)
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=[(PROVIDER, _EXACT_MEMORY)])
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run it on the GPU: {error}") from error
    if session.get_providers()[:1] != [PROVIDER]:
        raise InputError(f"ONNX Runtime could not start its CUDA provider; it has {session.get_providers()}.")
    return session


def on_device(use: Use, inputs: Mapping[str, Array], copies: int = COPIES) -> dict[str, OrtValue]:
    """The inputs of models of this node, in the device's memory, each copy in memory of its own."""
    ort = runtime()
    return {
        f"{name}.{copy}": ort.OrtValue.ortvalue_from_numpy(inputs[name], DEVICE, 0)
        for name in (operand.name for operand in spec(use.operator).inputs if operand.name in inputs)
        for copy in range(copies)
    }


class Bound:
    """A session with its inputs on the device, ready to run again and again.

    Args:
        session: of a model that `model` made.
        values: as `on_device` makes them.
    """

    def __init__(self, session: Session, values: Mapping[str, OrtValue]) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._values = values  # the binding does not keep them alive
        for tensor in session.get_inputs():
            self._binding.bind_ortvalue_input(tensor.name, values[tensor.name])
        for tensor in session.get_outputs():
            self._binding.bind_output(tensor.name, DEVICE, 0)

    def run(self) -> None:
        """Returns when the device is done."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def outputs(self) -> list[Array]:
        """Of a run."""
        self.run()
        return list(self._binding.copy_outputs_to_cpu())


def outputs_of(use: Use, inputs: Mapping[str, Array], kernels: bytes, values: Mapping[str, OrtValue]) -> list[Array]:
    """What the node gives on the device; floating-point numbers as float32."""
    return Bound(open_on_device(model(use, inputs, kernels)), values).outputs()


def seconds_of(
    use: Use, inputs: Mapping[str, Array], kernels: bytes, values: Mapping[str, OrtValue], rounds: int = 15
) -> list[float]:
    """Seconds that one node takes on the device, for each round."""
    few, many = (
        Bound(open_on_device(model(use, inputs, kernels, count, COPIES)), values).run for count in (NODES, 2 * NODES)
    )
    return per_node(few, many, NODES, rounds, time.perf_counter)


def per_node(
    few: Callable[[], object], many: Callable[[], object], nodes: int, rounds: int, clock: Callable[[], float]
) -> list[float]:
    """(time of `many` - time of `few`) / nodes, for each round; `many` does the work of `nodes` more nodes."""
    seconds = []
    for number in range(rounds + 2):  # the first two are for warming up
        taken = []
        for run in (few, many):
            start = clock()
            run()
            taken.append(clock() - start)
        if number >= 2:
            seconds.append((taken[1] - taken[0]) / nodes)
    return seconds
