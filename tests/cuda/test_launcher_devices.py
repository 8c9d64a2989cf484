"""The C++ launcher takes the best code that runs on the device, or says why there is none."""

from __future__ import annotations

import pytest

from tests.cuda.launcher import KEY, LauncherError, code
from turbo_onnx.custom_ops.cuda.archive import Rule

REFUSALS = {
    200: "CUDA_ERROR_INVALID_IMAGE",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU",
    218: "CUDA_ERROR_INVALID_PTX",
    221: "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
    222: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
}


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
