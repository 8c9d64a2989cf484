"""The whole way of one model: read, run the passes, verify, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress, count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from turbo_onnx import __version__, pipeline
from turbo_onnx.calibration import Samples, magnitudes
from turbo_onnx.custom_ops.cuda import tuning as tuning_files
from turbo_onnx.custom_ops.remove_padding.spec import TOTAL_TOKENS
from turbo_onnx.custom_ops.specification import is_ours
from turbo_onnx.emulation import fed
from turbo_onnx.errors import FusionRequiredError, InputError, OutputError
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, from_json
from turbo_onnx.model import Model
from turbo_onnx.options import Options, Packing
from turbo_onnx.own_precision import learn_types, own_precision
from turbo_onnx.passes.base import Pass
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.passes.embed_kernels import EmbedKernels
from turbo_onnx.passes.limit_forms import limited
from turbo_onnx.passes.plan_memory import PlanMemory
from turbo_onnx.passes.quantize_linear import QuantizeLinear
from turbo_onnx.passes.widen_precision import WidenPrecision
from turbo_onnx.planning import make_plan
from turbo_onnx.precision import Precision
from turbo_onnx.proof import Proof
from turbo_onnx.report import Report
from turbo_onnx.serialization import writing
from turbo_onnx.serialization.metadata import Artifact
from turbo_onnx.serialization.reading import read
from turbo_onnx.verify import load_cases, require
from turbo_onnx.verify_inputs import Feed, InputSpec, describe, with_binary_inputs

Inputs = str | Path | Mapping[str, np.ndarray[Any, Any]]
_QUANTIZING = {"QuantizeLinear", "DynamicQuantizeLinear", "com.microsoft.DynamicQuantizeMatMul"}


@dataclass
class Result:
    """An optimized model and how it came about.

    Attributes:
        report: what was done.
        optimized: the model as the passes left it; its weights stay in the original's file.
    """

    report: Report
    optimized: Model

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The optimized model, with all its weights. A model over 2 GB can only be saved."""
        return self.optimized.to_proto()

    def require_plan(self) -> MemoryPlan:
        """The memory plan that the model carries.

        Raises:
            InputError: none was made.
        """
        carried = self.optimized.metadata.get(METADATA_KEY)
        if carried is None:
            why = [rejection.sentence for rejection in self.report.rejected if rejection.rule == PlanMemory.name]
            raise InputError(f"{self.report.model}: it has no memory plan{': ' + why[0] if why else ''}.")
        return from_json(carried, self.report.model)

    def save(self, path: str | Path, *, external: bool | None = None) -> None:
        """Write the model, whole or not at all.

        Args:
            path: the file.
            external: keep weights of 1 KiB and more in `PATH.data` beside it; None: only over 2 GB.

        Raises:
            OutputError: it cannot be written there.
        """
        target = Path(path)
        check_output(self.optimized, target)
        self.optimized.save(target, external)
        self.report.output = str(target)


def optimize(
    model: str | Path | bytes | onnx.ModelProto,
    *,
    output: str | Path | None = None,
    packing: Packing = "auto",
    passes: Sequence[str] | None = None,
    skip_passes: Sequence[str] = (),
    verify: bool = True,
    inputs: Inputs | Sequence[str | Path] | None = None,
    require_fusion: bool = False,
    external: bool | None = None,
    target: str = "cpu",
    precision: Precision | None = None,
    tuning: str | Path | None = None,
    checks: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Make a model that computes the same outputs faster.

    Args:
        model: a path, a serialized model, or a ModelProto, which is not changed.
        output: where to write the result; None: nowhere, see `Result.save`.
        packing: remove padding where it pays ("auto"), wherever it can be done ("on"), or never ("off").
        passes: run only these passes; None for all.
        skip_passes: leave these out.
        verify: run both models on ragged inputs and compare, before anything is written.
        inputs: further inputs to compare on, and to learn the range of the numbers from where they go to half
            precision: `.npz` files, or arrays by input name.
        require_fusion: fail unless the model has attention and all of it was fused.
        external: keep weights of 1 KiB and more in `OUTPUT.data`; None: only over 2 GB.
        target: what the result will run on: "cpu", or "cuda", for which kernels are compiled and stored in it;
            "cuda:sm_80,sm_90" says for which architectures.
        precision: what to compute in, as far as the result allows it: "fp32", for GPUs "fp16" or "bf16", for the CPU
            "int8"; None: for GPUs what the model computes in itself, for the CPU float32.
        tuning: a file of `turbo-onnx autotune`: how kernels run fastest on the GPUs that it was run on.
        checks: check the graph after every pass (slow; for development).
        progress: called with what is done next.

    Raises:
        InputError: the model, an option or the output is not usable.
        VerificationError: the result differs from the original. Nothing was written.
        FusionRequiredError: `require_fusion`, and a fusion did not happen. Nothing was written.
    """
    start = time.perf_counter()
    options = Options(
        packing=packing,
        passes=None if passes is None else tuple(passes),
        skip_passes=tuple(skip_passes),
        verify=verify,
        require_fusion=require_fusion,
        target=target,
        precision=precision,
        tuning=None if tuning is None else tuning_files.read(Path(tuning)),
        checks=checks,
    )
    asked = pipeline.select(options)
    for step in asked:
        if isinstance(step, EmbedKernels):
            step.require_compiler()
    say = progress or (lambda _: None)
    say("read")
    loaded = read(model)
    learn_types(loaded)
    own = own_precision(loaded)
    widens = any(isinstance(step, WidenPrecision) for step in asked)
    options = options.for_model(own if widens else "fp32")
    steps = pipeline.select(options)
    path = Path(output) if output is not None else None
    if path is not None:
        check_output(loaded, path)
    specs = fed(describe(loaded))
    cases = _own_cases(inputs, specs)
    proof = Proof(loaded, specs, cases, on_gpu=bool(options.capabilities))
    scratch = None if path is None else path.parent
    measure = partial(magnitudes, samples=Samples(specs, cases), scratch=scratch)
    convert = ConvertPrecision(options.precision or "fp32", measure, own)
    steps = [convert if isinstance(step, ConvertPrecision) else step for step in steps]
    plan = PlanMemory(
        lambda model, sizes, branch: make_plan(
            model, sizes, branch, specs=with_binary_inputs(specs, model), scratch=scratch
        )
    )
    steps = [plan if isinstance(step, PlanMemory) else step for step in steps]

    report = Report(loaded.name, ops_before=pipeline.operator_counts(loaded))
    report.own_precision = own
    exact, coarse = _around_quantization(steps) if verify else (steps, [])
    report.passes = pipeline.run(loaded, exact, checks=checks, progress=say)
    report.first_token_pooling = pools_first_token(loaded)
    if coarse:
        say("verify in float32")
        _verify_in_float32(loaded, proof, report, scratch)
        report.passes += pipeline.run(loaded, coarse, checks=checks, progress=say)
    report.ops_after = pipeline.operator_counts(loaded)
    report.packed_node_share = packed_node_share(loaded)
    report.notes = _notes(report)
    if require_fusion:
        _require_fusion(report)
    _record(loaded, options, report)

    if path is not None or verify:
        with _destination(path) as folder:
            name = path.name if path is not None else "model.onnx"
            say("write")
            loaded.write(folder, name, external)
            if verify:
                say("verify")
                report.verify = proof.of(loaded, folder / name, report)
                require(report.verify, report.model, _hint(report, options.precision))
    report.output = str(path) if path is not None else None
    report.seconds = time.perf_counter() - start
    return Result(report, loaded)


def default_output(path: Path) -> Path:
    """`NAME.turbo.onnx` beside the input.

    Raises:
        InputError: the input has no name, as the folder that one is in.
    """
    if not path.name:
        raise InputError(f"{path}: it is a folder; name the ONNX file in it.")
    return path.with_name(f"{path.stem if path.suffix == '.onnx' else path.name}.turbo.onnx")


def check_output(model: Model, path: Path) -> None:
    """Refuse to write over the model's own files, through links too, or where no file can be.

    Raises:
        OutputError: the path is one of the input's files, no file, or in a folder that cannot be written to.
    """
    writing.require_place(path, "output")
    for written in (path, path.with_name(f"{path.name}.data")):
        file = model.origin.file_at(written) if model.origin is not None else None
        if file is not None:
            raise OutputError(f"{path}: writing it would overwrite the input {file}; choose another output.")


def pools_first_token(model: Model) -> bool:
    """Whether the model takes the first real token of each sequence."""
    return any(
        node.op == "SegmentPooling" and is_ours(node.domain) and node.attrs.get("mode", "mean") == "first"
        for node in model.graph.nodes
    )


def packed_node_share(model: Model) -> float:
    """Nodes that read or write rows of real tokens only, in proportion to all nodes."""
    nodes = model.graph.nodes
    return sum(_on_packed_rows(node) for node in nodes) / len(nodes) if nodes else 0.0


def _on_packed_rows(node: gs.Node) -> bool:
    shapes = (tensor.shape for tensor in (*node.inputs, *node.outputs) if isinstance(tensor, gs.Variable))
    return any(isinstance(dim, str) and TOTAL_TOKENS in dim for shape in shapes for dim in shape or ())


@contextmanager
def _destination(path: Path | None) -> Iterator[Path]:
    """A folder for the result's files: beside the output, or one that goes away."""
    if path is not None:
        with writing.staging(path) as folder:
            yield folder
    else:
        with writing.scratch(None) as folder:
            yield folder


def _own_cases(inputs: Inputs | Sequence[str | Path] | None, specs: Sequence[InputSpec]) -> dict[str, Feed]:
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        return {"the given inputs": dict(inputs)}
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    cases: dict[str, Feed] = {}
    for path in paths:
        cases |= load_cases(Path(path), specs)
    return cases


def _around_quantization(steps: Sequence[Pass]) -> tuple[list[Pass], list[Pass]]:
    """The passes in front of quantization, and from there on; none of these where nothing is quantized."""
    quantizes = (isinstance(step, QuantizeLinear) and step.precision == "int8" for step in steps)
    first = next(compress(count(), quantizes), len(steps))
    return list(steps[:first]), list(steps[first:])


def _hint(report: Report, precision: Precision | None) -> str:
    """What may be done where the result differs."""
    if report.ops_before.keys() & _QUANTIZING:
        return (
            "; it makes integers of its numbers itself, which any rounding in front of them may change: optimize the"
            " model that it was made of"
        )
    return "; --precision fp32 keeps its numbers" if precision == "int8" else ""


def _verify_in_float32(model: Model, proof: Proof, report: Report, scratch: Path | None) -> None:
    """Prove all that is done before quantization, whose own noise would hide mistakes.

    Raises:
        VerificationError: the result in float32 differs from the original.
        OutputError: it cannot be written down to run it.
    """
    with writing.scratch(scratch) as folder:
        with limited(model):
            model.write(folder, "model.onnx", external=True)  # which the runtime maps
        require(proof.of(model, folder / "model.onnx", report), report.model, _hint(report, None))


def _notes(report: Report) -> list[str]:
    """What a caller of the result should know, because it is not as in the original."""
    notes = []
    if report.packed:
        notes.append("Rows of padding in the outputs are zero; the original computes numbers there that mean nothing.")
    if report.first_token_pooling:
        notes.append(
            "The first real token of a sequence is pooled; where a sequence begins with padding, the original takes"
            " the padding instead."
        )
    return notes


def _require_fusion(report: Report) -> None:
    found, fused = report.attention_found, report.attention_fused
    if found and fused == found:
        return
    about = [r for r in report.rejected if "attention" in r.rule]
    why = f"; node '{about[0].node}': {about[0].sentence}" if about else ""
    what = f"{fused} of {found} attentions were fused" if found else "no attention was found in it"
    raise FusionRequiredError(f"{report.model}: {what}{why}; nothing was written, see `turbo-onnx explain`.")


def _record(model: Model, options: Options, report: Report) -> None:
    """Write into the model's metadata what made it, and from what."""
    assert model.origin is not None
    facts: dict[str, object] = {"packed": report.packed}
    if report.packed:
        facts |= {"mask_input": report.facts.get("mask_input"), "first_token_pooling": report.first_token_pooling}
    if report.facts.get("half_precision_kept"):
        facts["half_precision_kept"] = report.facts["half_precision_kept"]
    recorded = options.recorded() | {"precision": report.precision["type"]}
    artifact = Artifact(__version__, model.origin.digest(), recorded, facts=facts)
    model.set_metadata(artifact.properties())
