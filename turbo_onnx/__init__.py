"""An ahead-of-time compiler over exported transformer graphs, and the operators that its results run on.

    result = turbo_onnx.optimize("model.onnx")        # read, rewrite, verify
    result.save("model.turbo.onnx")

    session = turbo_onnx.InferenceSession("model.turbo.onnx")

Importing this package imports nothing else: serving needs only onnxruntime and NumPy, and the optimizer's own
dependencies are imported when `optimize` is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turbo_onnx.optimizer import Result, optimize
    from turbo_onnx.report import Report
    from turbo_onnx.run_costs import measure_cost
    from turbo_onnx.runtime import (
        CostModel,
        InferenceSession,
        arena_stats,
        library_path,
        peak_bytes,
        register,
        schedule,
        trim,
    )

__version__ = "0.1.0"

__all__ = [
    "CostModel",
    "InferenceSession",
    "Report",
    "Result",
    "__version__",
    "arena_stats",
    "library_path",
    "measure_cost",
    "optimize",
    "peak_bytes",
    "register",
    "schedule",
    "trim",
]

_HOMES = {
    "CostModel": "turbo_onnx.runtime",
    "InferenceSession": "turbo_onnx.runtime",
    "Report": "turbo_onnx.report",
    "Result": "turbo_onnx.optimizer",
    "arena_stats": "turbo_onnx.runtime",
    "library_path": "turbo_onnx.runtime",
    "measure_cost": "turbo_onnx.run_costs",
    "optimize": "turbo_onnx.optimizer",
    "peak_bytes": "turbo_onnx.runtime",
    "register": "turbo_onnx.runtime",
    "schedule": "turbo_onnx.runtime",
    "trim": "turbo_onnx.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
