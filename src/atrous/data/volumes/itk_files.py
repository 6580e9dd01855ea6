"""NRRD and MetaImage files, read through SimpleITK: ``.nrrd``, ``.nhdr``, ``.mha`` and ``.mhd``.

The voxels are in the file itself, or, for ``.nhdr`` and ``.mhd``, in one file beside it.

Sources: teem.sourceforge.net/nrrd/format.html and itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from atrous.data.file_version import Version, version_from
from atrous.data.volumes.grid import Grid, reorientation
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, missing_extra

#: The reader of SimpleITK for each file name suffix.
_READERS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
SUFFIXES = tuple(_READERS)
#: Suffixes of headers whose voxels are in a file beside them.
_DETACHED = (".nhdr", ".mhd")
#: Largest number of bytes of a header.
_HEADER_BYTES = 2**16
#: Largest ratio of size that deflate and bzip2 reach; a file that promises more is damaged or malicious.
_DEFLATE, _BZIP2 = 1032, 50_000
_MILLIMETRES = ("mm", "millimeter", "millimetre", "millimeters", "millimetres", "", "?", "???")
#: Units of an axis of time, which is read as contrasts.
_TIMES = ("s", "sec", "second", "seconds", "ms", "msec", "millisecond", "milliseconds")
#: Spaces of NRRD that state the patient's directions, but that ITK does not convert to left, posterior, superior.
_UNREAD_SPACES = ("right-anterior-superior-time", "left-anterior-superior-time")
#: Spaces that ITK reports for directions that are left, posterior, superior, in the file or after ITK's conversion.
_STATED_SPACES = ("left-posterior-superior", "left-posterior-superior-time")
#: Names of the field with the directions of the axes of a MetaImage, in lower case.
_META_DIRECTIONS = ("transformmatrix", "rotation", "orientation")
#: LPS to RAS.
_FLIP = np.diag([-1.0, -1.0, 1.0])


def is_itk(path: Path) -> bool:
    """Returns whether a file name has the suffix of an NRRD or MetaImage file."""
    return path.suffix.lower() in SUFFIXES


def read_itk(path: Path) -> Volume:
    """Reads an NRRD or MetaImage file.

    Args:
        path: a file of three or four dimensions. Components of a voxel, or the fourth dimension, are contrasts.

    Returns:
        The volume; its values have the type of the file, or float32 if they are float64.

    Raises:
        AtrousError: SimpleITK is not installed; the file, or the file of its voxels, is missing or damaged; its numbers
            are complex; its unit of length is not mm; its space is not converted by ITK; or its grid is unusable.
    """
    reader = _opened(path)
    stored = _grid(reader, path)
    try:
        array = _sitk().GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError, ValueError) as error:
        raise _damaged(path, error) from None
    dimensions = reader.GetDimension()
    values = array.transpose(*reversed(range(dimensions)), *range(dimensions, array.ndim)).reshape(*stored.shape, -1)
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):  # values that become infinite hold no data
            values = values.astype(np.float32)
    return Volume(reorientation(stored).to_ras(values), stored, _notes(reader, path))


def itk_grid(path: Path) -> tuple[Grid, int]:
    """Reads the grid of an NRRD or MetaImage file with its own axes, and its number of contrasts, from its header.

    Args:
        path: as for `read_itk`.

    Raises:
        AtrousError: as for `read_itk`.
    """
    reader = _opened(path)
    return _grid(reader, path), reader.GetNumberOfComponents() * int(np.prod(reader.GetSize()[3:], dtype=np.int64))


def itk_notes(path: Path) -> tuple[str, ...]:
    """Returns sentences for the user about properties that the header does not state, such as its orientation.

    Args:
        path: as for `read_itk`.

    Raises:
        AtrousError: as for `read_itk`.
    """
    return _notes(_opened(path), path)


def voxel_file(path: Path) -> Path:
    """Returns the file that holds the voxels: the file beside a ``.nhdr`` or ``.mhd``, else the path itself.

    Args:
        path: file of a volume in any format.

    Raises:
        AtrousError: the header is unreadable, or the voxels are in several files or in another folder.
    """
    if path.suffix.lower() not in _DETACHED:
        return path
    return _voxel_file(path, version_from(path.stat()))


@lru_cache(maxsize=4096)
def _voxel_file(path: Path, version: Version) -> Path:
    """Reads the name of the file of the voxels from a header; each version of a header is read once, for all slices."""
    name = name_of_voxels(path).removeprefix("./")
    is_plain = PurePosixPath(name).name == name == PureWindowsPath(name).name and "%" not in name
    if not name or not is_plain or name.upper().split()[0] in ("LIST", "LOCAL"):
        raise AtrousError(
            f"{path}: the voxels must be in one file in the folder of the header, and the header names {name!r}. Save "
            "the volume as one file (.nrrd or .mha)."
        )
    return path.with_name(name)


def name_of_voxels(path: Path) -> str:
    """Returns the text by which a ``.nhdr`` or ``.mhd`` names the file of its voxels; "" if it names none.

    Args:
        path: file of a volume; for other formats, the result is "".

    Raises:
        OSError: the header cannot be read.
    """
    if path.suffix.lower() not in _DETACHED:
        return ""
    header = _header(path)
    return header.get("data file") or header.get("datafile") or header.get("elementdatafile") or ""


def _header(path: Path) -> dict[str, str]:
    """Returns the fields of a header by their name in lower case."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    fields = {}
    for line in start.split(b"\n"):
        text = line.decode("latin-1").strip()
        if not text:  # the voxels follow
            break
        parts = re.split(r"[:=]+", text, maxsplit=1)
        if len(parts) == 2 and not text.startswith("#"):
            fields[parts[0].strip().lower()] = parts[1].strip()
        if parts[0].strip().lower() == "elementdatafile":
            break
    return fields


def _opened(path: Path) -> Any:
    """Reads the header of a file, and checks that the file can hold as many values as it promises."""
    sitk = _sitk()
    try:
        fields, size = _header(path), voxel_file(path).stat().st_size
    except OSError as error:
        raise AtrousError(f"{error.filename or path}: no such file ({error.strerror}).") from error
    names = {"data file", "datafile"} & fields.keys()
    outside = names or fields.get("elementdatafile", "LOCAL").upper() != "LOCAL"
    if outside and path.suffix.lower() not in _DETACHED:
        raise AtrousError(f"{path}: the voxels are in another file; such a header ends in .nhdr or .mhd: rename it.")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from None
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if not re.search(r"(integer|float)$", kind) or "complex" in kind or "label" in kind:
        raise AtrousError(f"{path}: the values are {kind}; only whole numbers and real numbers are read.")
    if others := [unit for unit in _units(fields) if unit.lower() not in _MILLIMETRES]:
        raise AtrousError(f"{path}: the unit of length is {others[0]!r}, and only mm is read: save the volume in mm.")
    if (space := _space(reader)) in _UNREAD_SPACES:
        raise AtrousError(
            f"{path}: its space is {space}, which is not read: save the volume with the space {space[:-5]} or as NIfTI."
        )
    shape = reader.GetSize()
    if not 3 <= len(shape) <= 4 or min(shape) < 1:
        raise AtrousError(f"{path}: a volume has three or four dimensions of at least 1, and the file has {shape}.")
    bits = re.search(r"(\d+)-bit", kind)
    values = float(np.prod(shape, dtype=np.float64)) * reader.GetNumberOfComponents()
    needed = values * (int(bits[1]) if bits else 8) / 8
    if needed > size * (_BZIP2 if fields.get("encoding", "").startswith("bz") else _DEFLATE):
        raise AtrousError(
            f"{path}: the file is damaged: its header promises {needed / 1e6:.4g} MB, which {size / 1e6:.4g} MB cannot "
            "hold."
        )
    return reader


def _units(fields: dict[str, str]) -> list[str]:
    """Returns the units of length in a header: of NRRD's space or of its axes, or the unit of a MetaImage."""
    quoted = re.compile(r'"([^"]*)"')
    of_axes = [unit for unit in quoted.findall(fields.get("units", "")) if unit.lower() not in _TIMES]
    return [*quoted.findall(fields.get("space units", "")), *of_axes, fields.get("distanceunits", "")]


def _space(reader: Any) -> str:
    """Returns NRRD's name of the space in which the directions are given; "" if the file states none."""
    return reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else ""


def _grid(reader: Any, path: Path) -> Grid:
    """Returns the grid of a header: ITK's directions point to the patient's left, posterior and superior."""
    dimensions = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = _FLIP @ directions @ np.diag(reader.GetSpacing()[:3])
    affine[:3, 3] = _FLIP @ np.array(reader.GetOrigin()[:3])
    x, y, z = reader.GetSize()[:3]
    try:
        return Grid((x, y, z), affine + 0.0)  # without -0
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error


def _notes(reader: Any, path: Path) -> tuple[str, ...]:
    if _READERS[path.suffix.lower()] == "NrrdImageIO":
        named = _space(reader)
        is_stated, reason = named in _STATED_SPACES, f"space is {named or 'not given'}"
    else:
        is_stated = not _header(path).keys().isdisjoint(_META_DIRECTIONS)
        reason = "TransformMatrix is not given"
    if is_stated:
        return ()
    return (
        f"{path.name} does not state its orientation ({reason}): its directions are taken as left, posterior, "
        "superior. Check left and right.",
    )


def _damaged(path: Path, error: Exception) -> AtrousError:
    lines = [line.strip() for line in str(error).splitlines()]
    # ITK ends messages with the error number of the last system call, which is often not the cause
    lines = [line for line in lines if line and not line.startswith("Reason: ")]
    reason = lines[-1] if lines else type(error).__name__
    return AtrousError(f"{path}: the file is damaged or not in the format of its suffix: {reason}")


def _sitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise missing_extra("SimpleITK", "medical") from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK
