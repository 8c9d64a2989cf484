"""The C++ launcher on a fake driver: what it launches, in which context, and what it asks of the driver."""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading

import pytest

from tests.cuda.launcher import KEY, LauncherError, code
from turbo_onnx.custom_ops.cuda import variant
from turbo_onnx.custom_ops.cuda.archive import Rule


def test_a_launch_covers_the_work_with_tiles_and_passes_the_arguments_in_order(driver, launcher):
    seen = []

    def launch(image, symbol, grid, block, shared, at):
        addresses = (ctypes.c_void_p * 6).from_address(at)
        formats = zip(addresses, "Qiqf", (8, 4, 8, 4), strict=False)
        values = [struct.unpack(f"<{kind}", ctypes.string_at(address, size))[0] for address, kind, size in formats]
        scratch = [ctypes.c_uint64.from_address(address).value for address in addresses[4:]]
        seen.append((image, symbol, grid, block, shared, values, scratch))
        return 0

    driver.set_launch(launch)
    kernels = launcher.kernels([code(arguments="pilf", num_warps=8, shared=1024, tile=(4, 2, 1), symbol="add")])
    kernels.launch(driver.stream(), (9, 2, 3), "pilf", (1 << 40, -5, -(1 << 50), 0.5))
    image = f"FAKE 90 0 {KEY}"
    assert seen == [(image, "add", (3, 1, 3), 256, 1024, [1 << 40, -5, -(1 << 50), 0.5], [0, 0])]
    assert driver.calls("cuLaunchKernel") == [f"add[{image}] grid=3,1,3 block=256,1,1 shared=1024 stream=0"]


def test_launches_load_a_kernel_once_and_never_wait_for_the_stream(driver, launcher):
    kernels, stream = launcher.kernels([code()]), driver.stream()
    for _ in range(5):
        kernels.launch(stream)
    assert len(driver.calls("cuLaunchKernel")) == 5
    assert len(driver.calls("cuModuleLoadData")) == len(driver.calls("cuModuleGetFunction")) == 1
    assert driver.calls("cuStreamSynchronize") == driver.calls("cuFuncSetAttribute") == []
    assert driver.calls("cuCtxPushCurrent") == driver.calls("cuModuleUnload") == []


def test_the_second_launch_asks_the_driver_for_nothing_but_the_context(driver, launcher):
    kernels, stream = launcher.kernels([code()]), driver.stream()
    kernels.launch(stream)
    driver.clear_log()
    kernels.launch(stream)
    assert [line.split()[0] for line in driver.log()] == ["cuCtxGetCurrent", "cuStreamGetCtx", "cuLaunchKernel"]


def test_sessions_share_what_is_loaded_and_it_outlives_them(driver, launcher):
    stream = driver.stream()
    for _ in range(3):
        kernels = launcher.kernels([code()])
        kernels.launch(stream)
        kernels.close()
    assert len(driver.calls("cuModuleLoadData")) == 1
    assert driver.calls("cuModuleUnload") == []


def test_equal_code_of_two_keys_is_loaded_once(driver, launcher):
    first = code(key="one")
    second = type(first)(**(vars(first) | {"key": "two"}))
    kernels, stream = launcher.kernels([first, second]), driver.stream()
    for key in ("one", "two"):
        kernels.launch(stream, key=key)
    assert len(driver.calls("cuModuleLoadData")) == 1


def test_the_null_stream_is_the_current_contexts(driver, launcher):
    launcher.kernels([code()]).launch(None)
    assert driver.calls("cuLaunchKernel")[0].endswith("stream=null")
    assert driver.calls("cuStreamGetCtx") == []


def test_the_null_stream_needs_a_current_context(driver, launcher):
    driver.set_current(None)
    with pytest.raises(LauncherError, match="no CUDA context is current on this thread"):
        launcher.kernels([code()]).launch(None)


@pytest.mark.parametrize("work", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_empty_grid_launches_nothing(driver, launcher, work):
    launcher.kernels([code()]).launch(driver.stream(), work)
    assert driver.calls("cuLaunchKernel") == []


def test_an_empty_grid_needs_its_kernel_all_the_same(driver, launcher):
    with pytest.raises(LauncherError, match="no compiled kernel of this name"):
        launcher.kernels([code()]).launch(driver.stream(), (0, 1, 1), key="sub")


@pytest.mark.parametrize(
    ("work", "fits"),
    [
        ((2**31 - 1, 65535, 65535), True),
        ((2**31, 1, 1), False),
        ((2**32 + 1, 1, 1), False),
        ((1, 65536, 1), False),
        ((1, 1, 65536), False),
    ],
)
def test_a_grid_within_the_devices_limits_is_launched_and_one_beyond_is_refused(driver, launcher, work, fits):
    kernels, stream = launcher.kernels([code()]), driver.stream()
    if fits:
        kernels.launch(stream, work)
        return
    x, y, z = work
    with pytest.raises(LauncherError, match=f"{KEY}: a grid of {x} x {y} x {z} programs is beyond") as caught:
        kernels.launch(stream, work)
    assert caught.value.invalid
    assert driver.calls("cuLaunchKernel") == []


@pytest.mark.parametrize("types", ["", "i", "l", "pp"])
def test_arguments_other_than_those_that_were_compiled_for_are_refused(driver, launcher, types):
    kernels = launcher.kernels([code(arguments="p")])
    message = f"{KEY}: called with arguments of types '{types}', but compiled for 'p'"
    with pytest.raises(LauncherError, match=message) as caught:
        kernels.launch(driver.stream(), types=types, values=[0] * len(types))
    assert caught.value.invalid
    assert driver.calls("cuLaunchKernel") == []


def test_an_unknown_key_is_named(driver, launcher):
    with pytest.raises(LauncherError, match=r"^sub;float: the model has no compiled kernel of this name$") as caught:
        launcher.kernels([code()]).launch(driver.stream(), key="sub;float")
    assert caught.value.invalid


def test_what_a_launch_fails_with_is_said(driver, launcher):
    kernels, stream = launcher.kernels([code()]), driver.stream()
    driver.fail("cuLaunchKernel", 700)
    with pytest.raises(LauncherError) as caught:
        kernels.launch(stream)
    text = "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"
    assert str(caught.value) == f"{KEY}: cuLaunchKernel failed: {text}"
    assert not caught.value.invalid
    driver.fail("cuLaunchKernel", 12345)
    with pytest.raises(LauncherError, match=r"cuLaunchKernel failed: error 12345$"):
        kernels.launch(stream)


def test_aligned_pointers_take_the_aligned_kernel_and_others_the_fallback(driver, launcher):
    codes = [code(arguments="pp", aligned=True, note=" aligned"), code(arguments="pp", note=" any")]
    kernels, stream = launcher.kernels(codes), driver.stream()
    for pointers, taken in [((16, 4096), "aligned"), ((16, 24), "any"), ((8, 16), "any"), ((0, 32), "aligned")]:
        driver.clear_log()
        kernels.launch(stream, types="pp", values=pointers)
        assert f"{taken}]" in driver.calls("cuLaunchKernel")[0]


def test_numbers_are_no_pointers(driver, launcher):
    codes = [code(arguments="pl", aligned=True, note=" aligned"), code(arguments="pl", note=" any")]
    launcher.kernels(codes).launch(driver.stream(), types="pl", values=(16, 3))
    assert " aligned]" in driver.calls("cuLaunchKernel")[0]


def test_aligned_pointers_do_without_an_aligned_kernel(driver, launcher):
    launcher.kernels([code()]).launch(driver.stream(), values=(16,))
    assert len(driver.calls("cuLaunchKernel")) == 1


def test_pointers_that_are_not_aligned_are_refused_where_there_is_no_fallback(driver, launcher):
    kernels = launcher.kernels([code(aligned=True)])
    with pytest.raises(LauncherError, match=f"{KEY}: .* has none for pointers that are not multiples of 16"):
        kernels.launch(driver.stream(), values=(8,))


def test_another_context_than_the_current_one_is_pushed_and_popped(driver, launcher):
    driver.set_device(1, 80)
    kernels = launcher.kernels([code(90), code(80, Rule.SAME_MAJOR)])
    for ordinal, taken in [(0, 90), (1, 80), (0, 90), (1, 80)]:
        driver.clear_log()
        kernels.launch(driver.stream(ordinal))
        assert driver.calls("cuLaunchKernel")[0].startswith(f"kernel[FAKE {taken} ")
        assert len(driver.calls("cuCtxPushCurrent")) == len(driver.calls("cuCtxPopCurrent")) == ordinal
        assert driver.depth() == 0


def test_a_thread_without_a_context_takes_the_streams(driver, launcher):
    driver.set_current(None)
    launcher.kernels([code()]).launch(driver.stream())
    assert len(driver.calls("cuLaunchKernel")) == 1
    assert driver.depth() == 0


def test_each_context_of_a_device_has_its_own_copy(driver, launcher):
    second = driver.context(0)
    kernels = [launcher.kernels([code()]) for _ in range(2)]
    for stream, each in itertools.product([driver.stream(), driver.stream_in(second)], kernels):
        each.launch(stream)
    assert len(driver.calls("cuModuleLoadData")) == 2
    assert len(driver.calls("cuLaunchKernel")) == 4
    assert driver.depth() == 0


def test_the_context_is_popped_when_a_launch_throws(driver, launcher):
    driver.set_device(1, 90)
    kernels, stream = launcher.kernels([code()]), driver.stream(1)
    with pytest.raises(LauncherError, match="beyond"):
        kernels.launch(stream, (1, 65536, 1))
    with pytest.raises(LauncherError, match="compiled for"):
        kernels.launch(stream, types="", values=())
    assert len(driver.calls("cuCtxPushCurrent")) == len(driver.calls("cuCtxPopCurrent")) == 2
    assert driver.depth() == 0


def test_threads_that_launch_at_once_load_each_kernel_once(driver, launcher):
    archives = [[code(note=f" {i}")] for i in range(8)]
    kernels = [launcher.kernels(archive) for archive in archives * 4]
    threads = 8
    driver.set_load_delay(20_000)
    assert launcher.launch_at_once(kernels, threads, driver.stream()) == 0
    assert sorted(driver.calls("cuModuleLoadData")) == [f"[FAKE 90 0 {KEY} {i}] context=0" for i in range(8)]
    assert len(driver.calls("cuLaunchKernel")) == threads * len(kernels)
    assert driver.calls("cuModuleUnload") == []
    assert driver.most_loading() > 1  # of different kernels


def test_threads_of_two_devices_do_not_mix_contexts(driver, launcher):
    driver.set_device(1, 80)
    kernels = launcher.kernels([code(90), code(80, Rule.SAME_MAJOR)])
    streams = [driver.stream(0), driver.stream(1)]
    failures: list[Exception] = []

    def work(stream: int) -> None:
        try:
            for _ in range(100):
                kernels.launch(stream)
            assert driver.depth() == 0
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(streams[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(driver.calls("cuModuleLoadData")) == 2
    assert len(driver.calls("cuLaunchKernel")) == 600


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "float32"), (6, "int32"), (7, "int64"), (9, "bool"), (10, "float16"), (11, "float64"), (16, "bfloat16")],
)
@pytest.mark.parametrize("size", [0, 768, -1, 2**63 - 1, -(2**63)])
def test_a_key_is_the_text_that_python_writes(launcher, number, name, size):
    assert launcher.key(number, size) == variant.key("name", name, width=size, bias=True)


def test_a_key_of_another_element_type_is_refused(launcher):
    with pytest.raises(LauncherError, match="no kernels for tensors of element type 8"):
        launcher.key(8, 1)
