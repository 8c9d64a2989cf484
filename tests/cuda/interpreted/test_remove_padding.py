"""RemovePadding on CUDA: rows longer than a block, more sequences than a block, special masks, waiting once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.device import by_device, use_of
from tests.cuda.fake_driver import FakeDriver
from tests.custom_ops.cases import MASK_TYPES
from tests.custom_ops.single_node import Array, Case, assert_equal
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.remove_padding import cuda
from turbo_onnx.errors import Reject


def use(mask: Array, outputs: int = 4) -> Case:
    return Case("RemovePadding", [mask], outputs=outputs)


def random_mask(*shape: int) -> Array:
    return np.random.default_rng(shape).random(shape) < 0.6


@pytest.mark.parametrize("element", MASK_TYPES)
@pytest.mark.parametrize("shape", [(2, 1023), (2, 1024), (2, 1025), (3, 2500), (1, 1)])
def test_rows_at_the_edges_of_blocks(shape: tuple[int, int], element: str) -> None:
    case = use(random_mask(*shape).astype(element))
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("sequences", [1024, 1025])
def test_as_many_sequences_as_a_block_sums_up(sequences: int) -> None:
    case = use(random_mask(sequences, 3))
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 7)])
def test_no_token_at_all(shape: tuple[int, int]) -> None:
    case = use(np.zeros(shape, np.int64))
    assert_equal(by_device(case), case.expected())


def test_nan_is_a_token_and_negative_zero_is_none() -> None:
    case = use(np.array([[np.nan, -0.0, 0.0], [1e-40, -1.0, np.inf]], np.float32))
    assert by_device(case)[0].tolist() == [0, 3, 4, 5]


def test_any_bit_of_an_integer_counts() -> None:
    case = use(np.array([[2**40, 0, -1, 2**32]], np.int64))
    assert by_device(case)[0].tolist() == [0, 2, 3]


def binary(mask: Array) -> Case:
    return Case("RemovePadding", [mask], {"binary_input": "attention_mask"}, outputs=4)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of sequences are slow to interpret at their usual size."""
    monkeypatch.setattr(cuda, "_BLOCK", 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("element", [name for name in MASK_TYPES if name != "bool"])
@pytest.mark.parametrize("shape", [(2, 35), (33, 2), (0, 5), (5, 0)])
def test_a_mask_that_must_be_of_zeros_and_ones_and_is(shape: tuple[int, int], element: str) -> None:
    case = binary(random_mask(*shape).astype(element))
    assert_equal(by_device(case), case.expected())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "where", "value", "element"),
    [
        ((1, 1), [(0, 0)], 2, "int64"),
        ((2, 40), [(1, 39), (0, 33)], 2**32 + 1, "int64"),
        ((18, 3), [(17, 2)], -1, "int32"),
        ((18, 3), [(3, 1), (16, 0), (17, 2)], np.nan, "float32"),
        ((40, 2), [(31, 1), (32, 0)], 0.5, "float32"),
        ((2, 3), [(1, 1)], 1 + 2**-40, "float64"),
        ((2, 3), [(1, 2), (1, 1)], 1e-40, "float32"),
    ],
)
def test_the_first_other_element_of_such_a_mask_is_named(
    shape: tuple[int, int], where: list[tuple[int, int]], value: float, element: str
) -> None:
    mask = random_mask(*shape).astype(element)
    for place in where:
        mask[place] = value
    case = binary(mask)
    case.expected = use(random_mask(*shape)).expected  # type: ignore[method-assign]
    first = min(where)
    with pytest.raises(Exception, match=rf"attention_mask has (\S+) at \[{first[0]}, {first[1]}\], but") as refusal:
        by_device(case)
    named = str(refusal.value).split("attention_mask has ")[1].split()[0]
    assert np.array(named).astype(element).tobytes() == mask[first].tobytes()


def test_outputs_that_nobody_reads_may_be_left_out() -> None:
    keys = [variant.key for variant in variants_of(use_of(use(random_mask(3, 40), outputs=2)), 90)]
    assert keys == ["count_tokens;bool", "sum_up_tokens;max_seqlen=0", "list_tokens;bool;index=1;position=0"]


def test_cu_seqlens_may_not() -> None:
    with pytest.raises(Reject, match="cu_seqlens is left out"):
        variants_of(use_of(use(random_mask(3, 4), outputs=1)), 90)


def test_a_mask_that_is_no_matrix_is_refused() -> None:
    case = use(random_mask(3, 4))
    case.expected = use(case.inputs[0]).expected  # type: ignore[method-assign]
    case.inputs = [case.inputs[0][0]]
    with pytest.raises(Exception, match=r"mask has shape \[4\], but must be a matrix"):
        by_device(case)


@pytest.mark.parametrize(
    ("mask", "waits"), [(random_mask(3, 4), 1), (np.zeros((3, 4), bool), 1), (np.zeros((3, 0)), 0)]
)
def test_the_host_waits_once_for_the_number_of_tokens_and_never_if_there_is_no_mask(mask: Array, waits: int) -> None:
    case = use(mask.astype(np.int64))
    by_device(case)  # opens the fake driver
    driver = FakeDriver(Path(os.environ["TURBO_ONNX_CUDA_DRIVER"]))
    driver.clear_log()
    by_device(case)
    assert len(driver.calls("cuMemcpyDtoHAsync")) == len(driver.calls("cuStreamSynchronize")) == waits
