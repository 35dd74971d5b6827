"""From a function in a library's own terms to a `Call`, so that a row holds only its mathematics.

Libraries are imported inside the functions: a worker process has only its own.
"""

import numpy as np

from benchmarks.harness import Call


def flat(value):
    """Copies of the arrays of any nesting of lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in flat(part)]
    return [np.array(value)]


def placeholders(arrays):
    """One graph input per array, in order."""
    import staticgraph as sg

    return [sg.input(name, a.shape, str(a.dtype)) for name, a in arrays.items()]


def ours(outputs, inputs, arrays, reuse=False, **options):
    """Compile outputs of `placeholders(arrays)`; NumPy in, NumPy out, state in variables.

    With `reuse` every call writes into the arrays of the first one (`out=`).
    """
    import staticgraph as sg

    function = sg.compile(outputs, inputs=inputs, **options)
    values = list(arrays.values())
    if not reuse:
        return Call(lambda: function(*values), flat, function)
    out = function(*values)
    return Call(lambda: function(*values, out=out), flat, function)


def on_device(arrays):
    import jax

    return [jax.device_put(a) for a in arrays.values()]


def jax_call(function, arrays):
    """`jax.jit` on device arrays; a call ends when its results are there."""
    import jax

    jitted, values = jax.jit(function), on_device(arrays)
    return Call(lambda: jax.block_until_ready(jitted(*values)), flat_jax)


def jax_donated(function, arrays):
    """As `jax_call`, and each call's results take the memory of the last one's."""
    import jax

    values = on_device(arrays)
    step = jax.jit(lambda old, *args: function(*args), donate_argnums=0, keep_unused=True)
    shapes = jax.eval_shape(function, *values)
    old = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
    state = [old]

    def run():
        state[0] = jax.block_until_ready(step(state[0], *values))
        return state[0]

    return Call(run, flat_jax)


def flat_jax(value):
    """Copies: donated memory is written again by the next call."""
    import jax

    return [np.array(leaf) for leaf in jax.tree.leaves(value)]


def tensors(arrays):
    import torch

    return [torch.from_numpy(a) for a in arrays.values()]


def flat_torch(value):
    """Copies: a later call may write into the same buffers."""
    if isinstance(value, (list, tuple)):
        return [array for part in value for array in flat_torch(part)]
    return [value.detach().numpy().copy()]


def torch_inference(function, arrays, compiled=False):
    """Forward only, under `inference_mode`; `function` may write into buffers it closes over."""
    import torch

    run = torch.compile(function, fullgraph=True) if compiled else function
    values = tensors(arrays)

    @torch.inference_mode()
    def call():
        return run(*values)

    return Call(call, flat_torch)


def torch_gradient(function, arrays, wanted, compiled=False):
    """A scalar function's value and its gradient by the inputs named in `wanted`."""
    import torch

    run = torch.compile(function, fullgraph=True) if compiled else function
    values = tensors(arrays)
    leaves = [
        value.requires_grad_() for name, value in zip(arrays, values, strict=True) if name in wanted
    ]

    def call():
        result = run(*values)
        return result, torch.autograd.grad(result, leaves)

    return Call(call, flat_torch)


def jax_pullback(function, wanted):
    """The value of a function and the gradients of its first operands; the last is a cotangent."""
    import jax

    def both(*operands):
        first, others = operands[:wanted], operands[wanted:-1]
        y, pullback = jax.vjp(lambda *xs: function(*xs, *others), *first)
        return y, *pullback(operands[-1])

    return both


def torch_pullback(function, arrays, wanted):
    """As `jax_pullback`, by autograd, as a call."""
    import torch

    *operands, g = tensors(arrays)
    first = operands[:wanted]
    for x in first:
        x.requires_grad_()

    def call():
        y = function(*operands)
        return y, *torch.autograd.grad(y, first, g)

    return Call(call, flat_torch)


def symbols(arrays):
    """PyTensor inputs with static shapes."""
    import pytensor.tensor as pt

    return [pt.tensor(name, dtype=str(a.dtype), shape=a.shape) for name, a in arrays.items()]


def pytensor_call(inputs, outputs, arrays, updates=None):
    """NUMBA mode, inputs trusted and borrowed, outputs not copied."""
    import pytensor

    function = pytensor.function(
        [pytensor.In(v, borrow=True) for v in inputs],
        [pytensor.Out(v, borrow=True) for v in outputs],
        updates=updates,
        mode="NUMBA",
        trust_input=True,
    )
    values = list(arrays.values())
    return Call(lambda: function(*values), flat)
