"""The ways to run BERT-base in float16 on a GPU that `encoder_gpu` compares, inputs and outputs on the device.

Inputs are ids, token types and a mask [B, S] int64; the output is [B, S, H] float32, as the exported model has it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import turbo_onnx
from models import untrained
from turbo_onnx.sessions import PROVIDER

HEADS, WIDTH, LAYERS = 12, 768, 12
GRAPH = "bert-base-eager__ts17"  # of the exports the one that ONNX Runtime's own optimizer fuses, attention and all
OURS = "ours"

Inputs = dict[str, Any]  # PyTorch tensors on the device, by the model's names
Run = Callable[[], Any]  # gives the output as a tensor on the device
Side = Callable[[Inputs, bool, int], Run]  # (inputs, whether there is no padding, the device's capability)


def open_session(model: bytes, *, library: bool) -> Any:
    """A session that computes on PyTorch's current stream, so that events there see all of its work."""
    import onnxruntime as ort
    import torch

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if library:
        turbo_onnx.register(options)
    stream = str(torch.cuda.current_stream().cuda_stream)
    session = ort.InferenceSession(model, options, providers=[(PROVIDER, {"user_compute_stream": stream})])
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError("ONNX Runtime could not start its CUDA provider")
    return session


def bound(session: Any, inputs: Inputs) -> Run:
    """The session on these tensors. The host does not wait for the end of a run, as it does not with PyTorch."""
    import onnxruntime as ort
    import torch

    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    binding = session.io_binding()
    names = {tensor.name for tensor in session.get_inputs()}
    for name, tensor in inputs.items():
        if name in names:
            binding.bind_input(name, "cuda", 0, np.int64, tuple(tensor.shape), tensor.data_ptr())
    output = torch.empty((*inputs["input_ids"].shape, WIDTH), dtype=torch.float32, device="cuda")
    (result,) = session.get_outputs()
    binding.bind_output(result.name, "cuda", 0, np.float32, tuple(output.shape), output.data_ptr())

    def run() -> Any:
        session.run_with_iobinding(binding, options)
        return output

    run.inputs = inputs  # type: ignore[attr-defined]  # the binding does not keep them alive
    return run


@cache
def original() -> onnx.ModelProto:
    """The model as exported, in float32."""
    return untrained.load(GRAPH)


@cache
def _ours(capability: int) -> Any:
    result = turbo_onnx.optimize(original(), target=f"cuda:sm_{capability}", precision="fp16", verify=False)
    return open_session(result.model.SerializeToString(), library=True)


@cache
def _exported() -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = copy.deepcopy(original())  # it is changed in place
    return open_session(convert_float_to_float16(model, keep_io_types=True).SerializeToString(), library=False)


@cache
def _fused_model() -> bytes:
    """The model as ONNX Runtime's own tool for transformers fuses it, in float16."""
    from onnxruntime.transformers import optimizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(original(), path)
        model = optimizer.optimize_model(
            str(path), model_type="bert", num_heads=HEADS, hidden_size=WIDTH, opt_level=0, use_gpu=True
        )
    fused = model.get_fused_operator_statistics()["Attention"]
    if fused != LAYERS:
        raise RuntimeError(f"ONNX Runtime's tool fused {fused} of {LAYERS} attentions")
    model.convert_float_to_float16(keep_io_types=True)
    return bytes(model.model.SerializeToString())


@cache
def _fused() -> Any:
    return open_session(_fused_model(), library=False)


@cache
def _packed() -> Any:
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx.load_model_from_string(_fused_model()))
    PackingMode(model).convert(use_symbolic_shape_infer=False)
    packed = sum(node.op_type == "PackedAttention" for node in model.model.graph.node)
    if packed != LAYERS:
        raise RuntimeError(f"ONNX Runtime's tool packed {packed} of {LAYERS} attentions")
    return open_session(model.model.SerializeToString(), library=False)


@cache
def _module(half: bool) -> Any:
    from benchmarks.torch_bert import Bert, weights

    module = Bert(weights(original()), HEADS).eval().cuda()
    return module.half() if half else module


@cache
def _compiled() -> Any:
    import torch

    return torch.compile(_module(True), dynamic=False)


def _torch_run(module: Any, inputs: Inputs, full: bool) -> Run:
    import torch

    mask = None if full else inputs["attention_mask"]  # without one, PyTorch has its fastest attention

    def run() -> Any:
        with torch.inference_mode():
            return module(inputs["input_ids"], inputs["token_type_ids"], mask).float()

    return run


def reference(inputs: Inputs) -> Any:
    """The output in float32, without TF32."""
    import torch

    torch.set_float32_matmul_precision("highest")
    return _torch_run(_module(False), inputs, full=False)()


SIDES: dict[str, Side] = {
    OURS: lambda inputs, _, capability: bound(_ours(capability), inputs),
    "ORT, as exported": lambda inputs, *_: bound(_exported(), inputs),
    "ORT, fused": lambda inputs, *_: bound(_fused(), inputs),
    "ORT, fused and packed": lambda inputs, *_: bound(_packed(), inputs),
    "PyTorch": lambda inputs, full, _: _torch_run(_module(True), inputs, full),
    "PyTorch, compiled": lambda inputs, full, _: _torch_run(_compiled(), inputs, full),
}
