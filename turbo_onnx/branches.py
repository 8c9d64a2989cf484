"""The branches of an If as models of their own, for passes to rewrite.

What a branch reads of the graph around it is an input of that model, of the same name, type and shape, and its
constants are copies: what is done to the model reaches neither the graph outside nor the other branch. Afterwards the
branch reads the tensors themselves again. Constants that no pass replaced are those that they were, and those that
passes made in several branches with equal bytes become one: branches share weights, in the file as in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx import shapes
from turbo_onnx.dims import as_item
from turbo_onnx.errors import Reject
from turbo_onnx.graph import (
    Shape,
    Tensor,
    keep_outside,
    mark_computed_outside,
    mark_widened,
    names_in,
    producer,
    widened_from,
)
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.own_precision import mentioned
from turbo_onnx.precision import half_type

LEAST_SHARED = 1024
"""Bytes from which on constants are held in the main graph, and those that passes made are compared."""


class Branches:
    """Gives the branches of one model's main graph, one at a time.

    Args:
        model: with inferred shapes. It may be edited while no branch is taken out, but for its inputs.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._made: dict[Hashable, gs.Constant] = {}

    @contextmanager
    def taken_out(self, branch: gs.Graph) -> Iterator[Model]:
        """The branch as a model; its inputs and outputs have to stay as they are.

        Raises:
            Reject: it cannot be one, and why.
        """
        require_rewritable(branch)
        outside = {id(tensor): tensor for tensor in read_from_outside(branch)}
        inside = {identity: self._stand_in(tensor) for identity, tensor in outside.items()}
        outputs = [(tensor.name, tensor.dtype, tensor.shape) for tensor in branch.outputs]
        _swap(branch, inside)
        branch.inputs = [tensor for tensor in inside.values() if isinstance(tensor, gs.Variable)]
        branch.names_outside = frozenset(names_in(self._model.graph))
        given = [tensor for tensor in outside.values() if isinstance(tensor, gs.Variable)]
        declared = {tensor.name: self._proven_shape(tensor) for tensor in given}
        yield Model(branch, self._model.path, self._model.shell, declared_shapes=declared)
        del branch.names_outside
        branch.inputs = []
        _swap(branch, {id(tensor): outside[identity] for identity, tensor in inside.items()})
        self._share_constants(branch, known=set(outside))
        for tensor, (name, dtype, shape) in zip(branch.outputs, outputs, strict=True):
            assert tensor.name == name and producer(tensor) is not None
            tensor.dtype, tensor.shape = dtype, shape

    def _stand_in(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, gs.Constant):
            copy = gs.Constant(tensor.name, tensor._values, tensor.data_location, tensor._export_dtype)
            half = widened_from(tensor)
            if half is not None:
                mark_widened(copy, half)
            return copy
        shape = None if tensor.shape is None else list(tensor.shape)
        entry = gs.Variable(tensor.name, tensor.dtype, shape, tensor.type)
        if producer(tensor) is not None:
            mark_computed_outside(entry)
        return entry

    @cached_property
    def _proven(self) -> shapes.Facts:
        return shapes.infer_proven(self._model)

    def _proven_shape(self, tensor: gs.Variable) -> Shape:
        shape = self._proven[tensor].shape
        return None if shape is None else [as_item(size) for size in shape]

    def _share_constants(self, branch: gs.Graph, known: set[int]) -> None:
        """Hold large constants in the main graph; read there what another branch made of the same bytes."""
        given = {id(tensor) for inner in graphs_of(branch) for tensor in inner.outputs}
        read = {id(tensor): tensor for tensor in _reads(branch) if isinstance(tensor, gs.Constant)}
        same = {}
        for identity, constant in read.items():
            if identity in given or constant._values.nbytes < LEAST_SHARED:
                continue
            keep_outside(constant)
            if identity not in known:
                same[identity] = self._made.setdefault(_content(constant), constant)
        _swap(branch, {identity: first for identity, first in same.items() if first is not read[identity]})


def require_rewritable(branch: gs.Graph) -> None:
    """Raises Reject where a branch cannot be a model of its own, and why."""
    for tensor in branch.outputs:
        if not any(tensor is result for node in branch.nodes for result in node.outputs):
            raise Reject("its output {} is computed by none of its nodes", tensor.name)
    if any(half_type(tensor.dtype) is not None for tensor in mentioned(branch)):
        raise Reject("it has tensors in half precision")


def _content(constant: gs.Constant) -> Hashable:
    values = np.ascontiguousarray(constant.values)
    digest = hashlib.sha256(values.reshape(-1).view(np.uint8).data).digest()
    return str(constant.dtype), tuple(constant.shape), widened_from(constant), digest


def _reads(graph: gs.Graph) -> Iterator[Tensor]:
    """What the graph's nodes read and what it gives, and those of the graphs inside it."""
    for inner in graphs_of(graph):
        for node in inner.nodes:
            yield from node.inputs
        yield from inner.outputs


def read_from_outside(branch: gs.Graph) -> Iterator[Tensor]:
    """What the branch reads of the graph around it, as often as it does."""
    own = {id(tensor) for inner in graphs_of(branch) for node in inner.nodes for tensor in node.outputs}
    own |= {id(tensor) for inner in graphs_of(branch) for tensor in inner.inputs}
    for tensor in _reads(branch):
        if id(tensor) not in own and not (isinstance(tensor, gs.Variable) and tensor.is_empty()):
            yield tensor


def _swap(branch: gs.Graph, new: dict[int, Tensor]) -> None:
    """Let everything in the branch read other tensors.

    By identity and in linear time: graphsurgeon's own edits take nodes of equal names, as branches have, for the same.

    Args:
        branch: the graph.
        new: what to read instead, by the identity of what is read now.
    """
    if not new:
        return
    nodes = [node for inner in graphs_of(branch) for node in inner.nodes]
    here = {id(node) for node in nodes}
    left: dict[int, Tensor] = {}
    for node in nodes:
        for index, tensor in enumerate(node.inputs):
            if id(tensor) in new:
                left[id(tensor)] = tensor
                list.__setitem__(node.inputs, index, new[id(tensor)])
                list.append(new[id(tensor)].outputs, node)
    for tensor in left.values():
        readers = [reader for reader in tensor.outputs if id(reader) not in here]
        list.clear(tensor.outputs)
        list.extend(tensor.outputs, readers)
    for inner in graphs_of(branch):
        inner.outputs = [new.get(id(tensor), tensor) for tensor in inner.outputs]
