"""The fake CUDA driver: how it is built, and how tests tell it what to do.

The library under test opens the same file, named by TURBO_ONNX_CUDA_DRIVER, so both see one driver.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
NAME = "libfakecuda.so"
INCLUDE = FOLDER.parents[1] / "turbo_onnx"

Launch = Callable[[str, str, tuple[int, int, int], int, int, int], int]
_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_void_p,
)
_callbacks: list[ctypes._FuncPointer] = []  # a library may launch for as long as the process lives


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def build_shared(library: Path, sources: Sequence[Path], *flags: str) -> Path:
    """Compile a shared object that shows only what it exports."""
    always = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{INCLUDE}"]
    command = [str(compiler()), *always, *flags, *map(str, sources), "-o", str(library), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return library


def build(folder: Path) -> Path:
    """Compile the fake driver into the folder."""
    return build_shared(folder / NAME, [FOLDER / "fake_driver.cc"], "-O1")


class FakeDriver:
    """The driver in this file. All objects of one file are one driver; `fake_driver.cc` describes the functions."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("fake_context", "fake_stream", "fake_stream_in"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.fake_log.restype = ctypes.c_char_p

    def reset(self) -> None:
        self._library.fake_reset()

    def set_device(self, ordinal: int = 0, capability: int = 90, max_shared: int = 232448) -> None:
        self._library.fake_set_device(ordinal, capability, max_shared)

    def set_driver_version(self, version: int) -> None:
        self._library.fake_set_driver_version(version)

    def set_current(self, ordinal: int | None) -> None:
        """Make the device's primary context current on this thread; None: no context."""
        self._library.fake_set_current(-1 if ordinal is None else ordinal)

    def context(self, ordinal: int = 0) -> int:
        """One more context of the device, beside its primary one."""
        return int(self._library.fake_context(ordinal))

    def set_current_context(self, context: int) -> None:
        self._library.fake_set_current_context(ctypes.c_void_p(context))

    def stream(self, ordinal: int = 0) -> int:
        """A stream of the device's primary context."""
        return int(self._library.fake_stream(ordinal))

    def stream_in(self, context: int) -> int:
        return int(self._library.fake_stream_in(ctypes.c_void_p(context)))

    def fail(self, function: str, result: int, after: int = 1) -> None:
        """The call number `after` of the function from now on returns the result, once, and does nothing."""
        self._library.fake_fail(function.encode(), result, after)

    def log(self) -> list[str]:
        """One line for each call of every thread: the function and its main arguments."""
        return str(self._library.fake_log(), "utf-8").splitlines()

    def calls(self, function: str) -> list[str]:
        """The arguments of each call of one function."""
        return [line.partition(" ")[2] for line in self.log() if line.partition(" ")[0] == function]

    def clear_log(self) -> None:
        self._library.fake_clear_log()

    def depth(self) -> int:
        """How many contexts this thread pushed and did not pop."""
        return int(self._library.fake_depth())

    def set_load_delay(self, microseconds: int) -> None:
        """How long loading takes. Other calls do not wait for it."""
        self._library.fake_set_load_delay(microseconds)

    def most_loading(self) -> int:
        """How many images were being loaded at one time, at most."""
        return int(self._library.fake_most_loading())

    def set_launch(self, launch: Launch) -> None:
        """What a launch does.

        Args:
            launch: takes the image's text, the symbol, the grid, the threads of a block, the bytes of shared memory and
                the address of the array of addresses of arguments, and returns a CUresult. It must not raise.
        """

        def call(
            image: bytes, symbol: bytes, grid: Sequence[int], block: int, shared: int, at: int, _stream: int
        ) -> int:
            return launch(image.decode(), symbol.decode(), (grid[0], grid[1], grid[2]), block, shared, at)

        _callbacks.append(_LAUNCH(call))
        self._library.fake_set_launch(_callbacks[-1])
