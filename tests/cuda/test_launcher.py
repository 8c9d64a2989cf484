"""The C++ launcher on a fake driver: which kernel it takes, what it asks of the driver, what it says when it fails."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import fake_driver
from tests.cuda.fake_driver import FakeDriver
from tests.cuda.launcher import KEY, Launcher, LauncherError, code
from turbo_onnx.custom_ops.cuda import variant
from turbo_onnx.custom_ops.cuda.archive import Rule

pytestmark = pytest.mark.skipif(fake_driver.compiler() is None, reason="no C++ compiler")

OUT_OF_MEMORY = 2
REFUSALS = {
    200: "CUDA_ERROR_INVALID_IMAGE",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    218: "CUDA_ERROR_INVALID_PTX",
    221: "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
    222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
}
_copies = itertools.count()


@pytest.fixture
def new_launcher(probe_library: Path, tmp_path: Path) -> Callable[[], Launcher]:
    """Makes launchers that share nothing, as if each were in a process of its own."""

    def make() -> Launcher:
        return Launcher(shutil.copy(probe_library, tmp_path / f"probe{next(_copies)}.so"))

    return make


@pytest.fixture
def driver(fake_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", str(fake_library))
    driver = FakeDriver(fake_library)
    driver.reset()
    yield driver
    driver.reset()


@pytest.fixture
def launcher(driver: FakeDriver, new_launcher: Callable[[], Launcher]) -> Launcher:
    del driver  # has to be there
    return new_launcher()


# Launching


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


# Pointers


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


# Choosing code for a device


@pytest.mark.parametrize(
    ("capability", "taken"),
    [
        (80, "80 1"),
        (86, "86 1"),
        (89, "86 1"),
        (90, "90 0"),
        (100, "100 0"),
        (103, "80 2"),  # code for one architecture runs on no other
        (120, "80 2"),
    ],
)
def test_the_best_code_for_the_device_is_taken(driver, launcher, capability, taken):
    rules = [(80, Rule.SAME_MAJOR), (86, Rule.SAME_MAJOR), (90, Rule.EXACT), (100, Rule.EXACT), (80, Rule.LATER)]
    driver.set_device(capability=capability)
    launcher.kernels([code(*rule) for rule in rules]).launch(driver.stream())
    assert driver.calls("cuLaunchKernel")[0].startswith(f"kernel[FAKE {taken} ")
    assert len(driver.calls("cuModuleLoadData")) == 1  # no other is tried


def test_machine_code_for_an_earlier_device_is_better_than_ptx_for_this_one(driver, launcher):
    driver.set_device(capability=86)
    launcher.kernels([code(80, Rule.SAME_MAJOR), code(86, Rule.LATER)]).launch(driver.stream())
    assert driver.calls("cuLaunchKernel")[0].startswith("kernel[FAKE 80 1 ")


def test_machine_code_of_another_major_version_is_not_tried(driver, launcher):
    driver.set_device(capability=120)
    kernels = launcher.kernels([code(90, Rule.SAME_MAJOR), code(86, Rule.SAME_MAJOR), code(80, Rule.LATER)])
    kernels.launch(driver.stream())
    assert driver.calls("cuModuleLoadData") == [f"[FAKE 80 2 {KEY}] context=0"]


def test_of_ptx_the_latest_that_runs_is_taken(driver, launcher):
    driver.set_device(capability=100)
    launcher.kernels([code(c, Rule.LATER) for c in (80, 90, 120)]).launch(driver.stream())
    assert driver.calls("cuLaunchKernel")[0].startswith("kernel[FAKE 90 2 ")


def test_code_for_the_device_without_alignment_is_better_than_aligned_ptx(driver, launcher):
    codes = [code(90, Rule.EXACT), code(80, Rule.LATER, aligned=True)]
    launcher.kernels(codes).launch(driver.stream())
    assert driver.calls("cuLaunchKernel")[0].startswith("kernel[FAKE 90 0 ")


def test_a_device_for_which_there_is_no_code_is_named_with_what_there_is_and_what_to_do(driver, launcher):
    driver.set_device(capability=75)
    kernels = launcher.kernels([code(80, Rule.SAME_MAJOR), code(90), code(80, Rule.LATER)])
    with pytest.raises(LauncherError) as caught:
        kernels.launch(driver.stream())
    assert not caught.value.invalid
    assert str(caught.value) == (
        f"{KEY}: no compiled kernel runs on this device, which is sm_75; the model has sm_80, sm_80 and later as PTX, "
        "sm_90 alone; optimize again with --target cuda:sm_75"
    )
    assert driver.calls("cuModuleLoadData") == []


@pytest.mark.parametrize("function", ["cuModuleLoadData", "cuModuleGetFunction"])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_where_the_driver_refuses_code_the_next_best_is_taken(driver, launcher, function, refusal):
    """A driver that loads lazily may say only at the second call that it cannot use an image."""
    driver.fail(function, refusal)
    kernels, stream = launcher.kernels([code(90), code(80, Rule.LATER)]), driver.stream()
    kernels.launch(stream)
    kernels.launch(stream)
    assert [call[:16] for call in driver.calls("cuLaunchKernel")] == ["kernel[FAKE 80 2"] * 2
    assert len(driver.calls("cuModuleUnload")) == (function == "cuModuleGetFunction")


@pytest.mark.parametrize(("refusal", "name"), REFUSALS.items())
def test_where_the_driver_refuses_all_code_it_is_to_be_updated(driver, launcher, refusal, name):
    driver.set_driver_version(11040)
    driver.fail("cuModuleLoadData", refusal, 1)
    driver.fail("cuModuleLoadData", 222, 2)
    kernels, stream = launcher.kernels([code(90), code(80, Rule.LATER)]), driver.stream()
    with pytest.raises(LauncherError) as caught:
        kernels.launch(stream)
    sentence = str(caught.value)
    assert sentence.startswith(f"{KEY}: no compiled kernel runs on this device, which is sm_90; the model has sm_80 ")
    assert f"; the driver, of CUDA 11.4, refused them: {name} (" in sentence
    assert sentence.endswith("; update the driver, or optimize again with --target cuda:sm_90")
    kernels.launch(stream)  # nothing of it is remembered


# Shared memory


@pytest.mark.parametrize(("shared", "asks"), [(0, 0), (49152, 0), (49153, 1), (101376, 1)])
def test_more_shared_memory_than_usual_is_asked_for_once(driver, launcher, shared, asks):
    driver.set_device(max_shared=101376)
    kernels, stream = launcher.kernels([code(shared=shared)]), driver.stream()
    for _ in range(2):
        kernels.launch(stream)
    assert len(driver.calls("cuFuncSetAttribute")) == asks


def test_more_shared_memory_than_the_device_has_is_refused_with_the_numbers(driver, launcher):
    driver.set_device(max_shared=101376)
    kernels = launcher.kernels([code(shared=101377)])
    message = f"^{KEY}: needs 101377 bytes of shared memory, but this device has 101376$"
    with pytest.raises(LauncherError, match=message):
        kernels.launch(driver.stream())
    assert len(driver.calls("cuModuleLoadData")) == len(driver.calls("cuModuleUnload")) == 1


# Contexts


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


# Every call of the driver that can fail


@pytest.mark.parametrize(
    "function",
    [
        "cuInit",
        "cuCtxGetCurrent",
        "cuStreamGetCtx",
        "cuCtxPushCurrent",
        "cuCtxGetDevice",
        "cuDeviceGetAttribute",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuLaunchKernel",
        "cuCtxPopCurrent",
    ],
)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_call_that_fails_is_named_and_the_next_launch_works(driver, launcher, function, after):
    driver.set_device(1, 90)
    kernels, stream = launcher.kernels([code(shared=100_000)]), driver.stream(1)
    driver.fail(function, OUT_OF_MEMORY, after)
    failures, launches = [], 5
    for _ in range(launches):
        try:
            kernels.launch(stream)
        except LauncherError as error:
            failures.append(str(error))
    times = len(driver.calls(function))
    assert failures == [f"{KEY}: {function} failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)"] * (times >= after)
    assert len(driver.calls("cuModuleLoadData")) - len(driver.calls("cuModuleUnload")) == (
        2 if function == "cuModuleLoadData" and times >= after else 1
    )
    assert driver.depth() == (1 if function == "cuCtxPopCurrent" else 0)  # what the driver does not pop stays


def test_a_failed_question_for_the_drivers_version_does_not_hide_the_reason(driver, launcher):
    driver.fail("cuModuleLoadData", 222)
    driver.fail("cuDriverGetVersion", OUT_OF_MEMORY)
    with pytest.raises(LauncherError, match="unknown version of CUDA, refused them: CUDA_ERROR_UNSUPPORTED_PTX"):
        launcher.kernels([code()]).launch(driver.stream())


def test_a_module_without_the_function_is_said_and_unloaded(driver, launcher):
    with pytest.raises(LauncherError, match="cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND"):
        launcher.kernels([code(symbol="missing")]).launch(driver.stream())
    assert len(driver.calls("cuModuleUnload")) == 1


def test_code_that_is_not_what_was_compiled_is_refused_before_the_driver_sees_it(driver, launcher):
    archive = launcher.kernels([code(note=" original")])._archive.replace(b"original", b"0riginal")
    with pytest.raises(LauncherError, match=f"{KEY}: the compiled kernels in the model are damaged") as caught:
        launcher.kernels(archive).launch(driver.stream())
    assert caught.value.invalid
    assert driver.calls("cuModuleLoadData") == []


def test_ptx_has_to_end_as_text_does(driver, launcher):
    good = code(80, Rule.LATER)
    kernels = launcher.kernels([type(good)(**(vars(good) | {"data": good.data[:-1]}))])
    with pytest.raises(LauncherError, match="damaged"):
        kernels.launch(driver.stream())


# Reading


def test_reading_copies_one_number_and_waits_for_the_stream_once(driver, launcher):
    number = np.array([-12345], np.int32)
    assert launcher.kernels([code()]).read(driver.stream(), number.ctypes.data) == -12345
    assert driver.calls("cuMemcpyDtoHAsync") == ["bytes=4 stream=0"]
    assert driver.calls("cuStreamSynchronize") == ["stream=0"]


def test_reading_takes_the_streams_context(driver, launcher):
    driver.set_device(1, 80)
    number = np.array([7], np.int32)
    assert launcher.kernels([code()]).read(driver.stream(1), number.ctypes.data) == 7
    assert driver.depth() == 0


@pytest.mark.parametrize(
    "function", ["cuStreamGetCtx", "cuCtxPushCurrent", "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuCtxPopCurrent"]
)
def test_a_failed_read_is_said_and_the_next_works(driver, launcher, function):
    driver.set_device(1, 90)
    number, stream = np.array([7], np.int32), driver.stream(1)
    kernels = launcher.kernels([code()])
    driver.fail(function, 700)
    with pytest.raises(LauncherError, match=f"{function} failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        kernels.read(stream, number.ctypes.data)
    assert kernels.read(stream, number.ctypes.data) == 7


# Opening the driver


def test_a_missing_driver_is_said_and_looked_for_again(driver, launcher, monkeypatch, fake_library):
    kernels, stream = launcher.kernels([code()]), driver.stream()
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", "/nonexistent/libcuda.so.1")
    with pytest.raises(LauncherError, match=f"{KEY}: no NVIDIA driver here: /nonexistent/libcuda.so.1: ") as caught:
        kernels.launch(stream)
    assert not caught.value.invalid
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", str(fake_library))
    kernels.launch(stream)


def test_the_driver_is_not_needed_to_open_an_archive(new_launcher, monkeypatch):
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", "/nonexistent/libcuda.so.1")
    new_launcher().kernels([code()]).close()


def test_a_machine_without_a_device_is_said(driver, launcher):
    driver.fail("cuInit", 100)
    with pytest.raises(
        LauncherError, match=r"cuInit failed: CUDA_ERROR_NO_DEVICE \(no CUDA-capable device is detected\)"
    ):
        launcher.open_driver()
    launcher.open_driver()
    launcher.open_driver()
    assert len(driver.calls("cuInit")) == 2


@pytest.mark.parametrize("function", ["cuStreamGetCtx", "cuCtxPushCurrent_v2", "cuLaunchKernel"])
def test_a_driver_that_lacks_a_function_is_to_be_updated(new_launcher, monkeypatch, tmp_path, function):
    lacking = tmp_path / "libcuda.so"
    fake_driver.build_shared(lacking, [fake_driver.FOLDER / "null_driver.cc"], f"-D{function}=absent")
    monkeypatch.setenv("TURBO_ONNX_CUDA_DRIVER", str(lacking))
    with pytest.raises(LauncherError, match=f"^the NVIDIA driver {lacking} lacks {function}: update it$"):
        new_launcher().open_driver()


# Threads


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


# Keys


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
