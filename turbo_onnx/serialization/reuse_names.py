"""How a written model calls the sizes of its intermediates: so that ONNX Runtime reuses memory in place, and only so.

The runtime lets one tensor take another's memory where their shapes are equal by name. That is wrong where names are:
an exporter's, or ours where one input is broadcast to another that is larger. Such a run fails, though the original's
does not. And where tensors only happen to be of equal shape, a buffer stays alive from the first of them to the last,
and a memory plan has less to choose from. So every intermediate has names of its own, but for what an operator may
compute in place: that shares the names of the operand whose memory it takes, as it has the operand's shape in any run.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from turbo_onnx.graph import Tensor, subgraphs

_IN_PLACE = {
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"),
    *("Softplus", "Softsign", "Softmax", "LogSoftmax", "Cast"),
    *("BiasGelu", "GatedActivation", "RotaryEmbedding", "SkipLayerNormalization"),
}
"""What the runtime's kernels and ours compute in place: the first output in the memory of the first input. Sums and
other arithmetic are not among them. An operator here that does not do it would let a later one take the operand's
memory, which is then kept until there is one."""


def reuse_names(graph: gs.Graph) -> dict[int, list[int | str]]:
    """The shapes to write for the intermediates of a graph and of its subgraphs, by the tensor's identity.

    Those of unknown rank are left out, and so are inputs and outputs, whose names are the model's.
    """
    shapes: dict[int, list[int | str]] = {}
    stack = [graph]
    fixed: set[int] = set()
    while stack:
        here = stack.pop()
        fixed |= {id(tensor) for tensor in (*here.inputs, *here.outputs)}
        for node in here.nodes:
            stack.extend(subgraphs(node))
            for output in node.outputs:
                if output.shape is None or not output.name:
                    continue
                operand = _overwritten(node, output, fixed)
                shapes[id(output)] = (
                    shapes[id(operand)] if operand is not None and id(operand) in shapes else _own(output, len(shapes))
                )
    return {identity: shape for identity, shape in shapes.items() if identity not in fixed}


def _own(tensor: Tensor, number: int) -> list[int | str]:
    return [dim if isinstance(dim, int) and dim >= 0 else f"size_{number}_{i}" for i, dim in enumerate(tensor.shape)]


def _overwritten(node: gs.Node, output: Tensor, fixed: set[int]) -> Tensor | None:
    """The operand whose memory the output may take: of the same shape and type, and read by nothing else."""
    if node.op not in _IN_PLACE or output is not node.outputs[0] or id(output) in fixed:
        return None
    operand = node.inputs[0]
    alike = isinstance(operand, gs.Variable) and operand.shape is not None and operand.dtype == output.dtype
    free = id(operand) not in fixed and len(operand.outputs) == 1
    return operand if alike and free and list(operand.shape) == list(output.shape) else None
