"""The pictures of a study as PNG: the few shapes that `canvas` writes as SVG, drawn into pixels.

Everything is drawn several times larger than wanted and then averaged, so that edges are smooth.
"""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

#: pixels of a unit of the picture, and how many times finer it is drawn
SCALE, FINE = 2, 2
_NUMBER = re.compile(r"-?[0-9.]+")
_ADVANCE = 0.09  # space between letters, in units of the font size
_TALL = 0.73  # height of a capital letter
#: columns of letters of 5 x 7 dots from " " to "~", a byte each, the lowest bit on top
_DOTS = bytes.fromhex(
    "000000000000005F00000007000700147F147F14242A7F2A12231308646236495620500000070000001C224100"
    "0041221C0014083E081408083E080800503000000808080808006060000020100804023E5149453E00427F4000"
    "42615149462141454B311814127F1027454545393C4A49493001710905033649494936064949291E0036360000"
    "00563600000814224100141414141400412214080201510906324979413E7E1111117E7F494949363E41414122"
    "7F4141221C7F494949417F090909013E4149497A7F0808087F00417F41002040413F017F081422417F40404040"
    "7F020C027F7F0408107F3E4141413E7F090909063E4151215E7F09192946464949493101017F01013F4040403F"
    "1F2040201F3F4038403F631408146307087008076151494543007F41410002040810200041417F000402010204"
    "4040404040000102040020545454787F484444383844444420384444487F3854545418087E0901020C5252523E"
    "7F0804047800447D40002040443D007F1028440000417F40007C041804787C0804047838444444387C14141408"
    "081414187C7C080404084854545420043F4440203C4040207C1C2040201C3C4030403C44281028440C5050503C"
    "4464544C44000836410000007F000000413608000804081008"
)
_STAND_INS = str.maketrans({"\u2026": "...", "\u00d7": "x", "\u00b5": "u", "\u2192": ">"})

Points = Sequence[tuple[float, float]]


def png(svg: str) -> bytes:
    """A picture of `canvas` as a PNG file."""
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    sheet = _Sheet(width, height)
    for shape in root:
        draw = _SHAPES.get(shape.tag.rpartition("}")[2])
        if draw is not None:
            draw(sheet, shape.attrib, shape.text or "")
    return _file(sheet.pixels())


class _Sheet:
    """Pixels, FINE times finer than wanted; all lengths are in units of the picture."""

    def __init__(self, width: float, height: float):
        self.unit = SCALE * FINE
        shape = (round(height * SCALE) * FINE, round(width * SCALE) * FINE, 3)
        self.canvas = np.full(shape, 255, np.uint8)

    def pixels(self) -> np.ndarray:
        h, w, _ = self.canvas.shape
        parts = self.canvas.reshape(h // FINE, FINE, w // FINE, FINE, 3)
        return parts.mean(axis=(1, 3)).round().astype(np.uint8)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The pixels of a rectangle, as far as they lie on the sheet; at least one each way."""
        h, w, _ = self.canvas.shape
        a, b = (int(np.clip(round(v * self.unit), 0, w)) for v in (x0, x1))
        c, d = (int(np.clip(round(v * self.unit), 0, h)) for v in (y0, y1))
        return slice(c, max(d, c + 1)), slice(a, max(b, a + 1))

    def fill(self, corners: Points, colour: str) -> None:
        """A polygon, by the even-odd rule."""
        p = np.asarray(corners, float) * self.unit
        x, y = p[:, 0], p[:, 1]
        x1, y1 = np.roll(x, -1), np.roll(y, -1)
        shown = _colour(colour)
        height = self.canvas.shape[0]
        for row in range(max(0, int(y.min())), min(height, int(np.ceil(y.max())))):
            at = row + 0.5
            crossed = (y <= at) != (y1 <= at)
            across = np.sort(x[crossed] + (at - y[crossed]) * (x1 - x)[crossed] / (y1 - y)[crossed])
            for a, b in across.reshape(-1, 2).round().astype(int):
                self.canvas[row, max(a, 0) : max(b, 0)] = shown

    def stroke(self, points: Points, colour: str, width: float, flat: bool = False) -> None:
        """Every pixel nearer to a segment than half of the width; with `flat`, not beyond its ends.

        Round ends join the segments of a line.
        """
        reach = width / 2
        for (x0, y0), (x1, y1) in pairwise(points):
            place = self.box(
                min(x0, x1) - reach, min(y0, y1) - reach, max(x0, x1) + reach, max(y0, y1) + reach
            )
            y, x = np.mgrid[place]
            x, y = (x + 0.5) / self.unit - x0, (y + 0.5) / self.unit - y0
            dx, dy = x1 - x0, y1 - y0
            part = (x * dx + y * dy) / ((dx * dx + dy * dy) or 1.0)
            along = np.clip(part, 0.0, 1.0)
            near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= reach * reach
            if flat:
                near &= part == along
            self.canvas[place][near] = _colour(colour)

    def letters(
        self, x: float, y: float, text: str, size: float, colour: str, anchor: str, upward: bool
    ) -> None:
        mask = _written(text, size * self.unit)
        h, w = mask.shape
        if upward:
            mask = np.rot90(mask)
        back = {"middle": w / 2, "end": w}.get(anchor, 0.0)
        left, top = round(x * self.unit), round(y * self.unit)
        left, top = (left - h, top - round(w - back)) if upward else (left - round(back), top - h)
        part = self.canvas[max(top, 0) : top + mask.shape[0], max(left, 0) : left + mask.shape[1]]
        inside = mask[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
        part[inside] = _colour(colour)


def _written(text: str, size: float) -> np.ndarray:
    """A mask of the letters, on their base line."""
    height = max(7, round(_TALL * size))
    gap = np.zeros((height + height // 7, max(1, round(_ADVANCE * size))), bool)
    parts = [gap]
    for letter in text.translate(_STAND_INS):
        parts += [_letter(letter, height), gap]
    return np.concatenate(parts, axis=1)


def _letter(letter: str, height: int) -> np.ndarray:
    """A letter of 5 x 7 dots, enlarged between the dots so that slants are smooth."""
    k = ord(letter) - 32
    columns = np.frombuffer(_DOTS, np.uint8)[5 * k : 5 * k + 5] if 0 <= k < 95 else []
    dots = np.array([[c >> row & 1 for c in columns] for row in range(8)], float)
    used = np.flatnonzero(dots.any(axis=0)) if dots.size else []
    dots = dots[:, used[0] : used[-1] + 1] if len(used) else np.zeros((8, 2))
    rows = height + height // 7
    return _enlarged(_enlarged(dots, rows).T, round(dots.shape[1] * height / 7)).T > 0.5


def _enlarged(dots: np.ndarray, rows: int) -> np.ndarray:
    """More rows, linear between the centres of those given."""
    at = np.clip((np.arange(rows) + 0.5) * len(dots) / rows - 0.5, 0, len(dots) - 1)
    low = np.minimum(at.astype(int), max(len(dots) - 2, 0))
    part = (at - low)[:, None]
    return dots[low] * (1 - part) + dots[np.minimum(low + 1, len(dots) - 1)] * part


# ---------------------------------------------------------------------------- shapes of the SVG


def _rect(sheet: _Sheet, a: dict[str, str], _: str) -> None:
    x, y = float(a.get("x", 0)), float(a.get("y", 0))
    place = sheet.box(x, y, x + float(a["width"]), y + float(a["height"]))
    sheet.canvas[place] = _colour(a["fill"])


def _polygon(sheet: _Sheet, a: dict[str, str], _: str) -> None:
    corners = _points(a["points"])
    sheet.fill(corners, a["fill"])
    if "stroke" in a:
        sheet.stroke([*corners, corners[0]], a["stroke"], float(a["stroke-width"]))


def _polyline(sheet: _Sheet, a: dict[str, str], _: str) -> None:
    dashes = [float(d) for d in a.get("stroke-dasharray", "").split()]
    for part in _dashed(_points(a["points"]), dashes):
        sheet.stroke(part, a["stroke"], float(a["stroke-width"]), flat=bool(dashes))


def _circle(sheet: _Sheet, a: dict[str, str], _: str) -> None:
    at = (float(a["cx"]), float(a["cy"]))
    r, line = float(a["r"]), float(a.get("stroke-width", 0))
    sheet.stroke([at, at], a.get("stroke", a["fill"]), 2 * r + line)
    sheet.stroke([at, at], a["fill"], 2 * r - line)


def _text(sheet: _Sheet, a: dict[str, str], text: str) -> None:
    turned = "transform" in a
    x, y = (
        map(float, _NUMBER.findall(a["transform"])[:2])
        if turned
        else (float(a["x"]), float(a["y"]))
    )
    size, colour = float(a.get("font-size", 12)), a.get("fill", "#222222")
    anchor = a.get("text-anchor", "start")
    for offset in (0.0, 0.5) if a.get("font-weight") == "bold" else (0.0,):
        sheet.letters(x + offset, y, text, size, colour, anchor, turned)


_SHAPES: dict[str, Callable[[_Sheet, dict[str, str], str], None]] = {
    "rect": _rect, "polygon": _polygon, "polyline": _polyline, "circle": _circle, "text": _text,
}  # fmt: skip


def _points(text: str) -> list[tuple[float, float]]:
    numbers = [float(v) for v in _NUMBER.findall(text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _dashed(points: Points, dashes: Sequence[float]) -> list[list[tuple[float, float]]]:
    """The drawn parts of a line; all of it where there are no dashes."""
    if not dashes:
        return [list(points)]
    parts: list[list[tuple[float, float]]] = []
    number, left = 0, dashes[0]
    for (x0, y0), (x1, y1) in pairwise(points):
        length, at = float(np.hypot(x1 - x0, y1 - y0)), 0.0
        while at < length:
            end = min(length, at + left)
            if number % 2 == 0:
                ends = [
                    (x0 + (x1 - x0) * t / length, y0 + (y1 - y0) * t / length) for t in (at, end)
                ]
                parts.append(ends)
            left -= end - at
            at = end
            if left <= 1e-9:
                number += 1
                left = dashes[number % len(dashes)]
    return parts


def _colour(text: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(text.removeprefix("#")))


def _file(pixels: np.ndarray) -> bytes:
    """Pixels of three bytes as a PNG file."""
    h, w, _ = pixels.shape
    raw = np.zeros((h, 1 + 3 * w), np.uint8)  # each row begins with its filter: none
    raw[:, 1:] = pixels.reshape(h, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw.tobytes(), 6))
        + chunk(b"IEND", b"")
    )
