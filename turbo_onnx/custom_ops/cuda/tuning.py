"""Which tiles, warps and stages kernels run with on a device, where they were measured: what `autotune` writes.

A choice is one of those that the operator offers, never anything else: constants and the tile have to agree, or results
are wrong, and nothing that runs without a GPU would notice.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from turbo_onnx.custom_ops.cuda.lookup import module_of
from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.custom_ops.cuda.variant import Variant
from turbo_onnx.errors import InputError

FORMAT = 1
_WARPS, _STAGES = (2, 4, 8), (1, 2, 3)
_AGAIN = "measure again with `turbo-onnx autotune`"

Choice = Mapping[str, Any]  # tile, num_warps, num_stages, and the constants that are sizes of blocks, as in JSON


def candidates(operator: str, variant: Variant, capability: int) -> list[Variant]:
    """The ways to run a kernel, its own first: what the operator's `candidates` lists, or other warps and stages.

    An operator's `cuda.py` may have `candidates(variant, capability)`, which gives variants that differ from this one
    in the tile, the warps, the stages and the constants that are sizes of blocks: nothing else can be chosen.
    """
    offered = getattr(importlib.import_module(module_of(operator)), "candidates", None)
    ways = [variant]
    for other in offered(variant, capability) if offered is not None else _other_warps_and_stages(variant):
        if other not in ways:
            assert with_choice(variant, choice(other)) == other, f"{operator} offers another kernel than {variant.key}"
            ways.append(other)
    return ways


def _other_warps_and_stages(variant: Variant) -> list[Variant]:
    """The same tile, which every kernel computes with any number of warps and stages."""
    return [
        replace(
            variant,
            num_warps=warps,
            num_stages=stages,
            constants={**variant.constants, **({"STAGES": stages} if "STAGES" in variant.constants else {})},
        )
        for warps in _WARPS
        for stages in _STAGES
    ]


def choice(variant: Variant) -> Choice:
    """What of a variant may be chosen."""
    return {
        "tile": list(variant.tile),
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "constants": {name: value for name, value in variant.constants.items() if _is_block(name)},
    }


def with_choice(variant: Variant, chosen: Choice) -> Variant:
    """The variant with what was chosen."""
    x, y, z = chosen["tile"]
    return replace(
        variant,
        tile=(x, y, z),
        num_warps=chosen["num_warps"],
        num_stages=chosen["num_stages"],
        constants={**variant.constants, **chosen["constants"]},
    )


def _is_block(constant: str) -> bool:
    return constant.startswith("BLOCK") or constant == "STAGES"


@dataclass(frozen=True)
class Tuning:
    """Choices by architecture ("sm_90") and kernel.

    Attributes:
        choices: for each architecture, by the kernel's key.
        measured: for people: on what, and how much faster. Without effect.
    """

    choices: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Equal digests are equal choices."""
        return hashlib.sha256(json.dumps(self.choices, sort_keys=True).encode()).hexdigest()

    def apply(self, operator: str, variant: Variant, capability: int) -> Variant:
        """The kernel as it was chosen for the architecture, or as it is.

        Raises:
            InputError: what was chosen is not among what the operator offers, as after an update.
        """
        wanted = self.choices.get(sm(capability), {}).get(variant.key)
        if wanted is None:
            return variant
        for candidate in candidates(operator, variant, capability):
            if choice(candidate) == wanted:
                return candidate
        raise InputError(
            f"the tuning file has a choice for the kernel {variant.key} on {sm(capability)} that this version does not"
            f" offer; {_AGAIN}."
        )

    def to_json(self) -> str:
        """The file's text; the same tuning gives the same."""
        document = {"format": FORMAT, "choices": self.choices, "measured": self.measured}
        return json.dumps(document, indent=1, sort_keys=True) + "\n"


def read(path: Path) -> Tuning:
    """A tuning file.

    Raises:
        InputError: it is not one that this version reads.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}); {_AGAIN}.") from None
    except ValueError:
        raise InputError(f"{path}: it is no tuning file; {_AGAIN}.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or not _is_choices(document.get("choices")):
        raise InputError(f"{path}: it is no tuning file of this version; {_AGAIN}.")
    return Tuning(document["choices"], document.get("measured", {}))


def _is_choices(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(kernels, dict) and all(isinstance(c, dict) for c in kernels.values())
               for kernels in value.values())  # fmt: skip
