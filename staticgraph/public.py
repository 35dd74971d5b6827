# ruff: noqa: F401  the names stand in staticgraph.__all__
"""Where each public name of `staticgraph` comes from; loaded at the first use of one of them."""

from staticgraph import ops, optim, passes
from staticgraph.checkpoint import checkpoint
from staticgraph.compile import Function, compile, load
from staticgraph.control import cond
from staticgraph.custom import custom_gradient
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
from staticgraph.gradcheck import check_grad
from staticgraph.gradient import grad, hessian, hvp, jacobian, jvp, vjp
from staticgraph.ir import Graph, Tensor, Variable
from staticgraph.op import constant
from staticgraph.ops import random, stop_gradient
from staticgraph.passmanager import Note, Pass, Pipeline, graph_pass, in_bodies
from staticgraph.text import parse
from staticgraph.threads import threads
from staticgraph.types import TensorType, spec
