"""Checks the directories of a TIFF before a reader that trusts them opens the file.

A directory is the list of the tags of one page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from atrous.errors import AtrousError

#: Largest number of pages of a file that are counted; later pages are not read.
MOST_PAGES = 65536
#: Largest numbers of pages, and of values of one tag, in a file from an untrusted source.
MOST_PAGES_OF_STRANGERS, MOST_VALUES_OF_STRANGERS = 256, 2**20
#: Bytes of one value, by TIFF data type (TIFF 6.0, section 2; 16, 17 and 18 are BigTIFF's).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
#: Tags that define how pixels are stored, from ImageWidth to SampleFormat; a repeated tag would be ambiguous.
_OF_PIXELS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325}
    | {330, 338, 339, 347, 512, 513, 514, 519, 529, 530, 531, 32997, 32998, 42113}
)


class Directory(NamedTuple):
    """The directory of a page: its offset in the file in bytes, and the kind of the page."""

    offset: int
    kind: int  # bits of NewSubfileType: 1 reduced resolution, 2 one of several pages, 4 mask


class _Form(NamedTuple):
    """The layout of numbers: TIFF or BigTIFF, and the byte order."""

    order: str
    big: bool

    def read(self, file: BinaryIO, kind: str) -> int:
        size = struct.calcsize(kind)
        data = file.read(size)
        if len(data) != size:
            raise EOFError
        return struct.unpack(self.order + kind, data)[0]


def directories(file: BinaryIO, name: object, strangers: bool = False) -> list[Directory]:
    """Returns the pages of a file in order.

    The list of pages ends if a directory points to an earlier directory or beyond the end of the file.

    Args:
        file: a TIFF or BigTIFF, open for reading bytes.
        name: name of the file, for messages.
        strangers: whether the file is from an untrusted source; then its pages and the values of its tags are limited.

    Raises:
        AtrousError: there is no page; a page contains a pixel tag twice (readers differ in which of the two they use);
            or a pixel tag is larger than the file. For an untrusted file, also: a page contains any tag twice, the tags
            together are larger than the file, or there are more pages or values than allowed.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    form = _Form(order, False)
    found: dict[int, Directory] = {}
    in_tags = 0  # sum of the bytes of all tags; several tags may point to the same bytes
    try:
        form = _Form(order, form.read(file, "H") == 43)
        if form.big:
            file.seek(8)
        offset = form.read(file, "Q" if form.big else "I")
        while offset and offset not in found and offset < end and len(found) < MOST_PAGES:
            if strangers and len(found) == MOST_PAGES_OF_STRANGERS:
                raise AtrousError(f"{name}: more than {MOST_PAGES_OF_STRANGERS} pages; send one picture per file.")
            file.seek(offset)
            count = form.read(file, "Q" if form.big else "H")
            size = 20 if form.big else 12
            entries = file.read(min(count * size, end))
            if len(entries) < count * size:
                break
            tags = list(_tags(entries, form))
            _check(tags, end, name, strangers)
            in_tags += sum(tag.length * _SIZES.get(tag.type, 1) for tag in tags)
            if strangers and in_tags > end:
                raise AtrousError(
                    f"{name}: cannot be read (its tags hold {in_tags} bytes, the file has {end}); the file is damaged."
                )
            found[offset] = Directory(offset, _kind(tags))
            offset = form.read(file, "Q" if form.big else "I")
    except EOFError:
        pass
    if not found:
        raise AtrousError(f"{name}: cannot be read (it contains no page); the file may be damaged or cut short.")
    return list(found.values())


class _Tag(NamedTuple):
    """An entry of a directory."""

    code: int
    type: int
    length: int  # number of its values
    first: int  # the first value, if it is stored in the entry itself


def _tags(entries: bytes, form: _Form) -> Iterable[_Tag]:
    size, head = (20, "HHQ") if form.big else (12, "HHI")
    for start in range(0, len(entries), size):
        code, kind, count = struct.unpack_from(form.order + head, entries, start)
        letter = {1: "B", 3: "H"}.get(kind, "I")
        first = struct.unpack_from(form.order + letter, entries, start + struct.calcsize(form.order + head))[0]
        yield _Tag(code, kind, count, first)


def _check(tags: list[_Tag], end: int, name: object, strangers: bool) -> None:
    seen: set[int] = set()
    for tag in tags:
        # A repeated tag of `_OF_PIXELS` is ambiguous. In an untrusted file, any repeated tag is refused, because
        # tifffile keeps all copies in memory.
        if tag.code in seen and (strangers or tag.code in _OF_PIXELS):
            raise AtrousError(f"{name}: cannot be read (tag {tag.code} occurs twice in one page); the file is damaged.")
        seen.add(tag.code)
        if tag.code in _OF_PIXELS and tag.length * _SIZES.get(tag.type, 1) > end:
            raise AtrousError(f"{name}: cannot be read (tag {tag.code} is larger than the file); the file is damaged.")
        if strangers and tag.length > MOST_VALUES_OF_STRANGERS and tag.type not in (1, 2, 7):
            raise AtrousError(
                f"{name}: tag {tag.code} has {tag.length} values; save the file in larger strips or tiles."
            )


def _kind(tags: Iterable[_Tag]) -> int:
    for tag in tags:
        if tag.code == 254:
            return tag.first
        if tag.code == 255:  # the old SubfileType: 2 is a reduced copy, 3 is one of several pages
            return {2: 1, 3: 2}.get(tag.first, 0)
    return 0
