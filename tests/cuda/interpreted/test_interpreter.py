"""What the interpreter is asked to find in a kernel is found."""

from __future__ import annotations

import numpy as np
import pytest
from triton.runtime.errors import InterpreterError

from tests.cuda.interpreter import interpret
from turbo_onnx.custom_ops.cuda.variant import Variant

INTEGER = {"i32": np.int32, "i64": np.int64}


def computed(name: str, kind: str, a: int, b: int) -> int:
    """What a kernel of `small_kernels.py` makes of two integers of a type, by a function that it calls."""
    result = np.zeros(1, np.int64)
    given = [np.array(result.ctypes.data, np.uint64), np.array(a, INTEGER[kind]), np.array(b, INTEGER[kind])]
    arguments = {"result": "*i64", "a": kind, "b": kind}
    variant = Variant(name, "tests.cuda.small_kernels", "integers", arguments, {"OPERATION": name})
    interpret(variant, (1, 1, 1), [value.ctypes.data for value in given])
    return int(result[0])


LARGE = [("add", 2**31 - 1, 1), ("sub", -(2**31), 1), ("mul", 2**16, 2**15)]


@pytest.mark.parametrize(("name", "a", "b"), LARGE)
def test_integers_that_overflow_are_an_error(name: str, a: int, b: int) -> None:
    expected = {"add": a + b, "sub": a - b, "mul": a * b}[name]
    assert computed(name, "i64", a, b) == expected
    with pytest.raises(InterpreterError, match=f"int32 overflow detected for operation {name}"):
        computed(name, "i32", a, b)


@pytest.mark.parametrize(("name", "a", "b"), LARGE)
def test_integers_that_just_fit_are_not(name: str, a: int, b: int) -> None:
    a, b = (a - 1, b) if name == "add" else (a + 1, b) if name == "sub" else (-a, b)
    assert computed(name, "i32", a, b) == {"add": a + b, "sub": a - b, "mul": a * b}[name]
