"""Inference rules of element-wise operators."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import numpy as np

from turbo_onnx.dims import Dim, at_least
from turbo_onnx.inference import values
from turbo_onnx.inference.reading import Fact, Reading, Rule, Symbols
from turbo_onnx.inference.values import Affine, Elements, Item, Uniform, Value

BOOL = np.dtype(np.bool_)

_ARITHMETIC: dict[str, Any] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": values.divide,
    "Mod": values.modulo,
    "Max": None,  # by `_larger`
    "Min": values.minimum,
    "And": lambda a, b: a and b,
    "Or": lambda a, b: a or b,
    "Xor": lambda a, b: a != b,
    "Neg": operator.neg,
    "Not": operator.not_,
    "Abs": lambda a: a if at_least(a, 0) else (-a if at_least(-a, 0) else None),
}
_COMPARISON: dict[str, Any] = {
    "Equal": values.equal,
    "Greater": values.greater,
    "GreaterOrEqual": values.greater_or_equal,
    "Less": values.less,
    "LessOrEqual": values.less_or_equal,
}
_PLAIN_UNARY = """
    Acos Acosh Asin Asinh Atan Atanh Ceil Celu Clip Cos Cosh CumSum Dropout Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Hardmax LeakyRelu Log LogSoftmax Mish PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu
""".split()


def _is_integral(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "iub"


def _join(read: Reading, dtype: Any, function: Any) -> Fact:
    shape = read.broadcast(*(fact.shape for fact in read.inputs if fact is not None))
    value: Value | None = None
    facts = [fact for fact in read.inputs if fact is not None]
    if function is not None and shape is not None and all(_is_integral(f.dtype) for f in facts):
        if len(facts) > 2:
            function = None
        else:
            value = values.combine(function, *(f.value for f in facts), rank=len(shape))
    if value is None and read.node.op in ("And", "Or") and shape is not None:
        decisive = read.node.op == "Or"
        if any(values.single(f.value) is decisive for f in facts):
            value = Uniform(decisive)
    return Fact(dtype, shape, value)


def _arithmetic(read: Reading) -> list[Fact]:
    dtype = next((f.dtype for f in read.inputs if f is not None and f.dtype is not None), None)
    truncating = read.node.op == "Mod" and read.attr("fmod", 0)
    function = None if truncating else _ARITHMETIC.get(read.node.op)
    return [_join(read, dtype, partial(_larger, read.symbols) if read.node.op == "Max" else function)]


def _larger(symbols: Symbols, a: Item, b: Item) -> Item:
    known = values.maximum(a, b)
    return symbols.beyond(a, b) if known is None else known


def _comparison(read: Reading) -> list[Fact]:
    return [_join(read, BOOL, _COMPARISON.get(read.node.op))]


def _unary(read: Reading) -> list[Fact]:
    fact = read.fact(0)
    results = [Fact(fact.dtype, fact.shape)]
    if read.node.op == "Dropout" and len(read.node.outputs) > 1:
        results.append(Fact(BOOL, fact.shape))
    return results


def _to_bool(read: Reading) -> list[Fact]:
    return [Fact(BOOL, read.shape(0))]


def _cast(read: Reading) -> list[Fact]:
    import onnx

    fact, to = read.fact(0), read.attr("to")
    dtype: Any
    if read.node.op == "CastLike":
        dtype = read.fact(1).dtype
    elif isinstance(to, int):
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
        except (KeyError, TypeError):
            dtype = to
    else:
        dtype = np.dtype(to)
    value = fact.value if _is_integral(dtype) else None
    if value is not None and isinstance(dtype, np.dtype) and dtype.kind == "b":
        value = _truth(value)
    elif isinstance(value, (Elements, Uniform)) and _is_integral(fact.dtype) and fact.dtype.kind == "b":
        value = values.combine(lambda item: int(item) if isinstance(item, bool) else None, value, rank=0)
    return [Fact(dtype, fact.shape, value)]


def _truth(value: Value) -> Value | None:
    def truth(item: Item) -> Item:
        if isinstance(item, (int, bool)):
            return bool(item)
        return True if at_least(item, 1) else None

    if isinstance(value, (Elements, Uniform)):
        return values.combine(truth, value, rank=0)
    return None


def _where(read: Reading) -> list[Fact]:
    condition, yes, no = (read.fact(index) for index in range(3))
    shape = read.broadcast(condition.shape, yes.shape, no.shape)
    dtype = yes.dtype if yes.dtype is not None else no.dtype
    value: Value | None = None
    choice = values.single(condition.value)
    if isinstance(choice, bool):
        chosen = yes if choice else no
        value = chosen.value if chosen.shape == shape else None
        if value is None and values.single(chosen.value) is not None:
            value = Uniform(values.single(chosen.value))
    elif shape is not None and all(isinstance(f.value, Elements) for f in (condition, yes, no)):
        value = values.combine(
            lambda c, a, b: (a if c else b) if isinstance(c, bool) else None,
            condition.value,
            yes.value,
            no.value,
            rank=len(shape),
        )
    return [Fact(dtype, shape, value)]


def _range(read: Reading) -> list[Fact]:
    start, limit, delta = (values.single(read.fact(index).value) for index in range(3))
    dtype = read.fact(0).dtype
    if start is None or limit is None or delta is None or isinstance(delta, Dim) or delta == 0:
        return [Fact(dtype, (read.fresh("range"),))]
    if delta == 1 and at_least(limit, start):
        size: Dim | int = limit - start
    elif all(isinstance(item, int) for item in (start, limit, delta)):
        size = max(0, -((start - limit) // delta))
    elif at_least(start, limit) and delta == 1:
        size = 0
    else:
        size = read.fresh("range")
    return [Fact(dtype, (size,), Affine(start, (delta,)))]


def _constant_of_shape(read: Reading) -> list[Fact]:
    items = read.items(0)
    filler = read.attr("value")
    array = np.zeros(1, np.float32) if filler is None else np.asarray(getattr(filler, "values", filler))
    shape = None
    if items is not None:
        shape = tuple(read.fresh(f"fill{axis}") if item is None else item for axis, item in enumerate(items))
    else:
        given = read.shape(0)
        if given is not None and len(given) == 1 and isinstance(given[0], int):
            shape = tuple(read.fresh(f"fill{axis}") for axis in range(given[0]))
    value: Value | None = None
    if array.dtype.kind in "iub":
        item = array.reshape(-1)[0].item()
        value = Uniform(item)
        if shape is not None and all(isinstance(size, int) for size in shape):
            value = values.elements(np.full(shape, item, dtype=array.dtype)) or value
    return [Fact(array.dtype, shape, value)]


RULES: dict[str, Rule] = {
    **dict.fromkeys([*_ARITHMETIC, "Pow", "Sum", "Mean", "BitShift", "BitwiseAnd", "BitwiseOr"], _arithmetic),
    **dict.fromkeys(_COMPARISON, _comparison),
    **dict.fromkeys(_PLAIN_UNARY, _unary),
    **dict.fromkeys(("IsNaN", "IsInf"), _to_bool),
    "Cast": _cast,
    "CastLike": _cast,
    "Where": _where,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
}
