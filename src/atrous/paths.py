"""Checks paths on this machine and URLs, and formats them for messages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeAlias

from atrous.errors import SHOWN, AtrousError, no_encoding

#: A path, or a URL as text.
Place: TypeAlias = Path | str


def is_url(place: Place) -> bool:
    """Returns whether a place is a URL, such as https://…, s3://… or file://…; a Windows drive (C:/…) is not a URL.

    Args:
        place: a path, or a text with a path or a URL.
    """
    chain = r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://"  # fsspec chains, such as simplecache::https://
    return isinstance(place, str) and re.match(chain, place) is not None


def shown_place(place: Place) -> str:
    """Formats a place for messages and records, without the user, password and query of a URL, which may be secret.

    Args:
        place: a path, a URL, or a text that contains URLs.
    """
    if isinstance(place, Path):
        return str(place)
    text = re.sub(r"(?<=://)[^/?#\s]*@", "", place)
    # a colon without a port after it begins a password, which may contain an unquoted slash
    text = re.sub(r"(?<=://)(?!\[)[^/?#\s@]*:(?!\d*(?:[/?#]|$))\S*@", "", text)
    text = re.sub(r"(https?://[^?#\s]*)[?#]\S*", r"\1?…", text, flags=re.IGNORECASE)
    return re.sub(r"(://[^?#\s]*)[?#][^\s=]*=\S*", r"\1?…", text)  # in other URLs, ? without "=" is a wildcard


def failure_in_words(place: Place, error: Exception) -> str:
    """Returns an error's message with the picture's name, and with the type of errors that have no message for users.

    Args:
        place: path or URL of the picture.
        error: error from reading or segmenting the picture.
    """
    words = str(error) if isinstance(error, AtrousError | RuntimeError) else f"{type(error).__name__}: {error}"
    name = shown_place(place)
    return words if name in words else f"{name}: {words}"


def place_of(value: str | os.PathLike[Any], name: str) -> Place:
    """Returns a path on this machine, or a URL.

    Args:
        value: the path or the URL.
        name: name of the argument in messages.

    Raises:
        AtrousError: `path_of` refuses the value, or the value is a Path made of a URL.
    """
    if isinstance(value, str) and is_url(value):
        return value
    if isinstance(value, os.PathLike) and (url := _url_in(os.fspath(value))):
        raise AtrousError(f"{name} is {shown_place(url)} as a Path, which loses one of two slashes: give it as text.")
    return path_of(value, name)


def _url_in(text: Any) -> str | None:
    """Returns the URL in a text or in a path made of a URL, which has lost one of two slashes; None for other texts."""
    if not isinstance(text, str) or is_url(text):
        return text if isinstance(text, str) else None
    begin = re.match(r"([A-Za-z][A-Za-z0-9+.-]{1,30}:)[/\\]", text)
    return f"{begin[1]}//{text[begin.end() :]}" if begin and not Path(begin[1]).exists() else None


def path_of(value: str | os.PathLike[Any], name: str) -> Path:
    """Returns a path on this machine.

    Args:
        value: the path.
        name: name of the argument in messages.

    Raises:
        AtrousError: the path is empty, a URL, has a zero character, or cannot be encoded.
        TypeError: the path is not a text.
    """
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} is not a text")  # bytes are not a path on every system
    if url := _url_in(text):
        cure = "leave file:// out" if url.lower().startswith("file:") else "copy it to this machine first"
        raise AtrousError(f"{name} is a URL, {shown_place(url)}, but only paths are allowed here: {cure}.")
    if not text:
        raise AtrousError(f"{name} is empty; give '.' for the current folder.")
    if "\0" in text:
        raise AtrousError(f"{name} contains a zero character, which is not allowed in a path: {text[:SHOWN]!r}.")
    try:
        os.fsencode(text)
    except UnicodeError as error:
        raise no_encoding(error) from error
    return Path(text)
