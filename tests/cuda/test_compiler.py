"""Kernels are compiled ahead of time: the same bytes for the same input, whatever else is going on."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from turbo_onnx.custom_ops.cuda import cache, compiler, kernel_sources, toolchain
from turbo_onnx.custom_ops.cuda.archive import Code, Rule, pack
from turbo_onnx.custom_ops.cuda.compiler import Compiled, compile_kernels
from turbo_onnx.custom_ops.cuda.targets import compiled_for
from turbo_onnx.custom_ops.cuda.variant import Variant
from turbo_onnx.errors import InputError, PassError

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

MODULE = "tests.cuda.small_kernels"
SCALED = Variant(
    key="scaled",
    module=MODULE,
    function="scaled",
    arguments={"x": "*fp16", "y": "*fp32", "count": "i32", "wide": "i64", "scale": "fp32"},
    constants={"BLOCK": 256, "SHIFT": 0.5},
    tile=(256, 1, 1),
    num_warps=2,
)
PRODUCT = Variant("product", MODULE, "product", {"x": "*fp16", "y": "*fp16"}, {"SIZE": 64})
DEADLY = Variant("deadly", "tests.cuda.deadly_kernel", "any", {}, {})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def compiled(*variants: Variant, targets: Sequence[int] = (80,)) -> list[Compiled]:
    return compile_kernels(dict.fromkeys(compiled_for(targets), variants), targets)


def codes(results: Iterable[Compiled]) -> list[Code]:
    return [code for result in results for code in result.codes]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Compiled]:
    """Two kernels for three architectures, compiled with nothing in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return compiled(SCALED, PRODUCT, targets=(80, 90, 100))


@needs_triton
def test_every_kernel_is_there_for_every_architecture_and_for_later_ones(kernels: list[Compiled]) -> None:
    found = {(code.key, code.capability, code.rule, code.aligned) for code in codes(kernels)}
    rules = [(80, Rule.SAME_MAJOR), (80, Rule.LATER), (90, Rule.EXACT), (100, Rule.EXACT)]
    assert found == {
        (key, *rule, aligned) for key in ("scaled", "product") for rule in rules for aligned in (True, False)
    }


@needs_triton
def test_code_for_unaligned_pointers_is_left_out_where_nobody_asks_for_it() -> None:
    (kernel,) = compile_kernels({80: [SCALED]}, [80], unaligned=False)
    assert {code.aligned for code in kernel.codes} == {True}


@needs_triton
def test_a_kernel_says_how_it_is_launched(kernels: list[Compiled]) -> None:
    code = next(code for code in codes(kernels) if code.key == "scaled")
    assert (code.symbol, code.arguments, code.num_warps, code.tile) == ("scaled", "ppilf", 2, (256, 1, 1))
    assert code.shared == 0
    product = next(code for code in codes(kernels) if code.key == "product")
    assert (product.arguments, product.num_warps) == ("pp", 4)
    assert product.shared > 0


@needs_triton
def test_code_for_later_devices_is_text_that_ends_with_zero_and_old_drivers_read(kernels: list[Compiled]) -> None:
    later = [code for code in codes(kernels) if code.rule is Rule.LATER]
    for code in later:
        text = code.data.decode()
        assert text.index("\0") == len(text) - 1
        assert ".version 8.0\n" in text
        assert ".target sm_80\n" in text


@needs_triton
def test_only_kernels_for_aligned_pointers_move_several_numbers_at_once(kernels: list[Compiled]) -> None:
    text = {c.aligned: c.data.decode() for c in codes(kernels) if c.key == "product" and c.rule is Rule.LATER}
    wide = r"ld\.global\.v4|st\.global\.v4"
    assert re.search(wide, text[True])
    assert not re.search(wide, text[False])


@needs_triton
def test_what_a_kernel_uses_is_told(kernels: list[Compiled]) -> None:
    for result in kernels:
        assert 0 < result.resources.registers <= 255
        assert (result.resources.stack, result.resources.spills) == (0, 0)
        assert result.resources.shared == result.codes[0].shared


@needs_triton
def test_the_parameters_lie_where_the_launcher_puts_them(kernels: list[Compiled], tmp_path: Path) -> None:
    for code in codes(kernels):
        if code.rule is Rule.LATER:
            continue
        path = tmp_path / "kernel.cubin"
        path.write_bytes(code.data)
        tool = toolchain.find().assembler.with_name("cuobjdump")
        listing = subprocess.run([tool, "-elf", path], capture_output=True, text=True, check=True).stdout
        found = re.findall(
            r"Ordinal\s*:\s*(0x[0-9a-f]+)\s+Offset\s*:\s*(0x[0-9a-f]+)\s+Size\s*:\s*(0x[0-9a-f]+)", listing
        )
        parameters = sorted(tuple(int(number, 16) for number in entry) for entry in found)
        assert [(offset, size) for _, offset, size in parameters] == layout(code.arguments + "pp"), listing


def layout(arguments: str) -> list[tuple[int, int]]:
    """Offset and size of each argument; Triton adds two pointers to memory of its own."""
    places, position = [], 0
    for letter in arguments:
        size = {"p": 8, "l": 8, "i": 4, "f": 4}[letter]
        position += -position % size
        places.append((position, size))
        position += size
    return places


@needs_triton
def test_the_bytes_depend_on_nothing_but_the_kernels(
    kernels: list[Compiled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, value in {
        "TRITON_INTERPRET": "1",
        "TRITON_DEFAULT_FP_FUSION": "0",
        "TRITON_DISABLE_LINE_INFO": "0",
        "TRITON_DEBUG": "1",
        "TRITON_OVERRIDE_ARCH": "sm75",
        "TRITON_F32_DEFAULT": "ieee",
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "DISABLE_PTXAS_OPT": "1",
        "PTXAS_OPTIONS": "--opt-level 0",
        "PYTHONHASHSEED": "17",
    }.items():
        monkeypatch.setenv(name, value)
    again = compiled(PRODUCT, SCALED, PRODUCT, targets=(100, 90, 80))
    assert pack(codes(again)) == pack(codes(kernels))
    assert not (tmp_path / "triton").exists()
    assert str(tmp_path).encode() not in pack(codes(again))
    assert str(Path(__file__).parent).encode() not in pack(codes(again))


@needs_triton
def test_a_second_run_takes_everything_from_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled(SCALED)
    monkeypatch.setattr(compiler, "_compile", lambda jobs, _: pytest.fail("compiled again") if jobs else {})
    assert compiled(SCALED) == first
    assert len([path for path in own_cache.rglob("*") if path.is_file()]) == 2


@needs_triton
def test_what_is_damaged_in_the_cache_is_compiled_again(own_cache: Path) -> None:
    first = compiled(SCALED)
    files = [path for path in own_cache.rglob("*") if path.is_file()]
    for path, content in zip(files, (b"", files[0].read_bytes()[:-1] + b"?"), strict=True):
        path.write_bytes(content)
    assert compiled(SCALED) == first
    assert all(path.stat().st_size > 1000 for path in files)


@needs_triton
def test_a_cache_that_cannot_be_written_to_is_no_error(own_cache: Path) -> None:
    own_cache.write_text("in the way")
    assert codes(compiled(SCALED))


@needs_triton
def test_a_compiler_that_dies_is_one_sentence_that_names_the_kernel(own_cache: Path) -> None:
    with pytest.raises(PassError, match=r"the kernel deadly for sm_80.*ended with 134: LLVM ERROR: PTX version 1\.0"):
        compiled(DEADLY)


@needs_triton
@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        (Variant("three", MODULE, "wrong", {"x": "*fp32"}, {"SIZE": 3}), "the kernel three for sm_80.*power of 2"),
        (Variant("none", MODULE, "nothing", {}, {}), "the kernel none for sm_80.*has no attribute 'nothing'"),
        (replace(SCALED, arguments={"y": "*fp32", "x": "*fp16"}), r"arguments are \['y', 'x'\], and the function's"),
        (replace(SCALED, constants={"BLOCK": 256}), "and the function's are"),
    ],
)
def test_a_kernel_that_cannot_be_compiled_is_named(variant: Variant, sentence: str) -> None:
    with pytest.raises(PassError, match=sentence) as failure:
        compiled(variant)
    assert "\n" not in str(failure.value)


@needs_triton
def test_ways_that_are_no_good_are_told_and_take_nothing_else_down(own_cache: Path) -> None:
    broken = replace(SCALED, constants={"BLOCK": 255, "SHIFT": 0.5})
    tried = compiler.try_kernels([DEADLY, SCALED, broken, DEADLY, replace(SCALED, num_warps=4)], 80)
    assert [one for one in tried if isinstance(one, str)] == ["cannot be compiled"] * 3
    warps = [one.codes[0].num_warps for one in tried if isinstance(one, Compiled)]
    assert warps == [2, 4]
    assert all(code.aligned for one in tried if isinstance(one, Compiled) for code in one.codes)


@needs_triton
def test_a_way_that_needs_too_much_shared_memory_is_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "shared_limit", lambda _: 1024)
    assert compiler.try_kernels([PRODUCT], 80) == ["needs too much shared memory"]


@needs_triton
def test_more_shared_memory_than_some_device_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "shared_limit", lambda _: 1024)
    with pytest.raises(PassError, match=r"product for sm_80.* needs \d+ bytes of shared memory, and there are 1024 on"):
        compiled(PRODUCT)


def test_two_kernels_with_one_key_are_refused() -> None:
    with pytest.raises(PassError, match="two different kernels have the key scaled"):
        compiled(SCALED, replace(SCALED, num_warps=4))


def test_nothing_to_compile_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert compiled() == []


def test_without_triton_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match=r'needs Triton.*`pip install "turbo-onnx\[cuda\]"`'):
        toolchain.find()


def test_a_triton_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_triton(tmp_path, monkeypatch, "2.1.0")
    with pytest.raises(InputError, match=r"Triton 2\.1\.0 is installed, and \d\.\d is the oldest"):
        toolchain.find()


def test_an_architecture_that_the_installed_triton_does_not_know_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_triton(tmp_path, monkeypatch, "9.9.0", knows="'sm_80','sm_90a'")
    toolchain.find((80, 90))
    with pytest.raises(InputError, match=r"Triton 9\.9\.0 cannot compile for sm_120 as it is installed"):
        toolchain.find((80, 120))


def test_another_assembler_for_later_architectures_is_taken_if_it_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_triton(tmp_path, monkeypatch, "9.9.0", knows="'sm_80'")
    other = assembler(tmp_path / "other", "'sm_90a'")
    monkeypatch.setenv(toolchain.LATER_ASSEMBLER, str(other))
    assert toolchain.find((80, 90)).later_assembler == other
    monkeypatch.setenv(toolchain.LATER_ASSEMBLER, str(tmp_path / "missing"))
    toolchain.find((80,))
    with pytest.raises(InputError, match=f"missing cannot be run; check {toolchain.LATER_ASSEMBLER}"):
        toolchain.find((90,))


def use_triton(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, knows: str = "") -> None:
    """Let a package of this version be what is installed, with an assembler that knows these architectures."""
    (folder / "triton" / "backends" / "nvidia" / "bin").mkdir(parents=True)
    (folder / "triton" / "__init__.py").write_text(f"__version__ = '{version}'\n")
    assembler(folder / "triton" / "backends" / "nvidia" / "bin" / "ptxas", knows)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.delenv(toolchain.LATER_ASSEMBLER, raising=False)
    monkeypatch.syspath_prepend(folder)


def assembler(path: Path, knows: str) -> Path:
    path.write_text(f'#!/bin/sh\necho "{knows}"\n')
    path.chmod(0o755)
    return path


def test_sources_that_a_kernel_uses_are_part_of_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "digested"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "__init__": "",
        "kernel": "import triton\nfrom digested import direct\nfrom digested.parts import VALUE\n",
        "direct": "def f():\n    from digested import lazy\n",
        "lazy": "",
        "parts": "VALUE = 1\n",
        "unrelated": "",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    before = kernel_sources.digest("digested.kernel")
    assert kernel_sources.digest("digested.kernel") == before
    for name in files:
        path = package / f"{name}.py"
        path.write_text(files[name] + "# changed\n")
        assert (kernel_sources.digest("digested.kernel") != before) == (name != "unrelated"), name
        path.write_text(files[name])


def test_the_digest_of_a_kernel_does_not_depend_on_where_the_package_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for number in range(2):
        package = tmp_path / str(number) / f"placed{number}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "kernel.py").write_text("X = 1\n")
        monkeypatch.syspath_prepend(package)
        digests.add(kernel_sources.digest("kernel"))
        sys.path.remove(str(package))
        sys.path_importer_cache.clear()
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TURBO_ONNX_CACHE": "/a"}, "/a"),
        ({"TURBO_ONNX_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/turbo-onnx"),
        ({"XDG_CACHE_HOME": "not/absolute", "HOME": "/h"}, "/h/.cache/turbo-onnx"),
        ({"HOME": "/h"}, "/h/.cache/turbo-onnx"),
    ],
)
def test_the_cache_is_where_the_user_says(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TURBO_ONNX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.folder() == Path(folder)


def test_what_is_stored_is_found_by_its_digest_only(own_cache: Path) -> None:
    cache.store("ab12", b"code")
    assert cache.load("ab12") == b"code"
    assert cache.load("ab13") is None
    (own_cache / "kernels" / "ab" / "ab12").rename(own_cache / "kernels" / "ab" / "ab13")
    assert cache.load("ab13") is None
    assert [path.name for path in (own_cache / "kernels" / "ab").iterdir()] == ["ab13"]


def test_processes_that_store_the_same_at_once_do_not_disturb_each_other(own_cache: Path) -> None:
    script = (
        "from turbo_onnx.custom_ops.cuda import cache\n"
        "for n in range(300):\n"
        "    cache.store('ab12', b'code' * 1000)\n"
        "    assert cache.load('ab12') == b'code' * 1000\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script], env=os.environ) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert len(list((own_cache / "kernels" / "ab").iterdir())) == 1
