"""Where the library of kernels is: in the installed package, or in a build folder of a checkout."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import turbo_onnx
from turbo_onnx.errors import InputError

NAME = "libturbo_onnx.so"
OVERRIDE = "TURBO_ONNX_LIBRARY"


def library_path() -> str:
    """The path of the shared object, for ONNX Runtime's `RegisterCustomOpsLibrary` in any language.

    Where several are found, as in a checkout, it is the one that was built last. The environment variable
    TURBO_ONNX_LIBRARY overrides the search.

    Raises:
        InputError: there is none.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        if not Path(override).is_file():
            raise InputError(f"{override}: no such file; {OVERRIDE} must name {NAME}, or not be set.")
        return override
    found = _candidates()
    if not found:
        raise InputError(
            f"{NAME} is not in {Path(turbo_onnx.__path__[0])}; install the package (pip install .), or build it there"
            " (cmake -B build && cmake --build build)."
        )
    return str(max(found, key=lambda path: path.stat().st_mtime))


def _candidates() -> list[Path]:
    packages = [Path(entry) for entry in turbo_onnx.__path__]  # an editable installation has two
    found = [package / "lib" / NAME for package in packages]
    for package in packages:
        checkout = package.parent
        if (checkout / "CMakeLists.txt").is_file():
            found += [checkout / "build" / NAME, *sorted(checkout.glob(f"build/*/{NAME}"))]
    return [path for path in found if path.is_file()]


def _text(function: str) -> str:
    library = ctypes.CDLL(library_path())
    call = library[function]
    call.restype = ctypes.c_char_p
    return str(call().decode())


def library_version() -> str:
    """The version of the package that the library was built from."""
    return _text("turbo_onnx_version")


def instruction_set() -> str:
    """Which copy of the kernels this machine runs: "baseline", "avx2", "avx512", "avx512_vnni" or "amx_int8"."""
    return _text("turbo_onnx_isa")
