"""Find the kernels of an operator, which are beside its specification."""

from __future__ import annotations

import importlib
import re

from turbo_onnx.custom_ops.cuda.variant import Use, Variant


def module_of(operator: str) -> str:
    """The module with an operator's kernels: `turbo_onnx.custom_ops.bias_gelu.cuda` for BiasGelu."""
    folder = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operator).lower()
    return f"turbo_onnx.custom_ops.{folder}.cuda"


def variants_of(use: Use, capability: int) -> list[Variant]:
    """The kernels that the node needs on devices of this compute capability (10 · major + minor).

    Raises:
        Reject: there is no kernel for such a node.
        ImportError: Triton is not installed.
    """
    return list(importlib.import_module(module_of(use.operator)).variants(use, capability))
