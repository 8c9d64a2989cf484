"""What a serving process needs: the library of kernels, registered with ONNX Runtime. No onnx, no optimizer."""

from __future__ import annotations

from turbo_onnx.runtime.library import library_path
from turbo_onnx.runtime.session import InferenceSession, register

__all__ = ["InferenceSession", "library_path", "register"]
