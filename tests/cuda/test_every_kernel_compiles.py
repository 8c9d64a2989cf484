"""Every kernel compiles for every default architecture, without spilling registers.

At a few sizes here, and in float16 in every form and also for pointers that are not aligned, since that is what models
are served in; in other types the forms of an operator with the most operands, for aligned pointers. EVERY_SIZE=1 in the
environment takes all of `uses.py`, for both kinds of pointers: some minutes of work.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess

import pytest

from tests import shared
from tests.cuda.uses import ELEMENTS, attentions_to_caches, todays_attentions, uses
from turbo_onnx.custom_ops.cuda import toolchain
from turbo_onnx.custom_ops.cuda.archive import Rule
from turbo_onnx.custom_ops.cuda.compiler import Compiled, compile_kernels, try_kernels
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.targets import DEFAULT
from turbo_onnx.custom_ops.cuda.variant import Use

EVERY_SIZE = os.environ.get("EVERY_SIZE") == "1"
WIDTHS = (768,)
HEADS = ((12, 64),)
LEFT_OUT = {"bfloat16": 1}  # by element, with the value of `causal`: float16's kernels but for the type's name
RMS = {True: "bfloat16", False: "float16"}  # the element in which RMS normalization is compiled, with skip and without

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


INDICES = {
    # What of float16's kernels may be read or written in less than 16 bytes, by operator: numbers of rows and tokens.
    "bias_gelu": set(),
    "gated_activation": set(),
    "skip_layer_normalization": set(),
    "embed_layer_normalization": {"ld.global.b64"},
    "restore_padding": {"ld.global.b64"},
    "rotary_embedding": {"ld.global.b64"},
    "segment_pooling": {"ld.global.b32", "st.global.b16"},  # a sequence's sum is of two bytes for each thread
}
SCALE_OF_A_HEAD = {"ld.global.v2.b32"}  # 128 numbers are less than a warp reads at once


@functools.cache
def compiled(element: str) -> list[Compiled]:
    """Every kernel for every default architecture, compiled once for all processes that share the tests."""
    return shared.once(f"kernels-{element}", lambda _: compiled_here(element))


def compiled_here(element: str) -> list[Compiled]:
    chosen = [*uses(element), *todays_attentions(element), *attentions_to_caches(element)]
    if not EVERY_SIZE:
        few = uses(element, WIDTHS, HEADS)
        chosen = [use for use in few if use.attributes.get("causal") != LEFT_OUT.get(element, -1)]
        chosen = [use for use in chosen if not use.attributes.get("rms") or RMS[use.has("skip")] == element]
        chosen = chosen if element == "float16" else list(fullest(chosen).values())
    kernels = {capability: [v for use in chosen for v in variants_of(use, capability)] for capability in DEFAULT}
    return compile_kernels(kernels, DEFAULT, unaligned=EVERY_SIZE or element == "float16")


def fullest(chosen: list[Use]) -> dict[object, Use]:
    """Of the uses that differ in nothing but optional operands, the one that has the most."""
    most: dict[object, Use] = {}
    for one in chosen:
        facts = {name: value for name, value in one.attributes.items() if name != "guard"}
        dense = one.has("attention_bias"), one.has("cu_seqlens")
        kind = (one.operator, dense, tuple(sorted((name, str(value)) for name, value in facts.items())))
        if kind not in most or len(one.shapes) > len(most[kind].shapes):
            most[kind] = one
    return most


@pytest.mark.long
@pytest.mark.parametrize("element", ELEMENTS)
def test_every_kernel_compiles_for_every_architecture_and_spills_nothing(element):
    spilled = [
        f"{code.key} for {code.capability}, aligned {code.aligned}: {entry.resources}"
        for entry in compiled(element)
        for code in entry.codes[:1]
        if entry.resources.spills
    ]
    assert spilled == []
    assert {code.capability for entry in compiled(element) for code in entry.codes} == set(DEFAULT)


@pytest.mark.parametrize("use", [next(iter(todays_attentions("float16"))), *attentions_to_caches("float16")])
def test_attention_of_todays_models_keeps_all_in_registers(use):
    """Within a window, and to a cache, capped or not: what is most about them, where one loop goes over all keys."""
    variant = variants_of(use, 90)[-1]
    (kernel,) = try_kernels([variant], 90)
    assert isinstance(kernel, Compiled), kernel
    assert not kernel.resources.spills
    assert kernel.codes[0].num_warps == variant.num_warps


def test_kernels_of_rows_read_and_write_16_bytes_at_once():
    seen = set()
    for entry in compiled("float16"):
        for code in entry.codes:
            operator, *rest = code.key.split(";")
            if code.rule is not Rule.LATER or not code.aligned or operator not in INDICES or "mode=3" in rest:
                continue
            accesses = set(re.findall(r"\b(?:ld|st)\.global[.\w]*", code.data.decode()))
            assert "ld.global.v4.b32" in accesses, code.key
            less = INDICES[operator] | (SCALE_OF_A_HEAD if "skip=0" in rest else set())
            assert accesses - {"ld.global.v4.b32", "st.global.v4.b32"} <= less, code.key
            seen.add(operator)
    assert seen == set(INDICES)


def test_kernels_of_small_rows_need_no_shared_memory():
    """One warp adds a row up, so that nothing waits: neither for other warps nor for memory."""
    rows = (
        "bias_gelu",
        "gated_activation",
        "skip_layer_normalization",
        "embed_layer_normalization",
        "rotary_embedding",
    )
    found = [entry for entry in compiled("float16") if entry.codes[0].key.startswith(rows) and entry.codes[0].aligned]
    assert found
    assert {entry.codes[0].key: entry.resources.shared for entry in found if entry.resources.shared} == {}


def test_attention_multiplies_on_tensor_cores_that_wait_neither_for_memory_nor_for_each_other(tmp_path):
    found = [code for entry in compiled("float16") for code in entry.codes if is_encoders_attention(code)]
    (ptx,) = (code.data.decode() for code in found if code.rule is Rule.LATER)
    assert "mma.sync.aligned.m16n8k16" in ptx
    assert re.search(r"cp\.async\.cg\.shared\.global \[ .* \], \[ .* \], 0x10", ptx)
    assert "ex2.approx" in ptx
    (machine_code,) = (code.data for code in found if code.capability == 90)
    written = tmp_path / "kernel.cubin"
    written.write_bytes(machine_code)
    disassembler = toolchain.find().assembler.with_name("nvdisasm")
    listing = subprocess.run([disassembler, "-c", written], check=True, capture_output=True, text=True).stdout
    products, waits = listing.count(" HGMMA."), listing.count(" WARPGROUP.DEPBAR")
    assert products >= 8
    assert waits <= products // 4  # one for each group, of which there are two in the loop over keys
    assert " LDGSTS.E.BYPASS.128" in listing
    assert " LDL" not in listing


def is_encoders_attention(code):
    """Whether the kernel is that of packed rows with a bias for all projections, as encoders have it."""
    facts = set(code.key.split(";"))
    return code.aligned and {"varlen_attention", "packed=1", "bias=1", "causal=0", "head=64"} <= facts
