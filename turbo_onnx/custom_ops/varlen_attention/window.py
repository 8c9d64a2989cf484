"""Which keys a query may see, how heads share keys and how these lie: what the attributes of VarlenAttention say.

Causal attention is a window that ends at the query itself, so everything that computes knows windows only.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from turbo_onnx.custom_ops.specification import Attributes


class Window(NamedTuple):
    """How many positions before and after its own a query sees; None where there is no end.

    Attributes:
        before: not negative.
        after: not negative.
    """

    before: int | None
    after: int | None

    @property
    def unbounded(self) -> bool:
        """Whether every query sees every key."""
        return self.before is None and self.after is None

    @property
    def causal(self) -> bool:
        """Whether every query sees all that is not behind it: no position but the order of rows decides."""
        return self.before is None and self.after == 0

    @property
    def by_distance(self) -> bool:
        """Whether distances decide what a query sees, and not the order of rows alone."""
        return not self.unbounded and not self.causal


def window_of(attributes: Attributes) -> Window:
    """The window that attributes ask for, `causal` among them; those that are left out have their defaults.

    Raises:
        ValueError: a bound is below -1.
    """
    before, after = (_bound(name, int(attributes.get(name, -1))) for name in ("window_before", "window_after"))
    return Window(before, 0 if attributes.get("causal", 0) else after)


def key_heads(attributes: Attributes) -> int:
    """How many heads of keys and values there are: each serves as many neighbouring heads of queries.

    Raises:
        ValueError: the heads of queries are not a multiple of them.
    """
    heads, shared = int(attributes["num_heads"]), int(attributes.get("kv_num_heads", 0))
    if shared < 0 or (shared and heads % shared):
        raise ValueError(f"num_heads = {heads} is not a multiple of kv_num_heads = {shared}")
    return shared or heads


def keys_by_head(attributes: Attributes, present: Container[str]) -> bool:
    """Whether keys and values are [B, G, L, D] and not rows, given which optional operands there are.

    Raises:
        ValueError: they cannot be.
    """
    by_head = bool(attributes.get("keys_by_head", 0))
    if by_head and ("key" not in present or "cu_seqlens" in present):
        raise ValueError("keys_by_head is 1, but key and value must be there, and cu_seqlens must not")
    return by_head


def _bound(name: str, value: int) -> int | None:
    if value < -1:
        raise ValueError(f"{name} is {value}, but must be -1 or more")
    return None if value == -1 else value
