"""Compare what passes make of a model with the model as it was, which runs once, however often that is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from turbo_onnx.emulation import runnable_on_cpu
from turbo_onnx.model import Model
from turbo_onnx.own_precision import coarsest, coarsest_result, computes_in_half, learn_types
from turbo_onnx.padding_mask import computed_mask
from turbo_onnx.precision import Precision
from turbo_onnx.report import Report
from turbo_onnx.serialization.reading import read
from turbo_onnx.verify import Reference, Verification, refer, verify
from turbo_onnx.verify_inputs import Feed, InputSpec, with_binary_inputs


class Proof:
    """What the original of a model computes on ragged inputs, and how far from it others are.

    Args:
        loaded: the model as it was read, with its types; nothing of its graph is kept.
        specs: what its inputs are.
        cases: inputs of the caller's, by the name of the case.
        on_gpu: whether others are for GPUs, and run on one, too.
    """

    def __init__(
        self, loaded: Model, specs: Sequence[InputSpec], cases: Mapping[str, Feed], *, on_gpu: bool = False
    ) -> None:
        self._path = loaded.path
        self._origin = loaded.origin
        self._precision = coarsest_result(loaded)
        self._specs = specs
        self._cases = cases
        self._on_gpu = on_gpu
        self._reference: Reference | None = None

    def of(self, model: Model, written: Path, report: Report) -> Verification:
        """Compare a model that came of the original.

        Args:
            model: as the passes left it.
            written: the file that it was written to.
            report: what the passes did: where padding is, and how coarse the numbers are.
        """
        mask = report.facts.get("mask_input")
        mask = str(mask) if report.packed and mask is not None else None
        known = [InputSpec(s.name, s.dtype, s.shape, "mask") if s.name == mask else s for s in self._specs]
        known = with_binary_inputs(known, model)
        precision = coarsest(self._precision, report.precision["type"])
        if self._reference is None:
            rounded = bool(report.facts.get("half_precision_kept"))
            with _original(self._source(), precision, rounded) as original:
                self._reference = refer(original, known, self._cases)
        with runnable_on_cpu(model, written) as candidate:
            return verify(
                self._reference,
                candidate,
                known,
                mask=computed_mask(model) if mask is not None and mask not in {s.name for s in known} else mask,
                first_token=report.first_token_pooling,
                precision=precision,
                level="none" if computes_in_half(model) else "all",
                on_gpu=written if self._on_gpu else None,
            )

    def _source(self) -> Path | bytes:
        assert self._origin is not None
        return self._path if self._path is not None else bytes(self._origin.file.content)


@contextmanager
def _original(source: Path | bytes, precision: Precision, rounded: bool) -> Iterator[Path | bytes]:
    """What ONNX Runtime can run of the original on the CPU: rounded where decisions depend on that."""
    if precision != "bf16":
        yield source
        return
    model = read(source)
    learn_types(model)
    with runnable_on_cpu(model, source, rounded=rounded) as original:
        yield original
