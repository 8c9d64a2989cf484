"""What `inspect`, `ops` and `doctor` print: a look at a model, at the operators, and at the installation."""

from __future__ import annotations

import json
import platform
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turbo_onnx import __version__, pipeline
from turbo_onnx.custom_ops.cuda.archive import Rule, unpack
from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.custom_ops.functions import operator_name
from turbo_onnx.custom_ops.specification import CUDA_DOMAIN
from turbo_onnx.errors import InputError, ModelFormatError
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.own_precision import learn_types, own_precision
from turbo_onnx.precision import Precision
from turbo_onnx.serialization.exporting import export_graph
from turbo_onnx.serialization.metadata import artifact_of
from turbo_onnx.serialization.reading import read

PACKAGES = ("onnx", "onnx-graphsurgeon", "numpy", "onnxruntime", "onnxruntime-gpu", "triton")


@dataclass
class Inspection:
    """What is in a model.

    Attributes:
        model: the file.
        bytes: of the file and its external data.
        opset, ir_version, producer: as the file says.
        parameters: elements of all initializers.
        inputs, outputs: name, type and dimensions.
        precision: what most of its products compute in: fp32, fp16, bf16 or int8.
        ops: how many nodes of each operator.
        optimized_by: the version of this tool that made it, or None.
        kernels: count, bytes and architectures of the compiled kernels in it, or None.
    """

    model: str
    bytes: int
    opset: int
    ir_version: int
    producer: str
    parameters: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    precision: Precision
    ops: dict[str, int]
    optimized_by: str | None
    kernels: dict[str, Any] | None

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def render(self) -> RenderableType:
        """For a terminal."""
        facts = Table(show_header=False, box=None)
        for name, value in (
            ("model", self.model),
            ("size", f"{self.bytes / 1e6:,.1f} MB, {self.parameters:,} parameters"),
            ("opset", f"{self.opset} (IR version {self.ir_version})"),
            ("made by", self.producer or "unknown"),
            ("computes in", self.precision),
            ("optimized", f"by turbo-onnx {self.optimized_by}" if self.optimized_by else "no"),
            *([("kernels", _kernels_line(self.kernels))] if self.kernels is not None else []),
            *(("input", f"{name} {text}") for name, text in self.inputs.items()),
            *(("output", f"{name} {text}") for name, text in self.outputs.items()),
        ):
            facts.add_row(name, Text(value))
        operators = Table("operator", "nodes", header_style="bold")
        for name, count in self.ops.items():
            operators.add_row(name, str(count))
        return Group(facts, operators)


def inspect(path: Path) -> Inspection:
    """Look at a model file. Raises InputError if it is not one."""
    model = read(path, artifacts=True)
    assert model.origin is not None
    artifact = artifact_of(model.shell, str(path))
    weights = export_graph(model.graph).weights.values()
    archive = _archive(model)
    inputs, outputs = (
        {tensor.name: _type(tensor) for tensor in some} for some in (model.graph.inputs, model.graph.outputs)
    )
    learn_types(model)  # which names sizes
    return Inspection(
        model=str(path),
        bytes=sum(file.stat().st_size for file in model.origin.files()),
        opset=model.opset,
        ir_version=model.shell.ir_version,
        producer=f"{model.shell.producer_name} {model.shell.producer_version}".strip(),
        parameters=sum(int(np.prod(constant.shape)) for constant in weights if constant is not archive),
        inputs=inputs,
        outputs=outputs,
        precision=_precision(model),
        ops=pipeline.operator_counts(model),
        optimized_by=artifact.version if artifact is not None else None,
        kernels=None if archive is None else _kernels_of(archive, str(path)),
    )


def _precision(model: Model) -> Precision:
    names = [operator_name(node.op) for graph in graphs_of(model.graph) for node in graph.nodes]
    integers = sum(names.count(product) for product in ("QuantizedMatMul", "MatMulInteger", "QLinearMatMul"))
    return "int8" if integers > names.count("MatMul") + names.count("Gemm") else own_precision(model)


def _archive(model: Model) -> gs.Constant | None:
    """The compiled kernels that the model's nodes share."""
    carriers = (node for node in model.graph.nodes if node.domain == CUDA_DOMAIN and node.inputs)
    return next((node.inputs[-1] for node in carriers if isinstance(node.inputs[-1], gs.Constant)), None)


def _kernels_of(archive: gs.Constant, name: str) -> dict[str, Any]:
    try:
        codes = unpack(archive.values.tobytes())
    except (ValueError, struct.error) as error:
        raise ModelFormatError(f"{name}: its compiled kernels cannot be read: {error}; optimize it again.") from None
    own = sorted({code.capability for code in codes if code.rule is not Rule.LATER})
    later = sorted({code.capability for code in codes if code.rule is Rule.LATER})
    return {
        "count": len({code.key for code in codes}),
        "bytes": int(archive.values.nbytes),
        "architectures": [*map(sm, own), *(f"{sm(capability)} and later (PTX)" for capability in later)],
    }


def _kernels_line(kernels: Mapping[str, Any]) -> str:
    return f"{kernels['count']} for {', '.join(kernels['architectures'])}; {kernels['bytes'] / 1e6:,.1f} MB"


def _type(tensor: object) -> str:
    shape = getattr(tensor, "shape", None)
    dims = "" if shape is None else f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"
    return f"{getattr(tensor, 'dtype', None)}{dims}"


def operators() -> RenderableType:
    """The operators of our own domain."""
    from turbo_onnx.custom_ops import SPECS

    table = Table("operator", "inputs", "outputs", "attributes", "what it computes", header_style="bold")
    for spec in SPECS:
        table.add_row(
            spec.name,
            ", ".join(operand.name + "?" * operand.optional for operand in spec.inputs),
            ", ".join(operand.name + "?" * operand.optional for operand in spec.outputs),
            ", ".join(a.name if a.default is None else f"{a.name}={a.default}" for a in spec.attributes),
            Text(" ".join(spec.doc.split("\n\n")[0].split())),
        )
    return table


def doctor() -> tuple[RenderableType, list[str]]:
    """What is installed, and what is wrong with it, one sentence each."""
    table = Table(show_header=False, box=None)
    problems: list[str] = []

    def row(name: str, find: Callable[[], str]) -> None:
        try:
            value = find()
        except Exception as error:
            value = f"not usable: {error}"
            problems.append(f"{name}: {error}")
        table.add_row(name, Text(value))

    table.add_row("turbo-onnx", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        table.add_row(package, _version(package))
    row("providers", _providers)
    row("library", _library)
    row("instruction set", _instruction_set)
    row("kernels", _kernels)
    return table, problems


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _providers() -> str:
    from turbo_onnx.sessions import runtime

    return ", ".join(runtime().get_available_providers())


def _library() -> str:
    from turbo_onnx.runtime.library import library_path, library_version

    return f"{library_path()} ({library_version()})"


def _instruction_set() -> str:
    from turbo_onnx.runtime.library import instruction_set

    return instruction_set()


def _kernels() -> str:
    from turbo_onnx.runtime import register
    from turbo_onnx.sessions import runtime

    try:
        register(runtime().SessionOptions())
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot load the library: {error}") from None
    return "registered with ONNX Runtime"
