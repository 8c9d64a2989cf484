"""What is slow to make and needed by many tests is made once, by the first process that asks for it.

The processes are those that share the tests among them, and those that tests start: they know the folder by an
environment variable. It goes when the process that made it ends.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

VARIABLE = "TURBO_ONNX_TESTS_SHARED"

Made = TypeVar("Made")


def folder() -> Path:
    """The folder of what is shared, made here if nobody did."""
    if VARIABLE not in os.environ:
        path, maker = tempfile.mkdtemp(prefix="turbo-onnx-tests-"), os.getpid()
        os.environ[VARIABLE] = path
        atexit.register(lambda: os.getpid() == maker and shutil.rmtree(path, ignore_errors=True))
    return Path(os.environ[VARIABLE])


def once(name: str, make: Callable[[Path], Made]) -> Made:
    """What `make` returned to the first that asked by this name; others wait until it is there.

    Args:
        name: says what it is.
        make: is given an empty folder to write to. What it returns can be pickled.
    """
    place = folder() / name
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = place / "made.pickle"
        if kept.exists():
            made: Made = pickle.loads(kept.read_bytes())
        else:
            shutil.rmtree(place, ignore_errors=True)  # of one who failed
            place.mkdir()
            made = make(place)
            unfinished = place / "unfinished.pickle"
            unfinished.write_bytes(pickle.dumps(made))
            unfinished.replace(kept)
        return made
