"""The real exports that whole-model tests run on, with the weights that stand in for theirs.

61 small graphs with seeded weights are in `tests/data/corpus`; the exports of a real sentence encoder are in
`models/data`, and have their real weights where the package that carries them is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from models import minilm, skeleton
from models.batches import padded_batch

CORPUS = Path(__file__).resolve().parent / "data" / "corpus"

ENCODER_FAMILIES = ("bert", "roberta", "distilbert", "albert")
"""Families in which every attention has to be fused."""


@dataclass(frozen=True)
class CorpusGraph:
    """One export.

    Attributes:
        name: family, size and variant, then the exporter (`ts` TorchScript, `dy` dynamo) and the opset.
        inputs: a padded batch of mixed lengths, by input name.
        load: makes the model with its weights; the same on every call.
    """

    name: str
    inputs: dict[str, np.ndarray]
    load: Callable[[], onnx.ModelProto]

    @property
    def family(self) -> str:
        """What the name begins with."""
        return self.name.partition("-")[0]

    @property
    def mask(self) -> np.ndarray | None:
        """The padding mask [B, S] of the batch, or None where the model has none."""
        return self.inputs.get("attention_mask")

    @property
    def half_precision(self) -> bool:
        """Whether the model computes in float16."""
        return "fp16" in self.name

    @property
    def tolerance(self) -> float:
        """The largest accepted absolute difference on rows of real tokens.

        The outputs are of size one to four. A float16 output has a unit of 1e-3 to 4e-3 there, and a few roundings
        add up. The family that shares one layer's weights among all layers repeats one layer's rounding error.
        """
        if self.half_precision:
            return 1e-2
        return 5e-5 if self.family == "albert" else 2e-5


def _small(name: str) -> CorpusGraph:
    with np.load(CORPUS / f"{name}.npz") as arrays:
        inputs = {key: arrays[key] for key in arrays.files}
    return CorpusGraph(name, inputs, lambda: skeleton.fill(skeleton.read(CORPUS / f"{name}.onnx.gz")))


def _sentence_encoder(name: str) -> CorpusGraph:
    real = minilm.package_folder() is not None
    return CorpusGraph(name, padded_batch([17, 1, 30, 5], 30522), lambda: minilm.load(name, real=real))


def graphs() -> list[CorpusGraph]:
    """Every export, by name."""
    small = [_small(path.name.removesuffix(".onnx.gz")) for path in sorted(CORPUS.glob("*.onnx.gz"))]
    return small + [_sentence_encoder(name) for name in sorted(minilm.GRAPHS)]
