"""Register the library with ONNX Runtime, and a session class that has done so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from turbo_onnx.errors import InputError
from turbo_onnx.runtime.library import library_path

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise InputError(
        "ONNX Runtime is not installed; pip install turbo-onnx[cpu] brings it, pip install turbo-onnx[gpu] the one for"
        " NVIDIA GPUs."
    ) from error

if TYPE_CHECKING:
    _Session = Any
else:
    _Session = onnxruntime.InferenceSession

OLDEST_RUNTIME = (1, 20)


def register(session_options: Any) -> None:
    """Make the kernels known to every session that is made with these options. Doing it again does no harm.

    Args:
        session_options: an `onnxruntime.SessionOptions`.

    Raises:
        InputError: the library is not there, or the installed ONNX Runtime is too old for it.
    """
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < OLDEST_RUNTIME:
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} is installed, and 1.20 is the oldest that runs our operators;"
            " pip install --upgrade onnxruntime."
        )
    session_options.register_custom_ops_library(library_path())


class InferenceSession(_Session):  # type: ignore[misc]
    """`onnxruntime.InferenceSession` with the library registered: the same arguments, the same methods.

    Without `providers` it runs on the CPU.
    """

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        register(options)
        chosen = ["CPUExecutionProvider"] if providers is None else providers
        super().__init__(path_or_bytes, options, chosen, provider_options, **kwargs)
