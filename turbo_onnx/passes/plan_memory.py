"""Give the model a memory plan: let its inputs pass the node that begins a run, and write the plan into that node.

The node must run before everything that is planned, so all that is planned reads the model's inputs through it. What
finds out where the real tokens are runs in front of it, and its results pass it too: their number is one of the sizes
that the plan is made for, and could not be known any earlier.

Where all that a model does is in the branches of one If, each branch begins with a node of its own
(`planned_branches.py`), and has a plan of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from turbo_onnx.branches import Branches
from turbo_onnx.custom_ops.begin_run import BEGIN_RUN, MOST_OPERANDS, PLAN_ATTRIBUTE, PLAN_DOMAIN
from turbo_onnx.custom_ops.specification import is_ours
from turbo_onnx.dims import Dim, as_dim
from turbo_onnx.errors import Reject
from turbo_onnx.graph import Editor, subgraphs
from turbo_onnx.memory.branch_plans import together
from turbo_onnx.memory.plan import METADATA_KEY, MemoryPlan, Role, Variable
from turbo_onnx.model import Model
from turbo_onnx.opset import graphs_of
from turbo_onnx.passes.base import Pass, PassReport, Rejection
from turbo_onnx.passes.planned_branches import Branch, operands, planned_branches
from turbo_onnx.precision import BFLOAT16, half_type

MOST_EARLY_NODES = 32
_MATRIX_PRODUCTS = ("MatMul", "Gemm", "Conv", "VarlenAttention", "Attention", "Einsum")

Make = Callable[[Model, Sequence[Variable], Branch | None], MemoryPlan]
"""Makes the plan of a model that has the node, or of one branch. Raises Reject where there can be none."""


class PlanMemory(Pass):
    """Plan the memory of every run. A model whose plan cannot be made is left as it was.

    Args:
        make: makes the plan; None for a pass that does nothing.
    """

    name = "plan-memory"
    summary = "Plan where each intermediate lies, for every shape."

    def __init__(self, make: Make | None = None) -> None:
        self.make = make

    def run(self, model: Model) -> PassReport:
        report = PassReport(self.name)
        if self.make is None or any(find(graph) is not None for graph in graphs_of(model.graph)):
            return report
        try:
            plan = plan_runs(model, self.make)
        except Reject as reason:
            report.rejected.append(Rejection(self.name, "", str(reason)))
            return report
        report.applied = 1
        first = list({variant.branch: variant for variant in reversed(plan.variants)}.values())
        kinds = Counter(buffer.kind for variant in first for buffer in variant.buffers)
        report.facts["memory_plan"] = {
            "sizes": plan.names,
            "planned": kinds["planned"],
            "unknown": kinds["unknown"],
            "outputs": kinds["output"],
            "orders": sum(len(variant.orders) for variant in first),
            "assumed": plan.assumed,
            "exceptions": [dict(zip(plan.names, values, strict=True)) for one in first for values in one.exceptions],
            "branches": [variant.branch for variant in reversed(first) if variant.branch],
        }
        return report


def plan_runs(model: Model, make: Make) -> MemoryPlan:
    """Let the model carry a plan, or several, one for each branch; where it can have none, it is as it was.

    Args:
        model: with inferred shapes.
        make: makes a plan.

    Returns:
        The plan; that of all branches together.

    Raises:
        Reject: there is no plan, and why.
    """
    orders = [(graph, list(graph.nodes)) for graph in graphs_of(model.graph)]
    try:
        branches = planned_branches(model.graph)
        begun = _begin_branches(model, branches) if branches else [begin_runs(model)]
        whose: Sequence[Branch | None] = branches or [None]
        plans = [make(model, variables, branch) for variables, branch in zip(begun, whose, strict=True)]
    except BaseException:
        _undo(model)
        for graph, order in orders:
            graph.nodes = order
        raise
    for graph, plan in zip([branch.graph for branch in branches] or [model.graph], plans, strict=True):
        _the_node(graph).attrs[PLAN_ATTRIBUTE] = plan.text()
    carried = (
        together({branch.name: plan for branch, plan in zip(branches, plans, strict=True)}) if branches else plans[0]
    )
    model.set_metadata({METADATA_KEY: carried.to_json()})
    return carried


def find(graph: gs.Graph) -> gs.Node | None:
    """The node that begins a run, if the graph has one."""
    return next((node for node in graph.nodes if node.domain == PLAN_DOMAIN and node.op == BEGIN_RUN), None)


def remove(model: Model) -> None:
    """Take the node out again: everything reads the inputs themselves, as before."""
    node = _the_node(model.graph)
    editor = Editor(model.graph)
    for inside, outside in zip(list(node.outputs), list(node.inputs), strict=True):
        editor.replace(inside, outside)
    node.inputs.clear()
    node.outputs.clear()
    model.graph.nodes.remove(node)


def _the_node(graph: gs.Graph) -> gs.Node:
    node = find(graph)
    assert node is not None
    return node


def _undo(model: Model) -> None:
    if find(model.graph) is not None:
        remove(model)
    taken = Branches(model)
    for node in model.graph.nodes:
        for branch in subgraphs(node):
            if find(branch) is not None:
                with taken.taken_out(branch) as part:
                    remove(part)


def _begin_branches(model: Model, branches: Sequence[Branch]) -> list[list[Variable]]:
    """Put the node into each branch, with one number of operands, and list the sizes that each sees."""
    most = operands(branches)
    place = {tensor.name: number for number, tensor in enumerate(model.graph.inputs)}
    taken = Branches(model)
    found: list[list[Variable]] = []
    for branch in branches:
        refusal: Reject | None = None
        with taken.taken_out(branch.graph) as part:
            part.graph.inputs.sort(key=lambda tensor: place.get(tensor.name, len(place)))
            try:
                found.append(begin_runs(part, most))
            except Reject as reason:
                refusal = reason
        if refusal is not None:
            raise refusal
    return found


def begin_runs(model: Model, least: int = 0) -> list[Variable]:
    """Put the node into the graph, and list the sizes that it sees.

    Args:
        model: with inferred shapes; or a branch.
        least: so many operands the node has at least; its last one is repeated. All such nodes of a file share one
            definition, and so have equally many.

    Raises:
        Reject: the order of what a run allocates depends on more than sizes, or the node cannot pass an input.
    """
    graph = model.graph
    early = _early_nodes(graph)
    passing = _passing(graph, early)
    _require_plannable(graph, passing)
    variables = _variables(graph, passing)
    ids = {id(node) for node in early}
    late = [node for node in graph.nodes if id(node) not in ids]
    editor = Editor(graph)
    passing += passing[-1:] * (least - len(passing))
    outputs = [editor.variable(f"{t.name}_planned", t.dtype, t.shape) for t in passing]
    behind = {id(t): output for t, output in zip(passing, outputs, strict=True)}
    for node in late:
        for index, tensor in enumerate(node.inputs):
            if id(tensor) in behind:
                node.inputs[index] = behind[id(tensor)]
    editor.node(
        BEGIN_RUN,
        passing,
        attrs={PLAN_ATTRIBUTE: ""},
        domain=PLAN_DOMAIN,
        hint="begin_run",
        outputs=outputs,
    )
    begin = graph.nodes.pop()
    graph.nodes = [*early, begin, *late]
    return variables


def _early_nodes(graph: gs.Graph) -> list[gs.Node]:
    """What runs in front of the node: all that finds the real tokens, where that is no work to speak of."""
    found: set[int] = set()
    for node in graph.nodes:
        if node.op == "RemovePadding" and is_ours(node.domain):
            before = _ancestors(node)
            if len(before) <= MOST_EARLY_NODES and not any(other.op in _MATRIX_PRODUCTS for other in before):
                found |= {id(other) for other in before}
    return [node for node in graph.nodes if id(node) in found]


def _ancestors(node: gs.Node) -> list[gs.Node]:
    seen: dict[int, gs.Node] = {}
    stack = [node]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen[id(current)] = current
            stack.extend(source for tensor in current.inputs for source in tensor.inputs)
    return list(seen.values())


def _passing(graph: gs.Graph, early: Sequence[gs.Node]) -> list[gs.Variable]:
    """What later nodes read of the model's inputs, and of what was computed in front."""
    ids = {id(node) for node in early}
    computed = [tensor for node in early for tensor in node.outputs]
    return [tensor for tensor in (*graph.inputs, *computed) if any(id(reader) not in ids for reader in tensor.outputs)]


def _require_plannable(graph: gs.Graph, passing: Sequence[gs.Variable]) -> None:
    if not passing:
        raise Reject("the model reads no inputs")
    if len(passing) > MOST_OPERANDS:
        raise Reject("the model has {} inputs, and a plan is made for at most {}", len(passing), MOST_OPERANDS)
    for node in graph.nodes:
        if any(True for _ in subgraphs(node)):
            raise Reject("what {} '{}' allocates depends on more than sizes", node.op, node.name)
    for tensor in passing:
        odd = tensor.type != "tensor_type" or tensor.dtype is None or tensor.dtype in (str, np.dtype(object))
        if odd or tensor.shape is None:
            raise Reject("the input {} is no tensor of numbers with known axes", tensor.name)
    for tensor in graph.outputs:
        if half_type(tensor.dtype) is BFLOAT16:  # of which the runtime makes no NumPy arrays
            raise Reject("the output {} is bfloat16, and runs that give it cannot be recorded", tensor.name)


@dataclass
class _Axis:
    dim: Dim
    variable: Variable


def _variables(graph: gs.Graph, passing: Sequence[gs.Variable]) -> list[Variable]:
    """The sizes, each where it is seen first. A sum or product is one of its own only if its parts are not seen."""
    axes = [
        _Axis(dim, Variable(str(dim), "", index, axis))
        for index, tensor in enumerate(passing)
        for axis, dim in enumerate(as_dim(item) for item in tensor.shape)
        if isinstance(dim, Dim)
    ]
    names: dict[str, Variable] = {}
    for one in axes:
        if {str(one.dim)} == one.dim.symbols:
            names.setdefault(one.variable.name, one.variable)
    for one in axes:
        if not one.dim.symbols <= names.keys():
            names.setdefault(one.variable.name, one.variable)
    roles = _roles(graph)
    return [Variable(v.name, roles.get(v.name, ""), v.input, v.axis) for v in names.values()]


def _roles(graph: gs.Graph) -> dict[str, Role]:
    """Which sizes are the tokens, the sequences and their padded length: as the first padding mask or ids say."""
    roles: dict[str, Role] = {}
    found = [node for node in graph.nodes if node.op == "RemovePadding" and is_ours(node.domain)]
    tables: list[gs.Variable] = [node.inputs[0] for node in found[:1]]
    tables += [t for t in graph.inputs if t.shape is not None and len(t.shape) == 2 and np.dtype(t.dtype).kind in "iub"]
    for table in tables[:1]:
        for item, role in zip(table.shape or (), ("batch", "length"), strict=False):
            if isinstance(item, str):
                roles.setdefault(item, role)  # type: ignore[arg-type]
    for node in found[:1]:
        tokens = node.outputs[0].shape
        if tokens and isinstance(tokens[0], str):
            roles[tokens[0]] = "tokens"
    return roles
