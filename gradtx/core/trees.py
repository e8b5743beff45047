"""What is public as ``gx.tree``: structure and arithmetic of trees."""

from .tree import *  # noqa: F403
from .tree import NAMESPACE as NAMESPACE
from .tree_math import *  # noqa: F403
