"""Where each public name of `staticgraph` comes from; loaded at the first use of one of them.

A name imported as itself is one that type checkers let users see.
"""

from staticgraph import ops as ops
from staticgraph import optim as optim
from staticgraph import passes as passes
from staticgraph.checkpoint import checkpoint as checkpoint
from staticgraph.compile import Function as Function
from staticgraph.compile import compile as compile
from staticgraph.compile import load as load
from staticgraph.control import cond as cond
from staticgraph.custom import custom_gradient as custom_gradient
from staticgraph.errors import BudgetError as BudgetError
from staticgraph.errors import GradientError as GradientError
from staticgraph.errors import GraphTypeError as GraphTypeError
from staticgraph.errors import InputError as InputError
from staticgraph.errors import InternalError as InternalError
from staticgraph.errors import NumericError as NumericError
from staticgraph.errors import ParseError as ParseError
from staticgraph.errors import ShapeError as ShapeError
from staticgraph.errors import StaticGraphError as StaticGraphError
from staticgraph.errors import TargetError as TargetError
from staticgraph.findings import Finding as Finding
from staticgraph.frontend import function as function
from staticgraph.frontend import input as input
from staticgraph.frontend import variable as variable
from staticgraph.gradcheck import check_grad as check_grad
from staticgraph.gradient import grad as grad
from staticgraph.gradient import hessian as hessian
from staticgraph.gradient import hvp as hvp
from staticgraph.gradient import jacobian as jacobian
from staticgraph.gradient import jvp as jvp
from staticgraph.gradient import vjp as vjp
from staticgraph.ir import Graph as Graph
from staticgraph.ir import Variable as Variable
from staticgraph.operands import constant as constant
from staticgraph.ops import random as random
from staticgraph.ops import stop_gradient as stop_gradient
from staticgraph.passmanager import Note as Note
from staticgraph.passmanager import Pass as Pass
from staticgraph.passmanager import Pipeline as Pipeline
from staticgraph.passmanager import graph_pass as graph_pass
from staticgraph.passmanager import in_bodies as in_bodies
from staticgraph.tensor import Tensor as Tensor
from staticgraph.text import parse as parse
from staticgraph.threads import threads as threads
from staticgraph.types import TensorType as TensorType
from staticgraph.types import spec as spec
