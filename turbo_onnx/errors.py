"""Every error that a user can cause, as one tree, with the exit code that the shell sees.

    TurboOnnxError                     exit 1
    ├── PassError                      exit 1  a pass of ours failed or broke the graph: a bug, to be reported
    ├── InputError                     exit 2  the file, the options or the environment are not usable
    │   ├── ModelFormatError                   not a file, not ONNX, truncated, invalid
    │   ├── UnsupportedModelError              valid, but not something that this version takes
    │   └── OutputError                        the result cannot be written
    ├── VerificationError              exit 3  the rewritten model differs from the original
    └── FusionRequiredError            exit 4  --require-fusion was given and a fusion did not happen

The message is one sentence that names the file, the node where there is one, and what to do.
`Reject` is not in the tree: it is how a rewrite says "not here", and no user sees it as an error.
"""

from __future__ import annotations


class TurboOnnxError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class PassError(TurboOnnxError):
    """A pass failed in a way that it should not have, or left a broken graph behind. Names the pass."""


class InputError(TurboOnnxError):
    """The file, the options or the environment are not usable."""

    exit_code = 2


class ModelFormatError(InputError):
    """Not a file, not ONNX, truncated, or an invalid graph."""


class UnsupportedModelError(InputError):
    """A valid model that this version of the tool, or the installed runtime, does not take."""


class OutputError(InputError):
    """The result cannot be written where it was asked for."""


class VerificationError(TurboOnnxError):
    """The rewritten model's outputs differ from the original's beyond the tolerance."""

    exit_code = 3


class FusionRequiredError(TurboOnnxError):
    """A fusion that the caller required did not happen."""

    exit_code = 4


class Reject(Exception):  # noqa: N818  # an answer, not an error
    """Raised by a rewrite that must not be done here. The message says why, naming tensors and numbers."""

    def __init__(self, sentence: str, *values: object) -> None:
        super().__init__(sentence.format(*values) if values else sentence)
