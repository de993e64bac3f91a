"""Sizes and times as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1_000 or unit == "TB":
            break
        count /= 1_000
    return f"{count:,.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7_200 else f"{seconds / 3_600:,.0f} h"
