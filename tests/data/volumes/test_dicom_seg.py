"""DICOM-SEG: what is written is read back by highdicom and by our reader, and files of other programs are read."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest

from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.dicom_seg_read import read_dicom_seg
from atrous.data.volumes.dicom_seg_write import check_classes, check_sources, write_dicom_seg
from atrous.data.volumes.dicom_series import read_series, series_headers
from atrous.data.volumes.grid import Grid, check_same_grid
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.segments import SegmentValues
from atrous.errors import AtrousError
from atrous.software_tag import is_sealed

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

AXIAL, CORONAL, HEAD_DOWN = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [-1, 0, 0, 0, 1, 0]
OBLIQUE = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0][:, :2].T.ravel().round(12).tolist()
LIVER, MASS, ABNORMAL = (
    ("SCT", "10200004", "Liver"),
    ("SCT", "4147007", "Mass"),
    ("SCT", "49755003", "Morphologically Abnormal Structure"),
)
CLASSES = ClassTable(
    ("Background", "liver", "tumour", "Gefäß 道", "empty"),
    ((0, 0, 0), (200, 30, 30), (0, 255, 0), (0, 0, 255), (9, 9, 9)),
    ((0,), (1,), (2,), (3,), (4,)),
    codes=((), (LIVER,), (MASS, ABNORMAL), (), ()),
)


@pytest.fixture
def series(shared, tmp_path):
    """Returns a function that writes a small series with a real header and any directions, in a mixed order."""
    header = pydicom.dcmread(shared / "data/dicom_seg/dcmqi_ct-3slice_01.dcm")

    def write(directions=AXIAL, count: int = 6, size: tuple[int, int] = (7, 9)) -> Path:
        folder = tmp_path / "series"
        folder.mkdir(exist_ok=True)
        normal = np.cross(directions[:3], directions[3:])
        for name, index in enumerate(np.random.default_rng(1).permutation(count)):
            header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.77.{index + 1}"
            header.PatientName, header.SpecificCharacterSet = "Müller^Jörg", "ISO_IR 100"
            header.ImageOrientationPatient = list(directions)
            header.ImagePositionPatient = [f"{one:.10g}" for one in np.array([10, -20, 30]) - 2.5 * index * normal]
            header.PixelSpacing, header.SliceThickness, (header.Rows, header.Columns) = [0.75, 0.5], 4, size
            header.PixelData = np.full(size, index, np.int16).tobytes()
            header.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        return folder

    return write


def random_labels(shape, seed=0):
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    labels[0, 0, 0] = 255
    return labels


def by_highdicom(path, volume):
    """Reads segment numbers with highdicom, onto the grid of a series: X×Y×Z along right, anterior and superior."""
    found = highdicom.seg.segread(path).get_volume(combine_segments=True)
    values = np.zeros(volume.grid.shape, np.uint8)
    inside = np.argwhere(found.array)
    places = np.c_[inside, np.ones(len(inside))] @ found.affine.T  # left, posterior, superior
    voxels = (places * (-1, -1, 1, 1)) @ np.linalg.inv(volume.grid.affine).T
    np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
    values[tuple(np.rint(voxels).astype(int)[:, :3].T)] = found.array[tuple(inside.T)]
    return values


@pytest.mark.parametrize("directions", [AXIAL, CORONAL, HEAD_DOWN, OBLIQUE])
def test_what_is_written_is_read_back_by_highdicom_and_by_our_reader(series, tmp_path, directions):
    folder = series(directions)
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_dicom_seg(tmp_path / "seg.dcm", labels, folder, CLASSES)
    expected = np.where(labels == 255, 0, labels)
    found = read_dicom_seg(tmp_path / "seg.dcm")
    check_same_grid(volume.grid, found.volume.grid, "the series", "the segmentation")
    np.testing.assert_array_equal(found.volume.values[..., 0], expected)
    np.testing.assert_array_equal(by_highdicom(tmp_path / "seg.dcm", volume), expected)
    assert found.names == {1: "liver", 2: "tumour", 3: "Gefäß 道", 4: "empty"}
    placed = read_dicom_seg(tmp_path / "seg.dcm", volume.stored).volume
    np.testing.assert_array_equal(placed.values[..., 0], expected)
    np.testing.assert_array_equal(placed.grid.affine, volume.grid.affine)


def test_a_viewer_finds_the_series_the_codes_and_the_colours(series, tmp_path):
    folder = series()
    headers, frames, _ = series_headers(folder)
    write_dicom_seg(tmp_path / "seg.dcm", random_labels((9, 7, 6)), folder, CLASSES)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (found.Modality, found.SegmentationType, found.Manufacturer) == ("SEG", "BINARY", "atrous")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert found[name].value == headers[0][name].value
    assert str(found.PatientName) == "Müller^Jörg" and found.SpecificCharacterSet == "ISO_IR 192"
    referenced = found.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == headers[0].SeriesInstanceUID != found.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == len(frames) == 6
    positions = {header.SOPInstanceUID: header.ImagePositionPatient for header in headers}
    for frame in found.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[source]

    def code(item):
        return item[0].CodingSchemeDesignator, item[0].CodeValue, item[0].CodeMeaning

    segments = found.SegmentSequence
    assert [code(one.SegmentedPropertyTypeCodeSequence)[2] for one in segments] == ["Liver", "Mass", "Tissue", "Tissue"]
    assert code(segments[0].SegmentedPropertyTypeCodeSequence) == LIVER
    assert code(segments[0].SegmentedPropertyCategoryCodeSequence) == ("SCT", "91723000", "Anatomical Structure")
    assert code(segments[1].SegmentedPropertyCategoryCodeSequence) == ABNORMAL
    assert {one.SegmentAlgorithmType for one in segments} == {"AUTOMATIC"}
    colors = [highdicom.color.CIELabColor.from_dicom_value(one.RecommendedDisplayCIELabValue) for one in segments]
    for one, color in zip(colors, CLASSES.colors[1:], strict=True):
        np.testing.assert_allclose(one.to_rgb(), color, atol=2)
    assert is_sealed(tmp_path / "seg.dcm")
    found.PixelData = bytes(len(found.PixelData))
    found.save_as(tmp_path / "seg.dcm")
    assert not is_sealed(tmp_path / "seg.dcm")


def test_planes_without_a_frame_are_empty(series, tmp_path):
    folder = series(count=9)
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    labels[..., [0, 3, 4, 8]] = 0
    write_dicom_seg(tmp_path / "seg.dcm", labels, folder, CLASSES)
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 5 * 3
    own = read_dicom_seg(tmp_path / "seg.dcm").volume
    np.testing.assert_array_equal(own.values[..., 0], labels[..., 1:8])
    np.testing.assert_allclose(own.grid.positions(np.zeros((1, 3))), volume.grid.positions(np.array([[0, 0, 1]])))
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", volume.stored).volume.values[..., 0], labels)
    labels[..., 5:] = 0
    labels[..., 1] = 0  # one plane: its thickness is not the distance of the slices
    write_dicom_seg(tmp_path / "one.dcm", labels, folder, CLASSES)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "one.dcm", volume.stored).volume.values[..., 0], labels)
    write_dicom_seg(tmp_path / "none.dcm", np.zeros_like(labels), folder, CLASSES)
    assert not read_dicom_seg(tmp_path / "none.dcm", volume.stored).volume.values.any()


def test_a_segmentation_of_another_grid_is_refused(series, tmp_path):
    folder = series()
    labels = random_labels((9, 7, 6))
    write_dicom_seg(tmp_path / "seg.dcm", labels, folder, CLASSES)
    grid = read_series(folder).stored
    for change, match in (
        (lambda affine: affine @ np.array([[1, 0, 0, 0.5], *np.eye(4)[1:]]), "is not on the grid"),
        (lambda affine: affine @ np.diag([1.2, 1, 1, 1]), "is not on the grid"),
        (lambda affine: affine @ np.array([*np.eye(4)[:2], [0, 0, 1, 2], [0, 0, 0, 1]]), "reaches beyond"),
    ):
        other = type(grid)(grid.shape, change(grid.affine))
        with pytest.raises(AtrousError, match=match):
            read_dicom_seg(tmp_path / "seg.dcm", other)
    with pytest.raises(AtrousError, match=r"the mask has \(9, 7, 5\) voxels"):
        write_dicom_seg(tmp_path / "no.dcm", labels[..., :5], folder, CLASSES)
    only = ClassTable(("background",), ((0, 0, 0),), ((0,),))
    with pytest.raises(AtrousError, match="all classes are background"):
        write_dicom_seg(tmp_path / "no.dcm", labels, folder, only)
    assert not (tmp_path / "no.dcm").exists()


def test_one_file_of_many_frames_is_a_source(series, tmp_path):
    folder = series()
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        headers, highdicom.UID(), 1, highdicom.UID(), 1, transfer_syntax_uid="1.2.840.10008.1.2.1"
    )
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced/one.dcm", enforce_file_format=True)
    volume = read_series(tmp_path / "enhanced")
    labels = random_labels(volume.grid.shape)
    labels[labels == 255] = 0
    write_dicom_seg(tmp_path / "seg.dcm", labels, tmp_path / "enhanced", CLASSES)
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", volume.stored).volume.values[..., 0], labels)
    np.testing.assert_array_equal(by_highdicom(tmp_path / "seg.dcm", volume), labels)


def test_a_header_without_a_frame_of_reference_is_named_without_the_patient(series, tmp_path):
    folder = series()
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        del header.FrameOfReferenceUID, header.StudyID, header.AccessionNumber
        header.save_as(path)
    with pytest.raises(AtrousError, match="the headers lack FrameOfReferenceUID") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", random_labels((9, 7, 6)), folder, CLASSES)
    assert "Müller" not in str(caught.value)


@pytest.mark.parametrize("check", ["before", "while writing"])
@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
def test_slices_of_different_studies_are_refused_before_the_work(series, tmp_path, name, check):
    folder = series()
    *_, one, last = sorted(folder.iterdir())
    header = pydicom.dcmread(last)
    setattr(header, name, pydicom.dcmread(one)[name].value if name == "SOPInstanceUID" else "1.2.3.4")
    header.save_as(last)
    work = {
        "before": lambda: check_sources(folder, CLASSES),
        "while writing": lambda: write_dicom_seg(tmp_path / "seg.dcm", random_labels((9, 7, 6)), folder, CLASSES),
    }
    with pytest.raises(AtrousError, match=rf"the slices differ in {name}|the same {name}") as caught:
        work[check]()
    assert "Müller" not in str(caught.value)


def test_what_the_check_allows_is_written(series, tmp_path):
    folder = series(OBLIQUE)
    last = max(folder.iterdir())
    header = pydicom.dcmread(last)
    header.ImageOrientationPatient = [f"{value:.6f}" for value in header.ImageOrientationPatient]
    header.save_as(last)
    check_sources(folder, CLASSES)
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    write_dicom_seg(tmp_path / "seg.dcm", labels, folder, CLASSES)
    found = read_dicom_seg(tmp_path / "seg.dcm", volume.stored).volume
    np.testing.assert_array_equal(found.values[..., 0], np.where(labels == 255, 0, labels))
    for path in folder.iterdir():
        one = pydicom.dcmread(path)
        one.StudyDate = one.StudyTime = "not a date"
        one.save_as(path)
    refusals = []
    for work in (
        lambda: check_sources(folder, CLASSES),
        lambda: write_dicom_seg(tmp_path / "no.dcm", labels, folder, CLASSES),
    ):
        with pytest.raises(AtrousError) as caught:
            work()
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


def test_any_class_name_is_a_label(series, tmp_path):
    names = ("background", "tumour\x1b[31m", "tumour\nnew", " ", "a\\b", "é" * 80)
    colors, raw = tuple((number,) * 3 for number in range(6)), tuple((number,) for number in range(6))
    classes = ClassTable(names, colors, raw)
    check_classes(classes)
    folder = series()
    write_dicom_seg(tmp_path / "seg.dcm", random_labels((9, 7, 6)), folder, classes)
    expected = ["tumour [31m", "tumour new", "class 3", "a/b", "é" * 64]
    assert list(read_dicom_seg(tmp_path / "seg.dcm").names.values()) == expected
    with pytest.raises(AtrousError, match="all classes are background"):
        check_classes(ClassTable(("Background",), ((0, 0, 0),), ((0,),)))


def test_segmentations_of_other_programs_are_read(shared):
    folder = shared / "data/dicom_seg"
    liver = read_dicom_seg(folder / "dcmqi_liver.dcm", read_series(folder, "1.2.392").stored)
    truth = highdicom.seg.segread(folder / "dcmqi_liver.dcm").get_volume(combine_segments=True)
    assert liver.names == {1: "Liver"} and liver.volume.values.sum() == truth.array.sum() == 107098
    series = read_series(folder, "1.2.392").values[liver.volume.values > 0]
    assert 30 < series.mean() < 60  # the density of a liver without contrast, in HU
    content = gzip.decompress((folder / "dcmqi_liver_seg.nrrd").read_bytes().partition(b"\n\n")[2])
    nrrd = np.frombuffer(content, np.int16).reshape(3, 512, 512)  # left, posterior, superior
    np.testing.assert_array_equal(liver.volume.values[..., 0], nrrd.T[::-1, ::-1])
    found = read_dicom_seg(folder / "highdicom_seg_image_ct_true_fractional.dcm")
    fractions = pydicom.dcmread(folder / "highdicom_seg_image_ct_true_fractional.dcm")
    assert found.volume.values.sum() == (fractions.pixel_array >= 127.5).sum() > 0
    assert found.volume.notes == (
        "highdicom_seg_image_ct_true_fractional.dcm contains fractions: voxels of at least 50% belong to a segment.",
    )
    for name in ("control", "control_labelmap"):
        with pytest.raises(AtrousError, match="slide microscopy"):
            read_dicom_seg(folder / f"highdicom_seg_image_sm_{name}.dcm")
    with pytest.raises(AtrousError, match="not a DICOM-SEG"):
        read_dicom_seg(folder / "highdicom_ct_image.dcm")


def test_overlapping_segments_need_an_order(shared):
    path = shared / "data/dicom_seg/dcmqi_partial_overlaps.dcm"
    for order in ((), ("GREEN",), ("GREEN", "PURPLE")):
        with pytest.raises(AtrousError, match=r"the segments \d \([A-Z_]+\) and \d \([A-Z_]+\) overlap"):
            read_dicom_seg(path, order=order)
    names = ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]
    dataset = pydicom.dcmread(path)
    heights = [-128.690002, -127.690002, -126.690002]
    for order in (names, names[::-1]):
        found = read_dicom_seg(path, order=order)
        expected = np.zeros((3, 512, 512), np.uint8)
        for name in reversed(order):  # the most important one is written last
            for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
                if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == names.index(name) + 1:
                    height = frame.PlanePositionSequence[0].ImagePositionPatient[2]
                    expected[heights.index(height)][pixels > 0] = names.index(name) + 1
        ours = found.volume.change.from_ras(found.volume.values)[..., 0]
        np.testing.assert_array_equal(ours.T, expected)
    with pytest.raises(AtrousError, match=r"there is no segment 'PINK'\. There are: GREEN, ORANGE"):
        read_dicom_seg(path, order=("PINK",))


def with_highdicom(path, folder, volume, labels, kind):
    """Writes labels 1 to 3 as a segmentation by highdicom."""
    headers, frames, _ = series_headers(folder)
    sources = [headers[file] for file, _ in frames]
    parts = highdicom.seg.SegmentDescription
    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [parts(number, f"part {number}", tissue, tissue, "MANUAL") for number in (1, 2, 3)]
    found = highdicom.seg.Segmentation(
        *(sources, volume.change.from_ras(labels).T, kind, described, highdicom.UID(), 1, highdicom.UID(), 1),
        *("someone", "model", "1", "1"),
    )
    found.save_as(path)


def test_a_label_map_is_read(series, tmp_path):
    folder = series()
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    labels[labels == 255] = 0
    with_highdicom(tmp_path / "map.dcm", folder, volume, labels, "LABELMAP")
    np.testing.assert_array_equal(read_dicom_seg(tmp_path / "map.dcm").volume.values[..., 0], labels)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_that_are_left_out_may_lie_beyond_the_scan(series, tmp_path, kind):
    folder = series()
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    labels[labels == 255] = 0
    stored = volume.change.from_ras(labels)
    stored[:, :, 3:][stored[:, :, 3:] != 2] = 0
    labels = volume.change.to_ras(stored)
    with_highdicom(tmp_path / "seg.dcm", folder, volume, labels, kind)
    fewer = Grid((*volume.stored.shape[:2], 3), volume.stored.affine)  # only segment 2 is in the other slices
    with pytest.raises(AtrousError, match="reaches beyond the grid of the scan"):
        read_dicom_seg(tmp_path / "seg.dcm", fewer)
    found = read_dicom_seg(tmp_path / "seg.dcm", fewer, choose=lambda _: SegmentValues({1: 7, 2: 0, 3: 8})).volume
    expected = np.array([0, 7, 0, 8])[stored[:, :, :3]]
    np.testing.assert_array_equal(found.change.from_ras(found.values)[..., 0], expected)
    found = read_dicom_seg(tmp_path / "seg.dcm", fewer, choose=lambda given: SegmentValues(dict.fromkeys(given, 0)))
    assert not found.volume.values.any()


@pytest.mark.parametrize("number", [0, -1])
def test_a_frame_of_segment_0_is_refused(series, tmp_path, number):
    """Such frames of BINARY segments must not be read as frames of a label map, whose voxels are segment numbers."""
    folder = series()
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    labels[labels == 255] = 0
    with_highdicom(tmp_path / "seg.dcm", folder, volume, labels, "BINARY")
    changed = pydicom.dcmread(tmp_path / "seg.dcm")
    identified = changed.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence[0]
    identified["ReferencedSegmentNumber"].VR = "SS"  # which holds negative numbers, too
    identified.ReferencedSegmentNumber = number
    changed.save_as(tmp_path / "zero.dcm")
    with pytest.raises(AtrousError, match=rf"segment number {number}, and segment numbers start at 1"):
        read_dicom_seg(tmp_path / "zero.dcm", volume.stored)


@pytest.mark.parametrize(
    ("kind", "other"), [("BINARY", "LABELMAP"), ("LABELMAP", "BINARY"), ("LABELMAP", "FRACTIONAL")]
)
def test_a_type_that_contradicts_the_class_of_the_file_is_refused(series, tmp_path, kind, other):
    folder = series()
    volume = read_series(folder)
    labels = random_labels(volume.grid.shape)
    labels[labels == 255] = 0
    with_highdicom(tmp_path / "seg.dcm", folder, volume, labels, kind)
    changed = pydicom.dcmread(tmp_path / "seg.dcm")
    changed.SegmentationType = other
    changed.save_as(tmp_path / "changed.dcm")
    with pytest.raises(AtrousError, match="the SOP class and SegmentationType contradict each other"):
        read_dicom_seg(tmp_path / "changed.dcm")


def test_damaged_files_are_refused(series, tmp_path):
    folder = series()
    path = tmp_path / "seg.dcm"
    write_dicom_seg(path, random_labels((9, 7, 6)), folder, CLASSES)
    content = path.read_bytes()
    with pytest.raises(AtrousError, match="no such file"):
        read_dicom_seg(tmp_path / "none.dcm")
    changed = pydicom.dcmread(path)
    changed.NumberOfFrames = 10**6
    changed.save_as(tmp_path / "bomb.dcm")
    with pytest.raises(AtrousError, match="damaged"):
        read_dicom_seg(tmp_path / "bomb.dcm")
    for cut in range(140, len(content), 997):
        path.write_bytes(content[:cut])
        with pytest.raises(AtrousError) as caught:
            read_dicom_seg(path)
        assert "Müller" not in str(caught.value)


def test_a_real_liver_survives_writing_and_reading(shared, tmp_path):
    folder = shared / "data/chaos_ct_liver"
    truth = read_nifti(folder / "liver_mask.nii.gz")
    classes = ClassTable(("background", "liver"), ((0, 0, 0), (200, 30, 30)), ((0,), (1,)), codes=((), (LIVER,)))
    write_dicom_seg(tmp_path / "liver.dcm", truth.values[..., 0].astype(np.uint8), folder / "series.zip", classes)
    volume = read_series(folder / "series.zip")
    found = read_dicom_seg(tmp_path / "liver.dcm", volume.stored).volume
    np.testing.assert_array_equal(found.values, truth.values)
    np.testing.assert_array_equal(by_highdicom(tmp_path / "liver.dcm", volume), truth.values[..., 0])
    assert volume.values[found.values > 0].mean() == pytest.approx(142, abs=1)
