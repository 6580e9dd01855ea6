"""Recognises groups in picture names, such as ``patient01_slice03``, ``seq_0001_000123`` or ``walk_frame_012``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import takewhile

from atrous.data.splits.split_names import SPELLINGS

_PERSONS = "patient|pat|subject|subj|sub|person|donor|animal|mouse|case"
_RECORDINGS = "recording|rec|sequence|seq|drive|clip|video|vid|movie|flight|session|track|trajectory|run"
_SCENES = "scene|site|location|loc|place|plot|field|room|slide|wsi|specimen|sample|volume|vol|scan|series|study|stack"
_FRAMES = "frame|fr|f|slice|sl|tile|patch|crop|chip|view|z|t"
#: A number, possibly with a letter before it, or a letter that ends a word: patient01, patient_A3, clip_b, clipB.
_ID = r"(?:[-_ ]?[A-Za-z]?\d+|[-_ ][A-Za-z](?![A-Za-z\d])|[A-Z](?![A-Za-z\d]))"
_GRID = r"(?:x|r|row)_?\d+[-_. ]?(?:y|c|col)_?\d+|(?:y)_?\d+[-_. ]?(?:x)_?\d+"
_NUMBER = r"(?:image|img|frame|fr|slice|sl|tile|patch|crop|chip|view)?[-_. ]?[fztn]?(?<!\d)\d+"
#: Prefixes that many datasets use and that identify no group: a year or the name of a split.
_NO_GROUP = re.compile(rf"(19|20)\d\d|({'|'.join(word for words in SPELLINGS.values() for word in words)})\d*")
_LEAST_SHARE = 0.5  # at least this share of the pictures must be in groups of two or more


def recognised_pattern(names: Collection[str]) -> str | None:
    """Returns a pattern that finds the patient, recording or scene in each name, if most pictures share theirs.

    Args:
        names: names of pictures, without suffix.

    Returns:
        A regular expression with one capturing group, in the form that `find_groups` accepts. None if no known pattern
        finds two or more groups and puts at least half of the pictures into groups of two or more.
    """
    found = next((pattern for pattern in _patterns(names) if _finds_groups(pattern, names)), None)
    if found is None:
        return None
    groups = _found(found, names)
    return next((short for short in _short_patterns(names) if _found(short, names) == groups), found)


def groups_in_names(names: Collection[str]) -> dict[str, str]:
    """Returns the group of each name, found by the recognised pattern; names without a group are left out.

    Args:
        names: names of pictures, without suffix.
    """
    pattern = recognised_pattern(names)
    return {} if pattern is None else _found(pattern, names)


def _patterns(names: Collection[str]) -> Iterator[str]:
    """Yields the patterns in the order in which they are tried; patterns with words such as "patient" come first."""
    for words in (_PERSONS, _RECORDINGS, _SCENES):
        yield rf"^(.*?(?<![A-Za-z])(?i:{words}){_ID})(?!\d)"
    ending = re.escape(_common_ending(names))
    yield rf"(?i)^(.+?)[-_. ]+(?:{_GRID}){ending}$"
    yield rf"(?i)^(.+?)[-_. ]+(?:{_FRAMES})[-_. ]?\d+{ending}$"
    yield rf"(?i)^(.*\d.*?)[-_. ]*{_NUMBER}{ending}$"


def _short_patterns(names: Collection[str]) -> Iterator[str]:
    """Yields patterns that are easy to read; they are preferred to other patterns that find the same groups."""
    ending = _common_ending(names)
    for separator in ("_", "-", r"\.", ""):
        yield rf"^(.+){separator}\d+{re.escape(ending)}$"
    words = re.compile(rf"(?<![A-Za-z])({_PERSONS}|{_RECORDINGS}|{_SCENES})(?![a-z])", re.IGNORECASE)
    used = list(dict.fromkeys(match[0] for name in names for match in words.finditer(name)))
    for word in used:
        for written in (r"\d+", r"[-_ ]\d+", r"[-_ ]?[A-Za-z]?\d+", "[A-Z]", "[-_ ][A-Za-z]"):
            yield rf"({word}{written})"
            yield rf"^(.*?{word}{written})"
    frames = re.compile(rf"[-_. ]({_FRAMES})[-_. ]?\d", re.IGNORECASE)
    for word in dict.fromkeys(match[1] for name in names for match in frames.finditer(name)):
        yield rf"^(.+)_{word}_?\d+{re.escape(ending)}$"


def _common_ending(names: Collection[str]) -> str:
    """Returns the common ending of all names, such as "_leftImg8bit", without digits at its beginning."""
    reversed_names = [name[::-1] for name in names]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*reversed_names, strict=False))
    return "".join(letters[0] for letters in alike)[::-1].lstrip("0123456789")


def _finds_groups(pattern: str, names: Collection[str]) -> bool:
    counts = Counter(_found(pattern, names).values())
    shared = sum(count for count in counts.values() if count > 1)
    return len(counts) > 1 and shared >= max(2, _LEAST_SHARE * len(names))


def _found(pattern: str, names: Collection[str]) -> dict[str, str]:
    matches = ((name, re.search(pattern, name)) for name in names)
    return {name: match[1] for name, match in matches if match and not _NO_GROUP.fullmatch(match[1].lower())}
