"""Reads volumes from NIfTI files, and writes masks to NIfTI files on the grid of the scan."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from atrous.atomic_write import atomic_path
from atrous.data.volumes.grid import Grid, check_same_grid, reorientation
from atrous.data.volumes.nifti_extensions import check_extensions
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, missing_extra
from atrous.software_tag import UNSEALED, seal_nifti

SUFFIXES = (".nii", ".nii.gz")
#: Largest ratio of the sizes of decompressed and compressed data that deflate can reach. A file whose header gives a
#: larger ratio is damaged or malicious.
_DEFLATE = 1032
#: Number of bytes that are decompressed at once.
_AT_ONCE = 2**20
#: Millimetres per unit of length of a NIfTI header: unknown, metre, millimetre, micrometre.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
#: Fields of a header that may name a patient or a place; a mask is written without them.
_TEXTS = ("descrip", "data_type", "db_name", "aux_file", "intent_name")


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI file.

    Slope and intercept of the header are applied. The affine is the header's sform, or else its qform. A form with code
    0 counts as missing. If one of the two forms is damaged or singular, the other form is used, and a note states this.
    If both forms are missing, the axes are taken as right, anterior and superior, and a note states this, too.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file of two to five dimensions. Dimensions after the third are contrasts or
            points in time.

    Returns:
        The volume; its values have the type of the file, or float32 if they are scaled or are floats of more
            than 4 bytes.

    Raises:
        AtrousError: nibabel is not installed, the file is missing, damaged or not NIfTI, its values are complex numbers
            or colours, or its affine is unusable.
    """
    image = _opened(path)
    header = image.header
    stored, notes = _grid(header, path)
    try:
        values = _scaled(image.dataobj, stored)
    except (OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise AtrousError(f"{path}: the file is damaged or incomplete: {error or type(error).__name__}.") from error
    return Volume(reorientation(stored).to_ras(values), stored, notes)


def _scaled(proxy: Any, stored: Grid) -> np.ndarray:
    """Returns the X×Y×Z×C values of a file; scaled values and floats of more than 4 bytes become float32.

    Slices are converted one after the other. nibabel would allocate float64 for the whole volume, four times the size
    of an int16 scan.
    """
    raw, slope, intercept = _unscaled(proxy).reshape(*stored.shape, -1), float(proxy.slope), float(proxy.inter)
    is_scaled = (slope, intercept) != (1, 0)
    if not is_scaled and (raw.dtype.kind != "f" or raw.dtype.itemsize <= 4):
        return raw
    # an array in which the voxels of a slice are neighbours, as in the file
    values = np.empty(raw.shape, np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # values that become infinite count as no data
        for index in range(raw.shape[2]):
            part = raw[:, :, index]
            values[:, :, index] = part.astype(np.float64) * slope + intercept if is_scaled else part
    return values


def _unscaled(proxy: Any) -> np.ndarray:
    """Returns the stored values of a file.

    Compressed values are read in parts, because nibabel would keep two copies of them.
    """
    if not str(proxy.file_like).lower().endswith(".gz"):
        return np.asanyarray(proxy.get_unscaled())
    values = np.empty(proxy.shape, proxy.dtype, order="F")
    content, at = values.reshape(-1, order="F").view(np.uint8).data, 0
    with gzip.GzipFile(proxy.file_like, "rb") as file:
        file.seek(proxy.offset)
        while at < len(content):
            count = file.readinto(content[at : at + _AT_ONCE])
            if not count:
                raise EOFError(f"{len(content) - at} bytes are missing")
            at += count
    return values


def nifti_shape(path: Path) -> tuple[Grid, int]:
    """Reads the grid and the number of contrasts of a NIfTI file from its header.

    Args:
        path: as for `read_nifti`.

    Returns:
        The grid with RAS axes, as in `Volume.grid`, and the number of contrasts.

    Raises:
        AtrousError: as for `read_nifti`.
    """
    header = _opened(path).header
    grid, _ = _grid(header, path)
    return reorientation(grid).ras_grid(grid), int(np.prod(header.get_data_shape()[3:], dtype=np.int64))


def nifti_notes(path: Path) -> tuple[str, ...]:
    """Returns notes for the user on the position in a NIfTI header: missing, unusable or contradictory affines.

    Args:
        path: as for `read_nifti`.

    Raises:
        AtrousError: as for `read_nifti`.
    """
    return _grid(_opened(path).header, path)[1]


def write_nifti_mask(path: Path, labels: np.ndarray, like: Path, *, packed: bool) -> None:
    """Writes a mask whose header has exactly the affine, the axes and the units of the segmented file.

    Texts in the header are left out, because they may name a patient. The field descrip contains the mark of this
    program.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z whole numbers along right, anterior and superior, as in `Volume`.
        like: NIfTI file that was segmented.
        packed: whether to compress the file with gzip, as for ``.nii.gz``.

    Raises:
        AtrousError: the mask does not have the shape of the file, or a file cannot be read or written.
    """
    source = _opened(like)
    stored, _ = _grid(source.header, like)
    change = reorientation(stored)
    if labels.shape != change.ras_grid(stored).shape:
        raise AtrousError(
            f"{like}: the mask has {labels.shape} voxels, but the volume has {change.ras_grid(stored).shape}."
        )
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
    """Writes a mask with the affine and the axes of a grid; sform and qform are equal up to rounding to float32.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z whole numbers along right, anterior and superior, as in `Volume`.
        stored: grid of the scan with the axes of its file, as in `Volume.stored`.
        packed: as for `write_nifti_mask`.

    Raises:
        AtrousError: nibabel is not installed, the mask does not have the shape of the grid, or the file cannot be
            written.
    """
    nibabel, change = _nibabel(), reorientation(stored)
    if labels.shape != change.ras_grid(stored).shape:
        raise AtrousError(f"the mask has {labels.shape} voxels, but the grid has {change.ras_grid(stored).shape}.")
    values = np.asfortranarray(change.from_ras(labels))
    image = nibabel.Nifti1Image(values, stored.affine, dtype=values.dtype)  # int64 is refused unless dtype names it
    image.set_sform(stored.affine, code="scanner")
    image.set_qform(stored.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = UNSEALED.encode()
    _write(path, image, packed)


def _write(path: Path, image: Any, packed: bool) -> None:
    """Writes an image, and replaces `UNSEALED` in its descrip by the mark with the checksum of its voxels."""
    content = io.BytesIO()  # `image.to_bytes` would copy it
    image.to_stream(content)
    seal_nifti(content)
    with atomic_path(path) as file, content.getbuffer() as view:
        file.write_bytes(gzip.compress(view, mtime=0) if packed else view)


def _opened(path: Path) -> Any:
    """Opens a NIfTI file without reading its values, and checks that its size is enough for the shape in its header."""
    nibabel = _nibabel()
    try:
        size = path.stat().st_size
        check_extensions(path)
        image = nibabel.load(path)
    except FileNotFoundError as error:
        raise AtrousError(f"{path}: no such file.") from error
    except AtrousError:
        raise
    except Exception as error:  # nibabel raises many types for damaged headers
        raise AtrousError(f"{path}: the file is damaged or not NIfTI: {error or type(error).__name__}.") from error
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
        raise AtrousError(f"{path}: this is not NIfTI but {type(image).__name__}. Convert it to .nii.gz.")
    shape, dtype = image.header.get_data_shape(), image.header.get_data_dtype()
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise AtrousError(f"{path}: a volume has two to five dimensions of at least 1, but the file has {shape}.")
    if dtype.kind not in "iuf":
        raise AtrousError(f"{path}: the values are {dtype}, but only whole numbers and real numbers are read.")
    needed = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if needed > size * (_DEFLATE if path.name.lower().endswith(".gz") else 1):
        raise AtrousError(
            f"{path}: the file is damaged: its header promises {needed / 1e6:.4g} MB, more than a file of "
            f"{size / 1e6:.4g} MB can hold."
        )
    return image


def _grid(header: Any, path: Path) -> tuple[Grid, tuple[str, ...]]:
    """Returns the grid of a header in millimetres, and notes on a missing, unusable or contradictory affine."""
    grids, errors = {}, {}
    for name in ("sform", "qform"):
        if int(header[f"{name}_code"]) != 0:
            try:
                grids[name] = _form(header, name)
            except AtrousError as error:
                errors[name] = error
    if not grids and errors:
        reasons = " ".join(f"{name}: {error}" for name, error in errors.items())
        raise AtrousError(f"{path}: the header has no usable affine. {reasons} Correct the header.")
    if not grids:
        x, y, z = (abs(float(side)) or 1.0 for side in header["pixdim"][1:4])
        note = (
            f"{path.name} does not state its orientation (sform_code and qform_code are 0), so its axes are taken as "
            "right, anterior, superior. Check left and right."
        )
        return _in_millimetres(header, np.diag([x, y, z, 1.0])), (note,)
    used, grid = next(iter(grids.items()))
    notes = [f"{path.name}: its {name} is unusable, so its {used} is used. {errors[name]}" for name in errors]
    if len(grids) == 2:
        try:
            check_same_grid(grid, grids["qform"], "the sform", "the qform")
        except AtrousError:
            notes.append(
                f"{path.name} has two different affines (sform and qform), and the sform is used. Other programs may "
                "use the qform."
            )
    return grid, tuple(notes)


def _form(header: Any, name: str) -> Grid:
    """Returns the grid of one of a header's two affines; raises an error if the affine is damaged or singular."""
    try:
        affine = getattr(header, f"get_{name}")()
    except Exception as error:  # nibabel raises several types for damaged quaternions and sides
        raise AtrousError(f"its numbers are not a rotation and three voxel sides ({error}).") from error
    return _in_millimetres(header, affine)


def _in_millimetres(header: Any, affine: np.ndarray) -> Grid:
    """Returns the grid, in millimetres, of an affine in the header's unit of length."""
    x, y, z = (*header.get_data_shape()[:3], 1)[:3]
    return Grid((x, y, z), np.diag([_MILLIMETRES.get(int(header["xyzt_units"]) % 8, 1.0)] * 3 + [1.0]) @ affine)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise missing_extra("nibabel", "medical") from error
    return nibabel
