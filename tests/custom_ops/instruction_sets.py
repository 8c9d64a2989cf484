"""The instruction sets that the library has kernels for, and the tests at those that are weaker than this machine's."""

from __future__ import annotations

import os
import subprocess
import sys

from turbo_onnx.runtime.library import instruction_set

VECTORS = ["baseline", "avx2", "avx512"]
"""Each contains those before it. Every kernel is compiled for each of these."""
BYTE_PRODUCTS = [*VECTORS, "avx512_vnni", "amx_int8"]
"""Beyond vectors, only products of bytes differ."""


def weaker(sets: list[str]) -> list[str]:
    """Those of `sets` that this machine has, but for the best of them, which it takes by itself."""
    return [name for name in sets if BYTE_PRODUCTS.index(name) <= BYTE_PRODUCTS.index(instruction_set())][:-1]


def run_at(name: str, selection: str, *files: str) -> str:
    """What pytest prints of the tests in files that `selection` chooses, at a weaker set; all must pass."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", selection],
        env=os.environ | {"TURBO_ONNX_ISA": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout
