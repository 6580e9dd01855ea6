"""Checks of mask values in all files: blended edges, and codings and palettes that differ between files."""

from __future__ import annotations

from collections.abc import Iterator

from atrous.data.class_colors import Color
from atrous.data.dataset import Dataset
from atrous.data.doctor.judge import SHOWN, Finding, at_pixel, shown
from atrous.data.doctor.scan import MaskFacts, Pair, masks_of
from atrous.data.formats.palettes import palettes_differ
from atrous.data.mask_value_map import ClassTable, Raw
from atrous.errors import counted

_TOPS = (255, 65535)  # the value of white in masks of 8 and of 16 bits


def find_blended_edges(dataset: Dataset, pairs: list[Pair], blended: set[Raw]) -> Iterator[Finding]:
    """Yields an error if edges in masks hold blends of the values on both sides.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
        blended: the values that are blends, as found by `blended_values`.
    """
    examples = []
    for pair, mask in masks_of(pairs):
        here = [(value, int(count)) for value, count in zip(mask.values, mask.counts, strict=True) if value in blended]
        if here:
            place = next(((value, at) for value, at in mask.between_places.items() if value in blended), None)
            where = f", such as {place[0]} at {at_pixel(place[1])}" if place else ""
            pixels = sum(count for _, count in here)
            examples.append(
                f"{shown(dataset, pair.item.mask)}: {pixels} {dataset.nouns[1]}s of {len(here)} in-between "
                f"values{where}"
            )
    if examples:
        yield Finding(
            "blended_edges",
            f"The edges in masks are blended: {len(blended)} rare values occur only between areas of other values. "
            "They are not classes; antialiasing, smoothing or resizing with interpolation creates them. Export the "
            "masks again without antialiasing, and resize masks only with nearest neighbour.",
            len(examples),
            tuple(examples[:SHOWN]),
        )


def files_by_coding(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Returns the grey masks by their coding of the foreground; empty if all masks have the same coding.

    The result is also empty if a mask holds 255 (or 65535) and another number that is not 0, because 255 (or 65535)
    then means "ignore".

    Args:
        pairs: the items of a dataset, each once.
    """
    groups: dict[str, list[Pair]] = {}
    for pair, mask in masks_of(pairs):
        above = {value for value in mask.values if value != 0}
        if mask.in_color or mask.lossy or not above:
            continue
        top = next((top for top in _TOPS if top in above), None)
        if top is not None and len(above) > 1:
            return {}
        groups.setdefault(f"0 and {top}" if top else "class numbers", []).append(pair)
    return groups if len(groups) > 1 else {}


def find_mixed_codings(
    dataset: Dataset, groups: dict[str, list[Pair]], classes: ClassTable | None
) -> Iterator[tuple[bool, Finding]]:
    """Yields a finding if masks code the foreground as 255 or 65535 in some files and as class numbers in others.

    Args:
        dataset: the dataset.
        groups: the result of ``files_by_coding``.
        classes: its class table, or None.

    Yields:
        Whether the finding is an error, and the finding. The finding is an error if the class table is missing or does
        not list all values.
    """
    if not groups or (classes is not None and classes.color_coded):
        return
    listed = {value for values in classes.raw for value in values} if classes is not None else set()
    masks = [pair.mask for part in groups.values() for pair in part if pair.mask]
    if classes is not None and all(set(mask.values) <= listed for mask in masks):
        return  # each value means a class, such as raw: [1, 255]
    unknown = classes is None or any(mask.unknown for mask in masks)
    if not unknown and classes is not None and len(classes) == 2:
        return  # reported as foreground_is_255
    examples = [
        f"{coding} ({_values(part)}): {counted(len(part), 'file')}, such as "
        + ", ".join(shown(dataset, pair.item.mask) for pair in part[:SHOWN])
        for coding, part in groups.items()
    ]
    yield (
        unknown,
        Finding(
            "mixed_coding",
            "The masks differ in their coding: some hold 0 and white (255 or 65535), others hold class numbers. White "
            "may be the foreground, but it would be ignored or become an extra class. Write all masks with one coding.",
            len(masks),
            tuple(examples),
        ),
    )


def find_differing_palettes(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    """Yields an error if the palettes of two masks have different colours for the same index.

    Args:
        dataset: the dataset.
        pairs: its items, each once.
    """
    seen: dict[int, tuple[Color, Pair]] = {}
    examples: list[str] = []
    message, files = "", 0
    for pair, mask in masks_of(pairs):
        differing = False
        for index, color in (mask.palette or {}).items():
            first_color, first = seen.setdefault(index, (color, pair))
            if color != first_color and not differing:
                differing = True
                names = shown(dataset, first.item.mask), shown(dataset, pair.item.mask)
                message = message or palettes_differ(index, first_color, names[0], color, names[1])
                examples.append(f"{names[1]}: index {index} is {color}, and {first_color} in {names[0]}")
        files += differing
    if message:
        yield Finding("palettes_differ", message[0].upper() + message[1:], files, tuple(examples[:SHOWN]))


def colors_by_palette(masks: list[MaskFacts]) -> dict[Raw, int]:
    """Returns the number of pixels of each colour in the masks that have a palette.

    Args:
        masks: the facts of the masks.
    """
    pixels: dict[Raw, int] = {}
    for mask in masks:
        for value, count in zip(mask.values, mask.counts.tolist(), strict=True):
            if mask.palette and isinstance(value, int) and value in mask.palette:
                color = mask.palette[value]
                pixels[color] = pixels.get(color, 0) + count
    return pixels


def _values(pairs: list[Pair]) -> str:
    """Returns the first six values in masks as words."""
    found = sorted({value for pair in pairs if pair.mask for value in pair.mask.values if isinstance(value, int)})
    return ", ".join(map(str, found[:6])) + (", …" if len(found) > 6 else "")
