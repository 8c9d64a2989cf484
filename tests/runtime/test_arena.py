import ctypes
import subprocess
import sys
import textwrap
from dataclasses import astuple, fields

from turbo_onnx.runtime import library
from turbo_onnx.runtime.arena import ArenaStats, arena_stats, trim


def test_the_library_counts_what_the_statistics_name():
    read = ctypes.CDLL(library.library_path()).turbo_onnx_arena_stats
    read.restype = ctypes.c_size_t
    assert read(None, ctypes.c_size_t(0)) == len(fields(ArenaStats))


def test_counts_are_not_negative_and_trimming_leaves_nothing_that_is_not_in_use():
    trim()
    stats = arena_stats()
    assert min(astuple(stats)) >= 0
    assert stats.heap_bytes_cached == 0
    assert stats.block_bytes_held == stats.block_bytes_in_use


def test_statistics_need_neither_onnx_nor_onnxruntime():
    program = """
        import sys
        for name in ("onnx", "onnxruntime", "numpy"):
            sys.modules[name] = None
        from turbo_onnx.runtime.arena import arena_stats, trim
        trim()
        print(arena_stats().runs_announced)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert (result.stdout.strip(), result.returncode) == ("0", 0), result.stderr
