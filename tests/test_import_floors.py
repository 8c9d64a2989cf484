"""The package is built in floors: a module imports only from its own floor and those below, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import turbo_onnx

PACKAGE = Path(turbo_onnx.__file__).parent

FLOORS = (
    ("turbo_onnx", "errors", "dims", "precision", "nvidia", "numpy_operators"),
    ("custom_ops", "graph"),
    ("serialization", "model", "memory", "runtime", "attributes", "sessions", "node_timing"),
    (
        *("pattern", "matcher", "inference", "shapes", "opset", "layout", "distances", "diagonal", "masks"),
        *("attention_masks", "padding_flow", "invariants", "own_precision", "branches", "load_time", "token_axes"),
    ),
    ("passes",),
    (
        *(
            "options",
            "padding_mask",
            "verify_inputs",
            "made_runs",
            "counted",
            "tolerances",
            "verify",
            "calibration",
            "emulation",
            "proof",
        ),
        *(
            "report",
            "plan_report",
            "report_text",
            "work",
            "recording",
            "allocation_names",
            "sequences",
            "plan_sizes",
            "planning",
        ),
    ),
    ("pipeline",),
    ("optimizer", "comparison", "inspection", "autotune", "run_costs"),
    ("cli", "parameters"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules of the package that are imported when this one is: not for type checkers, nor inside functions."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {node.module}
    return {name for name in found if name in MODULES}


def top(name: str) -> str:
    """What the floors are given in: the part of the package that the module belongs to."""
    return name.split(".")[1] if "." in name else name


def test_every_module_has_its_floor() -> None:
    assert {top(name) for name in MODULES} - FLOOR.keys() == set()


def test_no_module_imports_from_above() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in sorted(MODULES.items())
        for other in sorted(imports(path))
        if FLOOR.get(top(other), 0) > FLOOR.get(top(name), 0)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: imports(path) - {name} for name, path in MODULES.items()}).prepare()
