"""What is public as ``gx.tree``: structure, dtypes and arithmetic of trees."""

from . import tree_dtypes, tree_math
from .tree import NAMESPACE as NAMESPACE
from .tree import PyTree as PyTree
from .tree import (
    accumulator,
    accumulator_dtype,
    cast,
    children,
    flatten,
    flatten_like,
    from_dict,
    get,
    get_all,
    global_norm,
    leaves,
    leaves_like,
    map,
    map_params,
    map_with_name,
    matches,
    names,
    rebuild,
    set,
    squared_norm,
    to_dict,
    total,
    vdot,
    where,
    zeros_like,
)
from .tree_dtypes import *  # noqa: F403
from .tree_math import *  # noqa: F403

__all__ = [
    "accumulator",
    "accumulator_dtype",
    "cast",
    "children",
    "flatten",
    "flatten_like",
    "from_dict",
    "get",
    "get_all",
    "global_norm",
    "leaves",
    "leaves_like",
    "map",
    "map_params",
    "map_with_name",
    "matches",
    "names",
    "rebuild",
    "set",
    "squared_norm",
    "to_dict",
    "total",
    "vdot",
    "where",
    "zeros_like",
    *tree_dtypes.__all__,
    *tree_math.__all__,
]
