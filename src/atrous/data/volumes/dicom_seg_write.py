"""Writes DICOM-SEG: a mask with one BINARY segment per class, which references the slices of its series.

The file is a Segmentation IOD (PS3.3 A.51), encoded by highdicom. Like every file of a study, it contains the names of
the patient and the study. The preamble of the file contains the mark of this program (`atrous.software_tag`). According
to PS3.10 section 7.1, the application chooses the 128 bytes of the preamble.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from atrous.atomic_write import atomic_path
from atrous.data.class_codes import Code
from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable
from atrous.data.volumes.dicom_series import series_headers
from atrous.data.volumes.grid import Grid, reorientation
from atrous.data.volumes.series_places import chosen_series
from atrous.errors import AtrousError, missing_extra, named
from atrous.software_tag import sealed_dicom
from atrous.version import __version__

#: `ANATOMY` is used as the category of a class that has a code but no category. `TISSUE` is used as the category and as
#: the type of a class without codes (PS3.16 CID 7150).
ANATOMY: Code = ("SCT", "91723000", "Anatomical Structure")
TISSUE: Code = ("SCT", "85756007", "Tissue")
#: The SeriesNumber of the segmentation is the SeriesNumber of the scan plus this number.
_SERIES_STEP = 1000
#: Attributes by which a segmentation references its series.
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
#: Attributes that must be the same in all slices.
_EQUAL = ("StudyInstanceUID", "FrameOfReferenceUID")
#: Attributes of a patient and a study that a file must have, but whose values may be empty (PS3.3 C.7.1.1, C.7.2.1).
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)


def write_dicom_seg(path: Path, labels: np.ndarray, like: Path, classes: ClassTable) -> None:
    """Writes a mask as DICOM-SEG on the grid of its DICOM series.

    Each class is a segment, in the order of the table; classes with a name of the background are left out. A segment
    may be empty. Voxels of no class (255) belong to no segment. Slices in which all segments are empty have no frame,
    unless the whole mask is empty.

    Args:
        path: file to write, atomically.
        labels: X×Y×Z uint8 class indices along right, anterior and superior, as in `Volume`.
        like: place of the DICOM series that was segmented.
        classes: names, colours and coded meanings of the classes.

    Raises:
        AtrousError: highdicom is not installed, the mask does not have the shape of the series, all classes are
            background, or headers of the series lack attributes that a segmentation needs.
    """
    segments = _segments(classes)
    headers, order, grid = _sources(like)
    change = reorientation(grid)
    if labels.shape != change.ras_grid(grid).shape:
        raise AtrousError(
            f"{like}: the mask has {labels.shape} voxels, but the series has {change.ras_grid(grid).shape}."
        )
    number_of = np.zeros(256, np.uint8)
    number_of[_shown(classes)] = np.arange(1, len(segments) + 1)
    slices = number_of[change.from_ras(labels).T]  # axes: slices, rows, columns
    content = _encoded(like, headers, np.ascontiguousarray(slices[order]), segments)
    with atomic_path(path) as file:
        file.write_bytes(sealed_dicom(content))


def _encoded(like: Path, headers: list[Any], slices: np.ndarray, segments: list[Any]) -> bytes:
    """Returns the content of a DICOM-SEG file, from segment numbers (0 for none) in the order of the source images."""
    highdicom = highdicom_module()
    try:
        found = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=slices,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=int(headers[0].get("SeriesNumber") or 0) + _SERIES_STEP,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="atrous",
            manufacturer_model_name="atrous",
            software_versions=__version__,
            device_serial_number=__version__,
            content_label="SEGMENTATION",
            omit_empty_frames=bool(slices.any()),
            specific_character_set="ISO_IR 192",
            series_description="Segmentation by atrous",
        )
        content = io.BytesIO()
        found.save_as(content, enforce_file_format=True)
    except Exception as error:  # pydicom and highdicom raise many types, and their texts may quote the header
        raise AtrousError(
            f"{like}: the headers do not allow a DICOM-SEG ({type(error).__name__}). Write NIfTI instead."
        ) from None
    return content.getvalue()


def highdicom_module() -> Any:
    """Returns the module highdicom.

    Raises:
        AtrousError: highdicom is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise missing_extra("highdicom", "medical") from error
    return highdicom


def check_classes(classes: ClassTable) -> None:
    """Checks that the classes can be the segments of a DICOM-SEG; it needs no series.

    Args:
        classes: names, colours and coded meanings of the classes.

    Raises:
        AtrousError: highdicom is not installed, all classes are background, or a name or a code is not allowed.
    """
    _segments(classes)


def check_sources(like: Path, classes: ClassTable) -> None:
    """Checks that a DICOM-SEG can reference a series, by encoding a mask of one voxel before the series is segmented.

    Args:
        like: place of the DICOM series.
        classes: classes of the mask.

    Raises:
        AtrousError: the series cannot be referenced; the message names the attributes that are missing or differ
            between the slices.
    """
    headers, order, grid = _sources(like)
    slices = np.zeros((len(order), *grid.shape[1::-1]), np.uint8)
    slices[0, 0, 0] = 1
    _encoded(like, headers, slices, _segments(classes))


def _sources(like: Path) -> tuple[list[Any], list[int], Grid]:
    """Returns the headers of a series, its grid, and, for each source image, the index of its slice in the grid.

    The source images are the files, or the frames of one file.
    """
    headers, frames, grid = series_headers(*chosen_series(like))
    first = headers[0]
    for header in headers:
        if missing := [name for name in _NEEDED if not header.get(name)]:
            raise AtrousError(
                f"{like}: the headers lack {' and '.join(missing)}, which DICOM-SEG needs. Write NIfTI instead."
            )
        if "ImageOrientationPatient" in first:  # highdicom refuses differently rounded directions
            header.ImageOrientationPatient = first.ImageOrientationPatient
    if other := [name for name in _EQUAL if any(header.get(name) != first.get(name) for header in headers)]:
        raise AtrousError(
            f"{like}: the slices differ in {' and '.join(other)}, but a DICOM-SEG belongs to one study and one frame "
            "of reference. Move the slices of one study into a separate folder, or write NIfTI instead."
        )
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise AtrousError(
            f"{like}: several slices have the same SOPInstanceUID, but a DICOM-SEG references slices by it. Export the "
            "series again, or write NIfTI instead."
        )
    for name in _MAY_BE_EMPTY:
        if name not in first:
            setattr(first, name, "")
    if len(headers) == len(frames) and all(int(one.get("NumberOfFrames") or 1) == 1 for one in headers):
        return headers, np.argsort([file for file, _ in frames]).tolist(), grid
    if len(headers) > 1 or len(frames) != int(first.get("NumberOfFrames") or 1):
        raise AtrousError(
            f"{like}: the series has several files with several frames, or only some frames of a file. DICOM-SEG is "
            "written only for files of one frame, or for all frames of one file. Write NIfTI instead."
        )
    return headers, np.argsort([frame for _, frame in frames]).tolist(), grid


def _shown(classes: ClassTable) -> list[int]:
    """Returns the indices of the classes that are segments."""
    return [index for index, name in enumerate(classes.names) if name.strip().lower() not in BACKGROUND_NAMES]


def _segments(classes: ClassTable) -> list[Any]:
    """Returns the descriptions of the segments, in the order of the classes."""
    highdicom, shown = highdicom_module(), _shown(classes)
    if not shown:
        raise AtrousError("all classes are background, so there is no segment to write as DICOM-SEG.")
    segments = []
    for number, index in enumerate(shown, 1):
        try:
            segments.append(_segment(highdicom, classes, index, number))
        except Exception as error:  # highdicom raises several types
            raise AtrousError(
                f"the class {named(classes.names[index])} cannot be a segment of a DICOM-SEG: {error}. Correct its "
                "name and its code in classes.yaml, or write NIfTI instead."
            ) from error
    return segments


def _segment(highdicom: Any, classes: ClassTable, index: int, number: int) -> Any:
    """Returns highdicom's description of the segment of a class."""
    given = classes.codes[index] if classes.codes else ()
    kind, category = given if len(given) == 2 else (*given, ANATOMY) if given else (TISSUE, TISSUE)
    concept = highdicom.sr.CodedConcept
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="atrous", version=__version__, family=concept("123110", "DCM", "Artificial Intelligence")
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_label(classes.names[index]) or f"class {index}",
        segmented_property_category=concept(category[1], category[0], category[2]),
        segmented_property_type=concept(kind[1], kind[0], kind[2]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*classes.colors[index]),
    )


def _label(name: str) -> str:
    """Returns a class name as DICOM text of type LO (PS3.5 table 6.2-1): 64 printable characters, no backslash."""
    printable = "".join(one if one.isprintable() else " " for one in name.replace("\\", "/"))
    return " ".join(printable.split())[:64]
