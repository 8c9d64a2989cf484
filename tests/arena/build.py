"""The arena without ONNX Runtime, compiled for tests: as a library for Python, and as programs under sanitizers."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
ARENA = ROOT / "turbo_onnx/custom_ops/arena"
WITH_ONNX_RUNTIME = {"allocator.cc", "marker.cc"}
SOURCES = [path for path in sorted(ARENA.glob("*.cc")) if path.name not in WITH_ONNX_RUNTIME]
ALWAYS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", f"-I{ROOT / 'turbo_onnx'}", "-pthread"]
FAILING = "-Wl,--wrap=mmap,--wrap=mremap,--wrap=posix_memalign"
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def _command(output: Path, names: list[str], *flags: str) -> list[str]:
    sources = [*(str(FOLDER / name) for name in names), *map(str, SOURCES)]
    return [str(compiler()), *ALWAYS, *flags, *sources, "-o", str(output)]


def build_programs(folder: Path) -> dict[str, Path]:
    """The probe under each sanitizer, compiled at the same time."""
    programs = {name: folder / name for name in SANITIZERS}
    sources = ["arena_probe.cc", "failing_memory.cc"]
    compilers = [
        subprocess.Popen(_command(programs[name], sources, "-O1", "-g1", FAILING, *flags))
        for name, flags in SANITIZERS.items()
    ]
    assert [process.wait() for process in compilers] == [0] * len(compilers)
    return programs


def build_library(folder: Path) -> Path:
    """The parts of the arena as C functions, compiled."""
    path = folder / "probe.so"
    sources = ["library_probe.cc", "cost_probe.cc", "failing_memory.cc"]
    subprocess.run(_command(path, sources, "-O2", "-shared", "-fPIC", "-fvisibility=hidden", FAILING), check=True)
    return path


def load_library(path: Path) -> ctypes.CDLL:
    """What `build_library` made."""
    library = ctypes.CDLL(str(path))
    for name in ("plan_error", "policy_error"):
        getattr(library, name).restype = ctypes.c_char_p
    for name in ("block_acquire", "block_base", "block_at", "heap_allocate", "heap_reserve"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("event_cost", "run_cost", "schedule_cost", "heap_cost"):
        getattr(library, name).restype = ctypes.c_double
    library.plan_offsets.restype = ctypes.c_int64
    library.plan_offsets.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)
    library.block_acquire.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    library.block_numbers.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    for name in ("block_release", "block_base", "block_at", "heap_release"):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
    for name in ("heap_allocate", "heap_reserve", "heap_cost"):
        getattr(library, name).argtypes = (ctypes.c_size_t,)
    return library
