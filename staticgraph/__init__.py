"""staticgraph: build a static graph, differentiate it, compile it, run it."""

from staticgraph import ops, passes
from staticgraph.compile import Function, compile, load
from staticgraph.errors import (
    BudgetError,
    GradientError,
    GraphTypeError,
    InputError,
    InternalError,
    NumericError,
    ParseError,
    ShapeError,
    StaticGraphError,
    TargetError,
)
from staticgraph.frontend import function, input, variable
from staticgraph.gradient import grad, hessian, hvp, jacobian, jvp, vjp
from staticgraph.ir import Graph, Tensor, Variable
from staticgraph.op import constant
from staticgraph.ops import stop_gradient
from staticgraph.passmanager import Pipeline, graph_pass
from staticgraph.text import parse
from staticgraph.threads import threads
from staticgraph.types import TensorType, spec
