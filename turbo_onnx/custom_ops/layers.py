"""NumPy definitions that several operators share."""

from __future__ import annotations

import numpy as np

from turbo_onnx.custom_ops.specification import Array


def layer_normalization(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> Array:
    """LayerNormalization over the last axis, computed in float64; float64 is returned."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt(variance + epsilon) * gamma.astype(np.float64)
    return normal if beta is None else normal + beta.astype(np.float64)


def rms_normalization(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> Array:
    """Division by the root of the mean square over the last axis, computed in float64; float64 is returned."""
    wide = x.astype(np.float64)
    square = np.square(wide).mean(axis=-1, keepdims=True)
    normal: Array = wide / np.sqrt(square + epsilon) * gamma.astype(np.float64)
    return normal if beta is None else normal + beta.astype(np.float64)
