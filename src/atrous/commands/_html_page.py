"""What the HTML pages share: their templates, and numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atrous.run_folder import is_finite

PER_CENT = "\u00a0%"  # kept on the line of its number


def template(name: str) -> Any:
    """A page's template, with the filters that write numbers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "pixels": pixels}
    return environment.get_template(name)


def percent(value: float | None, unit: str = "") -> str:
    """A score from 0 to 1 as a percentage with one decimal; – when not known."""
    return f"{100 * value:.1f}{unit}" if value is not None and is_finite(value) else "–"


def percent_interval(interval: Sequence[float] | None) -> str:
    """An interval of scores as percentages, such as "61.2–70.1"; "" for none."""
    return "" if interval is None else "–".join(percent(end) for end in interval)


def duration(seconds: float) -> str:
    """A time in the unit a person would say it in; "" for none."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds else ""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def pixels(number: int) -> str:
    """A number of pixels in words."""
    return f"{number / 1e6:.1f} million pixels" if number >= 1e6 else f"{number:,} pixels"


def css_color(color: Sequence[int]) -> str:
    """(red, green, blue) as CSS; numbers only, whatever the file held."""
    return "rgb({:d} {:d} {:d})".format(*(int(part) for part in color))
