"""Coded meanings of classes, for example in SNOMED CT; by them, viewers and archives recognise segments of DICOM-SEG.

A code is (scheme, value, meaning), as in PS3.3 section 8: ("SCT", "10200004", "Liver"). A class has no code, a type
alone, or a type and a category. In DICOM-SEG, they are the property type and the property category of a segment (PS3.3
C.8.20.4.2).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from atrous.errors import AtrousError, shown

#: Scheme, value and meaning.
Code: TypeAlias = tuple[str, str, str]
#: () for a class without codes, (type,), or (type, category).
Codes: TypeAlias = tuple[Code, ...]

#: Longest scheme, value and meaning (PS3.5 table 6.2-1: SH, SH, LO).
_LONGEST = (16, 16, 64)


def check_codes(codes: Any, owner: str) -> Codes:
    """Checks the codes of a class.

    Args:
        codes: (), (type,) or (type, category); whole numbers are accepted as values.
        owner: description of the class, for messages.

    Returns:
        The codes as texts.

    Raises:
        AtrousError: there are more than two codes, or a code is not three texts of the lengths that DICOM allows.
    """
    if not isinstance(codes, tuple) or len(codes) > 2:
        raise AtrousError(f"{owner} has the codes {shown(codes)}; give at most two, a type and a category.")
    return tuple(_checked(code, owner) for code in codes)


def _checked(code: Any, owner: str) -> Code:
    parts = tuple(code) if isinstance(code, list | tuple) else ()
    if len(parts) == 3 and isinstance(parts[1], int) and not isinstance(parts[1], bool):
        parts = (parts[0], str(parts[1]), parts[2])  # YAML reads digits as a number
    if len(parts) != 3 or not all(
        isinstance(part, str) and _fits(part, most) for part, most in zip(parts, _LONGEST, strict=True)
    ):
        raise AtrousError(
            f"{owner} has the code {shown(code)}; give [scheme, value, meaning], such as [SCT, 10200004, Liver], of at "
            "most 16, 16 and 64 characters, without a backslash."
        )
    scheme, value, meaning = parts
    return scheme, value, meaning


def _fits(text: str, most: int) -> bool:
    return len(text.strip()) > 0 and len(text) <= most and text.isprintable() and "\\" not in text
