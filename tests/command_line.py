"""Run the command line as a shell does, and keep what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from turbo_onnx import cli


class Outcome:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Outcome]


def runner(capsys: pytest.CaptureFixture[str], *command: str) -> Run:
    """Something to call with the arguments that follow `command`."""

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, *(str(argument) for argument in arguments)])
        printed = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), printed.out, printed.err)

    return call
