"""The archive of compiled kernels: C++ reads what Python writes, and refuses a damaged one with a sentence."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import shared
from tests.cuda import fake_driver
from tests.cuda.launcher import PROBE, LauncherError, code
from turbo_onnx.custom_ops.cuda.archive import Code, Rule, pack, unpack

COMPILER = fake_driver.compiler()
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

CODES = [
    code(capability, rule, key=key, aligned=aligned, arguments="pil", shared=4096, tile=(1, 64, 2))
    for key in ("bias_gelu;float16;width=768", "row;float")
    for capability, rule in ((80, Rule.SAME_MAJOR), (90, Rule.EXACT), (80, Rule.LATER))
    for aligned in (True, False)
]
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
sizes = st.integers(1, 2**32 - 1)
any_code = st.builds(
    Code,
    key=names,
    capability=st.integers(0, 2**16 - 1),
    rule=st.sampled_from(Rule),
    aligned=st.booleans(),
    symbol=names,
    arguments=st.text("pilf", max_size=5),
    num_warps=st.integers(1, 32),
    shared=st.integers(0, 2**32 - 1),
    tile=st.tuples(sizes, sizes, sizes),
    data=st.binary(min_size=1, max_size=40),
)


def order(code: Code) -> tuple[str, int, int, bool]:
    """The best of each key first."""
    return code.key, code.rule, -code.capability, not code.aligned


def line(code: Code) -> str:
    """As the probe writes it."""
    numbers = (code.num_warps, code.shared, *code.tile, len(code.data))
    words = (code.key, code.capability, int(code.rule), int(code.aligned), code.symbol, code.arguments, *numbers)
    return " ".join(map(str, words))


class Program:
    """The launcher as a process, under sanitizers: an archive in, a line out."""

    @staticmethod
    def build(folder: Path) -> Path:
        """Compile it, under sanitizers if they work here."""
        program = folder / "probe"
        source = folder / "empty.cc"
        source.write_text("int main() {}")
        have = subprocess.run([str(COMPILER), *SANITIZERS, str(source), "-o", str(program)], capture_output=True)
        flags = SANITIZERS if have.returncode == 0 and subprocess.run([str(program)]).returncode == 0 else []
        include = f"-I{fake_driver.INCLUDE}"
        command = [str(COMPILER), "-std=c++17", *flags, include, *map(str, PROBE), "-o", str(program), "-ldl"]
        subprocess.run([*command, "-pthread"], check=True)
        return program

    def __init__(self, program: Path, driver: Path) -> None:
        self._environment = os.environ | {"TURBO_ONNX_CUDA_DRIVER": str(driver)}
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
        )

    def read(self, archive: bytes) -> str:
        """How many kernels there are, or the sentence."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<Q", len(archive)) + archive)
        self._process.stdin.flush()
        answer = self._process.stdout.readline().decode(errors="replace").strip()
        if answer == "":
            raise AssertionError(self._process.communicate()[1].decode())
        return answer

    def close(self) -> None:
        _, errors = self._process.communicate()
        assert self._process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def program(fake_library: Path) -> Iterator[Program]:
    program = Program(shared.once("launcher under sanitizers", Program.build), fake_library)
    yield program
    program.close()


def test_unpacking_gives_what_was_packed():
    assert sorted(unpack(pack(CODES))) == sorted(CODES)


def test_the_same_kernels_in_any_order_are_the_same_bytes():
    assert pack(CODES[::-1]) == pack(CODES) == pack(CODES + CODES)


def test_code_that_several_kernels_share_is_stored_once():
    shared = [Code(**(vars(CODES[0]) | {"key": f"key{i}", "data": b"x" * 100_000})) for i in range(5)]
    assert len(pack(shared)) < 101_000


@given(codes=st.lists(any_code, max_size=6, unique_by=order))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cpp_reads_what_python_packs_the_best_of_each_key_first(launcher, codes):
    assert launcher.list(pack(codes)) == [line(code) for code in sorted(codes, key=order)]


def test_an_empty_archive_has_no_kernels(launcher):
    assert launcher.list(pack([])) == []


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000])
def test_digests_are_those_of_the_standard_library(launcher, size):
    data = bytes(i * 37 % 251 for i in range(size))
    assert launcher.sha256(data) == hashlib.sha256(data).digest()


def changed(at: int, value: bytes) -> bytes:
    archive = bytearray(pack(CODES[:1]))
    archive[at : at + len(value)] = value
    return bytes(archive)


ENTRY = 24 + sum(2 + len(text) for text in (CODES[0].key, CODES[0].symbol, CODES[0].arguments))  # where its numbers are


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (b"", "they end after 0 bytes"),
        (b"TURBO", "they end after 5 bytes"),
        (b"x" * 100, "they do not start as they should"),
        (changed(8, b"\2"), "version 2, but this library reads version 1: optimize the model again"),
        (changed(12, b"\xff\xff\xff\xff"), "no room for 4294967295 kernels"),
        (changed(12, b"\2"), "end after|has no symbol|no room for|unknown"),
        (pack(CODES) + b"\0", "bytes instead of"),
        (pack(CODES)[:-1], "bytes instead of"),
        (changed(24, b"\xff\xff"), "they end after"),
        (pack([code(symbol="")]), "has no symbol"),
        (changed(24 + 4 + len(CODES[0].key), b"\0"), "has no symbol"),
        (changed(ENTRY - 1, b"x"), "has an argument of an unknown type"),
        (changed(ENTRY, b"\3"), "has an unknown rule"),
        (changed(ENTRY + 1, b"\2"), "has an unknown rule"),
        (changed(ENTRY + 4, b"\0"), "has 0 warps"),
        (changed(ENTRY + 4, b"\x21"), "has 33 warps"),
        (changed(ENTRY + 12, b"\0\0\0\0"), "has an empty tile"),
        (changed(ENTRY + 56, b"\xff" * 8), "has its code beyond the end"),
        (changed(ENTRY + 64, b"\xff" * 8), "has its code beyond the end"),
        (changed(ENTRY + 64, b"\0" * 8), "has its code beyond the end"),
    ],
)
def test_a_damaged_archive_is_refused_with_what_is_wrong(launcher, archive, sentence):
    with pytest.raises(LauncherError, match=sentence) as caught:
        launcher.kernels(archive)
    assert caught.value.invalid
    assert str(caught.value).startswith("the compiled kernels in the model ")


def test_an_archive_that_ends_early_is_refused_wherever_it_ends(program):
    archive = pack(CODES)
    for end in range(0, len(archive), 7):
        assert "damaged" in program.read(archive[:end])


@given(data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_crashes_the_launcher(program, data):
    """Archives with a few bytes changed, cut or repeated: each is read, and all that can be launched is."""
    archive = bytearray(pack(CODES))
    index = len(archive) - sum(len(code.data) + 15 for code in CODES)  # most damage goes where it is read
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, index))
        archive[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()) and len(archive) >= 24:
        archive[16:24] = struct.pack("<Q", len(archive))  # so that the size does not give it away
    answer = program.read(bytes(archive))
    assert answer.isdigit() or "the compiled kernels in the model" in answer


@given(archive=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_crash_the_launcher(program, archive):
    start = pack([])[:16] + struct.pack("<Q", 24 + len(archive))
    assert program.read(archive)
    assert program.read(start.replace(b"\0\0\0\0", b"\1\0\0\0") + archive)
