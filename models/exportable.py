"""Models of the Hugging Face library as exporters want them: tensors in, tensors out.

An encoder reads a padded batch. A decoder also has the keys and values of earlier tokens as inputs and outputs:

    input_ids, position_ids [batch, sequence], attention_mask [batch, past + sequence],
    past_key_values.N.key, .value [batch, heads, past, size]  for each layer
    →  logits [batch, sequence, vocabulary], present.N.key, .value [batch, heads, past + sequence, size]

These are the names that serving code expects. A first run has a past of length 0.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
AXES = {0: "batch", 1: "sequence"}
_BATCH, _NEW, _PAST = 2, 3, 5


@dataclass(frozen=True)
class Exportable:
    """A model to export.

    Attributes:
        module: takes the tensors of `inputs` and gives a tensor, or a tuple of them.
        inputs: by name; one padded batch to trace with.
        outputs: their names.
        axes: the names of the axes that vary, for each input and output.
    """

    module: Any
    inputs: dict[str, Any]
    outputs: list[str]
    axes: dict[str, dict[int, str]]


def encoder(torch: Any, model: Any, output: str, axes: dict[int, str] = AXES) -> Exportable:
    """An encoder with one output.

    Args:
        torch: the package.
        model: that reads ids, a mask and perhaps token types, [batch, sequence].
        output: the name of its output.
        axes: those of the output that vary.
    """
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in INPUTS if name in accepted]

    class OneOutput(torch.nn.Module):  # type: ignore[misc]
        """The model with tensors in and one tensor out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return getattr(self.model(**dict(zip(names, tensors, strict=True))), output)

    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[1, 7:] = 0
    values = {
        "input_ids": torch.randint(1, model.config.vocab_size, (2, 11)) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
    }
    inputs = {name: values[name] for name in names}
    return Exportable(OneOutput(), inputs, [output], dict.fromkeys(names, AXES) | {output: axes})


def decoder(torch: Any, model: Any) -> Exportable:
    """The decoder, and a batch of two sequences of which one begins with padding.

    Args:
        torch: the package.
        model: that keeps keys and values in a `DynamicCache`.
    """
    from transformers.cache_utils import DynamicCache

    mask = torch.ones(_BATCH, _PAST + _NEW, dtype=torch.int64)
    mask[1, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ids = torch.randint(1, model.config.vocab_size, (_BATCH, _PAST + _NEW)) * mask
    with torch.no_grad():
        cache = model(ids[:, :_PAST], attention_mask=mask[:, :_PAST], use_cache=True).past_key_values
    parts: dict[str, Any] = {}
    for number, layer in enumerate(cache.layers):
        parts |= {f"{number}.key": layer.keys, f"{number}.value": layer.values}
    possible = {"input_ids": ids[:, _PAST:], "attention_mask": mask, "position_ids": positions[:, _PAST:]}
    accepted = inspect.signature(model.forward).parameters
    inputs = {name: tensor for name, tensor in possible.items() if name in accepted}

    class WithCache(torch.nn.Module):  # type: ignore[misc]
        """The model with all keys and values as tensors, in and out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            earlier = DynamicCache()
            past = tensors[len(inputs) :]
            for number in range(len(past) // 2):
                earlier.update(past[2 * number], past[2 * number + 1], number)
            named = dict(zip(inputs, tensors, strict=False))
            result = self.model(**named, past_key_values=earlier, use_cache=True)
            present = [part for layer in result.past_key_values.layers for part in (layer.keys, layer.values)]
            return (result.logits, *present)

    axes = dict.fromkeys(("input_ids", "position_ids", "logits"), AXES) | {"attention_mask": {0: "batch", 1: "total"}}
    for name in parts:
        axes[f"past_key_values.{name}"] = {0: "batch", 2: "past"}
        axes[f"present.{name}"] = {0: "batch", 2: "total"}
    return Exportable(
        WithCache(),
        inputs | {f"past_key_values.{name}": tensor for name, tensor in parts.items()},
        ["logits", *(f"present.{name}" for name in parts)],
        axes,
    )
