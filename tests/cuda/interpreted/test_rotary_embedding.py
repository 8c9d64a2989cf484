"""RotaryEmbedding on CUDA: indices outside of the table, edges of tiles, and what a rotation must not touch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import by_device, run, use_of, with_kernels
from tests.custom_ops.cases import normal
from tests.custom_ops.single_node import Array, Case, assert_equal, in_place
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.custom_ops.rotary_embedding.cuda import variants
from turbo_onnx.errors import Reject

RANDOM = np.random.default_rng(31)
HEADS, SIZE, COLUMNS, POSITIONS = 3, 12, 8, 5


class CaseOnDevice(Case):
    """A use whose index may be outside of the table: then what is turned of the row is NaN."""

    def expected(self) -> list[Array]:
        *inputs, index = self.inputs
        assert index is not None
        wrong = (index < 0) | (index >= POSITIONS)
        (output,) = Case(self.operator, [*inputs, np.where(wrong, 0, index)], self.attributes).expected()
        by_head = output.reshape(-1, HEADS, SIZE)
        by_head[wrong, : int(self.attributes["rotated_heads"]), :COLUMNS] = np.nan
        return [output]


def rotation(rows: int, bias: bool = False, interleaved: int = 0, index: Array | None = None) -> Case:
    """Two of three heads of 12 are turned, 8 columns of each; there are 5 positions."""
    x, cos, sin = (
        normal(RANDOM, rows, HEADS * SIZE),
        normal(RANDOM, POSITIONS, COLUMNS),
        normal(RANDOM, POSITIONS, COLUMNS),
    )
    index = RANDOM.integers(0, POSITIONS, rows) if index is None else index
    attributes = {"num_heads": HEADS, "rotated_heads": 2, "interleaved": interleaved}
    return CaseOnDevice(
        "RotaryEmbedding", [x, normal(RANDOM, HEADS * SIZE) if bias else None, cos, sin, index], attributes
    )


@pytest.mark.parametrize("interleaved", [0, 1])
def test_an_index_outside_of_the_table_makes_what_is_turned_of_its_row_nan_and_nothing_else(interleaved: int) -> None:
    extreme = np.iinfo(np.int64)
    case = rotation(7, True, interleaved, np.array([POSITIONS, 0, -1, 4, extreme.max, extreme.min, 2]))
    (output,) = by_device(case)
    assert np.isnan(output).any(axis=1).tolist() == [True, False, True, False, True, True, False]
    assert_equal([output], case.expected())


@pytest.mark.parametrize("interleaved", [0, 1])
def test_numbers_of_rows_at_the_edges_of_tiles(interleaved: int) -> None:
    (variant,) = variants(use_of(rotation(1, interleaved=interleaved)), 90)
    height = variant.tile[0]
    assert height > 2
    for rows in (1, height - 1, height, height + 1):
        case = rotation(rows, interleaved=interleaved)
        assert_equal(by_device(case), case.expected())


def test_what_is_not_turned_keeps_infinities() -> None:
    case = rotation(4)
    x = case.inputs[0]
    assert x is not None
    by_head = x.reshape(4, HEADS, SIZE)
    by_head[0, :2, COLUMNS:], by_head[1, 2] = np.inf, -np.inf
    assert_equal(by_device(case), [*case.expected()])
    assert np.isinf(by_device(case)[0]).sum() == 2 * (SIZE - COLUMNS) + SIZE


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rows_may_be_rotated_where_they_are(interleaved: int, bias: bool) -> None:
    case = rotation(70, bias, interleaved)
    (output,) = run(in_place(with_kernels(case), "input"), case.feeds)
    rows = case.inputs[0]
    assert rows is not None
    (expected,) = CaseOnDevice(case.operator, [-rows, *case.inputs[1:]], case.attributes).expected()
    assert_equal([output], [-expected])


def test_unknown_widths_are_refused() -> None:
    use = use_of(rotation(2))
    for operand in ("input", "cos"):
        unknown = Use(use.operator, use.types, {**use.shapes, operand: ("T", "W")}, use.attributes)
        with pytest.raises(Reject, match=f"the size of axis -1 of {operand} is not known"):
            variants(unknown, 90)
