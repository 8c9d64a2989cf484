"""Which elements of an output mean something: those of real tokens, and of sequences that have any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbo_onnx.padding_mask import ReadMask
from turbo_onnx.verify_inputs import InputSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Counted:
    """What is compared in one case.

    Attributes:
        tokens: [B, S], which tokens are real, where padding was removed; else None, and all tokens count.
        sequences: [B], which sequences count in outputs that have no token axis; None for all.
    """

    tokens: Array | None = None
    sequences: Array | None = None

    @classmethod
    def of(
        cls,
        feed: Mapping[str, Array],
        specs: Sequence[InputSpec],
        mask: str | ReadMask | None,
        first_token: bool = False,
    ) -> Counted:
        """What counts for these inputs.

        Args:
            feed: the inputs.
            specs: what they are.
            mask: the input that says which tokens are real, or what computes it, if padding was removed.
            first_token: the result pools the first real token, where the original took the first position.
        """
        real = None if mask is None else feed[mask] if isinstance(mask, str) else mask(feed)
        if real is None or np.ndim(real) != 2:
            return cls(None, _with_tokens(feed, specs))
        tokens = np.asarray(real) != 0
        sequences = tokens.any(axis=1)
        if first_token and tokens.shape[1]:
            sequences = sequences & tokens[:, 0]
        return cls(tokens, sequences)

    def of_output(self, shape: tuple[int, ...]) -> Any:
        """An index that selects what counts in an output.

        Args:
            shape: of the output. Its first axis is the batch if it is as long as the masks'; each other axis that is
                as long as a sequence is taken for one of tokens.
        """
        if self.sequences is None or not shape or shape[0] != self.sequences.shape[0]:
            return ...
        axes = [] if self.tokens is None else [a for a in range(1, len(shape)) if shape[a] == self.tokens.shape[1]]
        if self.tokens is None or not axes:
            return np.broadcast_to(self.sequences.reshape((-1,) + (1,) * (len(shape) - 1)), shape)
        keep = np.ones(shape, bool)
        for axis in axes:
            keep &= self.tokens.reshape([size if a in (0, axis) else 1 for a, size in enumerate(shape)])
        return keep


def _with_tokens(feed: Mapping[str, Array], specs: Sequence[InputSpec]) -> Array | None:
    """[B], which sequences have a token in every mask; None without masks.

    Attention over nothing but padding weighs all keys by what rounding leaves of their scores: it means nothing.
    """
    masks = [np.asarray(feed[spec.name]) != 0 for spec in specs if spec.kind == "mask" and len(spec.shape) > 1]
    if not masks or len({mask.shape[0] for mask in masks}) > 1:
        return None
    return np.asarray(np.logical_and.reduce([mask.any(axis=tuple(range(1, mask.ndim))) for mask in masks]))
