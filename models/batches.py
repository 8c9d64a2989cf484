"""Batches of sequences of mixed lengths: random token ids, and the ways to cut a batch into smaller ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Batch = dict[str, np.ndarray]


def padded_batch(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> Batch:
    """Random ids of the given lengths, padded at the end with zeros.

    Args:
        lengths: real tokens in each sequence.
        vocabulary: ids are from 1 to this, exclusive.
        seed: of the ids.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids` (zeros), each [len(lengths), max(lengths)] int64.
    """
    generator = np.random.default_rng(seed)
    mask = (np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    ids = generator.integers(1, vocabulary, mask.shape, dtype=np.int64) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def sorted_groups(batch: Batch, size: int) -> list[Batch]:
    """The batch's sequences sorted by length, in groups of `size`, each cut to its own longest.

    With a size of one, that is one sequence at a time without any padding.

    Args:
        batch: a batch padded at the end; every array is [B, S].
        size: sequences in a group.
    """
    lengths = batch["attention_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    groups = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        longest = int(lengths[rows].max())
        groups.append({name: np.ascontiguousarray(array[rows, :longest]) for name, array in batch.items()})
    return groups
