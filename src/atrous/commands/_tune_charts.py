"""Charts of a search as inline SVG: the history of its scores, and its values as parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Any

from atrous.charts import nice_ticks
from atrous.commands._html_page import percent
from atrous.tuning.search_space import in_words, store, value_in_words

#: Size of the charts; one unit is about one pixel.
WIDTH, HEIGHT = 1040, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 1026, 20, 280
#: Longest text of a tick and of a field's name, in characters.
LONGEST = 22
#: Ticks of a numeric axis.
TICKS = 4

Trials = Sequence[Mapping[str, Any]]


def history_chart(trials: Trials) -> str:
    """Draws the score of each trial, and the best score so far as a line.

    Args:
        trials: the trials of `results`.

    Returns:
        An `<svg>` element with escaped text.
    """
    scored = [one for one in trials if one["miou"] is not None]
    ticks = nice_ticks(*_ends([one["miou"] for one in scored], 0.0, 1.0))
    last = max(1, len(trials) - 1)

    def x(number: int) -> float:
        return round(LEFT + 10 + number / last * (RIGHT - LEFT - 20), 1)

    def y(score: float) -> float:
        return round(BOTTOM - (score - ticks[0]) / (ticks[-1] - ticks[0]) * (BOTTOM - TOP), 1)

    parts = [_opened("Score of each trial")]
    for value in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value)}H{RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y(value) + 4}" text-anchor="end">{100 * value:.3g}</text>')
    for number in sorted({round(last * share / 8) for share in range(9)}):
        parts.append(f'<text x="{x(number)}" y="{BOTTOM + 19}" text-anchor="middle">{number}</text>')
    complete = [one for one in scored if one["state"] == "complete"]
    best = accumulate((one["miou"] for one in complete), max)
    steps = [(x(one["number"]), y(score)) for one, score in zip(complete, best, strict=True)]
    if steps:
        path = f"M{steps[0][0]} {steps[0][1]}" + "".join(f"H{right}V{height}" for right, height in steps[1:])
        parts.append(f'<path class="line" d="{path}H{x(last)}"/>')
    for one in trials:
        words = _title(one)
        if one["miou"] is not None:
            kind = "dot" if one["state"] == "complete" else "dot pruned"
            place = f'cx="{x(one["number"])}" cy="{y(one["miou"])}"'
            parts.append(f'<circle class="{kind}" {place} r="4.5"><title>{words}</title></circle>')
        elif one["state"] == "failed":
            left = x(one["number"])
            cross = f"M{left - 4} {BOTTOM - 4}l8 8m0 -8l-8 8"
            parts.append(f'<path class="failed" d="{cross}"><title>{words}</title></path>')
    return "".join([*parts, "</svg>"])


def parallel_coordinates(trials: Trials, space: Mapping[str, Mapping[str, Any]]) -> str:
    """Draws each trial with a score as a line through its values, one axis for each field and one for the score.

    Args:
        trials: the trials of `results`.
        space: the search space of `results`.

    Returns:
        An `<svg>` element with escaped text; better trials are drawn later and darker, and the best complete one last.
    """
    best = max((one for one in trials if one["state"] == "complete"), key=lambda one: one["miou"], default=None)
    scored = sorted((one for one in trials if one["miou"] is not None), key=lambda one: (one is best, one["miou"]))
    low, high = _ends([one["miou"] for one in scored], 0.0, 1.0)
    columns = [*space, "mean IoU, %"]
    places = [round(90 + index * (WIDTH - 180) / (len(columns) - 1), 1) for index in range(len(columns))]
    parts = [_opened("Values of each trial")]
    for number, one in enumerate(scored):
        heights = [_height(space[name], one["values"].get(name)) for name in space]
        heights.append(_y((one["miou"] - low) / (high - low) if high > low else 0.5))
        points = "L".join(f"{x} {y}" for x, y in zip(places, heights, strict=True) if y is not None)
        shade = 0.15 + 0.85 * ((number + 1) / len(scored)) ** 2
        kind = "line top" if one is best else "line"
        parts.append(
            f'<path class="{kind}" style="opacity:{shade:.2f}" d="M{points}"><title>{_title(one)}</title></path>'
        )
    scores = [(_y(index / TICKS), percent(low + (high - low) * index / TICKS)) for index in range(TICKS + 1)]
    for x, name in zip(places, columns, strict=True):
        ticks = list(_axis_ticks(space[name])) if name in space else scores
        parts.append(f'<path class="axis" d="M{x} {TOP + 20}V{BOTTOM}"/>')
        parts.append(f'<text class="name" x="{x}" y="{TOP + 6}" text-anchor="middle">{escape(_short(name))}</text>')
        for y, words in ticks:
            parts.append(f'<text class="tick" x="{x + 6}" y="{y + 4}">{escape(_short(words))}</text>')
    return "".join([*parts, "</svg>"])


def _opened(title: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'


def _ends(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Returns the smallest and the largest value; the given ends if there are no values."""
    return (min(values), max(values)) if values else (low, high)


def _y(share: float) -> float:
    """Returns the height of a value at a share (0–1) of its axis."""
    return round(BOTTOM - share * (BOTTOM - TOP - 20), 1)


def _height(axis: Mapping[str, Any], value: Any) -> float | None:
    """Returns the height of a value on its axis; None if the axis does not contain it."""
    if "choices" in axis:
        stored = [store(choice) for choice in axis["choices"]]
        return _y(stored.index(store(value)) / (len(stored) - 1)) if store(value) in stored else None
    low, high, number = axis["low"], axis["high"], value
    if not isinstance(number, int | float):
        return None
    if axis.get("log"):
        low, high, number = math.log(low), math.log(high), math.log(number)
    return _y((number - low) / (high - low))


def _axis_ticks(axis: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    """Yields the height and the text of each tick of an axis."""
    if "choices" in axis:
        count = len(axis["choices"])
        for index, choice in enumerate(axis["choices"]):
            yield _y(index / (count - 1)), value_in_words(choice)
        return
    for index in range(TICKS + 1):
        share = index / TICKS
        low, high = axis["low"], axis["high"]
        value = low * (high / low) ** share if axis.get("log") else low + (high - low) * share
        yield _y(share), f"{value:.3g}"


def _title(trial: Mapping[str, Any]) -> str:
    """Returns the text that the page shows under the pointer."""
    score = f"{percent(trial['miou'])} %" if trial["miou"] is not None else trial["reason"]
    return escape(f"trial {trial['number']}, {trial['state']}: {score}; {in_words(trial['values'])}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"
