"""A kernel specialised for one use: what the compiler makes, and the key by which the library finds it again.

An operator's `cuda.py` lists the variants that a node needs; the C++ class beside it asks for one by the same key. Keys
are made of what both sides know: the element type, the sizes that the kernel was specialised for, and which optional
operands there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Constant = int | float | bool | str | None
_TRITON_TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "bool": "i8",  # a byte, 0 or 1
}

_LETTERS = {"i32": "i", "i64": "l", "fp32": "f"}


def pointer(element: str) -> str:
    """Triton's type of a pointer to elements of this type, which is given by its NumPy name."""
    return f"*{_TRITON_TYPES[element]}"


def key(name: str, *types: str, **values: int | bool) -> str:
    """`name;type;…;value=number;…`: the C++ `Key` writes the same text.

    Args:
        name: of the kernel.
        types: element types by their NumPy names: float32, float16, bfloat16, int64, …
        values: sizes and flags that the kernel is specialised for, in an order that both sides keep.
    """
    return ";".join((name, *types, *(f"{name}={int(value)}" for name, value in values.items())))


@dataclass(frozen=True)
class Variant:
    """One kernel, specialised for one architecture.

    Attributes:
        key: see `key`. The same for every architecture.
        module: where the Triton function is, such as "turbo_onnx.custom_ops.bias_gelu.cuda".
        function: its name there.
        arguments: Triton types of the run-time arguments by name, in the function's order: "*fp16" for a pointer,
            "i32", "i64", "fp32". No other types of numbers.
        constants: values of the function's `tl.constexpr` arguments by name.
        tile: what one program covers along x, y and z; the C++ side makes the grid of it.
        num_warps: 32 threads each.
        num_stages: software pipelining of loops.
    """

    key: str
    module: str
    function: str
    arguments: Mapping[str, str]
    constants: Mapping[str, Constant]
    tile: tuple[int, int, int] = (1, 1, 1)
    num_warps: int = 4
    num_stages: int = 1

    @property
    def letters(self) -> str:
        """The run-time arguments as archives and the launcher name them: pointer, i32, i64 (l), fp32, a letter each."""
        return "".join("p" if kind.startswith("*") else _LETTERS[kind] for kind in self.arguments.values())


@dataclass(frozen=True)
class Use:
    """What is known of a node before it runs.

    Attributes:
        operator: its operator, such as "BiasGelu".
        types: element types of its inputs and outputs that are there, by operand: NumPy names, such as "float16".
        shapes: their shapes, by operand; an int where a size is known, else its name. None: not even the rank.
        attributes: all of its attributes.
    """

    operator: str
    types: Mapping[str, str]
    shapes: Mapping[str, tuple[int | str, ...] | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def has(self, operand: str) -> bool:
        """Whether the optional operand is there."""
        return operand in self.types

    def size(self, operand: str, axis: int) -> int | None:
        """The size of an axis, if it is known."""
        shape = self.shapes.get(operand)
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        return size if isinstance(size, int) else None
