"""An explanation as plain text of any width: what fits on a line stays, the rest is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from staticgraph.profiling import units
from staticgraph.profiling.table import flowed, line

TOP = 20
#: columns that a name keeps where a table is too wide
LEAST = 16
VECTORIZER = "kernels are explicit SIMD; LLVM's loop vectorizer is off on purpose"


def render(made: Any, width: int = 100, top: int = TOP) -> str:
    """The overview, or what there is to say on one kernel; `top` = 0 shows every row.

    `width` 0 stands for records, a line each, with tabs between their fields.
    """
    blocks = _overview(made, width, top) if made.kernel is None else _kernel(made, width)
    return "\n".join(_fitted(each, width).rstrip(" ") for each in blocks)


def _fitted(text: str, width: int) -> str:
    return text if not width or len(text) <= width else f"{text[: width - 1]}~"


def aligned(
    rows: Iterable[Sequence[str]],
    width: int,
    right: Sequence[int] = (),
    indent: int = 2,
    cut: int | None = None,
) -> list[str]:
    """Rows of cells under each other; columns of `right` end at the same place.

    Column `cut` gives way where the rows are too wide.
    """
    rows = [list(r) for r in rows]
    if not width:
        return ["\t".join(row) for row in rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if cut is not None:
        surplus = max(0, indent + sum(wide) + 2 * (len(wide) - 1) - width)
        wide[cut] = max(LEAST, wide[cut] - surplus)
        for row in rows:
            row[cut] = _fitted(row[cut], wide[cut])
    return [
        " " * indent
        + "  ".join(
            f"{cell:>{n}}" if k in right else f"{cell:<{n}}"
            for k, (cell, n) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]


# ---------------------------------------------------------------------------- the whole function


def _overview(made: Any, width: int, top: int) -> Iterator[str]:
    hits = sum(k.cache_hit for k in made.kernels)
    passes = sum(p.seconds for p in made.passes)
    kernels = units.some(len(made.kernels), "kernel")
    yield from flowed(
        [
            line(made.model or "model", f"{units.some(made.nodes, 'node')} -> {kernels}"),
            line("compile", f"{units.seconds(made.total_seconds)} = passes {units.seconds(passes)}"
                 f" + plan {units.seconds(made.plan_seconds)}"
                 f" + kernels {units.seconds(made.kernel_seconds)}",
                 f"cache {hits} hit, {len(made.kernels) - hits} new"),
        ],
        width,
    )  # fmt: skip
    yield ""
    yield from _passes(made, width)
    yield ""
    yield from _fusion(made, width, top)
    yield ""
    yield from _kernels(made, width, top)
    yield ""
    yield from _arena(made, width, top)
    if made.recomputing is not None:
        yield ""
        yield from _recomputing(made.recomputing, width)


def _passes(made: Any, width: int) -> Iterator[str]:
    rows = [["pass", "time", "nodes", ""]]
    for p in made.passes:
        same = p.before == p.after
        nodes = str(p.after) if same else f"{p.before} -> {p.after}"
        rows.append(
            [p.name, units.seconds(p.seconds), nodes, f"{len(p.notes)} notes" * bool(p.notes)]
        )
    lines = aligned(rows, width, right=(1,))
    yield lines[0]
    for p, text in zip(made.passes, lines[1:], strict=True):
        yield text
        yield from (f"      {note}" for note in p.notes)
        yield from (f"    {change}" for change in p.diff or ())


def _fusion(made: Any, width: int, top: int) -> Iterator[str]:
    joined = [p for p in made.pairs if p.fused]
    apart = sorted((p for p in made.pairs if not p.fused), key=lambda p: -p.bytes)
    saved, lost = (units.size(sum(p.bytes for p in ps)) for ps in (joined, apart))
    yield from flowed(
        [line("fusion", f"{len(joined)} of {len(made.pairs)} pairs are one kernel and save {saved}",
              f"{len(apart)} are not and would save {lost}")],
        width,
    )  # fmt: skip
    rules = Counter(p.rule for p in joined)
    saves: Counter[str] = Counter()
    for p in joined:
        saves[p.rule] += p.bytes
    rows = [[f"{n} fused", units.size(saves[rule]), rule] for rule, n in rules.most_common()]
    yield from aligned(rows, width, right=(0, 1))
    shown = apart if top == 0 else apart[:top]
    yield from _pairs(shown, width)
    if len(apart) > len(shown):
        rest = sum(p.bytes for p in apart[len(shown) :])
        yield f"  {len(apart) - len(shown)} more, {units.size(rest)}"


def _pairs(pairs: Sequence[Any], width: int) -> list[str]:
    """A line for each pair; where the rule does not fit it has a line of its own."""
    if not pairs:
        return []
    rows = [["", "pair", "saves", "kernels", "rule", "where", "type"]]
    for p in pairs:
        both = f"{_numbers(p.made_in)} -> {_numbers(p.read_in)}"
        rows.append([
            "fused" if p.fused else "NOT",
            f"{p.maker} -> {p.reader}",
            units.size(p.bytes) if p.fused else f"({units.size(p.bytes)})",
            _numbers(p.read_in) if p.fused else both,
            p.rule, _lines(p), p.type,
        ])  # fmt: skip
    for columns in (7, 6, 5):
        lines = aligned([r[:columns] for r in rows], width, right=(2,))
        if not width or max(map(len, lines)) <= width:
            return lines
    first, *lines = aligned([[*r[:4], r[5]] for r in rows], width, right=(2,))
    rules = (f"         {p.rule}" for p in pairs)
    return [first, *(text for both in zip(lines, rules, strict=True) for text in both)]


def _numbers(kernels: Sequence[int]) -> str:
    return ",".join(f"#{k}" for k in kernels) or "-"


def _lines(pair: Any) -> str:
    first, second = str(pair.maker_where or "?"), str(pair.reader_where or "?")
    text = first if first == second else f"{first} -> {second}"
    return f"{text} (grad)" if pair.is_gradient else text


def _kernels(made: Any, width: int, top: int) -> Iterator[str]:
    rows = [["#", "kernel", "ops", "compile", "origin", "in place"]]
    shown = made.kernels if top == 0 else made.kernels[:top]
    for k in shown:
        over = k.in_place if k.in_place.startswith("yes") else "no"
        compiled = units.seconds(k.compile_seconds)
        rows.append([str(k.index), k.name, str(len(k.members)), compiled, k.origin or "-", over])
    yield from aligned(rows, width, right=(0, 2, 3), indent=1, cut=1)
    if len(made.kernels) > len(shown):
        yield f"  {len(made.kernels) - len(shown)} more kernels"


def _arena(made: Any, width: int, top: int) -> Iterator[str]:
    a = made.arena
    yield from flowed(
        [line("arena", f"{len(a.buffers)} buffers of {units.size(a.sum)} in {units.size(a.bytes)}",
              f"largest live sum {units.size(a.least)}", f"layout {a.layout}" * bool(a.layout))],
        width,
    )  # fmt: skip
    if not a.buffers:
        return
    rows = [["buffer", "what", "bytes", "place", "steps", "has the bytes of"]]
    shown = list(range(len(a.buffers)))[: top or None]
    for k in shown:
        b = a.buffers[k]
        before = ", ".join(f"arena {j}" for j in a.takes[k][:4]) + ", ..." * (len(a.takes[k]) > 4)
        place = f"[{b.offset}:{b.offset + b.bytes}]"
        steps = f"{b.born}..{b.dies}"
        rows.append([f"arena {k}", b.what, units.size(b.bytes), place, steps, before])
    yield from aligned(rows, width, right=(2,), cut=1)
    if len(a.buffers) > len(shown):
        yield f"  {len(a.buffers) - len(shown)} more buffers"


def _recomputing(r: Any, width: int) -> Iterator[str]:
    yield from flowed(
        [line("recomputed", f"policy {r.policy}", f"arena {units.size(r.peak)}",
              f"predicted {units.seconds(r.predicted)}, {100 * r.extra:.1f} % more",
              f"a better plan could save {100 * r.gap:.1f} % at most")],
        width,
    )  # fmt: skip
    yield from aligned([[x.what, f"x{x.times}", str(x.where or "?")] for x in r.again], width)


# ---------------------------------------------------------------------------- one kernel


def _kernel(made: Any, width: int) -> Iterator[str]:
    k = made.kernels[made.kernel - 1]
    tiles = f"{k.tiles} tile{'s' * (k.tiles != 1)}"
    split = f"{tiles}, {'parallel' if k.parallel else 'one thread'}"
    facts = [line(f"kernel {k.index}", k.name, split, f"scratch {units.size(k.scratch)}")]
    if k.kind == "kernel":
        how = "cached" if k.cache_hit else "new"
        facts.append(
            line("compile", f"{units.seconds(k.compile_seconds)}", f"{how} ({k.origin})",
                 f"{units.size(k.code_bytes)} of code", f"key {k.key[:12]}")
        )  # fmt: skip
    yield from flowed(facts, width)
    yield from _block("ops", [_member(m) for m in k.members], width)
    arguments = [[a.name, a.place, a.type, units.size(a.bytes)] for a in k.arguments]
    yield from _block("arguments", arguments, width)
    if k.in_place:
        yield from flowed([line("in place", k.in_place)], width)
    own = [p for p in made.pairs if k.index in p.made_in or k.index in p.read_in]
    if own:
        yield "fusion"
        yield from _pairs(sorted(own, key=lambda p: (not p.fused, -p.bytes)), width)
    if k.code is not None:
        yield from flowed(_code(k.code), width)
        yield "view with    --source | --llvm | --asm | --json"


def _member(m: Any) -> list[str]:
    where = str(m.where or "?")
    if m.is_gradient:
        where += f" (grad, asked for at {m.asked_at})"
    if m.recomputed:
        where += " (computed again)"
    return [m.op, m.type, m.attrs, where]


def _block(word: str, rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    if rows:
        yield word
        yield from aligned(rows, width)


def _code(code: Any) -> list[tuple[str, ...]]:
    w = code.widths
    if w is None:
        vector = "n/a (no x86 assembly)"
    elif not w.total:
        vector = "no floating-point arithmetic"
    else:
        vector = (
            f"{100 * w.packed:.0f} % of {w.total} floating-point instructions are packed:"
            f" zmm {w.zmm}, ymm {w.ymm}, xmm {w.xmm}, scalar {w.scalar}"
        )
    lines = [line("vector", vector), line("calls", ", ".join(code.calls) or "none")]
    said = ["n/a (this LLVM gives none)"] if code.remarks is None else code.remarks or ["none"]
    lines += [line("remarks" if n == 0 else "", text) for n, text in enumerate(said)]
    return [*lines, line("", VECTORIZER)]
