"""Verification finds every difference that means something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.small_models import VOCABULARY, encoder, feed, parsed
from turbo_onnx import nvidia
from turbo_onnx.counted import Counted
from turbo_onnx.errors import InputError, VerificationError
from turbo_onnx.model import Model
from turbo_onnx.sessions import open_session
from turbo_onnx.tolerances import TOLERANCES, difference_of
from turbo_onnx.verify import Verification, load_cases, refer, require, verify
from turbo_onnx.verify_inputs import RECIPES, InputSpec, describe

ENCODER = describe(Model.from_proto(encoder()))


def changed(**weights: np.ndarray) -> bytes:
    model = encoder()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return bytes(model.SerializeToString())


def original() -> bytes:
    return bytes(encoder().SerializeToString())


def weight() -> np.ndarray:
    return numpy_helper.to_array(encoder().graph.initializer[1]).copy()


# -- what is found ----------------------------------------------------------------------------------------------------


def test_a_model_equals_itself() -> None:
    found = verify(original(), original(), ENCODER)
    assert found.ok
    assert found.cases == len(RECIPES)
    assert not found.skipped


def test_a_difference_beyond_the_tolerance_is_found_and_described() -> None:
    other = weight()
    other[3, 4] += 1e-3
    found = verify(original(), changed(weight=other), ENCODER)
    assert found.ok is False
    assert "output 'hidden' differs by" in found.failures[0]
    with pytest.raises(VerificationError, match="nothing was written") as caught:
        require(found, "in.onnx")
    assert caught.value.exit_code == 3


def test_candidates_are_compared_with_one_run_of_the_original() -> None:
    known = refer(original(), ENCODER)
    other = weight()
    other[3, 4] += 1e-3
    for candidate in (changed(weight=other), original()):
        assert verify(known, candidate, ENCODER) == verify(original(), candidate, ENCODER)


def test_a_difference_within_the_tolerance_is_measured() -> None:
    other = weight()
    other[3, 4] += 4e-6
    found = verify(original(), changed(weight=other), ENCODER)
    assert found.ok
    assert 0 < found.max_rel < 1e-5


def test_a_candidate_that_fails_is_a_difference() -> None:
    found = verify(original(), changed(table=np.zeros((2, 8), np.float32)), ENCODER)
    assert found.ok is False
    assert "the optimized model fails" in found.failures[0]


def test_a_candidate_that_does_not_load_is_a_difference() -> None:
    broken = encoder()
    broken.graph.node[-1].op_type = "Nonsense"
    found = verify(original(), broken.SerializeToString(), ENCODER)
    assert found.ok is False
    assert "refuses the optimized model" in found.failures[0]


@pytest.mark.parametrize("change", ["shape", "type", "missing"])
def test_an_output_of_another_kind_is_a_difference(change: str) -> None:
    other = encoder()
    last = other.graph.node[-1]
    last.output[0] = "inner"
    if change == "shape":
        other.graph.node.append(helper.make_node("Unsqueeze", ["inner", "last"], ["hidden"]))
        other.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 8
        other.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 1
    elif change == "type":
        other.graph.node.append(helper.make_node("Cast", ["inner"], ["hidden"], to=TensorProto.DOUBLE))
        other.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    else:
        last.output[0] = other.graph.output[0].name = "renamed"
    assert verify(original(), other.SerializeToString(), ENCODER).ok is False


def test_rows_of_padding_do_not_count_where_padding_was_removed() -> None:
    other = encoder()
    other.graph.node[-1].op_type = "Cos"  # of 0, which is where there is no token, and of small numbers elsewhere
    small = np.zeros((8, 8), np.float32)
    first = encoder()
    first.graph.node[-1].op_type = "Exp"
    for proto in (first, other):
        proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(small, "weight"))
    assert verify(first.SerializeToString(), other.SerializeToString(), ENCODER, mask="mask").ok


def test_an_original_that_runs_on_nothing_is_not_verified_and_says_why() -> None:
    text = "g (float[b, s] x) => (float[c, d] y) <int64[2] shape = {7, 1013}> { y = Reshape (x, shape) }"
    proto = parsed(text).to_proto().SerializeToString()
    found = verify(proto, proto, describe(parsed(text)))
    assert found.ok is None
    assert found.cases == 0
    assert "ran on none of the inputs" in found.skipped[0]


def test_a_case_that_the_original_cannot_run_is_left_out_with_a_sentence() -> None:
    text = "g (float[b, s] x) => (float[b, 4] v, int64[b, 4] i) <int64[1] k = {4}> { v, i = TopK (x, k) }"
    proto = parsed(text).to_proto().SerializeToString()
    found = verify(proto, proto, describe(parsed(text)))
    assert found.ok
    assert found.cases == len(RECIPES) - 1
    assert found.skipped[0].startswith("one token: the original model does not run on it")


def test_an_input_that_cannot_be_made_needs_the_callers() -> None:
    text = "g (string[b] x) => (string[b] y) { y = Identity (x) }"
    proto = parsed(text).to_proto().SerializeToString()
    specs = describe(parsed(text))
    assert "no inputs can be made for 'x'" in verify(proto, proto, specs).skipped[0]
    own = {"own": {"x": np.array(["a", "b"], object)}}
    assert verify(proto, proto, specs, own_cases=own).cases == 1


def test_integer_outputs_must_be_equal() -> None:
    before = "g (int64[b, s] x) => (int64[b, s] y) <int64[1] one = {1}> { y = Add (x, one) }"
    after = before.replace("{1}", "{2}")
    found = verify(*(parsed(text).to_proto().SerializeToString() for text in (before, after)), describe(parsed(before)))
    assert found.ok is False
    assert "elements" in found.failures[0]


# -- numbers ----------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        (NAN, NAN, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INF, INF, True),
        (INF, -INF, False),
        (1.0, INF, False),
        (100.0, 100.0015, True),
        (100.0, 100.01, False),
        (0.0, 0.0009, True),
        (0.0, 0.0011, False),
    ],
)
def test_one_element_is_compared_with_the_outputs_size_in_mind(before: float, after: float, equal: bool) -> None:
    left, right = (np.array([value, 100.0], np.float32) for value in (before, after))
    difference, _, bound = difference_of(left, right, TOLERANCES["float32"])
    assert bool((difference <= bound).all()) == equal


def test_nothing_at_all_is_equal() -> None:
    empty = np.zeros((0, 3), np.float32)
    difference, _, bound = difference_of(empty, empty, TOLERANCES["float32"])
    assert (difference <= bound).all()


MASK = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
MASK_SPEC = [InputSpec("m", np.dtype(np.int64), ("b", "s"), "mask")]


@pytest.mark.parametrize(
    ("shape", "first_token", "expected"),
    [
        ((3, 3, 2), False, np.repeat(MASK[:, :, None], 2, 2)),
        ((3, 2), False, [[1, 1], [1, 1], [0, 0]]),
        ((3, 2), True, [[1, 1], [0, 0], [0, 0]]),
        ((3, 4, 3, 3), False, np.repeat((MASK[:, None, :, None] * MASK[:, None, None, :]), 4, 1)),
    ],
)
def test_only_real_tokens_and_sequences_that_have_some_count(
    shape: tuple[int, ...], first_token: bool, expected: object
) -> None:
    selected = Counted.of({"m": MASK}, MASK_SPEC, "m", first_token).of_output(shape)
    np.testing.assert_array_equal(selected, np.array(expected, bool))


def test_without_packing_only_sequences_without_any_token_are_left_out() -> None:
    selected = Counted.of({"m": MASK}, MASK_SPEC, None).of_output((3, 3))
    np.testing.assert_array_equal(selected, [[True] * 3, [True] * 3, [False] * 3])


def test_an_output_without_the_batch_counts_whole() -> None:
    assert Counted.of({"m": MASK}, MASK_SPEC, "m").of_output((7, 3)) is ...


# -- the caller's inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "in_"])
def test_the_callers_cases_are_compared_too(tmp_path: Path, prefix: str) -> None:
    np.savez(tmp_path / "own.npz", **{prefix + name: value for name, value in feed().items()}, out_other=np.ones(1))
    cases = load_cases(tmp_path / "own.npz", ENCODER)
    assert cases.keys() == {"own.npz"}
    assert verify(original(), original(), ENCODER, own_cases=cases).cases == len(RECIPES) + 1


def test_integers_of_another_width_are_converted(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **{name: value.astype(np.int32) for name, value in feed().items()})
    assert load_cases(tmp_path / "own.npz", ENCODER)["own.npz"]["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "why"),
    [({"ids": np.ones((1, 1), np.int64)}, "no array for the input 'mask'"), ({"ids": np.ones((1, 1))}, "is float64")],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(InputError, match=why):
        load_cases(tmp_path / "own.npz", ENCODER)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"own\.npz: it is no \.npz file of arrays; make one with numpy\.savez\.$"):
        load_cases(tmp_path / "own.npz", ENCODER)


def test_inputs_that_the_original_refuses_are_the_callers_mistake() -> None:
    wrong = {"own": {**feed(), "ids": np.full((2, 5), VOCABULARY + 1)}}
    with pytest.raises(InputError, match="own: the original model cannot run"):
        verify(original(), original(), ENCODER, own_cases=wrong)


def test_nothing_is_required_of_what_could_not_be_compared() -> None:
    require(Verification(None), "in.onnx")


# -- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, in a GPU's place."""
    device = nvidia.Device("a GPU", 90, 12080)
    monkeypatch.setattr(nvidia, "first_device", lambda: device)
    monkeypatch.setattr("turbo_onnx.verify.open_on_gpu", open_session)


@pytest.mark.usefixtures("a_gpu")
def test_a_candidate_for_gpus_runs_there_too() -> None:
    result = verify(original(), original(), ENCODER, on_gpu=original())
    assert result.ok
    assert result.gpu == "a GPU, sm_90, driver for CUDA 12.8"
    assert verify(original(), original(), ENCODER).gpu is None


@pytest.mark.usefixtures("a_gpu")
def test_a_difference_that_only_a_gpu_shows_is_found() -> None:
    result = verify(original(), original(), ENCODER, on_gpu=changed(weight=1.01 * weight()))
    assert result.ok is False
    assert result.failures
    assert all(sentence.startswith("on the GPU: ") for sentence in result.failures)


@pytest.mark.parametrize(
    ("capability", "why"), [(None, "there is no NVIDIA GPU here"), (75, "sm_80 is the oldest that is supported")]
)
def test_without_a_gpu_that_can_run_it_the_result_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: int | None, why: str
) -> None:
    monkeypatch.setenv(nvidia.DRIVER, str(tmp_path / "none.so"))
    if capability is not None:
        monkeypatch.setattr(nvidia, "first_device", lambda: nvidia.Device("a GPU", capability, 12080))
    result = verify(original(), original(), ENCODER, on_gpu=original())
    assert result.ok
    assert result.not_on_gpu is not None
    assert why in result.not_on_gpu
    assert result.gpu is None
