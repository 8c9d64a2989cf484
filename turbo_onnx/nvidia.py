"""The NVIDIA GPU of this machine, if there is one. Nothing but its driver is needed to ask, and nothing is changed.

python -m turbo_onnx.nvidia       names the GPU, or says that there is none and exits with 1
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

from turbo_onnx.errors import InputError

DRIVER = "TURBO_ONNX_CUDA_DRIVER"  # as for our library: another file than libcuda.so.1
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: by its maker.
        capability: 10 · major + minor of its compute capability; 90 is sm_90.
        driver: the newest CUDA that the driver knows, 1000 · major + 10 · minor.
    """

    name: str
    capability: int
    driver: int

    def __str__(self) -> str:
        version = f"{self.driver // 1000}.{self.driver % 1000 // 10}"
        return f"{self.name}, sm_{self.capability}, driver for CUDA {version}"


def first_device() -> Device:
    """The first GPU that programs see.

    Raises:
        InputError: there is none, and why.
    """
    try:
        cuda = ctypes.CDLL(os.environ.get(DRIVER, "libcuda.so.1"))
    except OSError:
        raise InputError("there is no NVIDIA GPU here: its driver (libcuda.so.1) is not installed.") from None
    device, count = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        raise InputError("there is no NVIDIA GPU here: the driver is installed, and finds no device.")
    name = ctypes.create_string_buffer(_LONGEST_NAME)
    numbers = [ctypes.c_int() for _ in range(3)]
    results = (
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, _LONGEST_NAME, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(numbers[0]), _MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(numbers[1]), _MINOR, device),
        cuda.cuDriverGetVersion(ctypes.byref(numbers[2])),
    )
    if any(results):
        raise InputError(f"the NVIDIA driver does not describe its first GPU (CUDA error {max(results)}).")
    major, minor, driver = (number.value for number in numbers)
    return Device(name.value.decode(), 10 * major + minor, driver)


def main() -> None:
    """Name the GPU, or say that there is none."""
    try:
        print(first_device())
    except InputError as error:
        print(f"Not run: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
