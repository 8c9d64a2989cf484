"""Give a model the ONNX functions that define our operators, so that it runs where our library is not registered.

A function body cannot ask whether an optional input is there, nor compare a string attribute (before opset 19), so a
body is made for one *form* of the operator: which operands the node has, and the values of its integer and string
attributes. Float attributes stay references; where 0 is the default, it stands for something left out, and a body may
depend on whether it is 0. A model may use one operator in several forms. ONNX has overloads for
that, but ONNX Runtime 1.20 does not look at them (it runs the wrong body), and neither does onnx's reference evaluator.
So the second form of an operator in a model goes by a second name, `VarlenAttention_2`, and so on. The library
registers every operator under as many names as its specification has `forms`, with one kernel; what goes by a later one
runs by its function.

A function is in the domain of its nodes. Where they carry compiled kernels, it has one more input and never reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

from turbo_onnx.custom_ops.specification import (
    CUDA_DOMAIN,
    DOMAIN,
    DOMAIN_VERSION,
    KERNELS,
    OperatorSpec,
    is_ours,
)

FUNCTIONS_IR_VERSION = 8  # the first that has model-local functions

Form = tuple[frozenset[str], tuple[tuple[str, Any], ...]]  # operands present, what bodies depend on of attributes


def alias(name: str, number: int) -> str:
    """The operator's name for its form `number`, counted from 1: `X`, `X_2`, `X_3` and so on."""
    return name if number == 1 else f"{name}_{number}"


def operator_name(op_type: str) -> str:
    """The operator that a node's type names, directly or by an alias: `X` for `X` and `X_2`."""
    name, underscore, number = op_type.rpartition("_")
    return name if underscore and number.isdigit() else op_type


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of the graph and of the graphs inside it, in order."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)
            for subgraph in attribute.graphs:
                yield from nodes_of(subgraph)


def spell_out_attributes(node: NodeProto, spec: OperatorSpec) -> dict[str, Any]:
    """Write the defaults of the attributes that the node leaves out onto it, and return all its attributes.

    Strings are returned as `str`. Raises ValueError for a required attribute that is not there.
    """
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for attribute in spec.attributes:
        if attribute.name not in given:
            if attribute.default is None:
                raise ValueError(f"{node.op_type} node {node.name!r} lacks its attribute {attribute.name}")
            node.attribute.append(helper.make_attribute(attribute.name, attribute.default))
            given[attribute.name] = attribute.default
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()}


def drop_trailing_empty(node: NodeProto) -> None:
    """Take the names of absent operands off the ends of the node's inputs and outputs."""
    for names in (node.input, node.output):
        while names and not names[-1]:
            names.pop()


def form(spec: OperatorSpec, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]) -> Form:
    """The form in which a node uses its operator.

    Args:
        spec: the operator.
        inputs: the names of the node's input tensors, "" for an absent one.
        outputs: those of its outputs.
        attributes: of the node; those that it leaves out have their defaults.
    """
    operands = (*zip(spec.inputs, inputs, strict=False), *zip(spec.outputs, outputs, strict=False))
    present = frozenset(operand.name for operand, tensor in operands if tensor)
    baked = {name: value for name, value in spec.complete(attributes).items() if not isinstance(value, float)}
    baked |= {a.name: bool(attributes.get(a.name, 0)) for a in spec.attributes if a.is_optional_number}
    return present, tuple(sorted(baked.items()))


def attach(proto: ModelProto, specs: Mapping[str, OperatorSpec]) -> None:
    """Put the function of every form of our operators into the model, replacing those it had; name nodes by form.

    Args:
        proto: the model, changed in place: node types and attributes, functions, opset imports, IR version.
        specs: every operator of ours by name.

    Raises:
        KeyError: a node of one of our domains is no operator of ours.
        ValueError: a node lacks a required attribute.
    """
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    kept = [function for function in proto.functions if not is_ours(function.domain)]
    numbers: dict[tuple[str, str, Form], int] = {}
    made: list[FunctionProto] = []
    for node in (n for n in nodes_of(proto.graph) if is_ours(n.domain)):
        name = operator_name(node.op_type)
        spec = specs[name]
        attributes = spell_out_attributes(node, spec)
        drop_trailing_empty(node)
        use = (node.domain, name, form(spec, node.input, node.output, attributes))
        if use not in numbers:
            number = 1 + sum(1 for *other, _ in numbers if other == [node.domain, name])
            numbers[use] = number
            function = spec.body(opset, use[-1][0], attributes)
            function.name = alias(name, number)
            function.domain = node.domain
            if node.domain == CUDA_DOMAIN:
                function.input.append(KERNELS)
            # Runtimes refuse a body with more outputs than its node, onnx's reference evaluator one with more inputs.
            del function.input[len(node.input) :]
            del function.output[len(node.output) :]
            made.append(function)
        node.op_type = alias(name, numbers[use])
    del proto.functions[:]
    proto.functions.extend([*kept, *made])
    imported = {entry.domain for entry in proto.opset_import}
    for domain in sorted({function.domain for function in made} - imported):
        proto.opset_import.append(helper.make_opsetid(domain, DOMAIN_VERSION))
    if made:
        proto.ir_version = max(proto.ir_version, FUNCTIONS_IR_VERSION)


def parse_body(spec_name: str, opset: int, signature: str, text: str) -> FunctionProto:
    """A function from ONNX's text form.

    Args:
        spec_name: the operator's name.
        opset: standard opset version that the body is written for.
        signature: `<attributes> (inputs) => (outputs)`.
        text: the nodes, one a line.
    """
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return onnx.parser.parse_function(f"{header} {spec_name} {signature} {{ {text} }}")


def float_attribute(opset: int, name: str, output: str) -> str:
    """A line of a body: the node's float attribute `name` as a float32 scalar called `output`."""
    if opset >= 12:
        return f"{output} = Constant <value_float: float = @{name}> ()\n"
    # Constant takes no attribute by reference here; LeakyRelu turns -1 into -alpha.
    return (
        f"{output}_m = Constant <value: tensor = float {{-1.0}}> ()\n"
        f"{output}_n = LeakyRelu <alpha: float = @{name}> ({output}_m)\n"
        f"{output} = Neg ({output}_n)\n"
    )
