"""Recurrent layers, unrolled over time; the input projections of all steps are one matrix product.

Weights follow PyTorch: `w_ih` (gates * hidden, inputs), `w_hh` (gates * hidden, hidden), biases
(gates * hidden), gates in the order i, f, g, o (LSTM) and r, z, n (GRU, reset after the product).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import constant, promoted, tensor_argument
from staticgraph.ops.activation import relu
from staticgraph.ops.elementwise import add, less, multiply, sigmoid, subtract, tanh, where
from staticgraph.ops.join import concat, split, stack
from staticgraph.ops.matmul import linear
from staticgraph.ops.random import dropout, fold_in
from staticgraph.ops.shape import broadcast_to, expand_dims, reshape, swapaxes
from staticgraph.registry import public
from staticgraph.tensor import Tensor
from staticgraph.types import is_integer

State = tuple[Tensor, ...]
_PHI = {"tanh": tanh, "relu": relu}


class _Kind(NamedTuple):
    """One kind of cell: gates in a projection, tensors of state, and the step itself."""

    name: str
    gates: int
    states: int
    #: (projected input, state, w_hh, b_hh) -> new state, whose first tensor is the output
    step: Callable[[Tensor, State, Tensor, Tensor | None], State]


def _rnn_kind(nonlinearity: str, name: str = "rnn") -> _Kind:
    if nonlinearity not in _PHI:
        raise GraphTypeError(f"{name}: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
    phi = _PHI[nonlinearity]

    def step(x: Tensor, state: State, w: Tensor, b: Tensor | None) -> State:
        return (phi(add(x, linear(state[0], w, b))),)

    return _Kind("rnn", 1, 1, step)


def _lstm_step(x: Tensor, state: State, w: Tensor, b: Tensor | None) -> State:
    h, c = state
    i, f, g, o = split(add(x, linear(h, w, b)), 4, axis=-1)
    c = add(multiply(sigmoid(f), c), multiply(sigmoid(i), tanh(g)))
    return multiply(sigmoid(o), tanh(c)), c


def _gru_step(x: Tensor, state: State, w: Tensor, b: Tensor | None) -> State:
    (h,) = state
    xr, xz, xn = split(x, 3, axis=-1)
    hr, hz, hn = split(linear(h, w, b), 3, axis=-1)
    r, z = sigmoid(add(xr, hr)), sigmoid(add(xz, hz))
    n = tanh(add(xn, multiply(r, hn)))
    return (add(n, multiply(z, subtract(h, n))),)


_LSTM = _Kind("lstm", 4, 2, _lstm_step)
_GRU = _Kind("gru", 3, 1, _gru_step)


# ---------------------------------------------------------------------------- cells


def _cell(
    op: str, kind: _Kind, x: object, state: Sequence[object], weights: Sequence[object]
) -> State:
    given = [w for w in weights if w is not None]
    x, *rest = promoted(op, [x, *state, *given], floating=True)
    states, left = tuple(rest[: kind.states]), iter(rest[kind.states :])
    w_ih, w_hh, b_ih, b_hh = (None if w is None else next(left) for w in weights)
    if x.ndim not in (1, 2) or any(h.ndim != x.ndim for h in states):
        raise ShapeError(
            f"{op}: x is (batch, inputs) or (inputs,) and the state has as many axes,"
            f" got x {x.type}, state {', '.join(str(h.type) for h in states)}"
        )
    _check_weights(op, kind, x.shape[-1], (w_ih, w_hh, b_ih, b_hh))
    hidden = w_hh.shape[-1]
    for h in states:
        if h.shape != (*x.shape[:-1], hidden):
            raise ShapeError(f"{op}: the state must be {[*x.shape[:-1], hidden]}, got {h.type}")
    return kind.step(linear(x, w_ih, b_ih), states, w_hh, b_hh)


def _check_weights(
    op: str, kind: _Kind, inputs: int, weights: Sequence[Tensor | None], where: str = ""
) -> None:
    w_ih, w_hh, b_ih, b_hh = weights
    wide = w_hh.ndim == 2 and w_hh.shape[0] == kind.gates * w_hh.shape[1]
    rows = w_hh.shape[0] if w_hh.ndim else 0
    if not wide:
        raise ShapeError(f"{op}: w_hh{where} is ({kind.gates} * hidden, hidden), got {w_hh.type}")
    if w_ih.shape != (rows, inputs):
        raise ShapeError(f"{op}: w_ih{where} must be {[rows, inputs]}, got {w_ih.type}")
    for name, b in (("b_ih", b_ih), ("b_hh", b_hh)):
        if b is not None and b.shape != (rows,):
            raise ShapeError(f"{op}: {name}{where} must be {[rows]}, got {b.type}")


@public
def rnn_cell(
    x: object, h: object, w_ih: object, w_hh: object, b_ih: object = None, b_hh: object = None,
    nonlinearity: str = "tanh",
) -> Tensor:  # fmt: skip
    """h' = phi(x W_ih^T + b_ih + h W_hh^T + b_hh), phi tanh or relu; x (N, in), h (N, hidden).

    Float dtypes. Gradient: that of its composition, any order. Raises ShapeError where weights or
    state do not fit. BHG 2.6, as torch.nn.RNNCell.
    """
    kind = _rnn_kind(nonlinearity, "rnn_cell")
    return _cell("rnn_cell", kind, x, [h], [w_ih, w_hh, b_ih, b_hh])[0]


@public
def lstm_cell(
    x: object, hx: Sequence[object], w_ih: object, w_hh: object, b_ih: object = None,
    b_hh: object = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(h', c') of an LSTM cell for x (N, in) and hx = (h, c), each (N, hidden).

    i, f, g, o = x W_ih^T + b_ih + h W_hh^T + b_hh; c' = sigmoid(f) c + sigmoid(i) tanh(g);
    h' = sigmoid(o) tanh(c'). Float dtypes. Gradient: that of its composition, any order. Raises
    ShapeError where weights or state do not fit. BHG 2.7, as torch.nn.LSTMCell.
    """
    pair = _pair("lstm_cell", hx)
    h, c = _cell("lstm_cell", _LSTM, x, pair, [w_ih, w_hh, b_ih, b_hh])
    return h, c


@public
def gru_cell(
    x: object, h: object, w_ih: object, w_hh: object, b_ih: object = None, b_hh: object = None
) -> Tensor:
    """h' of a GRU cell for x (N, in) and h (N, hidden).

    r, z = sigmoid(x part + h part); n = tanh(x part + r (h W_hn^T + b_hn)); h' = (1 - z) n + z h.
    Float dtypes. Gradient: that of its composition, any order. Raises ShapeError where weights or
    state do not fit. BHG 2.8, as torch.nn.GRUCell.
    """
    return _cell("gru_cell", _GRU, x, [h], [w_ih, w_hh, b_ih, b_hh])[0]


def _pair(op: str, hx: object) -> list[object]:
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise GraphTypeError(f"{op}: hx is a pair (h, c), got {type(hx).__name__}")
    return list(hx)


# ---------------------------------------------------------------------------- layers


class _Options(NamedTuple):
    num_layers: int
    bidirectional: bool
    batch_first: bool
    dropout: float
    training: bool
    key: object
    lengths: object


def _layers(
    kind: _Kind, x: object, hx: Sequence[object] | None, params: Sequence[object], o: _Options
) -> tuple[Tensor, State]:
    """Output (T, N, directions * hidden) and the last state of every layer and direction."""
    op = kind.name
    x, states, table = _checked(kind, x, hx, params, o)
    steps, batch, _ = x.shape
    alive = _alive(op, o.lengths, steps, batch)
    directions = 2 if o.bidirectional else 1
    finals: list[State] = []
    for layer in range(o.num_layers):
        parts = []
        for d in range(directions):
            k = layer * directions + d
            weights = table[k]
            _check_weights(op, kind, x.shape[-1], weights, f" of layer {layer}")
            first = tuple(reshape(s[k], s.shape[1:]) for s in states)
            outputs, last = _unrolled(kind, x, first, weights, alive, backwards=d == 1)
            parts.append(outputs)
            finals.append(last)
        x = parts[0] if directions == 1 else concat(parts, axis=-1)
        if o.dropout and o.training and layer + 1 < o.num_layers:
            x = dropout(x, o.dropout, key=None if o.key is None else fold_in(o.key, layer))
    ends = tuple(stack([f[k] for f in finals]) for k in range(kind.states))
    return (swapaxes(x, 0, 1) if o.batch_first else x), ends


def _checked(
    kind: _Kind, x: object, hx: Sequence[object] | None, params: Sequence[object], o: _Options
) -> tuple[Tensor, State, list[list[Tensor | None]]]:
    """x as (T, N, in), the initial states, and the weights of each layer and direction."""
    op = kind.name
    if isinstance(o.num_layers, bool) or not isinstance(o.num_layers, int) or o.num_layers < 1:
        raise GraphTypeError(f"{op}: num_layers is an int above 0, got {o.num_layers!r}")
    count = o.num_layers * (2 if o.bidirectional else 1)
    if not isinstance(params, (tuple, list)) or len(params) not in (2 * count, 4 * count):
        given = len(params) if isinstance(params, (tuple, list)) else type(params).__name__
        raise GraphTypeError(
            f"{op}: params are w_ih, w_hh (and b_ih, b_hh) of each layer and direction in turn,"
            f" {2 * count} or {4 * count} tensors; got {given}"
        )
    given = list(params) + list(hx or ())
    x, *rest = promoted(op, [x, *given], floating=True)
    if x.ndim != 3:
        raise ShapeError(f"{op}: x has 3 axes (time, batch, inputs), got {x.type}")
    x = swapaxes(x, 0, 1) if o.batch_first else x
    weights: list[Tensor | None] = list(rest[: len(params)])
    each = len(params) // count
    table = [[*weights[k : k + each], None, None][:4] for k in range(0, len(params), each)]
    hidden = table[0][1].shape[-1]
    shape = (count, x.shape[1], hidden)
    states = tuple(rest[len(params) :])
    if hx is None:
        states = (broadcast_to(constant(0, x.type.dtype), shape),) * kind.states
    for s in states:
        if s.shape != shape:
            raise ShapeError(
                f"{op}: a state is (layers * directions, batch, hidden) {list(shape)}, got {s.type}"
            )
    return x, states, table


def _alive(op: str, lengths: object, steps: int, batch: int) -> Tensor | None:
    """bool (T, N, 1): whether a step belongs to the sequence."""
    if lengths is None:
        return None
    t = tensor_argument(op, lengths, "lengths")
    if not is_integer(t.type.dtype) or t.shape != (batch,):
        raise ShapeError(f"{op}: lengths are integers of shape {[batch]}, got {t.type}")
    time = constant([[[k]] for k in range(steps)], t.type.dtype)
    return less(time, expand_dims(t, -1))


def _unrolled(
    kind: _Kind, x: Tensor, state: State, weights: Sequence[Tensor | None], alive: Tensor | None,
    *, backwards: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    """One layer in one direction; past a sequence's end its state stays and its output is 0."""
    w_ih, w_hh, b_ih, b_hh = weights
    projected = linear(x, w_ih, b_ih)
    outputs: dict[int, Tensor] = {}
    order = range(x.shape[0])
    for t in reversed(order) if backwards else order:
        new = kind.step(projected[t], state, w_hh, b_hh)
        outputs[t] = new[0]
        if alive is not None:
            runs = alive[t]
            outputs[t] = where(runs, new[0], 0.0)
            new = tuple(where(runs, a, b) for a, b in zip(new, state, strict=True))
        state = new
    if not outputs:
        return broadcast_to(constant(0, x.type.dtype), (0, *state[0].shape)), state
    return stack([outputs[t] for t in order]), state


@public
def rnn(
    x: object, hx: object, params: Sequence[object], *, num_layers: int = 1,
    bidirectional: bool = False, batch_first: bool = False, dropout: float = 0.0,
    training: bool = False, key: object = None, lengths: object = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and last state of a (multi-layer, bidirectional) Elman network.

    x (T, N, in), or (N, T, in) with `batch_first`; hx (layers * directions, N, hidden) or None for
    zeros; `params` w_ih, w_hh (, b_ih, b_hh) of each layer and direction in turn, as PyTorch lists
    them. Output (T, N, directions * hidden). `dropout` with `training` and a `key` acts between
    layers. `lengths` (N,) ends each sequence early: outputs past it are 0, the last state is the
    one at its end, and the backward direction starts there. Float dtypes. Gradient: that of its
    composition, any order. Raises GraphTypeError, ShapeError. BHG 2.6, as torch.nn.RNN.
    """
    o = _Options(num_layers, bidirectional, batch_first, dropout, training, key, lengths)
    y, (h,) = _layers(_rnn_kind(nonlinearity), x, None if hx is None else [hx], params, o)
    return y, h


@public
def lstm(
    x: object, hx: Sequence[object] | None, params: Sequence[object], *, num_layers: int = 1,
    bidirectional: bool = False, batch_first: bool = False, dropout: float = 0.0,
    training: bool = False, key: object = None, lengths: object = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Output and last (h, c) of a (multi-layer, bidirectional) LSTM; hx is (h, c) or None.

    Arguments and shapes as `rnn`, steps as `lstm_cell`. BHG 2.7, as torch.nn.LSTM.
    """
    o = _Options(num_layers, bidirectional, batch_first, dropout, training, key, lengths)
    y, (h, c) = _layers(_LSTM, x, None if hx is None else _pair("lstm", hx), params, o)
    return y, (h, c)


@public
def gru(
    x: object, hx: object, params: Sequence[object], *, num_layers: int = 1,
    bidirectional: bool = False, batch_first: bool = False, dropout: float = 0.0,
    training: bool = False, key: object = None, lengths: object = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and last state of a (multi-layer, bidirectional) GRU.

    Arguments and shapes as `rnn`, steps as `gru_cell`. BHG 2.8, as torch.nn.GRU.
    """
    o = _Options(num_layers, bidirectional, batch_first, dropout, training, key, lengths)
    y, (h,) = _layers(_GRU, x, None if hx is None else [hx], params, o)
    return y, h
