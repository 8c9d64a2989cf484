"""The operators of the domain `turbo_onnx`, one folder each, and the list of them all."""

from __future__ import annotations

from turbo_onnx.custom_ops.bias_gelu.spec import SPEC as BIAS_GELU
from turbo_onnx.custom_ops.embed_layer_normalization.spec import SPEC as EMBED_LAYER_NORMALIZATION
from turbo_onnx.custom_ops.functions import operator_name
from turbo_onnx.custom_ops.gated_activation.spec import SPEC as GATED_ACTIVATION
from turbo_onnx.custom_ops.quantized_mat_mul.spec import SPEC as QUANTIZED_MATMUL
from turbo_onnx.custom_ops.remove_padding.spec import SPEC as REMOVE_PADDING
from turbo_onnx.custom_ops.restore_padding.spec import SPEC as RESTORE_PADDING
from turbo_onnx.custom_ops.rotary_embedding.spec import SPEC as ROTARY_EMBEDDING
from turbo_onnx.custom_ops.segment_pooling.spec import SPEC as SEGMENT_POOLING
from turbo_onnx.custom_ops.skip_layer_normalization.spec import SPEC as SKIP_LAYER_NORMALIZATION
from turbo_onnx.custom_ops.specification import OperatorSpec
from turbo_onnx.custom_ops.varlen_attention.spec import SPEC as VARLEN_ATTENTION

SPECS: tuple[OperatorSpec, ...] = (
    REMOVE_PADDING,
    RESTORE_PADDING,
    EMBED_LAYER_NORMALIZATION,
    SKIP_LAYER_NORMALIZATION,
    BIAS_GELU,
    ROTARY_EMBEDDING,
    GATED_ACTIVATION,
    VARLEN_ATTENTION,
    SEGMENT_POOLING,
    QUANTIZED_MATMUL,
)

_BY_NAME = {spec.name: spec for spec in SPECS}


def spec(name: str) -> OperatorSpec:
    """The operator with this name, or one of its aliases such as `BiasGelu_2`.

    Raises:
        KeyError: there is none.
    """
    return _BY_NAME[operator_name(name)]
