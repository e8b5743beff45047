"""Graph nodes as C-like expressions, the same text for C++ and CUDA.

Elements, rows and columns are computed in float (double for float64 leaves), scalars in double and
long long.
Functions and conversions beyond plain C operators are called ``gx_...``; each back end defines
them in its own prelude, overloaded for float and double.
"""

from __future__ import annotations

import math

from .graph import FLOATS, Graph, Node

_INFIX = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/"},
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"and": "&", "or": "|", "xor": "^"},
}
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
UNARY = (
    *("abs", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "log2", "exp2"),
    *("sin", "cos", "tan", "tanh", "sigmoid", "erf", "floor", "ceil", "trunc", "round", "sign"),
)
BINARY = ("max", "min", "pow", "remainder", "fmod", "atan2", "copysign", "hypot")
_LOW = {"bfloat16": "gx_round_bfloat16", "float16": "gx_round_float16"}


def c_type(dtype: str, many: bool) -> str:
    """The C type in which a value of this dtype is computed, if there are many or one per leaf."""
    if dtype in FLOATS:
        return "float" if many and dtype != "float64" else "double"
    return "int" if many and dtype != "int64" else "gx_int"


def name(i: int) -> str:
    """The variable that holds a node."""
    return f"v{i}"


def literal(node: Node, kind: str) -> str:
    """A constant in a C type."""
    x = node.value
    if kind in ("int", "gx_int"):
        return f"({kind}){int(x)}"
    x = float(x)
    if math.isnan(x):
        return f'({kind})__builtin_nan("")'
    if math.isinf(x):
        return f"({kind}){'-' if x < 0 else ''}__builtin_inf()"
    return f"({kind}){x!r}"


def operand(graph: Graph, i: int, kind: str, many: bool) -> str:
    """An argument converted to the type in which the operation is done."""
    node = graph.nodes[i]
    if node.op == "const":
        return literal(node, kind)
    own = c_type(node.dtype, node.many)
    if many and not node.many and own == "double" and kind == "float":
        return f"{name(i)}f"
    return name(i) if own == kind else f"({kind}){name(i)}"


def number_of(graph: Graph, node: Node, at: str) -> str:
    """The number by which an element of ``random16`` draws; ``at`` is its place in the leaf."""
    numbers = [operand(graph, a, "gx_int", False) for a in node.args[2:]]
    return f"gx_number({at}, {', '.join(numbers)})" if numbers else at


def expression(graph: Graph, i: int) -> str:
    """The right-hand side that computes a node from its arguments' variables."""
    node = graph.nodes[i]
    many = node.many
    kind = c_type(node.value if node.op in _COMPARISONS else node.dtype, many)

    def arg(k: int, as_kind: str = kind) -> str:
        return operand(graph, node.args[k], as_kind, many)

    if node.op == "where":
        text = f"({arg(0, c_type('bool', many))} ? {arg(1)} : {arg(2)})"
    elif node.op == "cast":
        text = _cast(graph, node)
    elif node.op == "round_stochastic":
        number = arg(1, c_type("int32", many))
        return f"gx_round_stochastic({arg(0)}, {number}, {str(node.value).lower()})"
    elif node.op == "random16":
        keys = (arg(k, "gx_int") for k in range(2))
        return f"gx_draw_one({', '.join(keys)}, {number_of(graph, node, '0')})"
    elif node.op == "fill":
        text = arg(0)
    elif node.op == "neg":
        text = f"(-{arg(0)})"
    elif node.op == "not":
        text = f"(!{arg(0)})"
    elif node.op in _INFIX:
        text = f"({arg(0)} {_INFIX[node.op]} {arg(1)})"
    elif node.op in UNARY or node.op in BINARY:
        text = f"gx_{node.op}({', '.join(arg(k) for k in range(len(node.args)))})"
    else:
        raise KeyError(node.op)
    return f"{_LOW[node.dtype]}({text})" if node.dtype in _LOW else text


def _cast(graph: Graph, node: Node) -> str:
    source = graph.nodes[node.args[0]]
    kind = c_type(node.dtype, node.many)
    own = c_type(source.dtype, node.many)
    if node.dtype == "bool":
        return f"({operand(graph, node.args[0], own, node.many)} != 0)"
    text = operand(graph, node.args[0], kind, node.many)
    if node.many or source.dtype != "float64" or node.dtype == "float64":
        return text
    if node.dtype == "float32":
        return f"(double)(float){text}"
    return text
