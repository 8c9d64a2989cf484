"""EmbedLayerNormalization: the rows of up to three embedding tables, summed and normalized while they are in cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from turbo_onnx.custom_ops import bodies, layers
from turbo_onnx.custom_ops.specification import Array, Attribute, Attributes, Dims, Operand, OperatorSpec

_INPUTS = (
    Operand("word_ids", "WordId", "[...]", "Which row of word_table; negative ids count from the end."),
    Operand("token_type_ids", "TypeId", "[...]", "Which row of token_type_table.", optional=True),
    Operand("position_ids", "PositionId", "[...]", "Which row of position_table.", optional=True),
    Operand("word_table", "T", "[V, H]", "One row for each word."),
    Operand("token_type_table", "T", "[V2, H]", "One row for each token type.", optional=True),
    Operand("position_table", "T", "[V3, H]", "One row for each position.", optional=True),
    Operand("gamma", "T", "[H]", "Scale of the normalization."),
    Operand("beta", "T", "[H]", "Shift of the normalization.", optional=True),
)
_OUTPUTS = (Operand("output", "T", "[..., H]", "The normalized sum of the rows."),)
_ATTRIBUTES = (Attribute("epsilon", 1e-12, "Added to the variance."),)
_IDS = ("tensor(int64)", "tensor(int32)")


def _body(opset: int, present: frozenset[str], attributes: Attributes) -> onnx.FunctionProto:
    beta = "beta" if "beta" in present else None
    text, total = "words = Gather <axis = 0> (word_table, word_ids)\n", "words"
    for name in ("token_type", "position"):
        if f"{name}_table" in present:
            text += f"{name}s = Gather <axis = 0> ({name}_table, {name}_ids)\n"
            text += f"{name}_sum = Add ({total}, {name}s)\n"
            total = f"{name}_sum"
    text += bodies.layer_normalization(opset, "output", total, "gamma", beta)
    return bodies.function("EmbedLayerNormalization", _INPUTS, _OUTPUTS, _ATTRIBUTES, opset, text)


def _reference(inputs: Sequence[Array | None], attributes: Attributes) -> tuple[Array, ...]:
    word_ids, token_type_ids, position_ids, word_table, token_type_table, position_table, gamma, beta = inputs
    assert word_ids is not None and word_table is not None and gamma is not None
    total = word_table[word_ids].astype(np.float64)
    if token_type_ids is not None and token_type_table is not None:
        total = total + token_type_table[token_type_ids]
    if position_ids is not None and position_table is not None:
        total = total + position_table[position_ids]
    return (layers.layer_normalization(total, gamma, beta, attributes["epsilon"]).astype(word_table.dtype),)


def _output_shapes(shapes: Sequence[Dims | None], attributes: Attributes) -> tuple[Dims | None, ...]:
    ids, table, gamma = shapes[0], shapes[3], shapes[6]
    if ids is None or (table is None and gamma is None):
        return (None,)
    return ((*ids, table[1] if table is not None else gamma[0] if gamma is not None else None),)


SPEC = OperatorSpec(
    name="EmbedLayerNormalization",
    doc="sum = word_table[word_ids] + token_type_table[token_type_ids] + position_table[position_ids], as far as they "
    "are given; output = (sum - mean(sum)) / sqrt(variance(sum) + epsilon) * gamma + beta, with mean and variance over "
    "the last axis. All ids have one shape; ids and table of one kind are given together. An id outside its table is "
    "an error; a GPU cannot raise one, and makes the row NaN.",
    inputs=_INPUTS,
    outputs=_OUTPUTS,
    attributes=_ATTRIBUTES,
    types={
        "T": ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"),
        "WordId": _IDS,
        "TypeId": _IDS,
        "PositionId": _IDS,
    },
    kernel_types={"T": ("tensor(float)",), "WordId": _IDS, "TypeId": _IDS, "PositionId": _IDS},
    body=_body,
    reference=_reference,
    output_shapes=_output_shapes,
)
