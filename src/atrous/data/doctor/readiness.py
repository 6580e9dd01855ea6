"""Checks whether a training can start on a dataset, used by `doctor` and at the start of `train`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.split_names import canonical_split
from atrous.errors import counted

#: Largest number of pictures of a split whose score means little.
FEW = 2


def obstacles(
    pictures: Mapping[str, int],
    classes: ClassTable | None,
    pixels: Mapping[str, Sequence[int]],
    train: str = "train",
    val: str = "val",
) -> Iterator[tuple[str, str]]:
    """Yield reasons why a training cannot start: a kind such as "missing_split", and a sentence with the solution.

    Args:
        pictures: the number of pictures of each split.
        classes: the class table, or None where there is none yet.
        pixels: the number of labelled pixels of each class by split, for splits that have been counted.
        train: the split to learn from.
        val: the split to choose the best weights on.
    """
    there = ", ".join(f"{name} {count}" for name, count in pictures.items()) or "none"
    for wanted, purpose in ((train, "to learn from"), (val, "to choose the best weights on")):
        name = wanted if wanted in pictures else canonical_split(wanted)
        if name not in pictures:
            cure = (
                "add pictures, at least one for each split"
                if sum(pictures.values()) < 2
                else f"add its pictures or its list, or name another split in the recipe (data.{_field(wanted, train)})"
            )
            near = difflib.get_close_matches(wanted, pictures, n=1, cutoff=0.7)
            if near:
                yield (
                    "missing_split",
                    f"unknown split of the data '{wanted}'. Did you mean '{near[0]}'? The splits are {there}.",
                )
                continue
            sentence = f"Training needs a split '{wanted}' {purpose}; the splits are {there}. To train, {cure}."
            yield "missing_split", sentence
        elif not pictures[name]:
            yield "empty_split", f"The split '{wanted}' has no pictures, and training needs it {purpose}. Add some."
        elif classes is not None and name in pixels and not sum(pixels[name]):
            yield (
                "nothing_labelled",
                f"The split '{wanted}' of the data has no labelled pixel where its pictures hold data (not "
                "nodata, transparent, NaN or infinite), so it cannot be learned from or measured. Compare "
                "masks and pictures.",
            )
    if classes is not None and len(classes) == 1:
        yield (
            "one_class",
            f"There is one class only, '{classes.names[0]}': training needs at least two. Add a class for its "
            "surroundings, such as 'background', to classes.yaml.",
        )


def few_pictures_note(pictures: int, val: str) -> str:
    """A warning if a split is too small for its score to mean much, else "".

    Args:
        pictures: number of pictures in the split.
        val: the split to choose the best weights on.
    """
    if pictures > FEW:
        return ""
    return (
        f"the split '{val}' has {counted(pictures, 'picture')}: its score says little about other pictures, and which "
        "weights are the best is nearly chance. Add labelled pictures to it."
    )


def _field(wanted: str, train: str) -> str:
    return "train" if wanted == train else "val"
