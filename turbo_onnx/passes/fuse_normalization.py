"""Write a normalization over the last axis that has no residual in front as SkipLayerNormalization without skip.

The first normalization of a model is such a one, and so are those of queries and keys in each head. ONNX Runtime has
kernels for them, in RMS normalization for some spellings of the chain; ours takes less time.
"""

from __future__ import annotations

from turbo_onnx.custom_ops.specification import DOMAIN
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, Tensor
from turbo_onnx.matcher import Match
from turbo_onnx.passes.fuse_skip_layer_normalization import check_ends, check_type, kind, normalized
from turbo_onnx.passes.fusion import Fusion
from turbo_onnx.pattern import Expression, variable


class FuseNormalization(Fusion):
    """LayerNormalization and RMSNormalization that nothing else took become our operator."""

    name = "fuse-normalization"
    summary = "Write what is left of LayerNormalization and RMSNormalization as SkipLayerNormalization without skip."

    def pattern(self) -> Expression:
        return normalized(variable("x"))

    def rewrite(self, match: Match, edit: Editor) -> Tensor:
        x: Tensor = match.x
        check_type(x)
        if not x.shape or not isinstance(x.shape[-1], int):
            raise Reject("the length of the last axis of {} is not known", x.name)
        check_ends(match, x.shape[-1])
        return edit.node("SkipLayerNormalization", [x, None, match.gamma, match.beta], attrs=kind(match), domain=DOMAIN)
