"""Decoders with a cache of keys and values, of as many layers as wanted."""

from __future__ import annotations

import numpy as np

from tests.passes.support import graph, normal, parse
from turbo_onnx.model import Model

WIDTH = 16
WEIGHTS = {name: normal(WIDTH, WIDTH, seed=seed) * 0.3 for seed, name in enumerate(("wq", "wk", "wv", "wo"))}
CONSTANTS = "int64[4] split = {0, 0, 2, 8}, int64[3] merge = {0, 0, 16}, float scale = {0.35355338454246521}"


def attention(keys: str, values: str, result: str, scale: str = "scale", layer: str = "") -> str:
    """Two heads of eight features over the keys and values that nodes compute, both [B, 2, L, 8], from x or not.

    Args:
        keys, values: the nodes that compute them, of `k` and `v` [B, 2, S, 8] for example.
        result: the name of what comes out, [B, S, 16].
        scale: the name of what scores are multiplied by.
        layer: what all names of tensors end with.
    """
    heads = "".join(
        f"m{to}# = MatMul(x#, w{to}) r{to}# = Reshape(m{to}#, split) {to}# = Transpose<perm = [0, 2, 1, 3]>(r{to}#) "
        for to in "qkv"
    )
    nodes = (
        f"{heads} {keys} {values} kt# = Transpose<perm = [0, 1, 3, 2]>(keys#) s# = MatMul(q#, kt#) "
        f"t# = Mul(s#, {scale}) p# = Softmax<axis = -1>(t#) o# = MatMul(p#, values#) "
        f"a# = Transpose<perm = [0, 2, 1, 3]>(o#) b# = Reshape(a#, merge) {result} = MatMul(b#, wo)"
    )
    return nodes.replace("#", layer)


def decoder(layers: int) -> Model:
    """x0 [B, S, 16] and the layers' past keys and values [B, 2, P, 8] -> y [B, S, 16] and the longer ones."""
    inputs, outputs, nodes = ["float[B,S,16] x0"], ["float[B,S,16] y"], []
    for layer in range(layers):
        for what in ("keys", "values"):
            inputs.append(f"float[B,2,P,8] past_{what}{layer}")
            outputs.append(f"float[B,2,T,8] {what}{layer}")
        nodes.append(
            attention(
                "keys# = Concat<axis = 2>(past_keys#, k#)",
                "values# = Concat<axis = 2>(past_values#, v#)",
                "z#",
                layer=str(layer),
            )
        )
        nodes.append(f"c{layer} = Add(x{layer}, z{layer}) x{layer + 1} = LayerNormalization(c{layer}, gain)")
    nodes.append(f"y = Identity(x{layers})")
    body = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) <{CONSTANTS}> {{ {' '.join(nodes)} }}"
    small = WEIGHTS["wo"] * np.float32(0.1)  # so that many layers do not make much of a rounding
    return parse(graph(body), {**WEIGHTS, "wo": small, "gain": np.ones(WIDTH, np.float32)})
