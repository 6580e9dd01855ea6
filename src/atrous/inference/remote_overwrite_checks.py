"""The checks of `overwrite_checks` and `software_tag` for files at URLs."""

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

#: Files that are looked at together, because each waits for its server.
AT_A_TIME = 8
#: Bytes at the beginning of a PNG within which its mark stands, before the pixels.
HEAD_BYTES = 2**16


def check_is_remote_folder(flag: str, url: str) -> None:
    """Refuses, before the work, a URL at which nothing can be stored, or that is named like a file and is no folder.

    Args:
        flag: the argument that names it, such as "out".
        url: of the folder that the call is going to write into.

    Raises:
        AtrousError: it is such a URL.
    """
    check_storable(url)
    if as_path(url).suffix.lower() in FILE_SUFFIXES and files_in(url) is None:
        raise AtrousError(
            f"{flag} is {shown_place(url)}, which is named like a file; give a folder, which files are written into."
        )


def check_remote_outputs(verb: str, targets: Sequence[str], out: str, *, overwrite: bool = False) -> None:
    """Refuses, before the work, masks at URLs that would replace files which this program did not write.

    Args:
        verb: the command, for messages.
        targets: the URLs of all files that the call is going to write, each right in `out`.
        out: the URL of their folder.
        overwrite: replace files that this program did not write.

    Raises:
        AtrousError: there are such files.
    """
    if overwrite or not (there := files_in(out)):
        return
    existing = [url for url in targets if url.rpartition("/")[2] in there]
    foreign = [url for url, ours in zip(existing, _of_all(_is_our_picture, existing), strict=True) if not ours]
    if foreign:
        raise files_of_others(verb, "out", shown_place(out), [url.rpartition("/")[2] for url in foreign])


def marked_pictures(urls: Sequence[str]) -> dict[str, bool]:
    """The pictures that this program wrote, and of each whether it still has the pixels that it was written with.

    Args:
        urls: of picture files, none of them on the web.
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
