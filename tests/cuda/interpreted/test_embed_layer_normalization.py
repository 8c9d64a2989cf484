"""EmbedLayerNormalization on CUDA: ids outside of their tables, and what random uses do not reach."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.device import by_device, use_of
from tests.custom_ops.cases import eighths
from tests.custom_ops.single_node import Array, Case, assert_equal
from turbo_onnx.custom_ops.cuda.normalization import WIDEST
from turbo_onnx.custom_ops.cuda.variant import Use
from turbo_onnx.custom_ops.embed_layer_normalization.cuda import tile, variants
from turbo_onnx.errors import Reject

RANDOM = np.random.default_rng(12)
SIZES = (11, 2, 6)


class CaseOnDevice(Case):
    """A use whose ids may be outside of their tables: then the row is NaN."""

    def expected(self) -> list[Array]:
        ids, tables = self.inputs[:3], self.inputs[3:6]
        outside = np.zeros(ids[0].shape, bool)
        inside: list[Array | None] = []
        for index, table in zip(ids, tables, strict=True):
            wrong = index is not None and (index < -len(table)) | (index >= len(table))
            outside |= wrong
            inside.append(None if index is None else np.where(wrong, 0, index))
        (output,) = Case(self.operator, [*inside, *self.inputs[3:]], self.attributes).expected()
        output[outside] = np.nan
        return [output]


def embedding(ids: list[Array | None], width: int = 37, sizes: tuple[int, ...] = SIZES) -> Case:
    tables = [None if i is None else eighths(RANDOM, size, width) for i, size in zip(ids, sizes, strict=True)]
    vectors = (RANDOM.standard_normal(width).astype(np.float32) for _ in range(2))
    return CaseOnDevice("EmbedLayerNormalization", [*ids, *tables, *vectors], {"epsilon": 1e-2})


@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize("table", [0, 1, 2])
def test_an_id_outside_its_table_makes_its_row_nan_and_no_other(table: int, kind: type[np.signedinteger]) -> None:
    ids = [RANDOM.integers(-size, size, 7).astype(kind) for size in SIZES]
    extreme = np.iinfo(kind)
    ids[table][[0, 2, 4, 5]] = [SIZES[table], -SIZES[table] - 1, extreme.max, extreme.min]
    case = embedding([*ids])
    (output,) = by_device(case)
    assert np.isnan(output).all(axis=1).tolist() == [True, False, True, False, True, True, False]
    assert_equal([output], case.expected())


@pytest.mark.parametrize("width", [1, 100, 384, 770, 3000])
def test_every_width_and_number_of_tokens_at_the_edges_of_tiles(width: int) -> None:
    height = tile(width).rows
    for tokens in {1, height - 1, height, height + 1}:
        case = embedding([RANDOM.integers(-size, size, tokens) for size in SIZES], width)
        assert_equal(by_device(case), case.expected())


def test_ids_in_a_batch_keep_its_shape() -> None:
    case = embedding([RANDOM.integers(0, 11, (2, 3)).astype(np.int32), None, RANDOM.integers(0, 6, (2, 3))])
    assert_equal(by_device(case), case.expected())


def test_wrong_shapes_are_refused() -> None:
    word_ids, type_ids = np.array([1, 2]), np.array([[1], [0]])
    case = embedding([word_ids, type_ids, None])
    with pytest.raises(Exception, match=r"token_type_ids has shape \[2, 1\], but word_ids has \[2\]"):
        by_device(Case(case.operator, case.inputs))


def test_rows_wider_than_registers_are_refused() -> None:
    use = use_of(embedding([np.array([1]), None, None]))
    wide = Use(use.operator, use.types, dict(use.shapes) | {"word_table": ("words", WIDEST + 1)}, use.attributes)
    with pytest.raises(Reject, match="rows of 16385 elements are wider than the 16384"):
        variants(wide, 90)
