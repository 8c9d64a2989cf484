"""Whatever the driver fails at, the C++ launcher says it in one sentence, and works again when the driver does."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda import fake_driver
from tests.cuda.launcher import KEY, LauncherError, code
from turbo_onnx.custom_ops.cuda.archive import Rule

OUT_OF_MEMORY = 2


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
