"""Tell the onnx package about our operators, so that its checker and its shape inference know them.

Registering changes the process's table of operators, so it is done only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import TensorProto, TensorShapeProto, TypeProto, defs, helper, shape_inference

from turbo_onnx.custom_ops import SPECS
from turbo_onnx.custom_ops.functions import alias
from turbo_onnx.custom_ops.header import names
from turbo_onnx.custom_ops.specification import (
    CUDA_DOMAIN,
    DOMAIN,
    DOMAIN_VERSION,
    DOMAINS,
    KERNELS,
    Attribute,
    Dims,
    Operand,
    OperatorSpec,
)
from turbo_onnx.dims import as_dim, as_item, symbol

_ATTRIBUTE_TYPES = {
    int: defs.OpSchema.AttrType.INT,
    float: defs.OpSchema.AttrType.FLOAT,
    str: defs.OpSchema.AttrType.STRING,
}
_KERNELS = Operand(KERNELS, "tensor(uint8)", "[K]", "The compiled kernels of the whole model.")


def register() -> None:
    """Make every operator of ours, in all domains and under all of its names, known to the onnx package.

    Doing it again does no harm.
    """
    for spec in SPECS:
        for number in range(1, names(spec) + 1):
            name = alias(spec.name, number)
            for domain in DOMAINS:
                if not defs.has(name, DOMAIN_VERSION, domain):
                    defs.register_schema(schema(spec, name, domain))


def schema(spec: OperatorSpec, name: str | None = None, domain: str = DOMAIN) -> defs.OpSchema:
    """The operator as the onnx package describes operators, called `name`."""
    kernels = (_KERNELS,) if domain == CUDA_DOMAIN else ()
    result = defs.OpSchema(
        name or spec.name,
        domain,
        DOMAIN_VERSION,
        doc=spec.doc,
        inputs=[_parameter(operand) for operand in (*spec.inputs, *kernels)],
        outputs=[_parameter(operand) for operand in spec.outputs],
        type_constraints=[(variable, list(types), "") for variable, types in spec.types.items()],
        attributes=[_attribute(attribute) for attribute in spec.attributes],
    )
    result.set_type_and_shape_inference_function(_inference(spec))
    return result


def _parameter(operand: Operand) -> defs.OpSchema.FormalParameter:
    options = defs.OpSchema.FormalParameterOption
    option = options.Optional if operand.optional else options.Single
    return defs.OpSchema.FormalParameter(operand.name, operand.type, operand.doc, param_option=option)


def _attribute(attribute: Attribute) -> defs.OpSchema.Attribute:
    if attribute.default is None:
        kind = _ATTRIBUTE_TYPES[attribute.value_type]
        return defs.OpSchema.Attribute(attribute.name, kind, attribute.doc, required=True)
    return defs.OpSchema.Attribute(
        attribute.name, helper.make_attribute(attribute.name, attribute.default), attribute.doc
    )


def _inference(spec: OperatorSpec) -> Callable[[shape_inference.InferenceContext], None]:
    def infer(context: shape_inference.InferenceContext) -> None:
        count = min(context.get_num_inputs(), len(spec.inputs))  # the kernels have no part in it
        types = [context.get_input_type(index) for index in range(count)]
        shapes = [_shape(entry) for entry in types] + [None] * (len(spec.inputs) - len(types))
        stored = {attribute.name: context.get_attribute(attribute.name) for attribute in spec.attributes}
        given = {name: helper.get_attribute_value(value) for name, value in stored.items() if value is not None}
        elements = {
            operand.type: entry.tensor_type.elem_type
            for operand, entry in zip(spec.inputs, types, strict=False)
            if entry is not None
        }
        pairs = zip(spec.inputs, types, shapes, strict=False)
        askable = not any(operand.optional and entry is not None and shape is None for operand, entry, shape in pairs)
        outputs = spec.output_shapes(shapes, spec.complete(given)) if askable else (None,) * len(spec.outputs)
        for index, shape in enumerate(outputs[: context.get_num_outputs()]):
            operand = spec.outputs[index]
            context.set_output_type(index, _type(elements.get(operand.type, 0), operand.type, shape))

    return infer


def _shape(entry: TypeProto | None) -> Dims | None:
    """The shape in symbolic dimensions; None where it is not known in full."""
    if entry is None or not entry.tensor_type.HasField("shape"):
        return None
    dims = entry.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") or dim.dim_param for dim in dims):
        return None
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else as_dim(dim.dim_param) for dim in dims)


def _type(element: int, declared: str, shape: Dims | None) -> TypeProto:
    result = TypeProto()
    result.tensor_type.elem_type = element or _element_type(declared)
    if shape is not None:
        result.tensor_type.shape.CopyFrom(_shape_proto(shape))
    return result


def _element_type(declared: str) -> int:
    return int(TensorProto.DataType.Value(declared.removeprefix("tensor(").removesuffix(")").upper()))


def _shape_proto(shape: Dims) -> TensorShapeProto:
    result = TensorShapeProto()
    for size in shape:
        item = as_item(symbol(size) if isinstance(size, str) else size)
        entry = result.dim.add()
        if isinstance(item, str):
            entry.dim_param = item
        else:
            entry.dim_value = item
    return result
