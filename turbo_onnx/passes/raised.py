"""The domain of operators that ONNX has, but the model's opset does not have yet.

Raising writes what a chain of nodes means with the standard operator. Where the model's opset is too old for it, the
node gets the same name in this domain. It lives only until the fuse and lower stages: no saved model holds one.

| operator | standard since | lowered by |
|---|---|---|
| Gelu(X; approximate) | 20 | lower-gelu |
| RMSNormalization(X, scale; axis, epsilon) | 23 | lower-rms-normalization |
| Attention(Q, K, V, attention_bias?; scale, guard, causal) | 23 | lower-attention |

Keys and values of Attention may have fewer heads than queries, each of which serves as many neighbouring ones.
"""

from __future__ import annotations

from turbo_onnx.graph import RAISED_DOMAIN

__all__ = ["RAISED_DOMAIN"]
