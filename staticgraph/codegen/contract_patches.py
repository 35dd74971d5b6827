"""Convolution and its input gradient as one thing: a product of a kernel with patches of a source.

Both compute out[n, r, q] = sum over (c, kappa) of W[r, (c, kappa)] * src[n, c, position], where the
position along each axis is step * t + shift of the kernel tap. For a strided input gradient the
outputs q = f, f + s, f + 2s, ... of one *phase* f meet the same taps and consecutive positions, so
each phase is a stride-1 product of its own with a part of the kernel, and no product with an
inserted zero is ever computed. A convolution has one phase.
"""

from dataclasses import dataclass
from math import gcd, prod


@dataclass(frozen=True)
class Phase:
    """Outputs first, first + hop, ... (`count` of them) of one axis and the taps they meet: kernel
    index tap0 + j * hop_tap, source position step * t + shift0 + j * hop_shift."""

    count: int
    taps: int
    tap0: int
    shift0: int


@dataclass(frozen=True)
class Axis:
    """One spatial axis."""

    source: int
    out: int
    kernel: int
    step: int  # source positions per output of a phase
    hop: int  # outputs from one of a phase to the next
    hop_tap: int
    hop_shift: int
    phases: tuple[Phase, ...]


def forward_axis(source, out, kernel, stride, low, dilation):
    """Position o * stride - low + tap * dilation."""
    return Axis(source, out, kernel, stride, 1, 1, dilation, (Phase(out, kernel, 0, -low),))


def transposed_axis(source, out, kernel, stride, low, dilation):
    """Position (q + low - tap * dilation) / stride where that is whole."""
    phases = []
    for first in range(min(stride, out)):
        taps = [j for j in range(kernel) if (first + low - j * dilation) % stride == 0]
        tap0 = taps[0] if taps else 0
        shift = (first + low - tap0 * dilation) // stride
        phases.append(Phase(-(-(out - first) // stride), len(taps), tap0, shift))
    common = gcd(stride, dilation)
    return Axis(
        source, out, kernel, 1, stride, stride // common, -(dilation // common), tuple(phases)
    )


@dataclass(frozen=True)
class Patches:
    """The product of a kernel with patches of a source; `summed` source channels and `rows` output
    channels per group. `transposed` tells how W lies in memory: (rows, summed, taps) or
    (summed, rows, taps)."""

    code: str
    images: int
    groups: int
    rows: int
    summed: int
    axes: tuple[Axis, ...]
    transposed: bool

    @property
    def taps(self):
        return prod(a.kernel for a in self.axes)

    @property
    def most_taps(self):
        """Most taps that one phase meets."""
        return max(1, prod(max(f.taps for f in a.phases) for a in self.axes))

    @property
    def plane(self):
        return prod(a.out for a in self.axes)

    @property
    def source(self):
        return prod(a.source for a in self.axes)

    @property
    def outer_phases(self):
        return prod(len(a.phases) for a in self.axes[:-1])

    @property
    def lines(self):
        """Most lines along the last axis in one phase of the outer axes."""
        return self.images * prod(a.phases[0].count for a in self.axes[:-1])

    @property
    def adjacent(self):
        """Whether every axis has one phase, so that lines of the output are adjacent."""
        return all(len(a.phases) == 1 for a in self.axes)

    @property
    def whole(self):
        """Whether that phase also meets every tap: a small output of a transposed convolution may
        end before the phases of the others begin."""
        return self.adjacent and all(a.phases[0].taps == a.kernel for a in self.axes)

    @property
    def pointwise(self):
        """Whether every output meets just the source element at its own place."""
        return self.taps == 1 and all(
            a.step == a.hop == 1 and a.source == a.out and a.phases[0].shift0 == 0
            for a in self.axes
        )

    @property
    def flops(self):
        products = prod(sum(f.count * f.taps for f in a.phases) for a in self.axes)
        return 2 * self.images * self.groups * self.rows * self.summed * products
