"""What kinds of parameters the command line takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """Names separated by commas."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class _Written(click.Path):
    """A file, but not stdout."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            self.fail("it is not written to stdout; name a file.", param, ctx)
        return super().convert(value, param, ctx)


class _Tolerance(click.FloatRange):
    """A number that is not negative."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return self.fail("it is no number.", param, ctx) if math.isnan(number) else number


NAMES = _Names()
MODEL = click.Path(path_type=Path)
WRITTEN = _Written(path_type=Path)
TOLERANCE = _Tolerance(min=0)
