"""A paired test of whether two measurements of the same pictures differ by more than chance, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atrous.commands._report_intervals import cautions, counts_by_group, over
from atrous.errors import counted
from atrous.learning.bootstrap import (
    DRAWS,
    ENUMERATED,
    LEVEL,
    SEED,
    Difference,
    groups_with_class,
    paired_differences,
    scores_of,
)
from atrous.learning.confusion_matrix import none_if_nan

#: A difference is significant if its p is below this value.
SIGNIFICANT = 0.05


def compared(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    names: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Returns the differences between two measurements of the same pictures, as plain JSON values.

    Args:
        first: records of the measured pictures of A, as `per_image` in evaluation.json.
        second: records of the measured pictures of B, in the same order, with the same groups and classes.
        classes: names of the classes.
        names: names of A and B in the sentences.
    """
    counts = [counts_by_group(each, len(classes)) for each in (first, second)]
    found = paired_differences(*counts)
    scores = [scores_of(each.sum(0)).columns for each in counts]
    rows = [_row(*each) for each in zip(found, *scores, strict=True)]
    there = groups_with_class(counts[0] + counts[1])
    units, differing = len(counts[0]), int((counts[0] != counts[1]).any((1, 2)).sum())
    return {
        "level": LEVEL,
        "over": over(first),
        "units": units,
        "draws": DRAWS,
        "seed": SEED,
        "test": "every way to swap" if differing <= ENUMERATED else "drawn ways to swap",
        "miou": rows[0],
        "pixel_accuracy": rows[1],
        "classes": [
            {"name": name, **row, "units": int(none_if_nan)}
            for name, row, none_if_nan in zip(classes, rows[2:], there, strict=True)
        ],
        "verdict": _verdict(found[0], units, differing, over(first)[:-1], names),
        "remarks": cautions(first, units),
    }


def _row(difference: Difference, first: float, second: float) -> dict[str, Any]:
    return {
        "a": none_if_nan(first),
        "b": none_if_nan(second),
        "difference": none_if_nan(difference.change),
        "interval": difference.interval and list(difference.interval),
        "standard_error": difference.error,
        "detectable": difference.detectable,
        "p": difference.p,
    }


def _verdict(difference: Difference, units: int, differing: int, kind: str, names: tuple[str, str]) -> list[str]:
    """Returns the result of the test of the mean IoU, as sentences."""
    if not differing:
        return [f"{names[0]} and {names[1]} have the same counts on every picture: there is no difference."]
    if difference.p is None or difference.detectable is None:
        return [f"{counted(units, kind)} cannot show whether the difference is chance: measure on more {kind}s."]
    change = f"mIoU {difference.change:+.4f}, p {p_in_words(difference.p)}"
    if difference.p < SIGNIFICANT:
        worse, better = names if difference.change > 0 else names[::-1]
        said = [f"{better} is better than {worse} ({change}): chance alone rarely gives so large a difference."]
    else:
        said = [f"The difference may be chance ({change})."]
        if (least := 2.0 ** (1 - differing)) >= SIGNIFICANT:
            said.append(
                f"The models differ in only {counted(differing, kind)}, too few for a significant difference: the "
                f"smallest possible p is {least:g}."
            )
    return [
        *said,
        f"The smallest difference in mIoU that these pictures could show is {difference.detectable:.4f} (it is found "
        "in 80 % of such data sets, at p < 0.05).",
    ]


def p_in_words(p: float) -> str:
    """Returns p with its relation sign, such as "= 0.013" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
