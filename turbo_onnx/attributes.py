"""What an attribute of a node is, whichever way the opset spells it: written, defaulted, or moved to an input."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx.defs
import onnx_graphsurgeon as gs

from turbo_onnx.graph import STANDARD_DOMAINS, constant_value, input_or_none

# Attributes that became an input at some opset: (operator, attribute) -> the input's index.
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
AS_INPUT: dict[tuple[str, str], int] = {
    **{(f"Reduce{name}", "axes"): 1 for name in _REDUCTIONS},
    ("Squeeze", "axes"): 1,
    ("Unsqueeze", "axes"): 1,
    ("Split", "split"): 1,
    ("Dropout", "ratio"): 1,
}


class Unknown:
    """The value of an attribute that is an input computed at run time."""


UNKNOWN = Unknown()


@lru_cache(maxsize=4096)
def default(op: str, name: str, opset: int) -> Any:
    """The attribute's default in the standard operator at the opset; None where it has none."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    attribute = schema.attributes.get(name)
    if attribute is None or attribute.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


def read(node: gs.Node, name: str, opset: int) -> Any:
    """The attribute's value as Python numbers, strings or lists of them.

    None means that the node does not have it, and that the operator has no default for it; UNKNOWN that it is an
    input which is computed.
    """
    if name in node.attrs:
        value = node.attrs[name]
        return value.decode() if isinstance(value, bytes) else value
    if node.domain not in STANDARD_DOMAINS:
        return None
    index = AS_INPUT.get((node.op, name))
    tensor = input_or_none(node, index) if index is not None else None
    if tensor is not None:
        values = constant_value(tensor)
        return UNKNOWN if values is None else values.tolist()
    return default(node.op, name, opset)


def same_axes(actual: Any, expected: Any, rank: int | None) -> bool:
    """Whether two axes, or lists of axes, are the same; a negative one counts from the end where the rank is known."""

    def normalized(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [normalized(item) for item in value]
        return value + rank if rank is not None and isinstance(value, int) and value < 0 else value

    return bool(normalized(actual) == normalized(expected))
