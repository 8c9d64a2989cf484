"""What tests of VarlenAttention on CUDA share: how exact it is, and uses that only a device takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.cuda.device import by_device
from tests.custom_ops.single_node import Array, Case, assert_equal

TOLERANCE = 2e-6
UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # in the last place of 1


class CaseOnDevice(Case):
    """A use whose inputs need not fit: what it gives is not defined, but its shape is."""

    def expected(self) -> list[Array]:
        query = self.inputs[0]
        assert query is not None
        return [np.zeros(query.shape, np.float32)]


def in_float32(case: Case, operand: str) -> Case:
    """The case with an operand that stays in float32 in half precision."""
    return replace(case, in_float32=frozenset([operand]))


def check(case: Case) -> None:
    assert_equal(by_device(case), case.expected(), TOLERANCE)
