"""Checks files at URLs in the same way as `overwrite_checks` and `software_tag` check files on this machine."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from atrous.data.remote.listing import files_in, opened
from atrous.data.remote.transfer import as_path, check_storable
from atrous.errors import AtrousError
from atrous.overwrite_checks import FILE_SUFFIXES, files_of_others
from atrous.paths import shown_place
from atrous.software_tag import is_marked, is_sealed

#: Number of files that are checked at the same time. Most of the time is spent waiting for the server, so checks in
#: parallel take less time.
AT_A_TIME = 8
#: Number of bytes at the start of a PNG that contain the mark of atrous; the mark is before the pixels.
HEAD_BYTES = 2**16


def check_is_remote_folder(flag: str, url: str) -> None:
    """Checks, before the work, that a URL can be the folder for outputs.

    Args:
        flag: name of the argument with the URL, such as "out".
        url: URL of the folder that the call is going to write into.

    Raises:
        AtrousError: nothing can be stored at the URL, or the URL ends like a file name and is not a folder.
    """
    check_storable(url)
    if as_path(url).suffix.lower() in FILE_SUFFIXES and files_in(url) is None:
        raise AtrousError(
            f"{flag} is {shown_place(url)}, which is named like a file; give a folder for the files instead."
        )


def check_remote_outputs(verb: str, targets: Sequence[str], out: str, *, overwrite: bool = False) -> None:
    """Checks, before the work, that masks at URLs do not replace files that atrous did not write.

    Args:
        verb: name of the command, for messages.
        targets: URLs of all files that the call is going to write, each directly in `out`.
        out: URL of their folder.
        overwrite: True to allow replacing files that atrous did not write.

    Raises:
        AtrousError: the masks would replace files that atrous did not write.
    """
    if overwrite or not (there := files_in(out)):
        return
    existing = [url for url in targets if url.rpartition("/")[2] in there]
    foreign = [url for url, ours in zip(existing, _of_all(_is_our_picture, existing), strict=True) if not ours]
    if foreign:
        raise files_of_others(verb, "out", shown_place(out), [url.rpartition("/")[2] for url in foreign])


def marked_pictures(urls: Sequence[str]) -> dict[str, bool]:
    """Returns a dict: URL of each picture that atrous wrote → whether its pixels are still unchanged.

    Args:
        urls: URLs of picture files, except HTTP and HTTPS URLs.
    """
    may_be = [url for url in urls if as_path(url).suffix.lower() in (".png", ".tif", ".tiff")]
    marked = [url for url, is_ours in zip(may_be, _of_all(_is_marked, may_be), strict=True) if is_ours]
    return dict(zip(marked, _of_all(_is_our_picture, marked), strict=True))


def _of_all(question: Callable[[str], bool], urls: Sequence[str]) -> list[bool]:
    if not urls:
        return []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(question, urls))


def _is_marked(url: str) -> bool:
    with opened(url, HEAD_BYTES) as file:
        if as_path(url).suffix.lower() == ".png":
            return is_marked(io.BytesIO(file.read(HEAD_BYTES)))
        return is_marked(file)


def _is_our_picture(url: str) -> bool:
    with opened(url) as file:
        return is_sealed(file)
