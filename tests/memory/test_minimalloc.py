"""Tables of buffers read back as they were written, bad ones are refused with a sentence, and instances are hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.memory.runs import triples
from turbo_onnx.errors import InputError, OutputError
from turbo_onnx.memory.minimalloc import generate, read, write
from turbo_onnx.memory.placement import place
from turbo_onnx.memory.validator import validate_placement


def table(folder: Path, text: str) -> Path:
    path = folder / "buffers.csv"
    path.write_text(text)
    return path


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    instance = generate(0, 30)
    write(tmp_path / "a.csv", instance)
    write(tmp_path / "b.csv", instance, instance.offsets)
    without, placed = read(tmp_path / "a.csv"), read(tmp_path / "b.csv")
    assert without.offsets is None
    assert placed.offsets == instance.offsets
    for found in (without, placed):
        assert found.names == instance.names
        assert triples(found.lifetimes, found.sizes) == triples(instance.lifetimes, instance.sizes)


def test_columns_go_by_their_names(tmp_path: Path) -> None:
    found = read(table(tmp_path, "size, upper,id,lower\n4,3,b1,0\n\n8,9,b2,3\n"))
    assert found.names == ("b1", "b2")
    assert triples(found.lifetimes, found.sizes) == [(0, 3, 4), (3, 9, 8)]


def test_an_end_is_the_last_moment_of_a_life(tmp_path: Path) -> None:
    found = read(table(tmp_path, "buffer,start,end,size\n0,0,2,4\n1,5,5,4\n"))
    assert triples(found.lifetimes, found.sizes) == [(0, 3, 4), (5, 6, 4)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: the columns are ''"),
        ("id,lower,size\nb,0,1\n", "line 1: the columns are 'id,lower,size'"),
        ("id,lower,upper,size,gaps\n", "line 1: the columns are 'id,lower,upper,size,gaps'"),
        ("id,lower,upper,size,size\n", "line 1"),
        ("id,lower,upper,size\nb,0,1,4\nc,0,1\n", "line 3: it has 3 fields, and the header 4"),
        ("id,lower,upper,size\nb,0,1.5,4\n", "line 2: the upper '1.5' is no integer"),
        ("id,lower,upper,size\nb,0,1,-4\n", "line 2: the size -4 is negative"),
        (
            "id,lower,upper,size\nb,0,1,99999999999999999999\n",
            "line 2: the size 99999999999999999999 is negative or far",
        ),
        ("id,lower,upper,size\nb,2,2,4\n", "line 2: the buffer ends before it begins"),
        ("id,lower,upper,size\nb,0,1,4\nb,0,1,4\n", "two buffers have the id 'b'"),
    ],
)
def test_a_bad_table_is_refused_with_file_and_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_files_that_cannot_be_read_or_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "binary.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "no" / "folder.csv", generate(0, 4))


@pytest.mark.parametrize("count", [1, 2, 7, 60, 400])
def test_generated_buffers_fill_the_block_at_every_moment(count: int) -> None:
    instance = generate(5, count, capacity=2**20)
    lifetimes, sizes = instance.lifetimes, instance.sizes
    assert len(lifetimes) == count
    assert lifetimes.lower_bound(sizes, 1) == 2**20
    assert instance.offsets is not None
    assert validate_placement(triples(lifetimes, sizes), instance.offsets, 2**10) == 2**20
    assert int(((lifetimes.last - lifetimes.first) * sizes).sum()) == 2**20 * int(lifetimes.last.max())


def test_generated_buffers_are_hard_and_the_same_for_the_same_seed() -> None:
    one, same, other = generate(1, 100), generate(1, 100), generate(2, 100)
    assert triples(one.lifetimes, one.sizes) == triples(same.lifetimes, same.sizes)
    assert not np.array_equal(one.sizes, other.sizes)
    assert place(one.lifetimes, one.sizes, 1).peak > 2**20
