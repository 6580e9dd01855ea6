"""Checks whether a training can start on a dataset, used by `doctor` and at the start of `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.split_names import canonical_split
from atrous.errors import counted, nearest

#: If a split has at most this number of pictures, its score means little.
FEW = 2


def obstacles(
    pictures: Mapping[str, int],
    classes: ClassTable | None,
    pixels: Mapping[str, Sequence[int]],
    train: str = "train",
    val: str = "val",
    nouns: tuple[str, str] = ("picture", "pixel"),
) -> Iterator[tuple[str, str]]:
    """Yield reasons why a training cannot start: a kind such as "missing_split", and a sentence with the solution.

    Args:
        pictures: the number of pictures or volumes of each split.
        classes: the class table, or None where there is none yet.
        pixels: the number of labelled pixels of each class by split, for splits that have been counted.
        train: the split to learn from.
        val: the split to choose the best weights on.
        nouns: what an item and its smallest part are called, as in `Dataset.nouns`.
    """
    item, part = nouns
    there = ", ".join(f"{name} {count}" for name, count in pictures.items()) or "none"
    for wanted, purpose in ((train, "to learn from"), (val, "to choose the best weights on")):
        name = wanted if wanted in pictures else canonical_split(wanted)
        if name not in pictures:
            cure = (
                f"add {item}s, at least one for each split"
                if sum(pictures.values()) < 2
                else f"add its {item}s or its list, or name another split in the recipe (data.{_field(wanted, train)})"
            )
            if near := nearest(wanted, pictures):
                yield "missing_split", f"There is no split '{wanted}'; there are {there}. Did you mean '{near}'?"
                continue
            sentence = f"Training needs a split '{wanted}' {purpose}; the splits are {there}. To train, {cure}."
            yield "missing_split", sentence
        elif not pictures[name]:
            yield "empty_split", f"The split '{wanted}' has no {item}s, and training needs it {purpose}. Add some."
        elif classes is not None and name in pixels and not sum(pixels[name]):
            yield (
                "nothing_labelled",
                f"The split '{wanted}' of the data has no labelled {part} where its {item}s hold data (not "
                "nodata, transparent, NaN or infinite), so it cannot be learned from or measured. Compare "
                f"masks and {item}s.",
            )
    if classes is not None and len(classes) == 1:
        yield (
            "one_class",
            f"There is one class only, '{classes.names[0]}': training needs at least two. Add a class for its "
            "surroundings, such as 'background', to classes.yaml.",
        )


def few_pictures(
    pictures: Mapping[str, int], val: str = "val", nouns: tuple[str, str] = ("picture", "pixel")
) -> Iterator[tuple[str, str]]:
    """Yield a warning, as a kind and a sentence, if the split is too small for its score to mean much.

    Args:
        pictures: the number of pictures or volumes of each split.
        val: the split to choose the best weights on.
        nouns: as for `obstacles`.
    """
    count = pictures.get(val, pictures.get(canonical_split(val), 0))
    if 0 < count <= FEW:
        yield (
            "few_pictures",
            f"The split '{val}' has {counted(count, nouns[0])}: too few for a reliable score, and for a "
            f"reliable choice of the best weights. Add labelled {nouns[0]}s to it.",
        )


def _field(wanted: str, train: str) -> str:
    return "train" if wanted == train else "val"
