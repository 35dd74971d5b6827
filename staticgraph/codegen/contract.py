"""Source of CPU kernels for all contractions: matrix products, convolutions and their gradients.

Data in, source out: shapes, strides and type codes go in, `Steps` come out; nothing here knows
graphs. All float kernels share the register tiles of `microkernel`.
"""

from staticgraph.codegen.contract_any import any_matmul
from staticgraph.codegen.contract_conv import patches_kernel
from staticgraph.codegen.contract_direct import direct_grad_steps, direct_pays, direct_steps
from staticgraph.codegen.contract_dot import dot_matmul
from staticgraph.codegen.contract_matmul import Product, float_matmul, normalise
from staticgraph.codegen.contract_parts import Epilogue, KernelStep, Steps, Store
from staticgraph.codegen.contract_patches import Patches, forward_axis, transposed_axis
from staticgraph.codegen.contract_wgrad import weight_grad_steps

__all__ = [
    "Epilogue",
    "KernelStep",
    "Steps",
    "Store",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "matmul",
]


def pointwise_steps(p, epilogue):
    """A kernel of one tap that skips nothing is a product with the source as it lies there."""
    w_row, w_k = (1, p.rows) if p.transposed else (p.summed, 1)
    if p.plane == 1:
        product = Product(
            p.code, (), p.images, p.rows, p.summed, (), p.summed, 1, (), w_k, w_row, ("a", "b")
        )
    else:
        image = p.summed * p.plane
        product = Product(
            p.code, (p.images,), p.rows, p.plane, p.summed, (0,), w_row, w_k, (image,), p.plane, 1,
            ("b", "a"),
        )  # fmt: skip
    return float_matmul(normalise(product), epilogue)


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


def conv(code, x_shape, w_shape, *, stride, padding, dilation, groups, epilogue=None):
    """Steps of y[n, m, o] = sum over c and kappa of
    w[m, c, kappa] * x[n, c, o * stride - low + kappa * dilation].

    `a` is x (N, C, ...), `b` is w (M, C / groups, ...); padding is a (low, high) pair per axis.
    """
    p = forward_patches(code, x_shape, w_shape, stride, padding, dilation, groups)
    return patches_steps("conv", p, epilogue)


def forward_patches(code, x_shape, w_shape, stride, padding, dilation, groups):
    """The patches product that is the convolution."""
    axes = []
    for size, k, s, (low, high), d in zip(
        x_shape[2:], w_shape[2:], stride, padding, dilation, strict=True
    ):
        out = max(0, (size + low + high - d * (k - 1) - 1) // s + 1)
        axes.append(forward_axis(size, out, k, s, low, d))
    rows = w_shape[0] // groups
    return Patches(code, x_shape[0], groups, rows, w_shape[1], tuple(axes), False)


def conv_transpose(
    code, dy_shape, w_shape, *, out_spatial, stride, padding, dilation, groups, epilogue=None
):
    """Steps of the input gradient of `conv`, x[n, c, q] = sum of w[m, c, kappa] dy[n, m, o] over
    all o * stride - low + kappa * dilation = q, with q below `out_spatial`."""
    axes = tuple(
        transposed_axis(size, out, k, s, low, d)
        for size, out, k, s, (low, _), d in zip(
            dy_shape[2:], out_spatial, w_shape[2:], stride, padding, dilation, strict=True
        )
    )
    p = Patches(code, dy_shape[0], groups, w_shape[1], w_shape[0] // groups, axes, True)
    return patches_steps("conv_transpose", p, epilogue)


def conv_weight_grad(
    code, x_shape, dy_shape, *, kernel, stride, padding, dilation, groups, epilogue=None
):
    """Steps of the weight gradient of `conv`: dw[m, c, kappa] = sum over n and o of
    dy[n, m, o] x[n, c, o * stride - low + kappa * dilation]; `a` is x, `b` is dy."""
    w_shape = (dy_shape[1], x_shape[1] // groups, *kernel)
    p = forward_patches(code, x_shape, w_shape, stride, padding, dilation, groups)
    view = (1, p.groups * p.rows, p.summed * p.taps)
    if 0 in view or p.flops == 0:
        return empty_sums(code, view, epilogue)
    if direct_pays(p):
        return direct_grad_steps(p, epilogue)
    return weight_grad_steps(p, epilogue)


def empty_sums(code, view, epilogue):
    """Steps of a result without products: zeros go through the epilogue."""
    if 0 in view:
        return Steps((), (), view)
    count, m, n = view
    return float_matmul(Product(code, (count,), m, n, 0, (0,), 1, 1, (0,), 1, 1), epilogue)


def patches_steps(name, p, epilogue):
    """Steps of a product with patches, none for an empty result."""
    view = (p.images, p.groups * p.rows, p.plane)
    if 0 in view or p.flops == 0:
        return empty_sums(p.code, view, epilogue)
    if direct_pays(p):
        return direct_steps(name, p, epilogue)
    if p.pointwise and p.groups == 1:
        return pointwise_steps(p, epilogue)
    return Steps((patches_kernel(name, p, ("a", "b"), epilogue),), (), view)
