"""What a serving process needs: the library of kernels, registered with ONNX Runtime. No onnx, no optimizer.

`library_path` is there without onnxruntime, for programs in other languages; the rest asks for it when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turbo_onnx.runtime.library import library_path

if TYPE_CHECKING:
    from turbo_onnx.runtime.session import InferenceSession, register

__all__ = ["InferenceSession", "library_path", "register"]


def __getattr__(name: str) -> Any:
    if name in ("InferenceSession", "register"):
        from turbo_onnx.runtime import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
