"""Choosing how kernels run, with a clock that is made up: no GPU is needed to get that right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from turbo_onnx import autotune, node_timing, nvidia
from turbo_onnx.cli import cli
from turbo_onnx.custom_ops import spec
from turbo_onnx.custom_ops.cuda import samples, tuning
from turbo_onnx.custom_ops.cuda.tuning import Tuning, choice
from turbo_onnx.custom_ops.cuda.variant import Use, Variant
from turbo_onnx.errors import InputError, PassError
from turbo_onnx.node_timing import per_node
from turbo_onnx.options import Options
from turbo_onnx.sessions import library_available, open_session

pytest.importorskip("triton", reason="Triton is not installed")

USE = Use(
    "BiasGelu",
    {"x": "float16", "bias": "float16", "output": "float16"},
    {"x": ("T", 768), "bias": (768,), "output": ("T", 768)},
    {"approximate": "none"},
)


OWN = autotune.variants_of(USE, 90)[0].num_warps


class FakeBench:
    """Takes as long as it is told for each number of warps; some give other results, do not compile, or do not run."""

    def __init__(
        self,
        by_warps: dict[int, float],
        wrong: Sequence[int] = (),
        broken: Sequence[int] = (),
        refused: Sequence[int] = (),
        reason: str = autotune.SPILLS,
    ) -> None:
        self.by_warps, self.wrong, self.broken, self.refused = by_warps, wrong, broken, refused
        self.compiled: list[Variant] = []
        self.reason = reason

    def compile(self, variants: Sequence[Variant]) -> list[str | None]:
        self.compiled += variants
        return [self.reason if variant.num_warps in self.broken else None for variant in variants]

    def outputs(self, use: Use, variants: Sequence[Variant]) -> list[np.ndarray]:
        assert all(variant in self.compiled for variant in variants)
        warps = variants[0].num_warps
        assert warps not in self.broken or warps == OWN
        if warps in self.refused:
            raise InputError("too many registers for this device")
        return [np.full(4, 1.5 if warps in self.wrong else 1.0, np.float32)]

    def seconds(self, use: Use, variants: Sequence[Variant]) -> list[float]:
        return [self.by_warps[variants[0].num_warps]] * 3


def tuned(bench: FakeBench) -> autotune.Tuned:
    (found,) = autotune.tune([USE, USE], 90, bench)
    return found


def own() -> Variant:
    (variant,) = autotune.variants_of(USE, 90)
    return variant


@pytest.fixture(autouse=True)
def _ways_that_differ_in_warps(monkeypatch) -> None:
    """Instead of what BiasGelu offers."""
    ways = [(2, 1), (8, 1), (8, 2)]
    monkeypatch.setattr(
        "turbo_onnx.custom_ops.bias_gelu.cuda.candidates",
        lambda variant, _: [replace(variant, num_warps=warps, num_stages=stages) for warps, stages in ways],
    )


@pytest.mark.filterwarnings("error")
def test_the_fastest_is_chosen() -> None:
    found = tuned(FakeBench({OWN: 2.0, 2: 3.0, 8: 1.0}))
    assert found.chosen is not None
    assert found.chosen["num_warps"] == 8
    assert (found.own, found.best) == (2.0, 1.0)


def test_everything_is_compiled_at_once() -> None:
    bench = FakeBench({OWN: 2.0, 2: 3.0, 8: 1.0})
    tuned(bench)
    assert [(variant.num_warps, variant.num_stages) for variant in bench.compiled] == [(OWN, 1), (2, 1), (8, 1), (8, 2)]


def test_a_kernel_that_has_one_way_to_run_is_not_timed(monkeypatch) -> None:
    monkeypatch.setattr("turbo_onnx.custom_ops.bias_gelu.cuda.candidates", lambda *_: [])
    assert list(autotune.tune([USE], 90, FakeBench({}))) == []


def test_an_own_choice_that_cannot_be_compiled_is_a_bug() -> None:
    with pytest.raises(PassError, match=r"bias_gelu;.* for sm_90 cannot be compiled; this is a bug"):
        tuned(FakeBench({}, broken=[OWN], reason="cannot be compiled"))


def test_an_own_choice_that_spills_is_compared_with_the_others() -> None:
    found = tuned(FakeBench({OWN: 3.0, 2: 1.0, 8: 2.0}, broken=[OWN]))
    assert found.chosen is not None
    assert found.chosen["num_warps"] == 2


def test_a_kernel_that_cannot_be_run_is_left_out_and_said_to_be() -> None:
    said: list[str] = []
    assert list(autotune.tune([USE], 90, FakeBench({}, refused=[OWN]), said.append)) == []
    assert said[-1].endswith("is not tuned: too many registers for this device")


def test_a_way_that_is_another_kernel_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("turbo_onnx.custom_ops.bias_gelu.cuda.candidates", lambda v, _: [replace(v, key="another")])
    with pytest.raises(AssertionError, match="BiasGelu offers another kernel than bias_gelu"):
        tuned(FakeBench({}))


def test_a_kernel_keeps_its_own_choice_where_another_is_hardly_faster() -> None:
    assert tuned(FakeBench({OWN: 1.0, 2: 1.0, 8: 1 - autotune.MARGIN / 2})).chosen is None


@pytest.mark.parametrize(
    ("bench", "reason"),
    [
        (FakeBench({OWN: 2.0, 2: 3.0}, wrong=[8]), "gives other results"),
        (FakeBench({OWN: 2.0, 2: 3.0}, broken=[8]), "spills registers"),
        (FakeBench({OWN: 2.0, 2: 3.0}, refused=[8]), "cannot be run here"),
    ],
)
def test_what_is_no_good_is_never_taken_and_the_table_says_why(bench: FakeBench, reason: str) -> None:
    found = tuned(bench)
    assert found.chosen is None
    assert found.refused == {reason: 2}
    (line,) = autotune.table([found])
    assert line.endswith(f"with its own; 4 tried, 2 {reason}")


def test_the_bench_runs_a_node_with_any_of_its_kernels_and_keeps_its_inputs(monkeypatch, tmp_path) -> None:
    """On the CPU in a GPU's place, where the operator runs without its compiled kernels."""
    if not library_available():
        pytest.skip("the library is not built")
    monkeypatch.setenv("TURBO_ONNX_CACHE", str(tmp_path))
    monkeypatch.setattr(node_timing, "DEVICE", "cpu")
    monkeypatch.setattr(node_timing, "open_on_device", lambda m: open_session(m.SerializeToString(), library=True))
    monkeypatch.setattr(autotune, "BATCH", samples.ragged(2, 5))
    bench = autotune.DeviceBench(80)
    other = replace(own(), num_warps=2)
    assert bench.compile([own(), other]) == [None, None]
    expected, actual = (bench.outputs(USE, [variant]) for variant in (own(), other))
    (x, bias) = (samples.sample(USE, autotune.BATCH)[name].astype(np.float16) for name in ("x", "bias"))
    np.testing.assert_allclose(actual[0], spec("BiasGelu").reference([x, bias], USE.attributes)[0], atol=4e-3)
    assert autotune.same(USE, actual, expected)
    values = bench._values
    assert len(bench.seconds(USE, [other])) == 15
    assert bench._values is values


def test_a_tuning_is_applied_and_read_back(tmp_path) -> None:
    chosen = replace(own(), num_warps=8)
    file = tmp_path / "tuning.json"
    file.write_text(Tuning({"sm_90": {own().key: choice(chosen)}}).to_json())
    read = tuning.read(file)
    assert read.apply("BiasGelu", own(), 90) == chosen
    assert read.apply("BiasGelu", own(), 80) == own()


def test_a_choice_that_the_operator_does_not_offer_is_refused() -> None:
    wrong = choice(own()) | {"tile": [1, 1, 1]}
    with pytest.raises(InputError, match="does not offer; measure again"):
        Tuning({"sm_90": {own().key: wrong}}).apply("BiasGelu", own(), 90)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": 1, "choices": {"sm_90": 3}})])
def test_what_is_no_tuning_file_is_refused(tmp_path, text) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(text)
    with pytest.raises(InputError, match="no tuning file"):
        tuning.read(file)


def test_the_choices_are_recorded_in_the_artifact_and_nothing_else_of_the_file_is() -> None:
    some = Tuning({"sm_90": {"a": {}}}, {"device": "one"})
    recorded = Options(target="cuda:sm_90", tuning=some).recorded()
    assert recorded == Options(target="cuda:sm_90", tuning=replace(some, measured={})).recorded()
    assert recorded["tuning"] != Tuning().digest()
    assert "tuning" not in Options(target="cuda:sm_90").recorded()


def test_a_tuning_is_for_cuda_only() -> None:
    with pytest.raises(InputError, match="for target cuda"):
        Options(tuning=Tuning())


def test_without_a_gpu_there_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(nvidia.DRIVER, str(tmp_path / "none.so"))
    result = CliRunner().invoke(cli, ["autotune", str(tmp_path / "model.onnx")])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert str(result.exception) == "there is no NVIDIA GPU here: its driver (libcuda.so.1) is not installed."


def test_the_target_must_be_the_gpus() -> None:
    device = nvidia.Device("a GPU", 90, 12080)
    assert autotune._capability(device, "cuda:sm_90") == 90
    with pytest.raises(InputError, match=r"a GPU, sm_90, driver for CUDA 12\.8"):
        autotune._capability(device, "cuda:sm_80")


def test_the_time_of_a_run_falls_out_of_the_time_of_a_node() -> None:
    times = iter(np.cumsum([0.0, 15.0, 0.0, 20.0] * 5))  # 10 for each run, and 5 for each group of ten nodes
    assert per_node(lambda: None, lambda: None, 10, 3, lambda: float(next(times))) == [0.5] * 3


def test_inputs_fit_the_node() -> None:
    batch = samples.ragged(3, 8)
    assert batch.longest == 8
    made = samples.sample(USE, batch)
    assert {name: value.shape for name, value in made.items()} == {"x": (batch.tokens, 768), "bias": (768,)}


def test_rows_are_rotated_by_their_positions() -> None:
    shapes = {"input": ("T", 32), "cos": ("P", 16), "sin": ("P", 16), "index": ("T",), "output": ("T", 32)}
    use = Use("RotaryEmbedding", dict.fromkeys(shapes, "float32") | {"index": "int64"}, shapes, {"num_heads": 2})
    batch = samples.Batch((3, 1, 2))
    made = samples.sample(use, batch)
    assert made["index"].tolist() == [0, 1, 2, 0, 0, 1]
    assert made["cos"].shape == made["sin"].shape == (3, 16)
    short = replace(use, shapes={**shapes, "cos": (2, 16), "sin": (2, 16)})
    assert samples.sample(short, batch)["index"].tolist() == [0, 1, 0, 0, 0, 1]


def test_positions_ascend_within_each_sequence() -> None:
    batch = samples.Batch((3, 1, 5))
    use = Use("VarlenAttention", {"positions": "int64"}, {"positions": ("T",)}, {"num_heads": 2})
    assert samples.sample(use, batch)["positions"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]


def test_rows_are_as_many_as_an_attention_bias_of_one_length_is_for() -> None:
    rows = {name: ("B", f"{name}_length", 32) for name in ("query", "key", "value")}
    shapes = {**rows, "attention_bias": (1, 2, 1, 40), "output": ("B", "query_length", 32)}
    use = Use("VarlenAttention", dict.fromkeys(shapes, "float16"), shapes, {"num_heads": 2})
    made = {name: value.shape for name, value in samples.sample(use, samples.ragged(3, 8)).items()}
    assert made == {
        "query": (3, 8, 32), "key": (3, 40, 32), "value": (3, 40, 32), "attention_bias": (1, 2, 1, 40)
    }  # fmt: skip
