"""What a kernel does with inputs that its definition does not cover: one sentence, and nothing out of bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from tests.custom_ops.single_node import Case, by_definition, by_kernel

WORDS = np.zeros((10, 4), np.float32)
TYPES = np.zeros((2, 4), np.float32)
ONES = np.ones(4, np.float32)
MASK = np.ones((2, 3), np.int64)


def embedding(word_ids, type_ids=None, type_table=None, gamma=ONES):
    return Case("EmbedLayerNormalization", [word_ids, type_ids, None, WORDS, type_table, None, gamma, None])


def binary_mask(element, other, kind):
    mask = np.zeros((2, 3), kind)
    mask[element] = other
    mask[1, 2] = 1
    return Case("RemovePadding", [mask], {"binary_input": "attention_mask"}, outputs=4)


def quantized(x=(2, 4), weight=(1, 1, 16, 16, 4), weight_scale=(7,), column_sums=(7,), bias=(7,)):
    shapes = (x, weight, weight_scale, column_sums, bias)
    kinds = (np.float32, np.int8, np.float32, np.int32, np.float32)
    return Case("QuantizedMatMul", [np.ones(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)])


def restore(index, rows=2):
    return Case("RestorePadding", [np.ones((rows, 4), np.float32), np.array(index, np.int64), MASK])


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (embedding(np.array([3, 10])), "word id 10 is outside its table of 10 rows"),
        (embedding(np.array([-11])), "word id -11 is outside its table of 10 rows"),
        (
            embedding(np.array([3], np.int32), np.array([2], np.int32), TYPES),
            "token_type id 2 is outside its table of 2",
        ),
        (embedding(np.array([1, 2]), np.array([1]), TYPES), "token_type_ids has shape [1], but word_ids has [2]"),
        (embedding(np.array([1]), np.array([1])), "token_type_ids and token_type_table must be given together"),
        (embedding(np.array([1]), np.array([1]), TYPES[:, :3].copy()), "must be a matrix of 4 columns"),
        (embedding(np.array([1]), gamma=np.ones(5, np.float32)), "gamma has shape [5], but must be a vector of 4"),
        (restore([0, 6]), "token_index has 6 after 0, but must be strictly ascending and below 6"),
        (restore([-1, 2]), "token_index has -1 after -1"),
        (restore([2, 2]), "token_index has 2 after 2"),
        (restore([1], rows=2), "token_index has shape [1], but must be a vector of 2"),
        (Case("RemovePadding", [np.ones(3, np.int64)], outputs=4), "mask has shape [3], but must be a matrix"),
        (
            binary_mask((1, 0), 2, np.int64),
            "attention_mask has 2 at [1, 0], but this model was optimized for zeros and",
        ),
        (binary_mask((0, 0), -1, np.int32), "attention_mask has -1 at [0, 0]"),
        (binary_mask((0, 2), 0.1, np.float32), "attention_mask has 0.100000001 at [0, 2]"),
        (binary_mask((1, 1), 1 + 2**-40, np.float64), "attention_mask has 1.0000000000009095 at [1, 1]"),
        (binary_mask((1, 1), np.inf, np.float32), "attention_mask has inf at [1, 1]"),
        (
            Case("SkipLayerNormalization", [np.ones((2, 4), np.float32), np.ones((1, 4), np.float32), ONES]),
            "x has shape [2, 4], but skip has [1, 4]",
        ),
        (Case("BiasGelu", [np.ones((2, 4), np.float32), ONES[:3]]), "bias has shape [3], but must be a vector of 4"),
        (Case("BiasGelu", [np.array(1, np.float32)]), "x is a scalar"),
        (Case("GatedActivation", [np.ones((2, 5), np.float32)]), "x has shape [2, 5], but must have two halves"),
        (Case("GatedActivation", [np.ones((2, 4), np.float32), TYPES[:1]]), "x has shape [2, 4], but up has [1, 4]"),
        (Case("GatedActivation", [TYPES, TYPES, ONES]), "bias has shape [4], but must be a vector of 8"),
        (Case("GatedActivation", [TYPES, TYPES], {"gate_last": 1}), "gate_last is 1, but up is given"),
        (quantized(x=()), "x is a scalar, but must have rows"),
        (quantized(x=(2, 0)), "x has shape [2, 0], but its rows must hold numbers"),
        (quantized(x=(2, 65)), "weight has shape [1, 1, 16, 16, 4], but must have [1, 2, 16, 16, 4] for 65 rows and 7"),
        (quantized(weight=(4, 7)), "weight has shape [4, 7], but must have [1, 1, 16, 16, 4] for 4 rows and 7 columns"),
        (quantized(weight_scale=(17,)), "weight has shape [1, 1, 16, 16, 4], but must have [2, 1, 16, 16, 4]"),
        (quantized(weight_scale=(1, 7)), "weight_scale has shape [1, 7], but must be a vector"),
        (quantized(column_sums=(1, 7)), "column_sums has shape [1, 7], but must be a vector of 7"),
        (quantized(bias=(5,)), "bias has shape [5], but must be a vector of 7"),
    ],
)
def test_wrong_inputs_are_refused_with_a_sentence_that_names_the_operator(case, sentence):
    with pytest.raises(Exception, match=case.operator) as refusal:  # onnxruntime's classes differ between releases
        by_kernel(case)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float32, np.float64])
def test_a_definition_refuses_a_mask_that_must_be_of_zeros_and_ones_in_the_name_of_its_node(kind, opset):
    case = binary_mask((1, 1), 1 + 2**-40 if kind == np.float64 else 1 + 2**-20 if kind == np.float32 else 2, kind)
    with pytest.raises(Exception, match="attention_mask_must_hold_0_and_1_only"):
        by_definition(case, opset)


def test_an_unknown_attribute_value_is_refused_when_the_session_is_made():
    case = Case("BiasGelu", [np.ones((2, 4), np.float32)], {"approximate": "cubic"})
    with pytest.raises(Exception, match='approximate is "cubic", but must be "none" or "tanh"'):
        by_kernel(case)


@pytest.mark.parametrize(
    ("case", "activation", "sentence"),
    [
        (Case("GatedActivation", [TYPES]), "mish", 'is "mish", but must be "gelu", .*"relu" or "sigmoid"'),
        (Case("GatedActivation", [TYPES]), "none", 'is "none", but must be "gelu", .*"relu" or "sigmoid"$'),
        (quantized(), "mish", 'is "mish", but must be "gelu", .*"relu" or "sigmoid", or "none"'),
    ],
)
def test_an_unknown_activation_is_refused_when_the_session_is_made(case, activation, sentence):
    with pytest.raises(Exception, match=f"activation {sentence}"):
        by_kernel(replace(case, attributes={"activation": activation}))


def test_a_required_attribute_that_is_missing_is_refused():
    from onnx import helper

    from tests.custom_ops.single_node import model
    from turbo_onnx import runtime

    rows, starts = np.ones((2, 24), np.float32), np.array([0, 2], np.int32)
    proto = model(Case("VarlenAttention", [rows, None, None, None, starts], {"num_heads": 2, "scale": 1.0}))
    del proto.functions[:]
    kept = [a for a in proto.graph.node[0].attribute if a.name != "num_heads"]
    del proto.graph.node[0].attribute[:]
    proto.graph.node[0].attribute.extend(kept)
    assert helper.get_node_attr_value(proto.graph.node[0], "scale") == 1.0
    with pytest.raises(Exception, match="num_heads"):
        runtime.InferenceSession(proto.SerializeToString())


@pytest.fixture(autouse=True)
def quiet():
    """ONNX Runtime prints every error that it returns."""
    ort.set_default_logger_severity(4)
    yield
    ort.set_default_logger_severity(2)
