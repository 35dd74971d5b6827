"""What each op means: type rule, numbers, gradient. One file per family; plain functions."""

assert __name__ == "staticgraph.ops", "import staticgraph.ops, not ops: the checkout folder is not the package"

from staticgraph.ops.elementwise import *  # noqa: F403
from staticgraph.ops.matmul import *  # noqa: F403
from staticgraph.ops.reduce import *  # noqa: F403
from staticgraph.ops.shape import *  # noqa: F403
