"""ONNX Runtime sessions for checking models: the one place that imports the runtime and words its errors."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto, helper

from turbo_onnx import nvidia
from turbo_onnx.custom_ops.cuda import targets
from turbo_onnx.errors import InputError, ModelFormatError, UnsupportedModelError

Session = Any  # onnxruntime has no type information
Level = Literal["all", "extended", "basic", "none"]
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
CPU_PROVIDER = "CPUExecutionProvider"
PROVIDER = "CUDAExecutionProvider"
FLOAT32_PRODUCTS = {"use_tf32": "0"}
"""For that provider, which else leaves 10 of float32's 23 bits to products."""

INSTALL = 'install one with `pip install "turbo-onnx[cpu]"` or, for NVIDIA GPUs, `pip install "turbo-onnx[gpu]"`'


def runtime() -> Any:
    """The module onnxruntime.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise InputError(f"ONNX Runtime is not installed; {INSTALL}.") from None


def open_session(
    model: Path | bytes,
    *,
    level: Level = "all",
    library: bool = False,
    threads: int | None = None,
    profile: Path | None = None,
    reuse: bool | None = None,
) -> Session:
    """A quiet session on the CPU.

    Args:
        model: a file, or a serialized model.
        level: with how many of the runtime's own optimizations.
        library: with our kernels and our allocator.
        threads: how many to compute with; None for the runtime's choice.
        profile: what the runtime's profile is to be called, without its end; None: no profile is made.
        reuse: let tensors take the memory of others that are read no more, as is the default of the runtime; None: at
            all levels but "none", where planning it takes minutes for 20,000 unoptimized nodes.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    if threads is not None:
        options.intra_op_num_threads = threads
    options.enable_mem_reuse = level != "none" if reuse is None else reuse
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if library:
        from turbo_onnx.runtime import register

        register(options)
    content = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(content, options, providers=[CPU_PROVIDER])


def require_provider() -> None:
    """Raises InputError unless ONNX Runtime has its CUDA provider, and loads the libraries that it needs."""
    ort = runtime()
    if PROVIDER not in ort.get_available_providers():
        raise InputError(
            f"onnxruntime {ort.__version__} as it is installed has no CUDA provider; in an environment without"
            ' onnxruntime, pip install "turbo-onnx[gpu]".'
        )
    # CUDA's libraries may be where only PyTorch finds them, or in packages. The provider finds what is loaded.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):
            importlib.import_module("torch")
        with contextlib.suppress(Exception):
            ort.preload_dlls()


def open_on_gpu(model: Path | bytes) -> Session:
    """A quiet session on the first GPU, as a model is served there, but with products in float32 proper.

    Raises:
        InputError: there is no GPU or it is too old, or ONNX Runtime cannot use it or refuses the model; why.
    """
    from turbo_onnx.runtime import register

    device = nvidia.first_device()
    if device.capability < targets.OLDEST:
        raise InputError(f"the GPU here is {device}; {targets.sm(targets.OLDEST)} is the oldest that is supported.")
    require_provider()
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    register(options)
    content = str(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(content, options, providers=[(PROVIDER, FLOAT32_PRODUCTS), CPU_PROVIDER])
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run it on the GPU: {explain(error)}") from error
    if session.get_providers()[0] != PROVIDER:
        raise InputError(f"ONNX Runtime could not start its CUDA provider; it has {session.get_providers()}.")
    return session


def library_available() -> bool:
    """Whether our kernels can be registered here."""
    try:
        from turbo_onnx.runtime import register

        register(runtime().SessionOptions())
    except Exception:
        return False
    return True


def check_accepted(proto: onnx.ModelProto, source: Path | bytes, name: str) -> None:
    """Refuse a model that the installed runtime refuses.

    Args:
        proto: the model without its large weights, as `weightless` makes it.
        source: the whole model, which has the last word.
        name: what to call it in errors.

    Raises:
        UnsupportedModelError, ModelFormatError: what the runtime says, and what to do.
    """
    try:
        open_session(proto.SerializeToString(), level="none")
        return
    except InputError:
        raise
    except Exception as error:
        refusal = error
    _check_versions(proto, name)
    try:
        open_session(source, level="none")
    except Exception as error:
        refusal = error
    else:
        return
    raise ModelFormatError(
        f"{name}: ONNX Runtime {runtime().__version__} refuses it: {explain(refusal)}; export the model again."
    )


def _check_versions(proto: onnx.ModelProto, name: str) -> None:
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    ours = helper.make_model(_nothing(), opset_imports=[helper.make_opsetid("", 11)], ir_version=proto.ir_version)
    for model, what in ((ours, f"IR version is {proto.ir_version}"), (None, f"opset is {opset}")):
        if model is None:
            model = helper.make_model(_nothing(), opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
        try:
            open_session(model.SerializeToString(), level="none")
        except Exception:
            raise UnsupportedModelError(
                f"{name}: its {what}, which is newer than the installed ONNX Runtime {runtime().__version__} takes;"
                " upgrade onnxruntime, or export the model with an older one."
            ) from None


def _nothing() -> onnx.GraphProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])


def explain(error: Exception) -> str:
    """The runtime's message in one line, without codes and source positions."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed: ?", "", text)
    text = re.sub(r"/\S+\.(cc|h|cpp):\d+ .*?\) (?=[A-Z])", "", text)
    text = re.sub(r"^(Exception during initialization|This is an invalid model\.|Fatal error):? *", "", text)
    return text.strip().rstrip(".")
