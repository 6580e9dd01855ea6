"""The response header X-Note, which contains a warning about an upload; the server writes it, and the client reads it.

A header is one line of ASCII. Characters that are not ASCII, and `%`, are percent-encoded in UTF-8 (RFC 3986, 2.1).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from urllib.parse import quote, unquote

NAME = "X-Note"
#: Largest number of characters of a note: clients and proxies limit the size of a header, often to 8 KiB.
MOST_CHARACTERS = 600
_UNCHANGED = " " + string.punctuation.replace("%", "")


def note_header(note: str | None) -> dict[str, str]:
    """Returns the header for a note; no header for no note.

    Args:
        note: sentences for the client. White space is collapsed, and a note of more than `MOST_CHARACTERS` is cut.
    """
    text = " ".join((note or "").split())
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]} …"
    return {NAME: quote(text, safe=_UNCHANGED, errors="replace")} if text else {}


def note_in(headers: Mapping[str, str]) -> str:
    """Returns the note in the headers of a response; "" if there is no note.

    Args:
        headers: headers of the response; names are case-insensitive.
    """
    return unquote(headers.get(NAME, ""))
