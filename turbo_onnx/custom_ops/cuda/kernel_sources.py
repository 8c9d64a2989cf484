"""A digest of everything of a package that a kernel is made of, without running any of it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def digest(module: str) -> str:
    """SHA-256 of the source of the module and of all modules of its top-level package that it imports, and so on.

    More than a kernel needs, so equal digests are equal kernels for one version of the compiler. Other packages are not
    looked at: a kernel may call functions of Triton and of its own package only.
    """
    package = module.partition(".")[0]
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] != package:
            continue
        source = _source(name)
        if source is None:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0], *_imports(source)]
    sha = hashlib.sha256()
    for name in sorted(found):
        source = _source(name)
        assert source is not None
        sha.update(f"{name}\0{len(source)}\0".encode() + source)
    return sha.hexdigest()


def _source(module: str) -> bytes | None:
    """The module's source; None if it is no module that has one."""
    if not module:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent is no package: what was imported is a name in a module
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_bytes()


@cache
def _imports(source: bytes) -> tuple[str, ...]:
    """What may be modules in the import statements of a source, also of those inside functions."""
    return tuple(_imported(ast.parse(source)))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
