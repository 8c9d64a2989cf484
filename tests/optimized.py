"""Models after `optimize`, once for all tests that look at the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

import turbo_onnx
from tests import shared


@dataclass(frozen=True)
class Optimized:
    """What `optimize` gave, without its own verification.

    Attributes:
        artifact: the serialized model.
        report: as `Report.to_dict` gives it.
    """

    artifact: bytes
    report: dict[str, Any]


def optimized(name: str, load: Callable[[], onnx.ModelProto], **options: Any) -> Optimized:
    """A model after `optimize`.

    Args:
        name: of the model and the options.
        load: makes the model.
        options: of `optimize`.
    """

    def make(_: object) -> Optimized:
        result = turbo_onnx.optimize(load(), verify=False, **options)
        return Optimized(result.model.SerializeToString(), result.report.to_dict())

    return shared.once(f"optimized {name}", make)
