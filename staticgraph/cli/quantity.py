"""Numbers with units as people write them on a command line."""

from __future__ import annotations

import re

from staticgraph.cli.problems import Problem

#: units that a number on the command line may carry, in s, bytes or as fractions of 1
UNITS = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "%": 1e-2,
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}


def quantity(text: str, option: str) -> float:
    """'3s', '250ms', '120MiB' or a bare number, in s or bytes."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?\d+)?)\s*([A-Za-z%]*)\s*", text)
    if not found or (found[2] and found[2] not in UNITS):
        raise Problem(f"{option} {text}: write a number with a unit, such as 3s, 250ms or 120MiB")
    return float(found[1]) * UNITS.get(found[2], 1.0)
