"""Numbers as text, rounded to what they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


def decimals(interval: Sequence[float] | None) -> int:
    """Return how many decimals of a percentage an interval (fractions) supports: 0, 1 or 2.

    One decimal for half-widths between 0.1 and 10 points: two digits of a half-width at most.
    """
    if interval is None:
        return 1
    half = 50 * abs(interval[1] - interval[0])
    return 0 if half >= 10 else 1 if half >= 0.1 else 2


def percent(fraction: float, places: int = 1) -> str:
    """Return 0.741 as ``74.1``."""
    return f"{100 * fraction:.{places}f}".replace("-", MINUS)


def points(difference: float, places: int = 1) -> str:
    """Return 0.062 as ``+6.2``; minus is the typographic one."""
    return f"{100 * difference:+.{places}f}".replace("-", MINUS)


def interval(bounds: Sequence[float], places: int, *, signed: bool = False) -> str:
    """Return (0.72, 0.76) as ``72.0 to 76.0``."""
    write = points if signed else percent
    return f"{write(bounds[0], places)} to {write(bounds[1], places)}"


def fixed(value: float, places: int = 2) -> str:
    """Return −3.0617 as ``−3.06``."""
    return f"{value:.{places}f}".replace("-", MINUS)


def drawn(value: float) -> str:
    """Return a sampled number: 3 as ``3``, 1.2064 as ``1.21``, −0.0312 as ``−0.031``."""
    if value == round(value):
        return str(round(value)).replace("-", MINUS)
    if value == round(value, 2):
        return fixed(value)
    size = math.floor(math.log10(abs(value)))
    return fixed(value, min(4, max(2, 1 - size)))


def count(number: float) -> str:
    """Return 60000 as ``60,000``."""
    return f"{number:,.0f}".replace("-", MINUS)


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 epoch`` or ``2,000 epochs``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def short(value: float) -> str:
    """Return a measured value with three significant digits, never in powers of ten below 1e6."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}" if places <= 6 and abs(value) < 1e6 else f"{value:.2e}"
    return text.replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return 93.2 as ``93 s``, 600 as ``10 min``, 9000 as ``2 h 30 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def day(created: str) -> str:
    """Return an ISO time as ``22 November 2026``; any other text as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y}"
