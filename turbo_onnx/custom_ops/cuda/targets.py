"""What a model is optimized for: `cpu`, or `cuda` with the compute capabilities that kernels are compiled for.

A capability is a number, 10 · major + minor: `sm_90` is 90. What code for one runs on what other is in `code_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from turbo_onnx.custom_ops.cuda.archive import Rule
from turbo_onnx.errors import InputError

CPU = "cpu"
OLDEST = 80  # the first with bfloat16 and asynchronous copies; PTX for it is the fallback for all later ones
DEFAULT = (80, 90, 100)
CAPABILITIES = (80, 86, 87, 89, 90, 100, 103, 120, 121)

_KIB = 1024
_SMALL_SHARED = 99 * _KIB  # of the consumer devices of a generation
_LARGE_SHARED = 227 * _KIB


def parse(text: str) -> tuple[int, ...]:
    """The capabilities that a target names, in order and each once; none for `cpu`.

    Args:
        text: `cpu`, `cuda` (which stands for `DEFAULT`), or `cuda:sm_80,sm_90`. `sm_90a` is taken for `sm_90`: code
            for these is specific to the architecture anyway.

    Raises:
        InputError: it is no target, or one that is too old or not known.
    """
    kind, colon, names = text.strip().partition(":")
    if kind == CPU and not colon:
        return ()
    if kind != "cuda":
        raise InputError(f"target is '{text}'; choose one of cpu, cuda, or cuda with architectures: cuda:sm_80,sm_90.")
    if not colon:
        return DEFAULT
    return tuple(sorted({_capability(name.strip(), text) for name in names.split(",")}))


def _capability(name: str, target: str) -> int:
    found = re.fullmatch(r"sm_([1-9][0-9]{1,2})(a?)", name, re.ASCII)
    if found is None:
        raise InputError(
            f"target is '{target}', and '{name}' is no architecture; write {sm(OLDEST)}, or several with commas"
            f" between: cuda:{','.join(map(sm, DEFAULT))}."
        )
    capability = int(found[1])
    if capability < OLDEST:
        raise InputError(f"target is '{target}', and {name} is too old; {sm(OLDEST)} is the oldest that is supported.")
    if capability not in CAPABILITIES or (found[2] and capability < 90):
        known = ", ".join(map(sm, CAPABILITIES))
        raise InputError(f"target is '{target}', and {name} is not known; choose from {known}.")
    return capability


def sm(capability: int) -> str:
    """`sm_90` for 90."""
    return f"sm_{capability}"


def spell(capabilities: Iterable[int]) -> str:
    """The one text for a target: `cpu`, or `cuda:sm_80,sm_90`. `parse` reads it."""
    names = ",".join(sm(capability) for capability in sorted(capabilities))
    return f"cuda:{names}" if names else CPU


def compiled_for(capabilities: Iterable[int]) -> tuple[int, ...]:
    """The capabilities to compile for: those asked for, and the oldest, whose PTX is the fallback for later ones."""
    return tuple(sorted({OLDEST, *capabilities}))


def code_rules(capability: int) -> tuple[Rule, ...]:
    """What is kept of a kernel that was compiled for the capability, if the target names it.

    From 90 on the compiler uses features of the one architecture, and such code runs nowhere else.
    """
    own = Rule.SAME_MAJOR if capability < 90 else Rule.EXACT
    return (own, Rule.LATER) if capability == OLDEST else (own,)


def shared_limit(capability: int) -> int:
    """Bytes of shared memory that one block may have on every device which the code has to run on.

    Code for sm_80 is also the code for sm_86, sm_89 and, as PTX, for sm_120, and these have 99 KiB.
    """
    return _LARGE_SHARED if 90 <= capability < 120 else _SMALL_SHARED
