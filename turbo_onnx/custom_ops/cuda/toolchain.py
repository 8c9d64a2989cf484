"""The compiler of kernels as it is installed: Triton, and the assembler `ptxas` that comes with it.

Nothing here imports Triton: the caller's process never does what can kill it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from turbo_onnx.custom_ops.cuda.targets import sm
from turbo_onnx.errors import InputError

OLDEST_TRITON = (3, 5)
INSTALL = 'install it with `pip install "turbo-onnx[cuda]"`'
LATER_ASSEMBLER = "TRITON_PTXAS_BLACKWELL_PATH"  # Triton's name for the assembler of sm_90 and later

# What a process needs to start, and nothing that changes what a compiler makes.
_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Toolchain:
    """What compiles kernels.

    Attributes:
        triton: its version.
        assembler: the path of `ptxas` below sm_90.
        later_assembler: the path of `ptxas` from sm_90 on. The one that comes with Triton for this makes code that
            only drivers for CUDA 13 load, so it is the other one, unless the user says otherwise.
    """

    triton: str
    assembler: Path
    later_assembler: Path

    def identity(self, capability: int) -> str:
        """What, beside its input, decides the code for a capability: nothing of where it is installed."""
        assembler = self.later_assembler if capability >= 90 else self.assembler
        return f"triton {self.triton}\n{platform.machine()}\n{_run(assembler, '--version')}"

    def environment(self, folder: Path) -> dict[str, str]:
        """The environment for a process that compiles.

        Args:
            folder: for what the process writes, and what Triton keeps while it works.
        """
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return kept | {
            "TMPDIR": str(folder),
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRITON_HOME": str(folder),
            "TRITON_CACHE_DIR": str(folder / "cache"),
            "TRITON_DISABLE_LINE_INFO": "1",  # else there are paths of this machine in the code
            "TRITON_DUMP_PTXAS_LOG": "1",  # the one place where spills are told
            "TRITON_PTXAS_PATH": str(self.assembler),
            LATER_ASSEMBLER: str(self.later_assembler),
        }


def find(capabilities: Sequence[int] = ()) -> Toolchain:
    """The installed compiler.

    Args:
        capabilities: that it has to be able to compile for.

    Raises:
        InputError: it is not installed, too old, or cannot compile for one of them.
    """
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        raise InputError(f"the target cuda needs Triton, which is not installed; {INSTALL}.")
    found = re.search(r"^__version__ = ['\"](.+?)['\"]", Path(spec.origin).read_text(encoding="utf-8"), re.MULTILINE)
    version = found[1] if found is not None else "0"
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise InputError(f"Triton {version} is installed, and {oldest} is the oldest that is taken; {INSTALL}.")
    bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
    chosen = os.environ.get(LATER_ASSEMBLER)
    toolchain = Toolchain(version, bundled, Path(chosen) if chosen else bundled)
    for capability in capabilities:
        _require_assembler(toolchain, capability)
    return toolchain


def _require_assembler(toolchain: Toolchain, capability: int) -> None:
    later = capability >= 90
    assembler = toolchain.later_assembler if later else toolchain.assembler
    try:
        known = _run(assembler, "--help")
    except (OSError, subprocess.SubprocessError):
        named = f"; check {LATER_ASSEMBLER}" if assembler != toolchain.assembler else ""
        raise InputError(f"the assembler {assembler} cannot be run{named}; {INSTALL}.") from None
    if f"'{sm(capability)}{'a' * later}'" not in known:
        raise InputError(
            f"Triton {toolchain.triton} cannot compile for {sm(capability)} as it is installed: its assembler does not"
            " know it; leave it out of the target, or upgrade Triton."
        )


@cache
def _run(tool: Path, option: str) -> str:
    return subprocess.run([tool, option], check=True, capture_output=True, text=True, timeout=60).stdout
