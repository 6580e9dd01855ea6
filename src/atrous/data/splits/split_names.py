"""The names of splits, and what other tools call them."""

from __future__ import annotations

#: Other spellings of each split's name, in lower case; the first found wins.
SPELLINGS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def canonical_split(name: str) -> str:
    """The usual name of a split: "val" for "Validation", "valid" or "dev"; other names stay as they are."""
    lowered = name.lower()
    return next((usual for usual, spellings in SPELLINGS.items() if lowered in spellings), name)
