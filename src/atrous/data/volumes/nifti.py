"""NIfTI files: reads a volume with its grid, and writes a mask on the exact grid of another file."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from atrous.atomic_write import atomic_path
from atrous.data.volumes.grid import Grid, check_same_grid, reorientation
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, missing_extra
from atrous.software_tag import UNSEALED, sealed_nifti

SUFFIXES = (".nii", ".nii.gz")
#: Largest ratio of size that deflate reaches; a compressed file that promises more is damaged or malicious.
_DEFLATE = 1032
#: Millimetres per unit of length of a NIfTI header: unknown, metre, millimetre, micrometre.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
#: Fields of a header that may name a patient or a place; a mask is written without them.
_TEXTS = ("descrip", "db_name", "aux_file", "intent_name")


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI file.

    Slope and intercept of the header are applied. The affine is the header's sform, else its qform.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file of two to five dimensions; every dimension after the third counts as
            contrasts or points in time.

    Returns:
        The volume; its values have the type of the file, or float32 if they are scaled.

    Raises:
        AtrousError: nibabel is not installed, the file is missing, damaged or not NIfTI, its numbers are complex or
            colours, or its affine is unusable.
    """
    image = _opened(path)
    header = image.header
    stored, notes = _grid(header, path)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise AtrousError(f"{path}: the file is damaged or incomplete: {error or type(error).__name__}.") from error
    values = values.reshape(*stored.shape, -1)
    if values.dtype == np.float64 or values.dtype.itemsize > 8:
        values = values.astype(np.float32)
    return Volume(reorientation(stored).to_ras(values), stored, notes)


def nifti_shape(path: Path) -> tuple[Grid, int]:
    """Reads the grid of a NIfTI file and its number of contrasts, from its header.

    Args:
        path: as for `read_nifti`.

    Returns:
        The grid with RAS axes, as of `Volume.grid`, and the number of contrasts.

    Raises:
        AtrousError: as for `read_nifti`.
    """
    header = _opened(path).header
    grid, _ = _grid(header, path)
    return reorientation(grid).ras_grid(grid), int(np.prod(header.get_data_shape()[3:], dtype=np.int64))


def nifti_notes(path: Path) -> tuple[str, ...]:
    """Returns sentences for the user about what the header of a NIfTI file leaves open, such as its orientation.

    Args:
        path: as for `read_nifti`.

    Raises:
        AtrousError: as for `read_nifti`.
    """
    return _grid(_opened(path).header, path)[1]


def write_nifti_mask(path: Path, labels: np.ndarray, like: Path, *, packed: bool) -> None:
    """Writes a mask whose header has the affine, the axes and the units of another file, bit by bit.

    Texts of that header are left out, because they may name a patient. The mark of this program takes the place of
    descrip.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z whole numbers along right, anterior and superior, as in `Volume`.
        like: NIfTI file that was segmented.
        packed: whether to compress the file, as for ``.nii.gz``.

    Raises:
        AtrousError: the mask does not have the shape of the file, or a file cannot be read or written.
    """
    source = _opened(like)
    stored, _ = _grid(source.header, like)
    change = reorientation(stored)
    if labels.shape != change.ras_grid(stored).shape:
        raise AtrousError(f"{like}: a mask of {labels.shape} voxels does not fit, {change.ras_grid(stored).shape}.")
    header = source.header.copy()
    values = np.asfortranarray(change.from_ras(labels)).reshape(header.get_data_shape()[:3])
    header.extensions.clear()
    for name in set(_TEXTS) & set(header):
        header[name] = b""
    header["descrip"] = UNSEALED.encode()
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    _write(path, type(source)(values, None, header), packed)


def write_nifti_on_grid(path: Path, labels: np.ndarray, stored: Grid, *, packed: bool) -> None:
    """Writes a mask whose affine and axes are those of a grid; sform and qform are equal up to float32.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z whole numbers along right, anterior and superior, as in `Volume`.
        stored: grid of the scan with its own axes, as `Volume.stored`.
        packed: as for `write_nifti_mask`.

    Raises:
        AtrousError: nibabel is not installed, the mask does not have the shape of the grid, or the file cannot be
            written.
    """
    nibabel, change = _nibabel(), reorientation(stored)
    if labels.shape != change.ras_grid(stored).shape:
        raise AtrousError(f"a mask of {labels.shape} voxels does not fit a grid of {change.ras_grid(stored).shape}.")
    image = nibabel.Nifti1Image(np.asfortranarray(change.from_ras(labels)), stored.affine)
    image.set_sform(stored.affine, code="scanner")
    image.set_qform(stored.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = UNSEALED.encode()
    _write(path, image, packed)


def _write(path: Path, image: Any, packed: bool) -> None:
    """Writes an image whose descrip is `UNSEALED`, with the checksum of its voxels."""
    content = sealed_nifti(image.to_bytes())
    with atomic_path(path) as file:
        file.write_bytes(gzip.compress(content, mtime=0) if packed else content)


def _opened(path: Path) -> Any:
    """Opens a NIfTI file without its values, and checks that the file can hold as many values as it promises."""
    nibabel = _nibabel()
    try:
        size = path.stat().st_size
        image = nibabel.load(path)
    except FileNotFoundError as error:
        raise AtrousError(f"{path}: no such file.") from error
    except Exception as error:  # nibabel raises many types for damaged headers
        raise AtrousError(f"{path}: the file is damaged or not NIfTI: {error or type(error).__name__}.") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise AtrousError(f"{path}: this is not NIfTI but {type(image).__name__}; convert it to .nii.gz.")
    shape, dtype = image.header.get_data_shape(), image.header.get_data_dtype()
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise AtrousError(f"{path}: a volume has two to five dimensions of at least 1, and the file has {shape}.")
    if dtype.kind not in "iuf":
        raise AtrousError(f"{path}: the values are {dtype}; only whole numbers and real numbers are read.")
    needed = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if needed > size * (_DEFLATE if path.name.lower().endswith(".gz") else 1):
        raise AtrousError(
            f"{path}: the file is damaged: its header promises {needed / 1e6:.4g} MB, which {size / 1e6:.4g} MB cannot "
            "hold."
        )
    return image


def _grid(header: Any, path: Path) -> tuple[Grid, tuple[str, ...]]:
    """Returns the grid of a header in millimetres, and notes on what the header leaves open."""
    x, y, z = (*header.get_data_shape()[:3], 1)[:3]
    sform, qform = _form(header, "sform"), _form(header, "qform")
    scale = np.diag([_MILLIMETRES.get(int(header["xyzt_units"]) % 8, 1.0)] * 3 + [1.0])
    notes: tuple[str, ...] = ()
    affine = sform if sform is not None else qform
    if affine is None:
        affine = np.diag([*(float(side) or 1.0 for side in header["pixdim"][1:4]), 1.0])
        notes = (
            f"{path.name} does not state its orientation (sform_code and qform_code are 0): its axes are taken as "
            "right, anterior, superior. Check left and right.",
        )
    try:
        grid = Grid((x, y, z), scale @ affine)
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error
    if sform is not None and qform is not None:
        try:
            check_same_grid(grid, Grid((x, y, z), scale @ qform), "the sform", "the qform")
        except AtrousError:
            notes = (
                f"{path.name} has two positions that differ (sform and qform): the sform is used. Other programs may "
                "use the qform.",
            )
    return grid, notes


def _form(header: Any, name: str) -> np.ndarray | None:
    """Returns one of a header's two affines; None if the header declares it unknown or it is damaged."""
    try:
        affine, code = getattr(header, f"get_{name}")(coded=True)
    except Exception:  # a quaternion that is none
        return None
    return np.asarray(affine) if code else None


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise missing_extra("nibabel", "medical") from error
    return nibabel
