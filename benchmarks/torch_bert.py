"""BERT in PyTorch with the weights of an exported graph: what PyTorch itself makes of the same model.

Written here so that the comparison needs no library of models. The attention is `scaled_dot_product_attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

Array = np.ndarray[Any, Any]
EPSILON = 1e-12


def weights(proto: onnx.ModelProto) -> dict[str, Array]:
    """The graph's weights by the names that PyTorch gave them, without what comes before `embeddings` and `encoder`.

    Exporters keep the names of biases and rename transposed weights, so a weight is named after the bias that is added
    to its product.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    products = {node.output[0]: node.input[1] for node in proto.graph.node if node.op_type == "MatMul"}
    found = {_short(name): array for name, array in arrays.items() if "LayerNorm" in name or "embeddings" in name}
    for node in proto.graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            if bias.endswith(".bias") and bias in arrays and products.get(product) in arrays:
                found[_short(bias)] = arrays[bias]
                found[_short(bias).removesuffix("bias") + "weight"] = arrays[products[product]].T
    return found


def _short(name: str) -> str:
    starts = [name.index(part) for part in ("embeddings.", "encoder.") if part in name]
    return name[min(starts) :] if starts else name


class _Layer(nn.Module):  # type: ignore[misc]  # PyTorch is not typed here
    def __init__(self, own: dict[str, Array], heads: int) -> None:
        super().__init__()
        self.heads = heads
        parts = [(own[f"attention.self.{name}.weight"], own[f"attention.self.{name}.bias"])
                 for name in ("query", "key", "value")]  # fmt: skip
        self.joined = _linear(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        self.mixed, self.wide, self.narrow = (
            _linear(own[f"{name}.weight"], own[f"{name}.bias"])
            for name in ("attention.output.dense", "intermediate.dense", "output.dense")
        )
        self.first, self.second = (
            _normalization(own[f"{name}.weight"], own[f"{name}.bias"])
            for name in ("attention.output.LayerNorm", "output.LayerNorm")
        )

    def forward(self, x: Any, mask: Any) -> Any:
        batch, length, width = x.shape
        joined = self.joined(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.first(x + self.mixed(attended.transpose(1, 2).reshape(batch, length, width)))
        return self.second(x + self.narrow(functional.gelu(self.wide(x))))


class Bert(nn.Module):  # type: ignore[misc]
    """The encoder: ids and mask [B, S] int64 to hidden states [B, S, H].

    Args:
        arrays: as `weights` gives them.
        heads: of each attention.
    """

    def __init__(self, arrays: dict[str, Array], heads: int) -> None:
        super().__init__()
        tables = (f"embeddings.{name}_embeddings.weight" for name in ("word", "token_type", "position"))
        self.words, self.types, self.positions = (
            nn.Embedding.from_pretrained(torch.from_numpy(arrays[name].copy())) for name in tables
        )
        self.normalization = _normalization(arrays["embeddings.LayerNorm.weight"], arrays["embeddings.LayerNorm.bias"])
        layers: dict[int, dict[str, Array]] = {}
        for name, array in arrays.items():
            if name.startswith("encoder.layer."):
                number, _, rest = name.removeprefix("encoder.layer.").partition(".")
                layers.setdefault(int(number), {})[rest] = array
        self.layers = nn.ModuleList(_Layer(layers[number], heads) for number in sorted(layers))

    def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
        """Hidden states. Without a mask no position is left out, which is what equal lengths allow."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.types(token_type_ids) + self.positions(positions)
        x = self.normalization(x)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x


def _linear(weight: Array, bias: Array) -> Any:
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data = torch.from_numpy(weight.copy())
    module.bias.data = torch.from_numpy(bias.copy())
    return module


def _normalization(scale: Array, shift: Array) -> Any:
    module = nn.LayerNorm(scale.shape, eps=EPSILON)
    module.weight.data = torch.from_numpy(scale.copy())
    module.bias.data = torch.from_numpy(shift.copy())
    return module
