"""Writes DICOM series for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")


def write_series(
    folder: Path,
    values: np.ndarray,
    uid: str = "1.2.826.0.1.4",
    *,
    spacing: tuple[float, float, float] = (1, 1, 1),
    **attributes: Any,
) -> None:
    """Writes a volume as the axial slices of a DICOM series, one file for each slice.

    Args:
        folder: folder to create.
        values: voxels along left, posterior and superior, stored as int16.
        uid: SeriesInstanceUID.
        spacing: sides of a voxel, in millimetres.
        attributes: further attributes of each slice.
    """
    folder.mkdir(parents=True)
    across, down, thick = spacing
    for index in range(values.shape[2]):
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.MRImageStorage, f"{uid}.{index + 1}"
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.826.0.1.3", uid
        header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, thick * index], [1, 0, 0, 0, 1, 0]
        header.PixelSpacing, header.SliceThickness, header.Modality = [down, across], thick, "MR"
        header.Columns, header.Rows = values.shape[:2]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 1
        header.PixelData = values[:, :, index].T.astype(np.int16).tobytes()
        for name, value in attributes.items():
            setattr(header, name, value)
        header.save_as(folder / f"slice{index}", enforce_file_format=True)
