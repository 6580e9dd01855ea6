"""Random splits for datasets without split lists: a seed assigns pictures, or whole groups, to train, val and test."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from atrous.errors import counted

SPLIT_SEED = 0
#: Smallest number of groups for which a test split is made; with fewer groups, too little would remain for training.
_GROUPS_FOR_TEST = 5


class _Item(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str | None: ...


Kind = TypeVar("Kind", bound=_Item)


def seeded_split(items: Iterable[Kind], seed: int = SPLIT_SEED) -> tuple[dict[str, tuple[Kind, ...]], str]:
    """Splits items at random into 80 % train, 10 % val and 10 % test; items of one group stay together.

    Items without groups are sorted by name and then shuffled with the seed.

    Args:
        items: the items. Without groups, train and val get at least one item each if there are two or more items; test
            gets at least one item if there are ten or more. With groups, val gets at least one group if there are two
            or more groups; test gets at least one group if there are five or more groups and ten or more items. An
            item without a group then counts as a group.
        seed: any integer; the same seed, names and groups give the same split.

    Returns:
        The splits that are not empty, each sorted by name, and a sentence that describes the split.
    """
    shuffled = sorted(items, key=lambda item: item.name)
    groups = _groups(shuffled)
    how = "so a random split 80/10/10 was made"
    if groups and len(groups) > 1:
        parts = _by_groups(groups, seed)
        how += " by whole groups"
    else:
        random.Random(seed).shuffle(shuffled)
        tenth = len(shuffled) // 10
        val = max(1, tenth) if len(shuffled) > 1 else 0
        parts = {"val": shuffled[:val], "test": shuffled[val : val + tenth], "train": shuffled[val + tenth :]}
    splits = {
        name: tuple(sorted(parts[name], key=lambda item: item.name)) for name in ("train", "val", "test") if parts[name]
    }
    counts = ", ".join(f"{name} {_counted(part, bool(groups))}" for name, part in splits.items())
    one = " All items are in one group, so all splits share it." if groups and len(groups) == 1 else ""
    note = (
        f"There are no split lists, {how} with seed {seed}: {counts}.{one} "
        "To choose the splits, write splits/train.txt, val.txt and test.txt."
    )
    return splits, note


def _groups(items: Iterable[Kind]) -> list[list[Kind]]:
    """Returns the items of each group, sorted by group name; [] if no item has a group.

    Each item without a group is a group of its own.
    """
    found: dict[tuple[bool, str], list[Kind]] = {}
    for item in items:
        found.setdefault((item.group is None, item.name if item.group is None else item.group), []).append(item)
    return [found[key] for key in sorted(found)] if any(not alone for alone, _ in found) else []


def _by_groups(groups: list[list[Kind]], seed: int) -> dict[str, list[Kind]]:
    """Assigns whole groups to val, test and train.

    Val gets up to a tenth of the items, but at least one group. Test gets as many, if there are at least five groups
    and ten items; otherwise, test is empty.
    """
    random.Random(seed).shuffle(groups)
    total = sum(map(len, groups))
    wanted = {"val": max(1, total // 10), "test": total // 10 if len(groups) >= _GROUPS_FOR_TEST else 0}
    parts: dict[str, list[Kind]] = {}
    for name, number in wanted.items():
        parts[name] = []
        kept = 2 if name == "val" and wanted["test"] else 1  # number of groups that must remain for the other splits
        for group in list(groups) if number else ():
            if len(groups) > kept and len(parts[name]) + len(group) <= number:
                parts[name] += group
                groups.remove(group)
        if number and not parts[name]:
            smallest = min(groups, key=len)  # if several groups are the smallest, the first of them is used
            parts[name] += smallest
            groups.remove(smallest)
    return {**parts, "train": [item for group in groups for item in group]}


def _counted(part: Sequence[Kind], by_group: bool) -> str:
    if not by_group:
        return str(len(part))
    return f"{len(part)} ({counted(len(_groups(part)), 'group')})"
