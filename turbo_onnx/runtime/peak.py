"""How much memory a run will need, before it is run: what a scheduler asks when it puts a batch together.

Answers come from the memory plan that the artifact carries in its metadata. Nothing of the model but that is read: the
serving process has ONNX Runtime and NumPy, and often thinks about a batch before it has a session.
"""

from __future__ import annotations

import mmap
import operator
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from turbo_onnx.errors import InputError, ModelFormatError
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, from_json
from turbo_onnx.memory.run_layout import Layouts
from turbo_onnx.serialization import wire

_MODEL_METADATA = (14, 2)  # the number of the field in ModelProto, and its wire type: a message
_ENTRY_KEY, _ENTRY_VALUE = 1, 2  # in StringStringEntryProto
_ROLES = ("tokens", "batch", "length", "past")
_FILES_REMEMBERED = 32

_of_sessions: WeakKeyDictionary[Any, Layouts] = WeakKeyDictionary()


def peak_bytes(
    model: str | os.PathLike[str] | MemoryPlan | Layouts | Any,
    *,
    tokens: int | None = None,
    batch: int | None = None,
    length: int | None = None,
    **sizes: int,
) -> int:
    """The bytes of activations that one run needs: the plan's block, and the outputs.

    It holds for runs that keep to the plan, at every level of ONNX Runtime's optimizations that the plan has, and
    whichever branch they take. It does not count weights, inputs, and buffers whose size no formula gives. `turbo-onnx
    plan` lists these buffers, the levels, and shapes at which runs were seen that do not keep to the plan. Plans are
    remembered for files (as long as they do not change) and sessions, so that asking again takes less than a
    millisecond.

    Args:
        model: an artifact's path, an `onnxruntime.InferenceSession` of one, a `MemoryPlan`, or `Layouts` of it.
        tokens: how many tokens are real, where padding is removed. By default all of them: batch · length.
        batch: how many sequences there are.
        length: how long they are with padding.
        sizes: other sizes that the plan is made for, by their names in the model, or `past`: the length of what a
            decoder's cache holds. Sizes that the plan assumes to be equal to these are not asked for.

    Raises:
        InputError: the model has no plan, a size is missing that makes a difference or is none of the plan's, or the
            sizes do not go together.
        ModelFormatError: the file is no model.
    """
    layouts = layouts_of(model)
    return layouts.total(run_values(layouts, {**sizes, "tokens": tokens, "batch": batch, "length": length}))


def layouts_of(model: str | os.PathLike[str] | MemoryPlan | Layouts | Any) -> Layouts:
    """The plan of a model, prepared; see `peak_bytes` for what a model can be, and the errors."""
    if isinstance(model, Layouts):
        return model
    if isinstance(model, MemoryPlan):
        return Layouts(model)
    if isinstance(model, (str, os.PathLike)):
        try:
            state = Path(model).stat()
        except OSError as error:
            raise ModelFormatError(f"{os.fspath(model)}: it cannot be opened: {error.strerror}.") from None
        return _of_file(os.fspath(model), state.st_mtime_ns, state.st_size)
    if not hasattr(model, "get_modelmeta"):
        raise InputError(f"a {type(model).__name__} is neither the path of a model, nor a session, nor a memory plan.")
    known = _of_sessions.get(model)
    if known is None:
        found = model.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        known = _of_sessions[model] = _prepared(found, "the session's model")
    return known


def run_values(layouts: Layouts, sizes: Mapping[str, int | None]) -> tuple[int, ...]:
    """The values of a plan's variables.

    Args:
        layouts: the plan.
        sizes: what is known, by name or role. Without the number of tokens there is no padding; a role that the plan
            does not have is ignored, and so is the lack of what makes no difference.

    Raises:
        InputError: a size is missing that makes a difference, is none of the plan's, or there are more tokens than
            positions.
    """
    plan = layouts.plan
    given = {name: operator.index(value) for name, value in sizes.items() if value is not None}
    roles = {variable.role: variable.name for variable in plan.variables if variable.role}
    # By names alone, so that an axis that is called "tokens", and is the length, is not mistaken.
    known = {name: value for name, value in given.items() if name not in plan.names and name not in _ROLES}
    for variable in plan.variables:
        if variable.role in given:
            known[variable.name] = given[variable.role]
        elif variable.name in given and variable.name not in roles:
            known[variable.name] = given[variable.name]
    tokens, batch, length, _ = (known.get(roles[role]) if role in roles else None for role in _ROLES)
    if "tokens" in roles and batch is not None and length is not None:
        if tokens is None:
            tokens = known[roles["tokens"]] = batch * length
        if tokens > batch * length >= 0:
            raise InputError(f"{tokens} tokens are more than batch {batch} times length {length}.")
    for one in plan.assumptions:  # of some branches; others let it vary
        parts = [known.get(plan.names[part]) for part in one.parts]
        if one.name in plan.names and None not in parts:
            known.setdefault(one.name, sum(part for part in parts if part is not None))
    for index, variable in enumerate(plan.variables):
        if index not in layouts.needed:
            known.setdefault(variable.name, 0)
    return plan.values(known)


@lru_cache(maxsize=_FILES_REMEMBERED)
def _of_file(path: str, modified: int, size: int) -> Layouts:
    """`modified` and `size` are there to tell one state of the file from another."""
    return _prepared(metadata_of(Path(path)).get(METADATA_KEY), path)


def _prepared(text: str | None, name: str) -> Layouts:
    if text is None:
        raise InputError(
            f"{name}: it has no memory plan; optimize the original model with this version, and see in the report"
            " whether it can be planned."
        )
    return Layouts(from_json(text, name))


def metadata_of(path: Path) -> dict[str, str]:
    """A model file's metadata, found without reading its weights, and without onnx.

    Raises:
        ModelFormatError: it cannot be opened, or is no model.
    """
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ModelFormatError(f"{path}: the file is empty.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                fields = list(wire.fields(content, 0, len(content)))
                entries = [field for field in fields if (field.number, field.wire_type) == _MODEL_METADATA]
                return dict(_entry(content[field.value : field.end]) for field in entries)
    except OSError as error:
        raise ModelFormatError(f"{path}: it cannot be opened: {error.strerror}.") from None
    except (wire.WireError, UnicodeDecodeError):
        raise ModelFormatError(f"{path}: it is no ONNX model, or not whole.") from None


def _entry(message: bytes) -> tuple[str, str]:
    parts = {field.number: message[field.value : field.end].decode() for field in wire.fields(message, 0, len(message))}
    return parts.get(_ENTRY_KEY, ""), parts.get(_ENTRY_VALUE, "")
