"""What an operator of ours is, declared once: everything else about it is derived from here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

DOMAIN = "turbo_onnx"
CUDA_DOMAIN = f"{DOMAIN}.cuda"  # nodes that carry compiled kernels as their last input
BODY_DOMAIN = f"{DOMAIN}.body"  # nodes that run by their function body, since no kernel can be made for them
DOMAINS = (DOMAIN, CUDA_DOMAIN, BODY_DOMAIN)
DOMAIN_VERSION = 1
KERNELS = "kernels"  # the last input of a node in CUDA_DOMAIN, which no specification lists

HALF_TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")

Dim = Any  # an int, or a symbolic dimension that supports +, -, *, // and ==
Dims = tuple[Dim, ...]
Attributes = Mapping[str, Any]
Array = np.ndarray[Any, Any]
ValueType = type[int] | type[float] | type[str]


def is_ours(domain: str | None) -> bool:
    """Whether operators of this domain are those that are declared here."""
    return domain in DOMAINS


def numpy_name(onnx_type: str) -> str:
    """NumPy's name of an element type: float32 for "tensor(float)"."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


@dataclass(frozen=True)
class Operand:
    """An input or an output.

    Attributes:
        name: as in the documentation.
        type: a type variable such as "T", or one concrete type such as "tensor(int64)".
        shape: the documented symbolic shape, such as "[T, H]" or "[..., H]".
        doc: one sentence.
        optional: may be left out.
    """

    name: str
    type: str
    shape: str
    doc: str
    optional: bool = False


@dataclass(frozen=True)
class Attribute:
    """An attribute with its default; a default of None means that it is required, and `type` must then be given."""

    name: str
    default: int | float | str | None
    doc: str
    type: ValueType | None = None

    @property
    def value_type(self) -> ValueType:
        """int, float or str: as declared, or the default's."""
        if self.type is not None:
            return self.type
        if self.default is None:
            raise TypeError(f"attribute {self.name} has neither a default nor a type")
        return type(self.default)

    @property
    def is_optional_number(self) -> bool:
        """Whether it is a float that says of what is left out by default, which 0 stands for, how much there is."""
        return self.value_type is float and self.default == 0


@dataclass(frozen=True)
class OperatorSpec:
    """One operator.

    Attributes:
        name: operator type in the domain `turbo_onnx`.
        doc: the mathematical definition in words.
        inputs, outputs, attributes: the signature.
        types: for each type variable the ONNX types it may take, such as "tensor(float)".
        kernel_types: the types for which the library has a CPU kernel, as ONNX type strings, per type variable.
        or_float32: type variables that are either another one's type or float32: {"TBias": "T"}. Schemas cannot say so,
            but only such choices have kernels.
        body: makes the ONNX function that defines the operator for one kind of node: (standard opset version, 11 or
            newer; names of the optional operands that the node has; the node's attributes, defaults filled in). It
            lists every input, output and attribute of the signature, whether present or not. A model needs one
            function for each different body, and runtimes before 1.24 take only one for each operator, so depend on
            as little of the node as possible: refer to attributes, and let "" stand for an absent operand, where
            that can be done. Below opset 15 a body may assume float32 for float types.
        reference: the definition in NumPy: (inputs with None for absent ones, attributes) -> outputs.
        output_shapes: (input shapes with None for absent or unknown ones, attributes) -> output shapes; a string
            names a dimension that only the data can tell. Only asked where the shape of every optional input that is
            there is known, so that for those None means absent.
        same_sizes: (input shapes, as above) -> pairs of sizes that the kernel requires to be the same.
        forms: how many forms of it may have kernels in one model, which is the number of names that the library
            registers it by; `functions.py` says what a form is. Each costs every session 0.1 ms and 20 KB. Real models
            need half as many at most.
        on_gpus: whether there are CUDA kernels for it, too; else only passes for the CPU emit it.
    """

    name: str
    doc: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: tuple[Attribute, ...]
    types: Mapping[str, tuple[str, ...]]
    kernel_types: Mapping[str, tuple[str, ...]]
    body: Callable[[int, frozenset[str], Attributes], onnx.FunctionProto]
    reference: Callable[[Sequence[Array | None], Attributes], tuple[Array, ...]]
    output_shapes: Callable[[Sequence[Dims | None], Attributes], tuple[Dims | None, ...]]
    or_float32: Mapping[str, str] = field(default_factory=dict)
    same_sizes: Callable[[Sequence[Dims | None]], Sequence[tuple[Dim, Dim]]] = lambda _: ()
    forms: int = 2
    on_gpus: bool = True

    @property
    def cuda_types(self) -> Mapping[str, tuple[str, ...]]:
        """The types for which there is a CUDA kernel: those of the CPU, and half precision beside float32."""
        return {name: HALF_TYPES if types == HALF_TYPES[:1] else types for name, types in self.kernel_types.items()}

    def complete(self, given: Attributes) -> dict[str, Any]:
        """All attributes of a node: those that are given, and the defaults of the others that have one."""
        defaults = {a.name: a.default for a in self.attributes if a.default is not None}
        return defaults | dict(given)

    def choices(self, types: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
        """Every choice of a type for each variable, of those in `types`, that the operator is defined for."""
        for choice in itertools.product(*types.values()):
            bound = dict(zip(types, choice, strict=True))
            if all(bound[one] in (bound[other], "tensor(float)") for one, other in self.or_float32.items()):
                yield bound
