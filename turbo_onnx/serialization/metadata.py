"""What an artifact says about itself in its metadata: which tool made it, from what, and how.

Nothing here depends on the machine, the time or a path, so that equal inputs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from turbo_onnx.errors import UnsupportedModelError

FORMAT = 1  # raise it when artifacts change in a way that an older version of the tool would misread
PREFIX = "turbo_onnx."


@dataclass(frozen=True)
class Artifact:
    """The tool's part of a model's metadata.

    Attributes:
        version: of the tool.
        input_digest: SHA-256 of the input file and its external data.
        options: those that change the result.
        format: of the artifact.
        facts: more that a reader of the artifact needs, such as which input is the mask.
    """

    version: str
    input_digest: str
    options: Mapping[str, object]
    format: int = FORMAT
    facts: Mapping[str, object] = field(default_factory=dict)

    def properties(self) -> dict[str, str]:
        """As keys and values of `metadata_props`, sorted."""
        values: dict[str, object] = {
            "version": self.version,
            "format": self.format,
            "input_sha256": self.input_digest,
            "options": dict(self.options),
            "facts": dict(self.facts),
        }
        return {PREFIX + key: _text(value) for key, value in sorted(values.items())}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def artifact_of(model: onnx.ModelProto, name: str) -> Artifact | None:
    """What the model says about itself, if this tool made it.

    Args:
        model: only its metadata is looked at.
        name: what to call the file in errors.

    Raises:
        UnsupportedModelError: a newer version of the tool made it.
    """
    found = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if "format" not in found:
        return None
    version = found.get("version", "unknown")
    if not found["format"].isdigit() or int(found["format"]) > FORMAT:
        raise UnsupportedModelError(
            f"{name}: it was made by turbo-onnx {version} in format {found['format']}, which is newer than format"
            f" {FORMAT} that this version reads; upgrade turbo-onnx."
        )
    return Artifact(
        version=version,
        input_digest=found.get("input_sha256", ""),
        options=_mapping(found.get("options", "{}")),
        format=int(found["format"]),
        facts=_mapping(found.get("facts", "{}")),
    )


def _mapping(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
