"""What the command lines of benchmarks have in common: options, and a console that says first what is measured on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.machine import describe

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

ROUNDS: Option = click.option("--rounds", default=9, show_default=True, help="How often each side is timed.")
THREADS: Option = click.option("--threads", default=2, show_default=True, help="Threads of each session.")
JSON: Option = click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers here."
)


def models(names: Iterable[str]) -> Option:
    """Which models; none are all."""
    return click.option(
        "--model", "names", multiple=True, type=click.Choice(list(names)), help="Only this one; repeatable."
    )


def open_console(*more: str, width: int = 150) -> Console:
    """A console on which the machine is printed already, and what else holds of all numbers.

    Args:
        more: such as the number of threads.
        width: where the output is no terminal.
    """
    console = Console(width=None if sys.stdout.isatty() else width, highlight=False)
    console.print(", ".join([*(f"{key} {value}" for key, value in describe().items()), *more]))
    return console
