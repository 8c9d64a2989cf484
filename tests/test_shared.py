"""What tests share is made once, whoever asks for it and when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import shared

PROGRAM = """
import sys, time
from tests import shared

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write("made ")
    time.sleep(0.2)
    (folder / "file").write_text("content")
    return folder

print((shared.once("it", make) / "file").read_text())
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path / "shared"))


def test_processes_that_ask_at_the_same_time_get_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log")]
    running = [subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["content\n"] * 3
    assert (tmp_path / "log").read_text() == "made "


def test_what_could_not_be_made_is_made_by_the_next_one_in_an_empty_folder() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        shared.once("it", fail)
    assert shared.once("it", lambda folder: list(folder.iterdir())) == []
    assert shared.once("it", lambda _: pytest.fail("made again")) == []
