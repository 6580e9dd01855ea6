"""The names of splits, and their spellings in other tools."""

from __future__ import annotations

#: Spellings of each split's name, in lower case, the usual one first; the first one that is found is used.
SPELLINGS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def canonical_split(name: str) -> str:
    """Returns the usual name of a split: "val" for "Validation", "valid" or "dev"; other names are unchanged."""
    lowered = name.lower()
    return next((usual for usual, spellings in SPELLINGS.items() if lowered in spellings), name)
