"""What of the benchmarks for a GPU can be seen without one: their tables, their refusal, their arithmetic."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks import encoder_gpu, gpu, kernels_gpu
from turbo_onnx import nvidia
from turbo_onnx.custom_ops.cuda.lookup import variants_of
from turbo_onnx.custom_ops.cuda.samples import Batch
from turbo_onnx.custom_ops.cuda.tuning import read

MACHINE = {"gpu": "a GPU, sm_90"}


@pytest.mark.parametrize("benchmark", [encoder_gpu, kernels_gpu])
def test_without_a_gpu_there_is_one_sentence(benchmark, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(nvidia.DRIVER, str(tmp_path / "none.so"))
    result = CliRunner().invoke(benchmark.main, [])
    assert result.exit_code == gpu.NotHereError.exit_code
    assert result.output.startswith("Error: nothing was measured: there is no NVIDIA GPU here")


def test_a_result_of_encoders_is_shown_as_a_table(tmp_path) -> None:
    record = {
        "workload": "32 x 128",
        "tokens": {"real": 4096, "padded": 4096},
        "operations": 10**12,
        "seconds": {"ours": [1e-3, 1.1e-3, 0.9e-3], "PyTorch": [2e-3, 2.2e-3, 1.8e-3]},
        "differences": {"ours": 1e-3, "PyTorch": 2e-3},
        "not_timed": {"PyTorch, compiled": "no time was left"},
    }
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"machine": MACHINE, "matrix_peak": 4e15, "workloads": [record]}))
    output = CliRunner().invoke(encoder_gpu.main, ["--show", str(file)]).output
    for text in (
        "1000.0 (950.0-1050.0)",
        "2.00 (2.00-2.00)",
        "0.25",
        "PyTorch, compiled (32 x 128) was not timed: no time was left",
    ):
        assert text in output


def test_a_result_of_kernels_is_shown_as_a_table(tmp_path) -> None:
    document = {
        "machine": MACHINE,
        "element": "float16",
        "rows": 65536,
        "copy_bandwidth": 4e12,
        "kernels": [
            {"kernel": "BiasGelu", "width": 768, "bytes": 2 * 10**8, "seconds": 1e-4, "why_not": ""},
            {"kernel": "BiasGelu", "width": 384, "bytes": 10**8, "seconds": None, "why_not": "no memory"},
        ],
        "attention": [
            {"lengths": "16 x 512", "operations": 10**10, "seconds": 5e-5, "why_not": "", "torch_seconds": 1e-4},
            {
                "lengths": "mixed",
                "operations": 10**10,
                "seconds": 5e-5,
                "why_not": "",
                "torch_seconds": None,
                "torch_why_not": "none",
            },
            {"lengths": "all", "operations": 10**10, "seconds": None, "why_not": "nothing", "torch_seconds": 1e-4},
        ],
    }
    file = tmp_path / "result.json"
    file.write_text(json.dumps(document))
    output = CliRunner().invoke(kernels_gpu.main, ["--show", str(file)]).output
    for text in ("100.0", "2000", "0.50", "200", "2.00", "none", "nothing", "no memory"):
        assert text in output


def test_kernels_are_tuned_before_they_are_measured(tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")

    class FewerWarpsAreFaster:
        def __init__(self, capability: int) -> None:
            assert capability == 90

        def compile(self, variants):
            return [None] * len(variants)

        def outputs(self, use, variants):
            return []

        def seconds(self, use, variants):
            return [float(sum(variant.num_warps for variant in variants))]

    monkeypatch.setattr(kernels_gpu.autotune, "DeviceBench", FewerWarpsAreFaster)
    tuning = kernels_gpu.tuned("float16", 90, tmp_path / "tuning.json")
    assert tuning == read(tmp_path / "tuning.json")
    uses = [case.use for case in kernels_gpu.row_cases("float16", 1024).values()]
    applied = {v.key: tuning.apply(use.operator, v, 90) for use in uses for v in variants_of(use, 90)}
    assert applied["bias_gelu;float16;width=4096;bias=1;tanh=0"].num_warps == 1
    assert applied["skip_layer_normalization;float16;width=1024;beta=1;bias=1;sum=0"].num_warps == 1


def test_operations_are_counted_on_real_tokens() -> None:
    work = encoder_gpu.Workload("one", (10,))
    assert work.operations == 12 * (24 * 10 * 768**2 + 4 * 100 * 768)
    assert kernels_gpu.attention_operations(Batch((2, 3))) == 4 * 12 * 64 * 13


def test_half_of_the_longest_is_real_on_average() -> None:
    for work in encoder_gpu.WORKLOADS:
        share = sum(work.lengths) / (len(work.lengths) * max(work.lengths))
        assert share == 1.0 if work.full else 0.4 < share < 0.8
