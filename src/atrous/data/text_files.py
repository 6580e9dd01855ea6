"""Reading small text files that editors, spreadsheets and labelling tools write, whatever the locale."""

from __future__ import annotations

import codecs
import csv
import io
import locale
from collections.abc import Iterator
from pathlib import Path

from atrous.errors import AtrousError

#: Byte order marks, the longer before the shorter that they begin with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: What editors wrote before UTF-8; which of them a file is in can only be judged by what it names.
_OLD_ENCODINGS = ("cp1252", "gb18030", "shift_jis", "cp1250", "euc_kr", "big5", "cp1251")


def read_text_file(path: Path) -> str:
    """Read a text in UTF-8, or in UTF-16 or UTF-32 as Notepad and Excel write it.

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
            f"{path}: line {line} is no {encoding.upper().removesuffix('-SIG')} text. Save the file again as UTF-8 "
            "(in Excel: 'CSV UTF-8'; in Notepad: 'Save as', encoding UTF-8)."
        ) from error


def decodings(path: Path) -> Iterator[str]:
    """Yield every text that a file may mean: one where it is Unicode, else one for each old encoding that fits.

    The first alternative keeps bytes that are no text as Python keeps those of file names (PEP 383).

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
    """The cells of a table, line by line, without empty lines.

    Args:
        path: the file, whose ending .tsv says that tabs separate the cells.
        text: what it holds.

    Raises:
        AtrousError: the text is no table.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter_of(first)
    try:
        table = [[cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise AtrousError(f"{path}: cannot be read as a table: {error}.") from error
    return [cells for cells in table if any(cells)]


def delimiter_of(line: str) -> str:
    """The character that most likely separates the cells of a table's line: comma, semicolon, tab or bar."""
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
