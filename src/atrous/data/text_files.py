"""Reads small text files that editors, spreadsheets and labelling tools write, in their usual encodings."""

from __future__ import annotations

import codecs
import csv
import io
import locale
from collections.abc import Iterator
from pathlib import Path

from atrous.errors import AtrousError

#: Byte order marks and their encodings. A mark that begins with another, shorter mark is listed before the shorter
#: mark.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Encodings that editors used before UTF-8. Several of them may fit the bytes of a file; callers choose the encoding in
#: which the names in the file match pictures.
_OLD_ENCODINGS = ("cp1252", "gb18030", "shift_jis", "cp1250", "euc_kr", "big5", "cp1251")


def read_text_file(path: Path) -> str:
    """Reads a text file in UTF-8, UTF-16 or UTF-32; Notepad and Excel can write UTF-16.

    Args:
        path: the text file.

    Raises:
        AtrousError: the file cannot be read, or is in another encoding.
    """
    content = _content(path)
    encoding = _encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise AtrousError(
            f"{path}: line {line} is not {encoding.upper().removesuffix('-SIG')} text. Save the file again as UTF-8 "
            "(in Excel: 'CSV UTF-8'; in Notepad: 'Save as', encoding UTF-8)."
        ) from error


def decodings(path: Path) -> Iterator[str]:
    """Yields every possible text of a file: one if it is Unicode, else one for each old encoding that fits.

    If the file is not Unicode, the first text is UTF-8 in which invalid bytes are escaped as in file names (PEP 383).

    Args:
        path: the text file.

    Raises:
        AtrousError: the file cannot be read.
    """
    content = _content(path)
    encoding = _encoding(content)
    try:
        yield content.decode(encoding)
        return
    except UnicodeDecodeError:
        pass
    yield content.decode("utf-8", errors="surrogateescape")
    for old in dict.fromkeys((locale.getpreferredencoding(False), *_OLD_ENCODINGS)):
        try:
            yield content.decode(old)
        except (UnicodeDecodeError, LookupError):
            continue


def table_of(path: Path, text: str) -> list[list[str]]:
    """Returns the cells of a table, line by line, without empty lines.

    Args:
        path: the file; with the suffix .tsv, tabs separate the cells.
        text: the content of the file.

    Raises:
        AtrousError: the text is not a table.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter_of(first)
    try:
        table = [[cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise AtrousError(f"{path}: cannot be read as a table: {error}.") from error
    return [cells for cells in table if any(cells)]


def delimiter_of(line: str) -> str:
    """Returns the most frequent separator in a table's line: comma, semicolon, tab or vertical bar."""
    return max((",", ";", "\t", "|"), key=line.count)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AtrousError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _encoding(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    if b"\0" in content[:64]:  # UTF-16 without a mark: every other byte of ASCII text is 0
        return "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    return "utf-8"
