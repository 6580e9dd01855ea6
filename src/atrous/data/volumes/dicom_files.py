"""Reads the files of a DICOM series from a folder, or from a ZIP file without unpacking it to disk.

File names and texts of errors may name a patient. So messages contain no file names and no texts of errors, and errors
are raised without their cause (``from None``).
"""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from atrous.errors import AtrousError, missing_extra

#: Errors that opening or reading a damaged, encrypted or unknown ZIP file may raise.
ZIP_ERRORS = (OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)
#: Largest number of files in a folder or a ZIP file.
MOST_FILES = 50_000
#: In the last record of a ZIP file, the index of the size of the directory; and the largest mean size of an entry in
#: bytes.
_DIRECTORY_BYTES, _ENTRY_BYTES = 5, 256
#: A ZIP file is refused if the sum of its uncompressed files is larger than `ZIP_FREE` bytes, and also larger than
#: `ZIP_RATIO` times the ZIP file. Compression makes CT files only two to five times smaller.
ZIP_FREE, ZIP_RATIO = 2**26, 50
#: Largest number of bytes that are read from the header of a file. Multi-frame files have some kilobytes per frame.
HEADER_BYTES = 2**25
#: Largest number of sequence items of a header. An item of 8 bytes needs about 700 bytes of memory in pydicom.
_MOST_ITEMS = 500_000
#: The tag of a sequence item (PS3.5 section 7.5), little-endian and big-endian.
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
#: Largest allowed ratio of the sizes of decompressed and compressed pixels; deflate cannot exceed it.
_COMPRESSED = 1032
#: Transfer syntax Deflated Explicit VR, which is refused, because pydicom decompresses it without a limit of size.
_DEFLATED = "1.2.840.10008.1.2.1.99"


class SeriesFile(NamedTuple):
    """A file of a folder or a ZIP file.

    Attributes:
        size: number of bytes, after decompression.
        folder: folder of the file, or the ZIP file.
        reader: function that opens the file for reading bytes.
    """

    size: int
    folder: Path
    reader: Callable[[], Any]


@contextmanager
def series_files(path: Path) -> Iterator[list[SeriesFile]]:
    """Lists the files of a folder and its subfolders, or of a ZIP file, in the order of their names.

    Args:
        path: a folder or a ZIP file. The ZIP file is open inside the ``with`` block.

    Raises:
        AtrousError: the ZIP file is missing, damaged or encrypted, it expands too much, or there are too many files.
    """
    if path.is_dir():
        paths = sorted(one for one in path.rglob("*") if one.is_file())
        _check_count(path, len(paths))
        yield [SeriesFile(one.stat().st_size, one.parent, lambda one=one: one.open("rb")) for one in paths]
        return
    try:
        _check_directory(path)
        archive = zipfile.ZipFile(path)
    except AtrousError:
        raise
    except FileNotFoundError as error:
        raise AtrousError(f"{path}: no such file or folder.") from error
    except ZIP_ERRORS as error:
        raise AtrousError(f"{path}: the zip is damaged or cannot be read ({type(error).__name__}).") from None
    with archive:
        members = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
        _check_zip(path, members)
        yield [SeriesFile(one.file_size, path, lambda one=one: archive.open(one)) for one in members]


def one_file(path: Path) -> list[SeriesFile]:
    """Returns a single file in the form of `series_files`.

    Args:
        path: the file.

    Raises:
        AtrousError: there is no such file.
    """
    try:
        return [SeriesFile(path.stat().st_size, path.parent, lambda: path.open("rb"))]
    except OSError as error:
        raise AtrousError(f"{path}: no such file.") from error


def _check_count(path: Path, count: int) -> None:
    if count > MOST_FILES:
        raise AtrousError(f"{path}: there are {count} files, but at most {MOST_FILES} are read. Give only one series.")


def _check_directory(path: Path) -> None:
    """Checks the size of a ZIP file's directory: zipfile uses 370 bytes of memory for each entry of 46 bytes."""
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined] # the record that ZipFile uses, also of zip64
    if end and end[_DIRECTORY_BYTES] > MOST_FILES * _ENTRY_BYTES:
        raise AtrousError(
            f"{path}: the directory of the zip has {end[_DIRECTORY_BYTES] / 1e6:.3g} MB, but at most {MOST_FILES} "
            "files are read. Give only one series, with short file names."
        )


def _check_zip(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Checks number, sizes, encryption and compression of the files of a ZIP file before any of them is unpacked.

    The sizes are from the ZIP file's directory. They are upper bounds, because zipfile returns no more bytes of a file
    than the directory states.
    """
    _check_count(path, len(members))
    total, size = sum(one.file_size for one in members), path.stat().st_size
    if total > max(ZIP_FREE, ZIP_RATIO * size):
        raise AtrousError(
            f"{path}: the zip of {size / 1e6:.4g} MB promises {total / 1e6:.4g} MB, which is more than {ZIP_RATIO} "
            "times its size. It is damaged or malicious. If you trust it, give its content as a folder or as a zip "
            "without compression."
        )
    if any(one.flag_bits & 1 for one in members):
        raise AtrousError(f"{path}: the zip is encrypted. Give its content as a folder or as a zip without a password.")
    if any(one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for one in members):
        raise AtrousError(
            f"{path}: the zip has files that are neither stored nor deflated. Pack it again with one of these methods."
        )


class _BoundedReader:
    """A file from which pydicom can read only a limited number of bytes and sequence items; skipped bytes do not count.

    Without a limit, pydicom reads a value of any length into memory.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._bytes, self._items = file, most, _MOST_ITEMS
        self.seek, self.tell = file.seek, file.tell

    @property
    def is_exceeded(self) -> bool:
        """Whether more bytes or sequence items were requested than allowed."""
        return min(self._bytes, self._items) < 0

    def read(self, size: int) -> bytes:
        """Reads bytes; raises ValueError if a limit is exceeded."""
        self._bytes -= size
        content = b"" if self.is_exceeded else self._file.read(size)
        if size <= HEADER_BYTES:
            self._items -= sum(map(content.count, _ITEMS))
        if self.is_exceeded:  # pydicom may turn this error into an error of another type
            raise ValueError("the header or the pixels are larger than allowed")
        return content


def read_dataset(
    path: Path, files: list[SeriesFile], number: int, tags: list[str] | None, pixel_bytes: int | None = None
) -> Any:
    """Reads some tags of a file.

    Args:
        path: the folder or ZIP file, for messages.
        files: files of the folder or ZIP file, from `series_files`.
        number: index of the file to read.
        tags: keywords of the tags; None for all tags.
        pixel_bytes: number of bytes of the pixels according to the header; None to stop reading before the pixels.

    Returns:
        A pydicom dataset; None if the file does not start with the preamble of DICOM.

    Raises:
        AtrousError: pydicom is not installed, the file is damaged, its header is larger than `HEADER_BYTES`, or its
            pixels are more than twice as large as ``pixel_bytes``. Values beyond these limits are not read into memory.
    """
    pydicom, file = pydicom_module(), None
    try:
        with files[number].reader() as opened:
            if opened.read(132)[128:] != b"DICM":
                return None
            file = _BoundedReader(opened, HEADER_BYTES + 2 * (pixel_bytes or 0))
            if _transfer_syntax(file) != _DEFLATED:
                opened.seek(0)
                return pydicom.dcmread(file, specific_tags=tags, stop_before_pixels=pixel_bytes is None)
    except Exception as error:  # pydicom and zlib raise many types for damaged files
        if file is None or not file.is_exceeded:
            raise damaged(path, number, error) from None
        raise AtrousError(
            f"{path}: file {number + 1} in the order of names has a header of more than {HEADER_BYTES >> 20} MiB, or "
            "more pixels than its header promises. It is damaged or malicious. Export the series again."
        ) from None
    raise AtrousError(f"{path}: the DICOM files are deflated (transfer syntax {_DEFLATED}). Store them uncompressed.")


def _transfer_syntax(file: Any) -> str:
    """Reads the transfer syntax from a file whose position is the end of its preamble."""
    from pydicom.filereader import _read_file_meta_info

    return str(_read_file_meta_info(file).get("TransferSyntaxUID", ""))


def promised_bytes(dataset: Any, size: int) -> int:
    """Returns the number of bytes of the decompressed pixels of a grey file, computed from its header.

    Args:
        dataset: pydicom dataset with the tags of the pixels.
        size: number of bytes of the file.

    Raises:
        ValueError: a file of this size cannot hold this number of pixels. The check needs no memory for the pixels.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    promised = count * int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) / 8
    if promised > size * (_COMPRESSED if dataset.file_meta.TransferSyntaxUID.is_compressed else 1) or promised <= 0:
        raise ValueError("the pixels do not fit into the file")
    return int(promised) + 1


@contextmanager
def reading_tags(path: Path, number: int = 0) -> Iterator[None]:
    """Replaces errors of pydicom by the error for a damaged file, while tags of a file are read.

    pydicom decodes a tag only when it is accessed. Its errors quote bytes of the file, which may name the patient.

    Args:
        path: the folder or ZIP file, or a single file.
        number: index of the file.

    Raises:
        AtrousError: an error was raised. If it was an AtrousError, its message is kept and follows the path.
    """
    try:
        yield
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from None
    except Exception as error:  # pydicom raises many types
        raise damaged(path, number, error) from None


def damaged(path: Path, number: int, error: Exception) -> AtrousError:
    """Returns the error for a damaged file. Its message gives the number of the file, because names may name a patient.

    Args:
        path: the folder or ZIP file.
        number: index of the file.
        error: the original error; the message contains only its type.
    """
    return AtrousError(
        f"{path}: file {number + 1} in the order of names is damaged or not valid DICOM ({type(error).__name__}). "
        "Export the series again."
    )


def pydicom_module() -> Any:
    """Returns the module pydicom.

    Raises:
        AtrousError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise missing_extra("pydicom", "medical") from error
    # Warnings of these packages quote values of headers, which may name a patient.
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\.")
    return pydicom
