"""Finds pictures, groups, ground and near copies that two splits share; they make scores too high."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from atrous.data.dataset import Dataset, Item
from atrous.data.doctor.geographic_footprints import Grounds, overlapping
from atrous.data.doctor.judge import SHOWN, Finding, shown
from atrous.data.doctor.near_duplicates import PICTURES_ALIKE, VOLUMES_ALIKE, NearCopies
from atrous.data.doctor.scan import Pair, PictureFacts
from atrous.data.layouts.rasters import RASTERS
from atrous.data.splits.group_name_patterns import groups_in_names, recognised_pattern
from atrous.data.splits.groups import GROUPS_FILE
from atrous.data.splits.random_split import seeded_split
from atrous.errors import counted

#: Layouts in which split lists define the splits, if such lists exist.
_READS_LISTS = frozenset({"folder", "side_by_side", "voc", "nnunet"})
#: Largest length of a pattern of groups that a message contains, in characters.
LONGEST_PATTERN = 40


def find_shared(dataset: Dataset, by_split: Mapping[str, list[Pair]]) -> tuple[Finding, ...]:
    """Returns warnings of pictures, groups, ground and near copies that two splits share.

    Args:
        dataset: the dataset.
        by_split: the pairs of each split.
    """
    found = (
        *_same_pictures(dataset),
        *_shared_groups(dataset),
        *_same_ground(by_split),
        *_near_identical(dataset, by_split),
    )
    if not found:
        return ()
    return (*found[:-1], replace(found[-1], message=f"{found[-1].message} {_advice(dataset)}"))


def groups_of(dataset: Dataset) -> tuple[dict[Path, str], str | None]:
    """Returns the group of each picture: the group that the dataset defines, or else a group from the file names.

    Args:
        dataset: the dataset.

    Returns:
        Two values. The first contains the group of each picture, without pictures that belong to no group. The second
        is the regular expression that finds the groups in the file names; None if the groups are not from file names.
    """
    items = {item.image: item for items in dataset.splits.values() for item in items if not item.listed}
    given = {path: item.group for path, item in items.items() if item.group is not None}
    certain = dataset.groups_from in ("file", "pattern") or dataset.layout == RASTERS
    if certain or len(set(given.values())) < len(given):
        return given, None
    names = {item.name for item in items.values()}
    by_name = groups_in_names(names)
    if not by_name:
        return given, None
    return {path: by_name[item.name] for path, item in items.items() if item.name in by_name}, recognised_pattern(names)


def propose_split(dataset: Dataset, pairs: Iterable[Pair]) -> dict[str, tuple[Item, ...]]:
    """Returns a random split that keeps groups, near copies of each other, and pictures of the same ground together.

    Ground is ignored if it joins more than half of the pictures, as with overlapping tiles of one scene. Otherwise most
    pictures would be in one split.

    Args:
        dataset: the dataset.
        pairs: its items, each once, with the facts about their files.

    Returns:
        The items of each split, as `seeded_split` returns them. Items whose split the dataset defines are left out.
    """
    given, _ = groups_of(dataset)
    facts = {pair.item.image: pair.picture for pair in pairs if pair.picture}
    joined = _Joined()
    first: dict[str, Path] = {}
    for path, group in given.items():
        joined.join(first.setdefault(group, path), path)
    for one, other in _near_copies(dataset, facts).pairs() if facts else ():
        joined.join(one, other)
    alone = _roots(joined, dataset.unlisted)
    for one, other in overlapping({path: found.footprint for path, found in facts.items() if found.footprint}):
        joined.join(one, other)
    with_ground = _roots(joined, dataset.unlisted)
    largest = max(Counter(with_ground.values()).values(), default=0)
    roots = with_ground if largest <= len(dataset.unlisted) / 2 else alone
    sizes = Counter(roots.values())
    return seeded_split(
        replace(item, group=str(roots[item.image]) if sizes[roots[item.image]] > 1 else None)
        for item in dataset.unlisted
    )[0]


def _roots(joined: _Joined, items: Iterable[Item]) -> dict[Path, Path]:
    """Returns, for each picture, the picture that represents all pictures joined with it."""
    return {item.image: joined.root(item.image) for item in items}


class _Joined:
    """A union-find structure of pictures that must stay in one split."""

    def __init__(self) -> None:
        self._above: dict[Path, Path] = {}

    def root(self, path: Path) -> Path:
        """Returns the picture that represents all pictures joined with this one."""
        while (above := self._above.get(path, path)) != path:
            self._above[path] = path = self._above.get(above, above)
        return path

    def join(self, one: Path, other: Path) -> None:
        """Joins two pictures and all pictures joined with either of them."""
        first, second = sorted((self.root(one), self.root(other)))
        if first != second:
            self._above[second] = first


def _advice(dataset: Dataset) -> str:
    """Returns a sentence that states what to do; this depends on how the dataset defines its splits."""
    if dataset.unlisted:
        return "`--write-split` writes split lists that keep groups, places and near copies together."
    if dataset.layout in _READS_LISTS:
        return (
            "Move the split lists to another folder, and run `atrous doctor` with --write-split. It writes lists that "
            "keep groups, places and near copies together."
        )
    return f"Move all {dataset.nouns[0]}s of a group, with their masks, to one of the splits."


def _same_pictures(dataset: Dataset) -> Iterator[Finding]:
    for (first, items), (second, others) in _independent_splits(dataset.splits):
        shared = {item.image for item in items} & {item.image for item in others}
        yield from _counted(
            "same_picture",
            f"{dataset.nouns[0].capitalize()}s listed in both {first} and {second}; scores on them mean nothing.",
            sorted(shown(dataset, path) for path in shared),
        )


def _shared_groups(dataset: Dataset) -> Iterator[Finding]:
    groups, pattern = groups_of(dataset)
    noun = dataset.nouns[0]
    such = "scans" if noun == "volume" else "slices"
    if pattern is None:
        sources = {"file": "groups.csv", "pattern": "the pattern of groups"}
        how = f"according to {sources.get(dataset.groups_from, 'the layout')}"
        cure = ""
    else:
        how = "by their names"
        option = f"give --groups '{pattern}'" if len(pattern) <= LONGEST_PATTERN else f"write a {GROUPS_FILE}"
        cure = f" If these names mean something else, ignore this warning. To group {noun}s by them, {option}."
    for (first, items), (second, others) in _independent_splits(dataset.splits):
        one, other = (Counter(groups[item.image] for item in part if item.image in groups) for part in (items, others))
        yield from _counted(
            "shared_group",
            f"Groups, {how}, have {noun}s in both {first} and {second}. Such a group can be the {such} of one patient "
            f"or the frames of one recording. Because {noun}s of one group resemble each other, scores on {second} are "
            f"too high.{cure}",
            [
                f"'{group}': {counted(one[group], noun)} in {first}, {other[group]} in {second}"
                for group in sorted(one.keys() & other.keys())
            ],
        )


def _same_ground(by_split: Mapping[str, list[Pair]]) -> Iterator[Finding]:
    splits = {name: {pair.item: pair for pair in pairs if pair.picture} for name, pairs in by_split.items()}
    placed = {
        pair.item.image: pair.picture.footprint
        for pairs in splits.values()
        for pair in pairs.values()
        if pair.picture and pair.picture.footprint
    }
    for (first, items), (second, others) in _independent_splits(splits):
        names = {item.image: item.name for item in items}
        grounds = Grounds({path: placed[path] for path in names if path in placed})
        shared = (
            (other.name, next(grounds.sharing(placed[other.image]), None)) for other in others if other.image in placed
        )
        yield from _counted(
            "same_ground",
            f"Pictures of {second} show the same ground as pictures of {first}, according to their coordinates, so "
            "scores on them are too high. Keep pictures of one place in one split. If all tiles of a scene overlap, "
            "divide the area of the scene into splits.",
            [f"{second} '{name}' and {first} '{names[twin]}'" for name, twin in shared if twin is not None],
        )


def _near_identical(dataset: Dataset, by_split: Mapping[str, list[Pair]]) -> Iterator[Finding]:
    splits = {name: {pair.item: pair for pair in pairs if pair.picture} for name, pairs in by_split.items()}
    facts = {pair.item.image: pair.picture for pairs in splits.values() for pair in pairs.values() if pair.picture}
    if not facts or dataset.layout == RASTERS:  # windows of water, or of one kind of crop, look alike wherever they are
        return
    copies = _near_copies(dataset, facts)
    item, pixel = dataset.nouns
    for (first, items), (second, others) in _independent_splits(splits):
        found = copies.between([one.image for one in items], [one.image for one in others]) if items else ()
        yield from _counted(
            "near_identical",
            f"{item.capitalize()}s of {second} look nearly like a {item} of {first}, so scores on them are too high. "
            f"Keep all {item}s of one {'patient' if item == 'volume' else 'object or scene'} in one split.",
            [
                f"{second} '{other.name}' is {first} '{twin.name}', {pixel} for {pixel}"
                if likeness is None
                else f"{second} '{other.name}' ≈ {first} '{twin.name}' (correlation {likeness:.2f})"
                for other, twin, likeness in found
            ],
        )


def _near_copies(dataset: Dataset, facts: Mapping[Path, PictureFacts]) -> NearCopies:
    return NearCopies(facts, VOLUMES_ALIKE if dataset.nouns[0] == "volume" else PICTURES_ALIKE)


def _independent_splits(splits: Mapping[str, Iterable[Any]]) -> Iterator[tuple[tuple, tuple]]:
    """Yields all pairs of splits, without pairs in which one split contains the other, as VOC's trainval and train."""
    for first, second in combinations(splits, 2):
        one, other = set(splits[first]), set(splits[second])
        if _are_apart(first, second) or not (one <= other or other <= one):
            # messages compare the second split with the first, so the training split is first
            first, second = sorted((first, second), key=lambda name: (not name.startswith("train"), name))
            yield (first, splits[first]), (second, splits[second])


def _are_apart(first: str, second: str) -> bool:
    """Returns whether two names mean splits without common pictures, as "trainaug" and "val", but not "trainval"."""
    one, other = ({word for word in ("train", "val", "test") if word in name.lower()} for name in (first, second))
    return bool(one and other) and not one & other


def _counted(kind: str, message: str, examples: list[str]) -> Iterator[Finding]:
    if examples:
        yield Finding(kind, message, len(examples), tuple(examples[:SHOWN]))
