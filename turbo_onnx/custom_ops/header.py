"""Write the operators' signatures for C++: `python -m turbo_onnx.custom_ops.header` rewrites ort/signatures.h.

The library's source must not say again what a specification says. The header is kept in the repository, because
building the package must not need onnx; a test fails when it is stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from turbo_onnx.custom_ops import SPECS
from turbo_onnx.custom_ops.specification import DOMAIN, Attribute, Operand, OperatorSpec

PATH = Path(__file__).with_name("ort") / "signatures.h"

_ELEMENT_TYPES = {
    "tensor(float)": "kFloat",
    "tensor(float16)": "kFloat16",
    "tensor(bfloat16)": "kBFloat16",
    "tensor(double)": "kDouble",
    "tensor(int64)": "kInt64",
    "tensor(int32)": "kInt32",
    "tensor(bool)": "kBool",
    "tensor(uint8)": "kUint8",
    "tensor(int8)": "kInt8",
}
_READERS = {int: "integer", float: "real", str: "string"}
_FIELDS = {int: "int64_t", float: "float", str: "std::string"}


def header() -> str:
    """The whole header."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "// What the specifications say of every operator. Made by `python -m turbo_onnx.custom_ops.header`."
    yield "// clang-format off"
    yield "#pragma once"
    yield ""
    yield "#include <cstddef>"
    yield "#include <cstdint>"
    yield "#include <string>"
    yield ""
    yield '#include "custom_ops/ort/abi.h"'
    yield ""
    yield "namespace turbo_onnx::signature {"
    yield ""
    yield f'constexpr const char* kDomain = "{DOMAIN}";'
    for spec in SPECS:
        yield ""
        yield from _operator(spec)
    yield ""
    yield "}  // namespace turbo_onnx::signature"
    yield ""


def _operator(spec: OperatorSpec) -> Iterator[str]:
    yield f"struct {spec.name} {{"
    yield f'  static constexpr const char* name = "{spec.name}";'
    yield f"  static constexpr int names = {names(spec)};  // X, X_2, X_3, ...: one for each form within one model"
    yield f"  struct In {{ enum : size_t {{ {', '.join(operand.name for operand in spec.inputs)} }}; }};"
    yield f"  struct Out {{ enum : size_t {{ {', '.join(operand.name for operand in spec.outputs)} }}; }};"
    yield f"  static constexpr abi::Characteristic inputs[] = {{{_characteristics(spec.inputs)}}};"
    yield f"  static constexpr abi::Characteristic outputs[] = {{{_characteristics(spec.outputs)}}};"
    yield f"  static constexpr abi::ElementType types[][{len(spec.inputs) + len(spec.outputs)}] = {{"
    yield from _rows(spec, spec.kernel_types)
    yield "  };"
    widens = spec.cuda_types != spec.kernel_types
    if widens:
        yield f"  static constexpr abi::ElementType cuda_types[][{len(spec.inputs) + len(spec.outputs)}] = {{"
        yield from _rows(spec, spec.cuda_types)
        yield "  };"
    else:
        yield "  static constexpr const auto& cuda_types = types;"
    yield f"  static constexpr bool widens = {str(widens).lower()};"
    yield "  struct Attributes {"
    for attribute in spec.attributes:
        yield f"    {_FIELDS[attribute.value_type]} {attribute.name};"
    yield "    template <class Reader>"
    unused = "" if spec.attributes else "[[maybe_unused]] "
    yield f"    static Attributes read({unused}const Reader& reader) {{"
    yield f"      return {{{', '.join(_read(attribute) for attribute in spec.attributes)}}};"
    yield "    }"
    yield "  };"
    yield "};"


def names(spec: OperatorSpec) -> int:
    """How many names the operator has: one, unless its nodes may need different function bodies in one model."""
    optional = any(operand.optional for operand in (*spec.inputs, *spec.outputs))
    baked = any(attribute.value_type is not float for attribute in spec.attributes)
    return spec.forms if optional or baked else 1


def _characteristics(operands: tuple[Operand, ...]) -> str:
    return ", ".join("abi::kOptional" if operand.optional else "abi::kRequired" for operand in operands)


def _rows(spec: OperatorSpec, types: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The types of all inputs and outputs, for each choice that a kernel takes, a line each."""
    for bound in spec.choices(types):
        row = (bound.get(operand.type, operand.type) for operand in (*spec.inputs, *spec.outputs))
        yield f"      {{{', '.join(f'abi::{_ELEMENT_TYPES[element]}' for element in row)}}},"


def _read(attribute: Attribute) -> str:
    reader = f'reader.{_READERS[attribute.value_type]}("{attribute.name}"'
    return f"{reader})" if attribute.default is None else f"{reader}, {_literal(attribute.default)})"


def _literal(value: int | float | str) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return f"{np.float32(value)!s}f"
    return str(value)


if __name__ == "__main__":
    PATH.write_text(header(), encoding="utf-8")
