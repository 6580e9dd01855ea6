"""The names of splits, and their spellings in other tools."""

from __future__ import annotations

#: Spellings of the name of each split, in lower case, in order of precedence; the first is the usual name.
SPELLINGS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def canonical_split(name: str) -> str:
    """Returns the usual name of a split: "val" for "Validation", "valid" or "dev"; other names are unchanged.

    Args:
        name: name of a split, in upper or lower case.
    """
    lowered = name.lower()
    return next((usual for usual, spellings in SPELLINGS.items() if lowered in spellings), name)
