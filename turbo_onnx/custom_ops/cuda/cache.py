"""Compiled kernels of earlier runs, in a folder of the user's: one file each, named by a digest of what makes it.

A file is complete or not there, so any number of processes can use the folder. What cannot be read, or is not what was
written, is compiled again; a folder that cannot be written to is no error, only slower. Nothing is ever deleted: the
folder can be, at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

VARIABLE = "TURBO_ONNX_CACHE"
_MAGIC = b"turbo-onnx kernel 1\n"
_DIGEST = hashlib.sha256().digest_size


def folder() -> Path | None:
    """`TURBO_ONNX_CACHE`, or `turbo-onnx` in the user's folder for caches; None where there is no such folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "turbo-onnx"
    try:
        return Path.home() / ".cache" / "turbo-onnx"
    except RuntimeError:
        return None


def load(digest: str) -> bytes | None:
    """What was stored by this digest, if it is there and intact."""
    path = _path(digest)
    try:
        content = path.read_bytes() if path is not None else b""
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST
    data = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(digest.encode() + data).digest():
        return None
    return data


def store(digest: str, data: bytes) -> None:
    """Keep the data for later runs, if that can be."""
    path = _path(digest)
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(digest.encode() + data).digest() + data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _path(digest: str) -> Path | None:
    base = folder()
    return None if base is None else base / "kernels" / digest[:2] / digest
