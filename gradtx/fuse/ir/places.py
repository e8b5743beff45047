"""Where the generated code finds the values of a graph: which table, which entry."""

from __future__ import annotations

from .expression import c_type, literal, name
from .graph import REDUCTIONS, SIZES, Graph, Input
from .stages import StagePlan


def columns(graph: Graph) -> list[Input]:
    """Per-leaf tensors of a graph, in the order of the pointer table."""
    read = [w for w in graph.inputs() if w.kind not in ("shared", "hyper")]
    written = [w for w, _ in graph.outputs if w.kind != "shared"]
    return sorted(set(read + written), key=lambda w: (w.kind, w.index, w.name))


class Places:
    """Entries of the launch tables by node, and the C expressions that reach them.

    Attributes:
        slot, vector, partial, tree: by node, the entry of scalars, of vectors, of sums over the
            elements of a task, and of values combined over the tree.
        column: by input or output, the row of the pointer table.
        joined: by node, the entry of what is combined over processes.
    """

    def __init__(self, plan: StagePlan) -> None:
        self.graph = plan.graph
        self.slot = {node: k for k, node in enumerate(plan.slots)}
        self.vector = {node: k for k, node in enumerate(plan.vectors)}
        self.column = {where: k for k, where in enumerate(columns(plan.graph))}
        self.tree = {node: k for k, (_, node) in enumerate(plan.tree_keys())}
        nodes = plan.graph.nodes
        sums = [n for stage in plan.stages for n in stage.reductions if not nodes[n].many]
        self.partial = {node: k for k, node in enumerate(sums)}
        self.joined = {node: k for k, (_, node) in enumerate(plan.joined())}
        self._sizes = dict.fromkeys(SIZES, "") | dict.fromkeys(SIZES[:2], "whole_" * plan.shards)

    def address(self, where: Input) -> str:
        """Where a tensor of the leaf, or of all leaves, begins."""
        if where.kind == "shared":
            return f"A->shared[{where.index}]"
        base = f"A->pointers[{self.column[where]} * A->leaves + leaf]"
        return f"({base} + {8 * int(where.name)})" if where.name else base

    def slot_of(self, i: int, leaf: str = "leaf") -> str:
        """The memory of a scalar."""
        union = "i" if c_type(self.graph.nodes[i].dtype, False) == "gx_int" else "d"
        return f"A->slots[{leaf} * {len(self.slot)} + {self.slot[i]}].{union}"

    def stored(self, i: int, leaf: str = "leaf") -> str:
        """A scalar that needs no computation here."""
        node = self.graph.nodes[i]
        if node.op == "const":
            return literal(node, c_type(node.dtype, False))
        if node.op in SIZES:
            return f"A->{self._sizes[node.op]}{node.op}[{leaf}]"
        return self.slot_of(i, leaf)

    def declare(self, i: int) -> str:
        """Such a scalar as a local variable."""
        kind = c_type(self.graph.nodes[i].dtype, False)
        return f"const {kind} {name(i)} = {self.stored(i)};"

    def narrow(self, i: int) -> str:
        """A local scalar once more, in the type in which loops use it; "" where it is the same."""
        if c_type(self.graph.nodes[i].dtype, False) != "double":
            return ""
        return f"const float {name(i)}f = (float){name(i)};"

    def vector_type(self, i: int) -> str:
        """The C type of the entries of a vector that is kept."""
        return c_type(self.graph.nodes[i].dtype, True)

    def vector_of(self, i: int) -> str:
        """The memory of a vector."""
        kind = self.vector_type(i)
        return f"({kind}*)A->vectors[{self.vector[i]} * A->leaves + leaf]"

    def joined_of(self, i: int, leaf: str = "leaf") -> str:
        """The memory of what is combined over processes, doubles."""
        return f"A->joined + A->joined_at[{self.joined[i]} * A->leaves + {leaf}]"

    def join(self, i: int) -> str:
        """What combines the values of a reduction."""
        op = self.graph.nodes[i].op
        assert op in REDUCTIONS
        return {"sum": "gx_plus", "max": "gx_larger", "min": "gx_smaller"}[op.rpartition("_")[2]]


def label(where: Input) -> str:
    """Segment of a variable's name for an input or output."""
    single = where.kind in ("grad", "param", "update")
    return where.kind if single else f"{where.kind}{where.index}"
