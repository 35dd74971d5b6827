"""What the functions that contraction kernels call are specialised for, as plain records.

Generated source names them (`column_of_tiles(Column(Tile(...), ...))`); `microkernel` and
`contract_moves` turn them into code. They stand apart so that writing source needs no compiler.
"""

from dataclasses import dataclass

from staticgraph.codegen.spec import LANES

UNROLL = 40  # vectors of one source row and all its taps that are written out


def name_of(*numbers):
    """Part of a symbol's name."""
    return "_".join(str(n).replace("-", "m") for n in numbers)


@dataclass(frozen=True)
class Tile:
    """One register tile: its shape, the strides it is specialised for (elements), its masks.

    `cols` counts valid columns; lanes from there on are neither stored nor, with `mask_b`,
    loaded. With `add` its last argument tells: 0 overwrites C, otherwise C is added to.
    """

    code: str
    rows: int
    vectors: int
    lanes: int
    a_row: int
    a_k: int
    b_k: int
    c_row: int
    cols: int
    mask_b: bool = False
    add: bool = False
    fused: bool = True

    @property
    def symbol(self):
        strides = (self.a_row, self.a_k, self.b_k, self.c_row)
        flags = (int(self.mask_b), int(self.add), int(self.fused))
        numbers = (self.rows, self.vectors, self.lanes, *strides, self.cols, *flags)
        return f"sg_tile_{self.code}_{name_of(*numbers)}"


@dataclass(frozen=True)
class Column:
    """Register tiles below one another: with `taller`, some that are one row higher come first."""

    tile: Tile
    taller: bool

    @property
    def symbol(self):
        return f"{self.tile.symbol}_column_{int(self.taller)}"


@dataclass(frozen=True)
class Dots:
    """`cols` dot products at once: C[j] (+)= sum_k A[k] B[k, j], k contiguous in both operands.

    A column has `unroll` sums of `lanes` lanes, which take its products in turn and are then added
    as a fixed tree, in one pass for all columns: the bits of a column do not depend on `cols`.
    """

    code: str
    cols: int
    lanes: int
    unroll: int
    b_col: int
    fused: bool

    @property
    def symbol(self):
        numbers = (self.cols, self.lanes, self.unroll, self.b_col, int(self.fused))
        return f"sg_dots_{self.code}_{name_of(*numbers)}"


@dataclass(frozen=True)
class Gather:
    """Patches of one source: what `patch_gather` needs to know before it runs.

    Per axis: source size, distance between taps; for the last one also the source positions per
    output. `width` columns make a line, `pitch` elements a row of the patch matrix. With `taps`
    and `shift` the last axis has one phase and no segments, so that its borders are known here.
    """

    code: str
    sources: tuple[int, ...]
    hops: tuple[int, ...]
    step: int
    width: int
    pitch: int
    taps: int | None = None
    shift: int | None = None

    @property
    def rank(self):
        return len(self.sources)

    @property
    def written_out(self):
        return self.taps is not None and self.taps * -(-self.width // LANES) <= UNROLL

    @property
    def symbol(self):
        numbers = (
            *self.sources,
            *self.hops,
            self.step,
            self.width,
            self.pitch,
            self.taps,
            self.shift,
        )
        return f"sg_gather_{self.code}_{name_of(*numbers)}"
