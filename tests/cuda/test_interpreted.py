"""Run the tests that need Triton's interpreter, in processes whose Triton interprets.

ONNX Runtime, the C++ operators and the launcher are those that are shipped; the driver is fake, and the kernels are
interpreted.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.fake_driver import compiler

FOLDER = Path(__file__).with_name("interpreted")
FILES = sorted(FOLDER.glob("test_*.py"))
PROCESSES = 3  # each takes seconds to start

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]


@pytest.mark.long
@pytest.mark.parametrize("share", range(PROCESSES))
def test_interpreted(share):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES[share::PROCESSES]],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
