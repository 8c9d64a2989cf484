import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from turbo_onnx.errors import InputError
from turbo_onnx.runtime import library

ROOT = Path(__file__).parents[2]


def test_the_library_is_a_file_of_the_version_of_the_package():
    assert Path(library.library_path()).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert library.library_version() == project["version"]


def test_a_missing_library_is_one_sentence_that_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(library, "_candidates", list)
    with pytest.raises(InputError, match=r"pip install \..*cmake -B build"):
        library.library_path()


def test_the_environment_overrides_where_the_library_is(monkeypatch, tmp_path):
    other = tmp_path / "other.so"
    other.touch()
    monkeypatch.setenv(library.OVERRIDE, str(other))
    assert library.library_path() == str(other)
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "absent.so"))
    with pytest.raises(InputError, match=r"absent\.so: no such file"):
        library.library_path()


def test_of_several_builds_the_last_one_is_taken(monkeypatch, tmp_path):
    older, newer = tmp_path / "older.so", tmp_path / "newer.so"
    for path, time in ((newer, 2_000), (older, 1_000)):
        path.touch()
        os.utime(path, (time, time))
    monkeypatch.setattr(library, "_candidates", lambda: [newer, older])
    assert library.library_path() == str(newer)


def test_the_environment_lowers_the_instruction_set_and_never_raises_it():
    def chosen(wish: str) -> str:
        program = "from turbo_onnx.runtime.library import instruction_set as i; print(i())"
        environment = os.environ | {"TURBO_ONNX_ISA": wish}
        result = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    order = ["baseline", "avx2", "avx512", "avx512_vnni", "amx_int8"]
    best = order.index(chosen("amx_int8"))
    assert chosen("baseline") == "baseline"
    for level in (1, 2, 3):
        assert order.index(chosen(order[level])) == min(best, level)
    assert order.index(chosen("nonsense")) == best


@pytest.mark.skipif(sys.platform != "linux", reason="nm -D reads ELF files")
def test_the_library_exports_its_functions_and_nothing_else():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", library.library_path()], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert names == {
        *("RegisterCustomOps", "turbo_onnx_version", "turbo_onnx_isa", "turbo_onnx_arena_stats"),
        *("turbo_onnx_arena_trim", "turbo_onnx_record_begin", "turbo_onnx_record_end"),
    }
