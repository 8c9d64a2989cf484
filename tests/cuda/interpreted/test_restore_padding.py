"""RestorePadding on CUDA: every type, sizes at the edges of tiles, and indices that break their contract."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import by_device, use_of
from tests.custom_ops.single_node import Array, Case, assert_equal
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.custom_ops.restore_padding.cuda import tile, variants
from turbo_onnx.errors import Reject

RANDOM = np.random.default_rng(13)
TYPES = ["float32", "float16", "float64", "int64", "int32", "bool"]


class CaseOnDevice(Case):
    """A use whose index may be anything: what it gives is not defined, but its shape is."""

    def expected(self) -> list[Array]:
        rows, _, mask = self.inputs
        return [np.zeros((*mask.shape, *rows.shape[1:]), rows.dtype)]


def restore(mask: Array, *shape: int, kind: str = "float32") -> Case:
    index = np.flatnonzero(mask).astype(np.int64)
    rows = (9 * RANDOM.standard_normal((len(index), *shape))).astype(kind)
    return Case("RestorePadding", [rows, index, mask])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (37,), (2, 100), (770,), (3000,)])
def test_every_type_at_every_size_of_rows(shape: tuple[int, ...], kind: str) -> None:
    case = restore(RANDOM.random((3, 11)) < 0.6, *shape, kind=kind)
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_every_density_of_tokens(density: float) -> None:
    case = restore(RANDOM.random((7, 341)) < density, 3)
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("tokens", [slice(0, 0), slice(0, 1), slice(-1, None), slice(0, 40), slice(40, None)])
def test_padding_all_on_one_side(tokens: slice) -> None:
    mask = np.zeros((1, 500), bool)
    mask[:, tokens] = True
    case = restore(mask, 5)
    assert_equal(by_device(case), case.expected())


@pytest.mark.parametrize("width", [1, 8, 384])
def test_every_number_of_positions_at_the_edges_of_tiles(width: int) -> None:
    height = tile(width, 4).positions
    for positions in {1, height - 1, height, height + 1}:
        case = restore(RANDOM.random((1, positions)) < 0.7, width)
        assert_equal(by_device(case), case.expected())


def test_rows_wider_than_a_tile() -> None:
    case = restore(np.array([[1, 0, 1], [0, 0, 1]], np.int64), 2, 20_000)
    assert_equal(by_device(case), case.expected())


def test_bits_are_kept() -> None:
    bits = np.array([0x80000000, 0x7FC12345, 0xFF800001, 1], np.uint32)  # -0, two NaNs with a payload, a subnormal
    (output,) = by_device(Case("RestorePadding", [bits.view(np.float32)[:, None], np.arange(4), np.ones((2, 2), bool)]))
    assert output.view(np.uint32).ravel().tolist() == bits.tolist()


@pytest.mark.parametrize("index", [[-5, 2, 3], [3, 1, 2], [0, 10**12, 2], [7, 7, 7], [-(2**63), 0, 2**63 - 1]])
def test_an_index_that_is_wrong_touches_nothing_outside(index: list[int]) -> None:
    rows = np.ones((3, 4), np.float32)
    (output,) = by_device(CaseOnDevice("RestorePadding", [rows, np.array(index), np.ones((2, 4), bool)]))
    assert output.shape == (2, 4, 4)
    assert np.isin(output, [0.0, 1.0]).all()


def test_more_rows_than_positions_are_refused() -> None:
    case = CaseOnDevice("RestorePadding", [np.ones((3, 4), np.float32), np.arange(3), np.ones((1, 2), bool)])
    with pytest.raises(Exception, match="there are 3 rows for 2 positions"):
        by_device(case)


def test_rows_of_a_size_that_only_a_run_can_tell_are_refused() -> None:
    use = use_of(restore(np.ones((1, 2), bool), 3, 4))
    for shape in (("tokens", 3, "width"), None):
        unknown = Use(use.operator, use.types, dict(use.shapes) | {"rows": shape}, use.attributes)
        with pytest.raises(Reject, match="is not known"):
            variants(unknown, 90)
