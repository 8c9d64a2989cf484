"""The stages, as ordered lists of passes, and how they are run.

To add a pass, import it and put it into its stage; nothing registers itself. Passes run in the order of the lists, and
shapes are inferred anew before each that follows a change, so that no pass sees what another left stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from turbo_onnx import invariants, shapes
from turbo_onnx.errors import InputError, PassError, TurboOnnxError
from turbo_onnx.graph import Editor, subgraphs
from turbo_onnx.model import Model
from turbo_onnx.options import Options
from turbo_onnx.passes.base import Pass, PassReport
from turbo_onnx.passes.cancel_transposes import CancelTransposes
from turbo_onnx.passes.convert_constants import ConvertConstants
from turbo_onnx.passes.convert_precision import ConvertPrecision
from turbo_onnx.passes.embed_kernels import EmbedKernels
from turbo_onnx.passes.fold_constants import FoldConstants
from turbo_onnx.passes.fuse_bias_gelu import FuseBiasGelu
from turbo_onnx.passes.fuse_embed_layer_normalization import FuseEmbedLayerNormalization
from turbo_onnx.passes.fuse_gated_activation import FuseGatedActivation
from turbo_onnx.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from turbo_onnx.passes.fuse_normalization import FuseNormalization
from turbo_onnx.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from turbo_onnx.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from turbo_onnx.passes.gather_before_transposing import GatherBeforeTransposing
from turbo_onnx.passes.limit_forms import LimitForms
from turbo_onnx.passes.lower_attention import LowerAttention
from turbo_onnx.passes.lower_gelu import LowerGelu
from turbo_onnx.passes.lower_rms_normalization import LowerRmsNormalization
from turbo_onnx.passes.merge_duplicates import MergeDuplicates
from turbo_onnx.passes.merge_gated_projections import MergeGatedProjections
from turbo_onnx.passes.merge_projections import MergeProjections
from turbo_onnx.passes.multiply_as_stored import MultiplyAsStored
from turbo_onnx.passes.normalize_before_transposing import NormalizeBeforeTransposing
from turbo_onnx.passes.optimize_branches import OptimizeBranches
from turbo_onnx.passes.plan_memory import PlanMemory
from turbo_onnx.passes.pool_first_tokens_early import PoolFirstTokensEarly
from turbo_onnx.passes.quantize_linear import QuantizeLinear
from turbo_onnx.passes.raise_attention import RaiseAttention
from turbo_onnx.passes.raise_gelu import RaiseGelu
from turbo_onnx.passes.raise_layer_normalization import RaiseLayerNormalization
from turbo_onnx.passes.raise_linear import RaiseLinear
from turbo_onnx.passes.raise_opset import RaiseOpset
from turbo_onnx.passes.raise_rms_normalization import RaiseRmsNormalization
from turbo_onnx.passes.raised import RAISED_DOMAIN
from turbo_onnx.passes.read_sizes_of_inputs import ReadSizesOfInputs
from turbo_onnx.passes.remove_arange_gathers import RemoveArangeGathers
from turbo_onnx.passes.remove_no_ops import RemoveNoOps
from turbo_onnx.passes.remove_padding import RemovePadding
from turbo_onnx.passes.simplify_shapes import SimplifyShapes
from turbo_onnx.passes.widen_precision import WidenPrecision

CLEAN: tuple[Pass, ...] = (
    ConvertConstants(),
    WidenPrecision(),
    RemoveNoOps(),
    SimplifyShapes(),
    FoldConstants(),
    RemoveArangeGathers(),
    GatherBeforeTransposing(),
    SimplifyShapes(),
    FoldConstants(),
    RemoveNoOps(),
    ReadSizesOfInputs(),
    MergeDuplicates(),
)
RAISE: tuple[Pass, ...] = (
    RaiseOpset(),
    RaiseLayerNormalization(),
    RaiseRmsNormalization(),
    NormalizeBeforeTransposing(),
    RaiseGelu(),
    RaiseLinear(),
    RaiseAttention(),
    FuseMultiHeadAttention(),
    CancelTransposes(),
)
PACK: tuple[Pass, ...] = (RemovePadding(), PoolFirstTokensEarly())
FUSE: tuple[Pass, ...] = (
    FuseEmbedLayerNormalization(),
    FuseSkipLayerNormalization(),
    FuseNormalization(),
    FuseGatedActivation(),
    FuseBiasGelu(),
    FuseRotaryEmbedding(),
    MergeProjections(),
    MergeGatedProjections(),
)
LOWER: tuple[Pass, ...] = (
    LowerAttention(),
    LowerGelu(),
    LowerRmsNormalization(),
)
BRANCHES: tuple[Pass, ...] = (OptimizeBranches(),)
CONVERT: tuple[Pass, ...] = (ConvertPrecision(), QuantizeLinear())
STORE: tuple[Pass, ...] = (MultiplyAsStored(),)
NAME: tuple[Pass, ...] = (LimitForms(),)

STAGES: Mapping[str, tuple[Pass, ...]] = {
    "clean": CLEAN,
    "raise": RAISE,
    "pack": PACK,
    "fuse": FUSE,
    "lower": LOWER,
    "branches": BRANCHES,
    "convert": CONVERT,
    "store": STORE,
    "name": NAME,
}


FOR_GPUS = (MergeGatedProjections,)
"""What gains nothing on a CPU, and runs for one only if it is asked for by name."""

FOR_CPUS = STORE
"""What writes operators that ONNX Runtime has in float32 for the CPU."""

WHOLE_MODEL = (RaiseOpset, WidenPrecision)
INSIDE = tuple(type(step) for step in (*CLEAN, *RAISE, *FUSE, *LOWER) if not isinstance(step, WHOLE_MODEL))
"""What runs in branches, too."""

LAST = (EmbedKernels.name, PlanMemory.name)
"""What runs behind all others: for CUDA kernels are embedded, for the CPU memory is planned."""


def passes() -> list[Pass]:
    """All passes in the order in which they run, but for the last one, which depends on the target: see `LAST`."""
    return [step for stage in STAGES.values() for step in stage]


def require_known(asked: Iterable[str]) -> None:
    """Raises InputError where one of these is the name of no pass."""
    known = dict.fromkeys([*names(passes()), *LAST])
    for name in asked:
        if name not in known:
            raise InputError(f"there is no pass '{name}'; the passes are {', '.join(known)}.")


def select(options: Options) -> list[Pass]:
    """The passes that the options ask for; those that make what is left run everywhere always do.

    A precision other than float32 asks for the pass that converts to it, whatever else is chosen, and CUDA for the one
    that embeds kernels. Whoever runs the passes gives the one that plans memory what makes the plan.

    Raises:
        InputError: an option names a pass that there is not.
    """
    require_known([*(options.passes or ()), *options.skip_passes])
    skipped = set(options.skip_passes)
    if options.packing == "off":
        skipped |= {step.name for step in PACK}
    if not options.capabilities and options.passes is None:
        skipped |= {step.name for step in FUSE if isinstance(step, FOR_GPUS)}
    if options.capabilities:
        skipped |= {step.name for step in FOR_CPUS}
    chosen = [step for step in passes() if options.passes is None or step.name in options.passes]
    chosen = [step for step in chosen if step.name not in skipped]
    precision = options.precision or "fp32"
    asked = CONVERT if precision != "fp32" else ()
    chosen += [step for step in asked if step.name not in skipped]
    kept = [step for step in passes() if step in (*LOWER, *NAME) or step in chosen]
    if options.packing == "on":
        kept = [RemovePadding(always=True) if isinstance(step, RemovePadding) else step for step in kept]
    inside = [step for step in kept if isinstance(step, INSIDE)]
    if not options.capabilities:
        rewrite = partial(run, steps=inside)
        kept = [OptimizeBranches(rewrite) if isinstance(step, OptimizeBranches) else step for step in kept]
    kept = [type(step)(precision) if isinstance(step, ConvertPrecision | QuantizeLinear) else step for step in kept]
    if options.capabilities and EmbedKernels.name not in skipped:
        kept.append(EmbedKernels(options.capabilities, options.tuning))
    planned = PlanMemory.name in (options.passes or (PlanMemory.name,)) and PlanMemory.name not in skipped
    if planned and not options.capabilities:
        kept.append(PlanMemory())
    return kept


def run(
    model: Model,
    steps: Iterable[Pass],
    *,
    checks: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[PassReport]:
    """Run the passes over the model, in order.

    Args:
        model: edited in place.
        steps: the passes.
        checks: after each pass, check that the graph is whole and that running the pass again changes nothing.
        progress: called with the name of each pass before it runs.

    Returns:
        one report for each pass.

    Raises:
        PassError: a pass failed, or left a broken graph. Names the pass.
    """
    reports = []
    _prepare(model)
    shapes_are_known = False
    for step in steps:
        if progress is not None:
            progress(step.name)
        start = time.perf_counter()
        report = _run_one(model, step, infer=not shapes_are_known)
        shapes_are_known = not report.applied
        report.summary = step.summary
        report.seconds = time.perf_counter() - start
        reports += [report, *report.inside]
        if checks:
            _check(model, step)
    _finish(model)
    return reports


def _prepare(model: Model) -> None:
    editor = Editor(model.graph)
    editor.remove_unused()
    editor.sort()


def _run_one(model: Model, step: Pass, *, infer: bool = True) -> PassReport:
    try:
        if infer:
            shapes.infer(model)
        return step.run(model)
    except TurboOnnxError:
        raise
    except Exception as error:
        raise PassError(
            f"{model.name}: the pass {step.name} failed ({type(error).__name__}: {error}); this is a bug in turbo-onnx,"
            f" please report it; `--skip-pass {step.name}` works around it."
        ) from error


def _check(model: Model, step: Pass) -> None:
    try:
        invariants.check(model)
        shapes.infer(model)
        if not step.repeats:
            return
        before = invariants.fingerprint(model)
        again = _run_one(model, step)
        if again.applied or invariants.fingerprint(model) != before:
            raise invariants.BrokenGraphError(f"a second run changed the graph again ({again.applied} times)")
    except invariants.BrokenGraphError as broken:
        raise PassError(f"{model.name}: the pass {step.name} broke the graph: {broken}.") from broken


def _finish(model: Model) -> None:
    """Learn the final shapes, and make sure that no operator is left that only exists between stages."""
    try:
        shapes.infer(model)
    except Exception as error:
        raise PassError(f"{model.name}: the shapes of the result cannot be inferred: {error}") from error
    left = sorted({f"{node.op} ({node.name})" for node in model.graph.nodes if node.domain == RAISED_DOMAIN})
    if left:
        raise PassError(f"{model.name}: raised operators were left in the graph: {', '.join(left)}.")


def operator_counts(model: Model) -> dict[str, int]:
    """How many nodes of each operator the model has, subgraphs included; most frequent first.

    Operators outside of the standard domain are named with their domain: `com.microsoft.FusedMatMul`.
    """
    counts: dict[str, int] = {}
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        for node in graph.nodes:
            label = node.op if node.domain in (None, "", "ai.onnx") else f"{node.domain}.{node.op}"
            counts[label] = counts.get(label, 0) + 1
            stack.extend(subgraphs(node))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def names(steps: Sequence[Pass]) -> list[str]:
    """The names of the passes."""
    return [step.name for step in steps]
