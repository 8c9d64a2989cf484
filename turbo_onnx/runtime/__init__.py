"""What a serving process needs: the library of kernels, registered with ONNX Runtime. No onnx, no optimizer.

`library_path` is there without onnxruntime, for programs in other languages; the rest is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from turbo_onnx.runtime.library import library_path

if TYPE_CHECKING:
    from turbo_onnx.runtime.arena import ArenaStats, arena_stats, trim
    from turbo_onnx.runtime.cost import CostModel
    from turbo_onnx.runtime.peak import peak_bytes
    from turbo_onnx.runtime.scheduling import schedule
    from turbo_onnx.runtime.session import InferenceSession, register

__all__ = [
    "ArenaStats",
    "CostModel",
    "InferenceSession",
    "arena_stats",
    "library_path",
    "peak_bytes",
    "register",
    "schedule",
    "trim",
]

_HOMES = {
    "ArenaStats": "arena",
    "CostModel": "cost",
    "InferenceSession": "session",
    "arena_stats": "arena",
    "peak_bytes": "peak",
    "register": "session",
    "schedule": "scheduling",
    "trim": "arena",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
