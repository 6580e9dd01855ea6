"""Checks whether training can start on a dataset; `doctor` and the start of `train` use these checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from atrous.data.dataset import file_noun
from atrous.data.mask_value_map import ClassTable
from atrous.data.splits.split_names import canonical_split
from atrous.errors import counted, nearest

#: If a split has at most this number of pictures, its score is not reliable.
FEW = 2


def obstacles(
    pictures: Mapping[str, int],
    classes: ClassTable | None,
    pixels: Mapping[str, Sequence[int]],
    train: str = "train",
    val: str = "val",
    nouns: tuple[str, str] = ("picture", "pixel"),
) -> Iterator[tuple[str, str]]:
    """Yields the reasons why training cannot start, each as a kind such as "missing_split" and sentences with a cure.

    Args:
        pictures: the number of pictures or volumes of each split.
        classes: the class table; None if there is no class table yet.
        pixels: by split, the number of labelled pixels of each class; splits that were not counted are left out.
        train: the split to learn from.
        val: the split to choose the best weights on.
        nouns: names of an item and of its smallest part in sentences, as in `Dataset.nouns`.
    """
    (item, part), file = nouns, file_noun(nouns[0])
    there = ", ".join(f"{name} {count}" for name, count in pictures.items()) or "none"
    for wanted, purpose in ((train, "to learn from"), (val, "to choose the best weights on")):
        name = wanted if wanted in pictures else canonical_split(wanted)
        if name not in pictures:
            cure = (
                f"add {file}s, at least one for each split"
                if sum(pictures.values()) < 2
                else f"add its {file}s or its list, or name another split in the recipe (data.{_field(wanted, train)})"
            )
            if near := nearest(wanted, pictures):
                yield "missing_split", f"There is no split '{wanted}'; the splits are {there}. Did you mean '{near}'?"
                continue
            sentence = f"Training needs a split '{wanted}' {purpose}; the splits are {there}. To train, {cure}."
            yield "missing_split", sentence
        elif not pictures[name]:
            yield (
                "empty_split",
                f"The split '{wanted}' has no {item}s, but training needs it {purpose}. Add {file}s to it.",
            )
        elif classes is not None and name in pixels and not sum(pixels[name]):
            yield (
                "nothing_labelled",
                f"The split '{wanted}' of the data has no labelled {part} where its {item}s hold data. Nodata, "
                "transparent, NaN and infinite values are no data. So the split cannot be used to train or measure. "
                f"Compare the masks with the {item}s.",
            )
    if classes is not None and len(classes) == 1:
        yield (
            "one_class",
            f"There is only one class, '{classes.names[0]}', but training needs at least two. Add a class for its "
            "surroundings, such as 'background', to classes.yaml.",
        )


def few_pictures(
    pictures: Mapping[str, int], val: str = "val", nouns: tuple[str, str] = ("picture", "pixel")
) -> Iterator[tuple[str, str]]:
    """Yields a warning, as a kind and sentences, if a split has so few pictures that its score is not reliable.

    Args:
        pictures: the number of pictures or volumes of each split.
        val: the split to choose the best weights on.
        nouns: as for `obstacles`.
    """
    count = pictures.get(val, pictures.get(canonical_split(val), 0))
    if 0 < count <= FEW:
        yield (
            "few_pictures",
            f"The split '{val}' has {counted(count, nouns[0])}: too few for a reliable score and a "
            f"reliable choice of the best weights. Add labelled {file_noun(nouns[0])}s to it.",
        )


def _field(wanted: str, train: str) -> str:
    """Returns the field of a recipe's ``data`` that names a split."""
    return "train" if wanted == train else "val"
