"""Common parts of the HTML pages: their templates and the formats of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous.data.volumes.volume_view import VIEWER
from atrous.run_folder import is_finite

PER_CENT = "\u00a0%"  # the no-break space keeps the sign in the same line as the number


def template(name: str) -> Any:
    """Returns the template of a page, with filters that format numbers.

    Args:
        name: file name of the template in this folder.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, VIEWER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "pixels": pixels}
    return environment.get_template(name)


def percent(value: float | None, unit: str = "") -> str:
    """Returns a score as a percentage with one decimal; "–" for None and values that are not finite.

    Args:
        value: the score, 0–1.
        unit: text after the number, such as `PER_CENT`.
    """
    return f"{100 * value:.1f}{unit}" if value is not None and is_finite(value) else "–"


def percent_interval(interval: Sequence[float] | None) -> str:
    """Returns an interval of scores (0–1) as percentages, such as "61.2–70.1"; "" for None."""
    return "" if interval is None else "–".join(percent(end) for end in interval)


def duration(seconds: float) -> str:
    """Returns a time in seconds as text, such as "45 s", "12 min" or "1.5 h"; "" for 0."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds else ""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def pixels(number: int) -> str:
    """Returns a number of pixels as text, such as "950 pixels" or "1.2 million pixels"."""
    return f"{number / 1e6:.1f} million pixels" if number >= 1e6 else f"{number:,} pixels"


def css_color(color: Sequence[int]) -> str:
    """Returns (red, green, blue) as a CSS colour; the conversion to int keeps other text out of the page."""
    return "rgb({:d} {:d} {:d})".format(*(int(part) for part in color))
