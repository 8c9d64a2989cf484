"""What a caller can ask of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from turbo_onnx.custom_ops.cuda import targets
from turbo_onnx.custom_ops.cuda.tuning import Tuning
from turbo_onnx.errors import InputError
from turbo_onnx.precision import HALF_TYPES, PRECISIONS, Precision

Packing = Literal["auto", "on", "off"]
PACKINGS: tuple[Packing, ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class Options:
    """Options of one run.

    Attributes:
        packing: remove padding where it pays (auto), wherever it can be done (on), or never (off).
        passes: run only these passes, and what lowers their results; None for all.
        skip_passes: leave these out.
        verify: compare the result with the original before it is written.
        require_fusion: fail if an attention was found and not fused, or if none was.
        target: what the model will run on: cpu, cuda, or cuda:sm_80,sm_90. Spelt out in full here.
        precision: what to compute in, as far as the result allows it; None: for GPUs what the model computes in itself,
            for the CPU float32.
        tuning: choices for kernels that were measured; None for their own.
        checks: check the graph after every pass (slow; for development).
    """

    packing: Packing = "auto"
    passes: tuple[str, ...] | None = None
    skip_passes: tuple[str, ...] = ()
    verify: bool = True
    require_fusion: bool = False
    target: str = "cpu"
    precision: Precision | None = None
    tuning: Tuning | None = None
    checks: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for a value that there is not."""
        if self.packing not in PACKINGS:
            raise InputError(f"packing is '{self.packing}'; choose one of {', '.join(PACKINGS)}.")
        object.__setattr__(self, "target", targets.spell(targets.parse(self.target)))
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"precision is '{self.precision}'; choose one of {', '.join(PRECISIONS)}.")
        if self.precision in HALF_TYPES and self.target == "cpu":
            raise InputError(f"precision {self.precision} is for target cuda: the CPU has hardly any kernels for it.")
        if self.precision == "int8" and self.target != "cpu":
            raise InputError("precision int8 is for target cpu: there are no kernels for GPUs; choose fp16 or bf16.")
        if self.tuning is not None and self.target == "cpu":
            raise InputError("a tuning file is for target cuda: only kernels for GPUs are tuned.")

    @property
    def capabilities(self) -> tuple[int, ...]:
        """The compute capabilities to compile kernels for; none for the CPU."""
        return targets.parse(self.target)

    def for_model(self, own: Precision) -> Options:
        """The same options with the precision that they ask for.

        Args:
            own: what the model computes in itself.
        """
        if self.precision is not None:
            return self
        return replace(self, precision=own if self.capabilities else "fp32")

    def recorded(self) -> dict[str, object]:
        """The options that change the result, for the artifact's metadata."""
        tuned = {} if self.tuning is None else {"tuning": self.tuning.digest()}
        return {
            "packing": self.packing,
            "passes": None if self.passes is None else sorted(self.passes),
            "skip_passes": sorted(self.skip_passes),
            "target": self.target,
            "precision": self.precision or "fp32",
            **tuned,
        }
