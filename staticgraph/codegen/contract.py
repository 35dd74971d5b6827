"""Source of CPU kernels for all contractions: matrix products, convolutions and their gradients.

Data in, source out: shapes, strides and type codes go in, `Steps` come out; nothing here knows
graphs. All float kernels share the register tiles of `microkernel`.
"""

from staticgraph.codegen.contract_any import any_matmul
from staticgraph.codegen.contract_dot import dot_matmul
from staticgraph.codegen.contract_matmul import Product, float_matmul, normalise
from staticgraph.codegen.contract_parts import Epilogue, KernelStep, Steps, Store

__all__ = ["Epilogue", "KernelStep", "Steps", "Store", "matmul"]


def matmul(code, batch, m, n, k, a_strides, b_strides, epilogue=None):
    """Steps of out[batch, i, j] = sum_k a[batch, i, k] * b[batch, k, j], out contiguous.

    Strides count elements: (*batch, row, k) of `a`, (*batch, k, column) of `b`; 0 repeats.
    """
    p = normalise(Product(code, tuple(batch), m, n, k, tuple(a_strides[:-2]), *a_strides[-2:],
                          tuple(b_strides[:-2]), *b_strides[-2:]))  # fmt: skip
    if 0 in (p.count, p.m, p.n):
        return Steps((), (), (p.count, p.m, p.n))
    if code not in ("f32", "f64"):
        return any_matmul(p, epilogue)
    if p.m == 1 and p.b_k == 1 and p.k > 1 and p.b_col != 1:
        return dot_matmul(p, epilogue)
    return float_matmul(p, epilogue)
