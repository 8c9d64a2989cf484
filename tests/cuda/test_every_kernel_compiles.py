"""Every kernel compiles for every default architecture, without spilling registers.

At a few sizes here; EVERY_SIZE=1 in the environment takes all of `uses.py`, which is some minutes of work.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.cuda.uses import ELEMENTS, uses
from turbo_onnx.custom_ops.cuda.compiler import compile_kernels
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.targets import DEFAULT

EVERY_SIZE = os.environ.get("EVERY_SIZE") == "1"
WIDTHS = (768,)
HEADS = ((12, 64),)
LEFT_OUT = {"bfloat16": 1}  # by element, with the value of `causal`: float16's kernels but for the type's name

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_kernel_compiles_for_every_architecture_and_spills_nothing(element):
    chosen = list(uses(element))
    if not EVERY_SIZE:
        few = uses(element, WIDTHS, HEADS)
        chosen = [use for use in few if use.attributes.get("causal") != LEFT_OUT.get(element, -1)]
    kernels = {capability: [v for use in chosen for v in variants_of(use, capability)] for capability in DEFAULT}
    compiled = compile_kernels(kernels, DEFAULT)
    spilled = [
        f"{code.key} for {code.capability}, aligned {code.aligned}: {entry.resources}"
        for entry in compiled
        for code in entry.codes[:1]
        if entry.resources.spills
    ]
    assert spilled == []
    assert {code.capability for entry in compiled for code in entry.codes} == set(DEFAULT)
