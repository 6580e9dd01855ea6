"""Writes RT-STRUCT files for tests."""

from pathlib import Path

import numpy as np
import pytest

from atrous.data.volumes.grid import Grid

pydicom = pytest.importorskip("pydicom")


def contours_of(mask: np.ndarray) -> list[np.ndarray]:
    """The contours of a mask with the axes columns, rows and slices: N×3 voxel indices each."""
    measure = pytest.importorskip("skimage.measure")
    found = []
    for index in range(mask.shape[2]):
        for line in measure.find_contours(np.pad(mask[:, :, index], 1).astype(float), 0.5):
            found.append(np.c_[line[:-1] - 1, np.full(len(line) - 1, index)])
    return found


def write(path: Path, grid: Grid, regions: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR", code=None) -> Path:
    """Writes an RT-STRUCT; contours are N×3 voxel indices of the grid."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3.4"
    meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    found = pydicom.Dataset()
    found.file_meta, found.SOPClassUID, found.SOPInstanceUID = meta, meta.MediaStorageSOPClassUID, "1.2.3.4"
    found.Modality, found.PatientName = "RTSTRUCT", "Müller^Jörg"
    described, drawn, observed = [], [], []
    for number, (name, contours) in enumerate(regions.items(), 11):
        roi, own, seen = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        own.ReferencedROINumber, own.ContourSequence = number, []
        for points in contours:
            one = pydicom.Dataset()
            one.ContourGeometricType, one.NumberOfContourPoints = kind, len(points)
            places = grid.positions(points) * (-1, -1, 1)  # left, posterior, superior
            one.ContourData = [f"{value:.10g}" for value in places.ravel()]
            own.ContourSequence.append(one)
        seen.ObservationNumber, seen.ReferencedROINumber = number, number
        if code is not None:
            item = pydicom.Dataset()
            item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning = code
            seen.RTROIIdentificationCodeSequence = [item]
        described.append(roi)
        drawn.append(own)
        observed.append(seen)
    found.StructureSetROISequence, found.ROIContourSequence = described, drawn
    found.RTROIObservationsSequence = observed
    found.save_as(path, enforce_file_format=True)
    return path
