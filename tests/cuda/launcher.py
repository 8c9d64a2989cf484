"""The C++ launcher, called from Python without ONNX Runtime."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from pathlib import Path

from tests.cuda.fake_driver import FOLDER, INCLUDE, build_shared
from turbo_onnx.custom_ops.cuda.archive import Code, Rule, pack

SOURCES = [INCLUDE / f"custom_ops/cuda/{name}.cc" for name in ("archive", "driver", "kernels", "modules", "sha256")]
PROBE = [FOLDER / "launcher_probe.cc", *SOURCES]
KEY = "add;float32;width=8"


def build_probe(folder: Path) -> Path:
    return build_shared(folder / "probe.so", PROBE, "-O1")


def code(
    capability: int = 90,
    rule: Rule = Rule.EXACT,
    *,
    key: str = KEY,
    aligned: bool = False,
    symbol: str = "kernel",
    arguments: str = "p",
    num_warps: int = 4,
    shared: int = 0,
    tile: tuple[int, int, int] = (1, 1, 1),
    note: str = "",
) -> Code:
    """A kernel whose code the fake driver takes. `note` tells apart what is otherwise equal."""
    data = f"FAKE {capability} {int(rule)} {key}{note}\0".encode()
    return Code(key, capability, rule, aligned, symbol, arguments, num_warps, shared, tile, data)


class LauncherError(Exception):
    """A sentence of the launcher's. `invalid`: it says that the model or the inputs are wrong."""

    def __init__(self, sentence: str, *, invalid: bool) -> None:
        super().__init__(sentence)
        self.invalid = invalid


class Launcher:
    """One copy of the launcher, which has opened no driver and loaded no kernel yet."""

    def __init__(self, probe: Path) -> None:
        self.library = ctypes.CDLL(str(probe))
        self.library.probe_open.restype = ctypes.c_void_p
        for name in ("probe_error", "probe_key", "probe_list"):
            getattr(self.library, name).restype = ctypes.c_char_p
        for name in ("probe_launch_cost", "probe_open_cost"):
            getattr(self.library, name).restype = ctypes.c_double

    def open_driver(self) -> None:
        self.check(self.library.probe_driver())

    def kernels(self, codes: Sequence[Code] | bytes) -> Kernels:
        return Kernels(self, codes if isinstance(codes, bytes) else pack(codes))

    def list(self, archive: bytes) -> list[str]:
        """One line for each kernel of the archive."""
        lines = self.library.probe_list(archive, ctypes.c_size_t(len(archive)))
        if lines is None:
            raise self.error(1)
        return str(lines, "utf-8").splitlines()

    def key(self, element_type: int, number: int) -> str:
        text = self.library.probe_key(element_type, ctypes.c_int64(number))
        if text is None:
            raise self.error(1)
        return str(text, "utf-8")

    def sha256(self, data: bytes) -> bytes:
        digest = ctypes.create_string_buffer(32)
        self.library.probe_sha256(data, ctypes.c_size_t(len(data)), digest)
        return digest.raw

    def launch_at_once(self, kernels: Sequence[Kernels], threads: int, stream: int | None, key: str = KEY) -> int:
        """How many launches failed when each thread launched the key of all of them."""
        handles = (ctypes.c_void_p * len(kernels))(*(each.handle for each in kernels))
        count, pointer = ctypes.c_size_t(len(kernels)), ctypes.c_void_p(stream)
        return int(self.library.probe_launch_at_once(handles, count, ctypes.c_size_t(threads), pointer, key.encode()))

    def check(self, outcome: int) -> None:
        if outcome:
            raise self.error(outcome)

    def error(self, outcome: int) -> LauncherError:
        return LauncherError(str(self.library.probe_error(), "utf-8"), invalid=outcome == 1)


class Kernels:
    """The kernels of one archive, as a node has them."""

    def __init__(self, launcher: Launcher, archive: bytes) -> None:
        self._launcher = launcher
        self._archive = archive  # must outlive the handle
        self.handle = launcher.library.probe_open(archive, ctypes.c_size_t(len(archive)))
        if self.handle is None:
            raise launcher.error(1)

    def launch(
        self,
        stream: int | None,
        work: Sequence[int] = (1, 1, 1),
        types: str = "p",
        values: Sequence[float] = (0,),
        key: str = KEY,
    ) -> None:
        """Launch over as many tiles as cover the work."""
        raw = (ctypes.c_uint64 * max(len(values), 1))()
        for i, (letter, value) in enumerate(zip(types, values, strict=True)):
            raw[i] = struct.unpack("<Q", struct.pack("<fI" if letter == "f" else "<q", *_padded(letter, value)))[0]
        sizes = (ctypes.c_uint64 * 3)(*work)
        self._launcher.check(
            self._launcher.library.probe_launch(
                ctypes.c_void_p(self.handle), ctypes.c_void_p(stream), key.encode(), sizes, types.encode(), raw
            )
        )

    def read(self, stream: int | None, address: int) -> int:
        value = ctypes.c_int32()
        self._launcher.check(
            self._launcher.library.probe_read(
                ctypes.c_void_p(self.handle), ctypes.c_void_p(stream), ctypes.c_void_p(address), ctypes.byref(value)
            )
        )
        return value.value

    def launch_cost(self, stream: int | None, launches: int) -> float:
        """Nanoseconds of one launch of "skip_layer_normalization;float16;width=768;bias=1" with arguments "ppl"."""
        return float(
            self._launcher.library.probe_launch_cost(
                ctypes.c_void_p(self.handle), ctypes.c_void_p(stream), ctypes.c_size_t(launches)
            )
        )

    def close(self) -> None:
        self._launcher.library.probe_close(ctypes.c_void_p(self.handle))


def _padded(letter: str, value: float) -> tuple[float, ...]:
    return (value, 0) if letter == "f" else (int(value),)
