"""Eigenvalues and eigenvectors of many small symmetric matrices: sixteen of them side by side.

Each lane is a matrix of its own. What keeps one matrix from using vectors, the chain of square
roots and divisions in every sweep of the QL iteration, then goes on for sixteen at once. LAPACK
takes two to five times as long for 64 x 64 matrices.

1. A = Q T Q^T by Householder reflections from the last row up (as EISPACK's tred2), on the packed
   lower triangle. The update by one reflection and the product for the next are one pass.
2. Q row by row: a few rows stay in the nearest cache while all reflections are applied.
3. Implicit QL (tql2). A lane whose block is done takes the next one while others still iterate.
   Rotations are written down, and applied to the rows of Q many sweeps at a time.
4. Each eigenvector goes to the place of its eigenvalue's rank.

The largest element of a matrix is brought to [1, 2) by a power of 2 first, so that squares neither
over- nor underflow where they count.
"""

from __future__ import annotations

from staticgraph.byhand.source import Source
from staticgraph.codegen.spec import LANES, KernelSpec
from staticgraph.types import ITEMSIZE, SHORT, TensorType, is_float

#: matrices from which sixteen at a time are faster than one after the other
FEWEST = 12
#: rows above which sixteen matrices leave the second cache
MOST_ROWS = 128
#: sweeps of the iteration whose rotations are applied together
_SWEEPS = 8
#: rows of Q that share what is loaded for them
_ROWS = {"float32": 8, "float64": 4}


def is_batch(a: TensorType, count: int) -> bool:
    return is_float(a.dtype) and count >= FEWEST and 0 < a.shape[-1] <= MOST_ROWS


_LOAD = """
first = tile * 16
there = lanes({count} - first)
matrices = (splat_i64(first) + iota()) * splat_i64({square})
most = zero
worst = zero
for i in range({n}):
    row = i * (i + 1) // 2
    for j in range(i + 1):
        x = vgather_{T}(a, matrices + splat_i64({source}), there)
        most = maximum(most, abs_(x))
        worst = fma(x, zero, worst)
        vst_{T}(w, (row + j) * 16, x)
finite = worst == zero
vst_{T}(p, 0, most)
power = vld_{I}(p, 0) & splat_{I}({exponent})
vst_{I}(p, 0, select(power == splat_{I}(0), splat_{I}({least}), power))
unit = vld_{T}(p, 0)
grow = one / unit
for k in range({packed}):
    vst_{T}(w, k * 16, select(finite, vld_{T}(w, k * 16) * grow, zero))
"""

_TRIDIAGONAL = """
for k in range({n}):
    vst_{T}(u, k * 16, zero)
old = u
for i in range({n} - 1, 0, -1):
    row = w + i * (i + 1) // 2 * {vector}
    vi = -vld_{T}(old, i * 16)
    ui = -vld_{T}(u, i * 16)
    most = zero
    for k in range(i + 1):
        x = fma(vi, vld_{T}(u, k * 16), fma(ui, vld_{T}(old, k * 16), vld_{T}(row, k * 16)))
        vst_{T}(row, k * 16, x)
        if k < i - 1:
            most = maximum(most, abs_(x))
    vst_{T}(d, i * 16, x)
    alpha = vld_{T}(row, (i - 1) * 16)
    flat = most < splat_{T}({nothing})
    by = one / select(flat, one, maximum(most, abs_(alpha)))
    square = zero
    for k in range(i):
        x = vld_{T}(row, k * 16) * by
        square = fma(x, x, square)
    lead = alpha * by
    norm = sqrt(square)
    norm = select(lead > zero, -norm, norm)
    tau = select(flat, zero, (norm - lead) / norm)
    vst_{T}(t, i * 16, tau)
    vst_{T}(e, (i - 1) * 16, select(flat, alpha, norm / by))
    by = select(flat, zero, by / (lead - norm))
    for k in range(i - 1):
        vst_{T}(row, k * 16, vld_{T}(row, k * 16) * by)
    vst_{T}(row, (i - 1) * 16, select(flat, zero, one))
    for j in range(-(i % 2), i, 2):
        low = w + j * (j + 1) // 2 * {vector}
        high = low + (j + 1) * {vector}
        vl = zero
        ul = zero
        xl = zero
        if j >= 0:
            vl = -vld_{T}(old, j * 16)
            ul = -vld_{T}(u, j * 16)
            xl = vld_{T}(row, j * 16)
        vh = -vld_{T}(old, (j + 1) * 16)
        uh = -vld_{T}(u, (j + 1) * 16)
        xh = vld_{T}(row, (j + 1) * 16)
        pl = zero
        ph = zero
        for k in range(j):
            vk = vld_{T}(old, k * 16)
            uk = vld_{T}(u, k * 16)
            xk = vld_{T}(row, k * 16)
            al = fma(vl, uk, fma(ul, vk, vld_{T}(low, k * 16)))
            ah = fma(vh, uk, fma(uh, vk, vld_{T}(high, k * 16)))
            vst_{T}(low, k * 16, al)
            vst_{T}(high, k * 16, ah)
            pl = fma(al, xk, pl)
            ph = fma(ah, xk, ph)
            vst_{T}(p, k * 16, fma(ah, xh, fma(al, xl, vld_{T}(p, k * 16))))
        if j >= 0:
            x = fma(vl + vl, -ul, vld_{T}(low, j * 16))
            vst_{T}(low, j * 16, x)
            pl = fma(x, xl, pl)
            x = fma(-vh, ul, fma(-uh, vl, vld_{T}(high, j * 16)))
            vst_{T}(high, j * 16, x)
            vst_{T}(p, j * 16, fma(x, xh, pl))
            ph = fma(x, xl, ph)
        x = fma(vh + vh, -uh, vld_{T}(high, (j + 1) * 16))
        vst_{T}(high, (j + 1) * 16, x)
        vst_{T}(p, (j + 1) * 16, fma(x, xh, ph))
    dot = zero
    for k in range(i):
        dot = fma(vld_{T}(p, k * 16), vld_{T}(row, k * 16), dot)
    dot = dot * tau * tau * splat_{T}(-0.5)
    for k in range(i):
        x = fma(dot, vld_{T}(row, k * 16), tau * vld_{T}(p, k * 16))
        vst_{T}(u, k * 16, x)
    old = row
vst_{T}(d, 0, fma(vld_{T}(old, 0) * vld_{T}(u, 0), splat_{T}(-2), vld_{T}(w, 0)))
vst_{T}(e, {n} * 16 - 16, zero)
"""

_REFLECTED = """
for k in range({rows}):
    for i in range({n}):
        vst_{T}(z, (k * {pitch} + i) * 16, zero)
    if k < {n}:
        vst_{T}(z, (k * {pitch} + k) * 16, one)
for first_row in range(0, {n}, {group}):
    base = z + first_row * {pitch} * {vector}
    for i in range({n} - 1, 0, -1):
        row = w + i * (i + 1) // 2 * {vector}
        {zeros}
        for k in range(i):
            x = vld_{T}(row, k * 16)
            {dots}
        x = -vld_{T}(t, i * 16)
        {scaled}
        for k in range(i):
            x = vld_{T}(row, k * 16)
            {added}
"""

_ITERATED = """
start = 0
turns = 0
left = {most_sweeps}
while left > 0:
    left -= 1
    begin = none
    end = none
    for i in range(start, {n} - 1):
        at = splat_{T}(i)
        gap = splat_{T}({eps}) * (abs_(vld_{T}(d, i * 16)) + abs_(vld_{T}(d, i * 16 + 16)))
        small = abs_(vld_{T}(e, i * 16)) <= gap + splat_{T}({floor})
        end = select(small & (begin < at) & (end == none), at, end)
        begin = select((begin == none) & ~small, at, begin)
    going = begin < none
    if count(going) == 0:
        left = -1
    else:
        end = select(going & (end == none), splat_{T}({n} - 1), end)
        end = select(going, end, zero)
        start = lane0_i64(cast_i64(hmin(begin)))
        stop = lane0_i64(cast_i64(hmax(end)))
        head = cast_i64(begin) * splat_i64(16) + iota()
        tail = cast_i64(end) * splat_i64(16) + iota()
        dl = vgather_{T}(d, head, going)
        el = select(going, vgather_{T}(e, head, going), one)
        g = (vgather_{T}(d, head + splat_i64(16), going) - dl) / (el + el)
        r = sqrt(fma(g, g, one))
        g = g + select(g < zero, -r, r)
        g = vgather_{T}(d, tail, going) - dl + el / g
        s = one
        c = one
        q = zero
        alive = going
        for i in range(stop - 1, start - 1, -1):
            at = splat_{T}(i)
            ok = (at < end) & (at >= begin) & alive
            ei = vld_{T}(e, i * 16)
            f = s * ei
            b = c * ei
            h = fma(f, f, g * g)
            lost = ok & (h < splat_{T}({nothing}))
            alive = alive & ~lost
            good = ok & alive
            r = sqrt(h)
            by = one / r
            vst_{T}(e, i * 16 + 16, select(good, r, select(lost, zero, vld_{T}(e, i * 16 + 16))))
            s = select(good, f * by, s)
            c = select(good, g * by, c)
            upper = vld_{T}(d, i * 16 + 16)
            mid = upper - q
            r = fma(vld_{T}(d, i * 16) - mid, s, (c + c) * b)
            turn = s * r
            vst_{T}(d, i * 16 + 16, select(good, mid + turn, select(lost, mid, upper)))
            q = select(good, turn, q)
            g = select(good, fma(c, r, -b), g)
            {record}
        vscatter_{T}(e, tail, zero, going)
        vscatter_{T}(e, head, g, alive)
        vscatter_{T}(d, head, vgather_{T}(d, head, alive) - q, alive)
        {recorded}
finite = finite & ~(begin < none)
"""

_RECORD = """
vst_{T}(turned, (turns * {n} + i) * 32, select(good, c, one))
vst_{T}(turned, (turns * {n} + i) * 32 + 16, select(good, s, zero))
"""

_RECORDED = """
st_i64(spans, 2 * turns, start)
st_i64(spans, 2 * turns + 1, stop)
turns += 1
if turns == {sweeps}:
    {apply}
    turns = 0
"""

_APPLIED = """
for first_row in range(0, {n}, {group}):
    base = z + first_row * {pitch} * {vector}
    for turn_at in range(turns):
        below = 0 + ld_i64(spans, 2 * turn_at)
        above = 0 + ld_i64(spans, 2 * turn_at + 1)
        {carried}
        for i in range(above - 1, below - 1, -1):
            c = vld_{T}(turned, (turn_at * {n} + i) * 32)
            s = vld_{T}(turned, (turn_at * {n} + i) * 32 + 16)
            {rotated}
        {put}
"""

_STORED = """
bad = splat_{T}(nan)
for i in range({n}):
    value = vld_{T}(d, i * 16)
    rank = zero
    for j in range({n}):
        other = vld_{T}(d, j * 16)
        before = other < value
        if j < i:
            before = other <= value
        rank = rank + select(before, one, zero)
    place = cast_i64(rank)
    value = select(finite, value * unit, bad)
    vscatter_{T}(values, (splat_i64(first) + iota()) * splat_i64({n}) + place, value, there)
    {vectors}
"""

_VECTORS = """
place = matrices + place * splat_i64({n})
for k in range({n}):
    value = select(finite, vld_{T}(z, (k * {pitch} + i) * 16), bad)
    vscatter_{T}(v, place + splat_i64(k), value, there)
"""


#: lines for each row of a group: its number, and its first element of `base`
_EACH = {
    "zeros": "s{g} = zero",
    "dots": "s{g} = fma(vld_{T}(base, (k + {o}) * 16), x, s{g})",
    "scaled": "s{g} = s{g} * x",
    "added": "vst_{T}(base, (k + {o}) * 16, fma(s{g}, x, vld_{T}(base, (k + {o}) * 16)))",
    "carried": "h{g} = vld_{T}(base, (above + {o}) * 16)",
    "rotated": (
        "x = vld_{T}(base, (i + {o}) * 16)\n"
        "vst_{T}(base, (i + {o}) * 16 + 16, fma(c, h{g}, s * x))\n"
        "h{g} = fma(c, x, -(s * h{g}))"
    ),
    "put": "vst_{T}(base, (below + {o}) * 16, h{g})",
}
#: masks of the exponent; what counts as 0 beside elements around 1, squared in `nothing`
_SINGLE = {
    "I": "i32", "exponent": 0x7F800000, "least": 1 << 23,
    "eps": 2.0**-24, "floor": 2.0**-44, "nothing": 1e-30,
}  # fmt: skip
_DOUBLE = {
    "I": "i64", "exponent": 0x7FF << 52, "least": 1 << 52,
    "eps": 2.0**-53, "floor": 2.0**-73, "nothing": 1e-200,
}  # fmt: skip


def _indented(template: str, words: dict[str, object]) -> str:
    """A template with its words put in; the lines of a word stand as deep as the word does."""
    lines = []
    for line in template.strip("\n").split("\n"):
        margin = line[: len(line) - len(line.lstrip())]
        filled = line.strip().format(**words).strip("\n")
        lines += [margin + part for part in filled.split("\n")] if filled else []
    return "\n".join(lines)


def symmetric(a: TensorType, name: str, *, lower: bool, vectors: bool, count: int) -> KernelSpec:
    """Rising eigenvalues, and with `vectors` as rows the eigenvectors, of `count` matrices."""
    n, code, size = a.shape[-1], SHORT[a.dtype], ITEMSIZE[a.dtype]
    s = Source(a=("in", 0), values=("out", 0), **({"v": ("out", 1)} if vectors else {}))
    group = _ROWS[a.dtype]
    rows, pitch, packed = -(-n // group) * group, n | 1, n * (n + 1) // 2
    regions = {"w": packed, "d": n, "e": n, "t": n, "u": n, "p": n}
    if vectors:
        regions |= {"z": rows * pitch, "turned": 2 * n * _SWEEPS, "spans": _SWEEPS}
    vector, used = LANES * size, 0
    for region, elements in regions.items():
        s.emit(0, f"{region} = scratch + {used}")
        used += elements * vector
    s.emit(0, f"zero = splat_{code}(0)", f"one = splat_{code}(1)", f"none = splat_{code}({n})")
    words: dict[str, object] = {
        "T": code, "n": n, "count": count, "square": n * n, "vector": vector, "group": group,
        "rows": rows, "pitch": pitch, "packed": packed, "sweeps": _SWEEPS,
        "source": f"i * {n} + j" if lower else f"j * {n} + i", "most_sweeps": 30 * n,
        **(_SINGLE if size == 4 else _DOUBLE),
    }  # fmt: skip
    steps = [_LOAD, _TRIDIAGONAL, _ITERATED, _STORED]
    if vectors:
        for word, line in _EACH.items():
            each = (line.format(T=code, g=g, o=g * pitch) for g in range(group))
            words[word] = "\n".join(each)
        words["apply"] = _indented(_APPLIED, words)
        for word, template in (("record", _RECORD), ("recorded", _RECORDED), ("vectors", _VECTORS)):
            words[word] = _indented(template, words)
        steps[2:3] = [_REFLECTED, _ITERATED, _APPLIED]
    else:
        words |= {"record": "", "recorded": "", "vectors": ""}
    tiles = -(-count // LANES)
    s.emit(0, "for tile in range(lo, hi):")
    for step in steps:
        s.block(1, _indented(step, words))
    return s.kernel(name, tiles, 8 * count * n * n * n, used)
