"""What `turbo-onnx plan` says of a model: the memory of runs at some sizes, and the largest batch within a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from turbo_onnx.errors import InputError, ModelFormatError
from turbo_onnx.memory import picture, shapes_asked
from turbo_onnx.memory.capacity import MOST, IntArray, format_bytes, largest_batch
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, Variant, from_json
from turbo_onnx.memory.run_layout import Layouts
from turbo_onnx.runtime.peak import metadata_of, run_values

_SHOWN_NAMES = 8
_SHOWN_EXCEPTIONS = 3
_GROWING = ("batch", "tokens")
_WHY_UNKNOWN = "no formula of the sizes gives their bytes"


@dataclass(frozen=True)
class Run:
    """What runs of one shape need, in bytes, in the variant that needs most.

    Attributes:
        values: of the plan's variables.
        block: what the plan's block has.
        lower_bound: the most that is planned and alive at once.
        outputs: all outputs together.
    """

    values: tuple[int, ...]
    block: int
    lower_bound: int
    outputs: int

    @property
    def total(self) -> int:
        """Block and outputs."""
        return self.block + self.outputs

    @property
    def ratio(self) -> float:
        """Of the block to the lower bound."""
        return self.block / self.lower_bound if self.lower_bound else 1.0


@dataclass(frozen=True)
class Fit:
    """The largest batch within the budget.

    Attributes:
        fixed: the other sizes, by role or name.
        tokens: real tokens of each sequence; None where the plan knows of none, or all are real.
        batch: the batch; 0 where not even one sequence fits.
        bytes: what its run needs.
    """

    fixed: dict[str, int]
    tokens: Fraction | None
    batch: int
    bytes: int


@dataclass(frozen=True)
class PlanReport:
    """The report.

    Attributes:
        model: the file.
        layouts: its plan.
        runs: one for each shape that was asked for.
        budget: in bytes, or None.
        fits: where there is a budget, one for each way in which sequences are long.
    """

    model: str
    layouts: Layouts
    runs: tuple[Run, ...]
    budget: int | None
    fits: tuple[Fit, ...]

    @property
    def plan(self) -> MemoryPlan:
        """The plan."""
        return self.layouts.plan

    def to_json(self) -> str:
        """As JSON text, with all numbers in bytes."""
        document: dict[str, Any] = {
            "model": self.model,
            "onnxruntime": self.plan.runtime,
            "alignment": self.plan.alignment,
            "sizes": [{"name": v.name, "role": v.role} for v in self.plan.variables],
            "assumed": self.plan.assumed,
            "runs": [
                {
                    "sizes": dict(zip(self.plan.names, run.values, strict=True)),
                    "block": run.block,
                    "lower_bound": run.lower_bound,
                    "ratio": round(run.ratio, 6),
                    "outputs": run.outputs,
                    "total": run.total,
                }
                for run in self.runs
            ],
            "variants": [
                {
                    "level": variant.name,
                    **({"branch": variant.branch} if variant.branch else {}),
                    "buffers": len(variant.buffers),
                    "planned": len(variant.planned),
                    "outputs": sum(buffer.kind == "output" for buffer in variant.buffers),
                    "unknown": [buffer.name for buffer in variant.buffers if buffer.size is None],
                    "orders": len(variant.orders),
                    "exceptions": [dict(zip(self.plan.names, values, strict=True)) for values in variant.exceptions],
                }
                for variant in self.plan.variants
            ],
        }
        if self.budget is not None:
            fits = [
                {
                    "sizes": fit.fixed,
                    "tokens_per_sequence": None if fit.tokens is None else float(fit.tokens),
                    "batch": fit.batch,
                    "total": fit.bytes,
                }
                for fit in self.fits
            ]
            document["budget"] = {"bytes": self.budget, "largest_batches": fits}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def to_html(self) -> str:
        """A picture of the largest, the middle and the smallest run of the runtime's usual optimizations.

        Where branches have plans of their own, it is of the branch that needs most in the largest run.
        """
        runs = sorted(self.runs, key=lambda run: run.total)
        chosen = dict.fromkeys(runs[index].values for index in (-1, len(runs) // 2, 0))
        usual = {variant.branch: number for number, variant in reversed(list(enumerate(self.plan.variants)))}
        number = max(sorted(usual.values()), key=lambda one: self.layouts.at(runs[-1].values, one).total)
        branch = self.plan.variants[number].branch
        layouts = [(self._label(values), self.layouts.at(values, number)) for values in chosen]
        return picture.render(layouts, f"Memory plan of {branch}{' of ' * bool(branch)}{Path(self.model).name}")

    def render(self) -> RenderableType:
        """For a terminal."""
        table = Table(header_style="bold")
        for name in (*self._headers(), "block", "alive at once", "ratio", "outputs", "total"):
            table.add_column(name, justify="right")
        largest = max(self.runs, key=lambda run: run.total)
        for run in self.runs:
            sizes = (run.block, run.lower_bound, run.outputs, run.total)
            block, bound, outputs, total = map(format_bytes, sizes)
            cells = (*map(str, run.values), block, bound, f"{run.ratio:.3f}", outputs, total)
            table.add_row(*cells, style="bold" if run is largest and len(self.runs) > 1 else None)
        return Group(table, *(Text(line) for line in self.sentences()))

    def sentences(self) -> list[str]:
        """What the table does not say."""
        lines = [f"{self.model}: recorded with ONNX Runtime {self.plan.runtime or '(unknown)'}."]
        if self.plan.assumptions:
            lines.append(f"For runs in which {joined(self.plan.assumed)}; others use the heap.")
        for variant in self.plan.variants:
            lines += _about(variant)
            if variant.exceptions:
                shown = "; ".join(self._label(values) for values in variant.exceptions[:_SHOWN_EXCEPTIONS])
                more = "; and others" if len(variant.exceptions) > _SHOWN_EXCEPTIONS else ""
                lines.append(f"  Runs were seen to do something else, and use the heap, at {shown}{more}.")
        lines += [self._about_fit(fit) for fit in self.fits]
        return lines

    def _headers(self) -> list[str]:
        return [variable.role or variable.name for variable in self.plan.variables]

    def _label(self, values: Sequence[int]) -> str:
        return ", ".join(f"{n} {value}" for n, value in zip(self._headers(), values, strict=True)) or "every run"

    def _about_fit(self, fit: Fit) -> str:
        assert self.budget is not None
        known = [f"{name} {value}" for name, value in fit.fixed.items()]
        if fit.tokens is not None:
            known.append(f"{float(fit.tokens):.6g} tokens in each sequence")
        at = f" at {' and '.join(known)}" if known else ""
        if not fit.batch:
            return f"Within {format_bytes(self.budget)}{at}: not even one sequence fits."
        more = " or more" if fit.batch == MOST else ""
        return f"Within {format_bytes(self.budget)}{at}: batch {fit.batch}{more}, {format_bytes(fit.bytes)}."


def _about(variant: Variant) -> list[str]:
    outputs = sum(buffer.kind == "output" for buffer in variant.buffers)
    unknown = [buffer.name for buffer in variant.buffers if buffer.size is None]
    where = f"In {variant.branch}, optimization" if variant.branch else "Optimization"
    lines = [
        f"{where} levels {variant.name}: {len(variant.buffers)} buffers, {len(variant.planned)} in the block by"
        f" {counted(len(variant.orders), 'stacking order')}, {counted(outputs, 'output')} on the heap,"
        f" {len(unknown)} of unknown size."
    ]
    if unknown:
        more = f" and {len(unknown) - _SHOWN_NAMES} more" if len(unknown) > _SHOWN_NAMES else ""
        lines.append(f"  On the heap, since {_WHY_UNKNOWN}: {', '.join(unknown[:_SHOWN_NAMES])}{more}.")
    return lines


def joined(equations: Sequence[str]) -> str:
    """Equations as part of a sentence; of many the first ones."""
    more = f" and {len(equations) - _SHOWN_NAMES} more hold" if len(equations) > _SHOWN_NAMES else ""
    return ", ".join(equations[:_SHOWN_NAMES]) + more


def counted(count: int, what: str) -> str:
    """The number and the noun, in the plural where it has to be."""
    return f"{count} {what}" + "s" * (count != 1)


def plan_of(path: Path, *, exact: bool = False) -> MemoryPlan:
    """The plan that an artifact carries, or one that is made for the model.

    Args:
        path: the model.
        exact: make one with the exact solver in any case.

    Raises:
        InputError: the file is no model, or no plan can be made for it.
    """
    if not exact:
        with suppress(ModelFormatError):  # those who read models word it better
            carried = metadata_of(path).get(METADATA_KEY)
            if carried is not None:
                return from_json(carried, str(path))
    from turbo_onnx import planning

    return planning.plan_of(path, exact=exact)


def report(model: str, plan: MemoryPlan, specs: Sequence[str] = (), budget: int | None = None) -> PlanReport:
    """Make the report.

    Args:
        model: what to call the model.
        plan: its plan.
        specs: shapes, as `shapes_asked.parse` takes them; some usual ones if there are none.
        budget: in bytes, to find the largest batches within.

    Raises:
        InputError: the specs are not sizes of the plan, or there is a budget and the plan has no batch.
    """
    layouts = Layouts(plan)
    asked = [sizes for spec in specs for sizes in shapes_asked.parse(spec, plan)] or shapes_asked.usual(plan)
    if budget is not None:
        asked = [{"batch": 1} | sizes for sizes in asked]
    values = list(dict.fromkeys(run_values(layouts, sizes) for sizes in asked))
    for shape in values:
        layouts.total(shape)  # says which sizes are too large, also those that no array can hold
    matrix = np.array(values, np.int64).reshape(len(values), len(plan.variables))
    runs = [Run(shape, *map(int, needs)) for shape, *needs in zip(values, *layouts.peaks(matrix), strict=True)]
    fits = [] if budget is None else _fits(layouts, values, budget)
    return PlanReport(model, layouts, tuple(runs), budget, tuple(fits))


def _fits(layouts: Layouts, shapes: Sequence[tuple[int, ...]], budget: int) -> list[Fit]:
    """The largest batch for each way in which the sequences of these shapes are long."""
    roles = [variable.role for variable in layouts.plan.variables]
    if "batch" not in roles:
        known = ", ".join(layouts.plan.names) or "none"
        raise InputError(f"a budget asks for the largest batch, and the plan has no size that is one; it has {known}.")
    at = roles.index("batch")
    found: dict[tuple[object, ...], Fit] = {}
    for shape in shapes:
        if not shape[at]:
            continue
        tokens = Fraction(shape[roles.index("tokens")], shape[at]) if "tokens" in roles else None
        named = zip(layouts.plan.variables, shape, strict=True)
        fixed = {v.role or v.name: size for v, size in named if v.role not in _GROWING}
        key = (*fixed.values(), tokens)
        if key not in found:
            totals = _Totals(layouts, shape, roles, tokens)
            found[key] = Fit(fixed, tokens, *largest_batch(totals, budget, monotone=layouts.monotone))
    if not found:
        raise InputError("a budget asks for the largest batch, and all shapes have batch 0; ask for one with batch=1.")
    return list(found.values())


@dataclass(frozen=True)
class _Totals:
    """What runs need whose batch varies, and their tokens with it."""

    layouts: Layouts
    shape: tuple[int, ...]
    roles: Sequence[str]
    tokens: Fraction | None

    def __call__(self, batches: IntArray) -> IntArray:
        values = np.tile(np.array(self.shape, np.int64), (len(batches), 1))
        values[:, self.roles.index("batch")] = batches
        if self.tokens is not None:
            values[:, self.roles.index("tokens")] = [-(-self.tokens * int(batch) // 1) for batch in batches]
        return self.layouts.peaks(values).total
