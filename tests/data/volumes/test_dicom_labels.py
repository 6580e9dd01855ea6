"""DICOM-SEG and RT-STRUCT as the masks of a dataset: they give the same labels as the mask in NIfTI."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.volumes.rt_files import contours_of, write

import atrous
from atrous.commands.doctor import doctor
from atrous.commands.evaluate import evaluate
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import BACKGROUND_NAMES, ClassTable
from atrous.data.open_dataset import open_dataset, open_whole
from atrous.data.volume_items import without_unfit_volumes
from atrous.data.volumes import read_volume
from atrous.data.volumes.dicom_labels import class_values, described_labels, label_file, read_mask_volume
from atrous.data.volumes.dicom_seg_read import read_dicom_seg
from atrous.data.volumes.dicom_seg_write import write_dicom_seg
from atrous.data.volumes.dicom_series import read_series
from atrous.data.volumes.nifti import write_nifti_on_grid
from atrous.data.volumes.segments import Segment
from atrous.errors import AtrousError
from atrous.learning.fit import fit
from atrous.learning.recipe import to_recipe

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

NUMBERS_DIFFER = "classes: [{name: background}, {name: spleen}, {name: LIVER}]\n"
CODED = "classes: [{name: background}, {name: spleen}, {name: organ, code: [SRT, T-62000, Liver]}]\n"
LISTED = "classes: [{name: background}, {name: spleen}, {name: organ, segments: [Leber, Liver]}]\n"


@pytest.fixture
def root(shared, tmp_path):
    """A dataset of a real CT of three slices; the mask of case_01 is a SEG of dcmqi, that of case_02 is in NIfTI."""
    source, root = shared / "data/dicom_seg", tmp_path / "data"
    (root / "masks").mkdir(parents=True)
    for name in ("case_01", "case_02"):
        (root / "images" / name).mkdir(parents=True)
        for index in (1, 2, 3):
            shutil.copy(source / f"dcmqi_ct-3slice_0{index}.dcm", root / "images" / name)
    shutil.copy(source / "dcmqi_liver.dcm", root / "masks/case_01.dcm")
    scan = read_series(root / "images/case_02")
    liver = read_dicom_seg(source / "dcmqi_liver.dcm", scan.stored).volume.values[..., 0]
    write_nifti_on_grid(root / "masks/case_02.nii.gz", liver * np.uint8(2), scan.stored, packed=True)
    (root / "classes.yaml").write_text(NUMBERS_DIFFER)
    return root


def labels(dataset, case):
    items = (item for part in dataset.splits.values() for item in part if item.group == case)
    return np.stack([dataset.read(item).label for item in sorted(items, key=lambda item: item.name)])


@pytest.mark.parametrize("table", [NUMBERS_DIFFER, CODED, LISTED])
def test_a_segment_belongs_to_the_class_of_its_name_or_code(root, table):
    (root / "classes.yaml").write_text(table)
    dataset = open_dataset(root, planes=("axial", "coronal"))
    assert not any("skipped" in note for note in dataset.notes) and not dataset.masks_without_image
    found = {item.group for part in dataset.splits.values() for item in part}
    assert found == {"case_01", "case_02"}
    dataset = open_dataset(root)
    one = labels(dataset, "case_01")
    np.testing.assert_array_equal(one, labels(dataset, "case_02"))
    assert (one == 2).sum() == 107098 and set(np.unique(one)) == {0, 2, 255}


@pytest.mark.parametrize("kind", ["seg", "folder", "rt"])
def test_the_layout_nnunet_takes_masks_in_dicom(root, tmp_path, kind):
    scan, one = read_series(root / "images/case_01"), labels(open_dataset(root), "case_01")
    (tmp_path / "nnunet/imagesTr").mkdir(parents=True)
    (tmp_path / "nnunet/labelsTr/case_02").mkdir(parents=True)
    for name in ("case_01", "case_02"):
        place = tmp_path / f"nnunet/imagesTr/{name}_0000.nii.gz"
        values = np.nan_to_num(scan.values[..., 0]).astype(np.int16)
        write_nifti_on_grid(place, values, scan.stored, packed=True)
    record = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "spleen": 1, "liver": 2}}
    (tmp_path / "nnunet/dataset.json").write_text(json.dumps(record))
    shutil.copy(root / "masks/case_02.nii.gz", tmp_path / "nnunet/labelsTr")
    own = tmp_path / "nnunet/labelsTr/case_01.dcm"
    shutil.copy(root / "masks/case_01.dcm", own)
    if kind == "folder":
        (tmp_path / "nnunet/labelsTr/case_01").mkdir()
        own.rename(tmp_path / "nnunet/labelsTr/case_01/1.2.840")
    elif kind == "rt":
        liver = read_mask_volume(root / "masks/case_02.nii.gz", root / "images/case_02", None).values[..., 0] > 0
        write(own, scan.stored, {"liver": contours_of(scan.change.from_ras(liver))})
    (tmp_path / "nnunet/labelsTr/case_02").rmdir()
    dataset = open_dataset(tmp_path / "nnunet")
    assert not any("skipped" in note for note in dataset.notes) and not dataset.masks_without_image
    found = labels(dataset, "case_01")
    assert (found == 2).sum() == (one == 2).sum() == 107098
    np.testing.assert_array_equal(found == 2, labels(dataset, "case_02") == 2)
    assert not [error for error in examine(tmp_path / "nnunet").errors if error.kind != "no_val"]


@pytest.mark.parametrize("kind", ["seg", "rt"])
def test_a_mask_is_opened_once_for_its_description_and_once_for_its_voxels(root, monkeypatch, kind):
    own = root / "masks/case_01"
    own.mkdir()
    (root / "masks/case_01.dcm").rename(own / "1.2.840")
    if kind == "rt":
        scan = read_series(root / "images/case_01")
        liver = read_dicom_seg(own / "1.2.840", scan.stored).volume.values[..., 0] > 0
        write(own / "1.2.840", scan.stored, {"liver": contours_of(scan.change.from_ras(liver))})
    opened, searched, plain_open, plain_search = [], [], Path.open, Path.rglob
    monkeypatch.setattr(
        Path, "open", lambda path, *args, **more: opened.append(path) or plain_open(path, *args, **more)
    )
    monkeypatch.setattr(Path, "rglob", lambda path, *args: searched.append(path) or plain_search(path, *args))
    monkeypatch.setattr(read_volume, "TRUSTED", 1000.0)
    for _ in range(2):
        described = described_labels(label_file(own))
    assert [one.name.casefold() for one in described.segments.values()] == ["liver"]
    assert opened.count(own / "1.2.840") == (1 if kind == "seg" else 2) and searched.count(own) == 1
    opened.clear()
    classes = ClassTable.from_yaml(root / "classes.yaml")
    for spacing in (None, (2.0, 2.0, 2.0)):
        dataset = open_dataset(root, spacing=spacing, classes=classes)
        items = [item for part in dataset.splits.values() for item in part if item.group == "case_01"]
        opened.clear()
        for item in items:
            dataset.read_label(item.mask, item.image)
        assert opened.count(own / "1.2.840") == (1 if spacing is None else 0)
    assert searched.count(own) == 1


def test_a_folder_with_one_file_is_a_mask(root):
    expected = labels(open_dataset(root), "case_01")
    (root / "masks/case_01").mkdir()
    shutil.move(root / "masks/case_01.dcm", root / "masks/case_01/1.2.840")
    dataset = open_dataset(root)
    np.testing.assert_array_equal(labels(dataset, "case_01"), expected)
    file = pydicom.dcmread(root / "masks/case_01/1.2.840")
    file.SegmentSequence[0].SegmentLabel = "spleen"
    (root / "masks/case_01/1.2.840").unlink()
    file.save_as(root / "masks/case_01/renamed")
    np.testing.assert_array_equal(labels(dataset, "case_01") == 1, expected == 2)  # a changed folder is read again
    shutil.copy(root / "masks/case_01/renamed", root / "masks/case_01/other.dcm")
    with pytest.raises(AtrousError, match=r"case_01: a folder in the place of a mask must have one .* it has 2 files"):
        open_dataset(root)


def test_an_rt_struct_is_a_mask(root):
    scan = read_series(root / "images/case_01")
    truth = read_mask_volume(root / "masks/case_02.nii.gz", root / "images/case_02", None).values[..., 0] > 0
    contours = contours_of(scan.change.from_ras(truth))
    write(root / "masks/case_01.dcm", scan.stored, {"liver ": contours})
    dataset = open_dataset(root)
    np.testing.assert_array_equal(labels(dataset, "case_01"), labels(dataset, "case_02"))
    write(root / "masks/case_01.dcm", scan.stored, {"Volume 1": contours}, code=("SRT", "T-62000", "Liver"))
    (root / "classes.yaml").write_text(CODED)
    dataset = open_dataset(root)
    np.testing.assert_array_equal(labels(dataset, "case_01"), labels(dataset, "case_02"))


@pytest.mark.parametrize("raw", ["", ", raw: 1"])
def test_segments_of_no_class_are_refused_whatever_their_numbers(root, raw):
    (root / "classes.yaml").write_text(f"classes: [{{name: background}}, {{name: kidney{raw}}}, {{name: other}}]\n")
    with pytest.raises(AtrousError, match=r"case_01.dcm: these segments belong to no class: Liver\."):
        labels(open_dataset(root), "case_01")  # the liver has the number 1, which is the value of kidney
    assert any("belong to no class: Liver" in one for finding in examine(root).errors for one in finding.examples)
    scan = read_series(root / "images/case_01")
    truth = np.zeros(scan.grid.shape, bool)
    truth[150:170, 150:170] = True
    write(root / "masks/case_01.dcm", scan.stored, {"Kidney_L": contours_of(scan.change.from_ras(truth))})
    (root / "classes.yaml").write_text(
        f"classes: [{{name: background}}, {{name: kidney, raw: 11}}{raw and ', {name: b}'}]"
    )
    with pytest.raises(AtrousError, match="belong to no class: Kidney_L"):
        labels(open_dataset(root), "case_01")
    segments = {1: Segment("kidney"), 2: Segment("")}
    with pytest.raises(AtrousError, match=r"number 2 without a name\. .* Name the others in the program"):
        class_values(root, segments, ClassTable.from_yaml(root / "classes.yaml"))


def test_some_segments_without_a_class_are_refused_and_can_be_given_to_the_background(root):
    scan = read_series(root / "images/case_01")
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[150:170, 150:170], mask[200:220, 200:220] = 1, 2
    names = ClassTable(("background", "Liver", "couch"), ((0, 0, 0), (9, 0, 0), (0, 9, 0)), ((0,), (1,), (2,)))
    write_dicom_seg(root / "masks/case_01.dcm", mask, root / "images/case_01", names)
    report = examine(root)
    told = [finding for finding in report.errors if any("belong to no class: couch" in one for one in finding.examples)]
    assert len(told) == 1
    with pytest.raises(AtrousError, match="belong to no class: couch"):
        labels(open_dataset(root), "case_01")
    (root / "classes.yaml").write_text("classes: [{name: background, segments: couch}, {name: spleen}, {name: liver}]")
    assert (labels(open_dataset(root), "case_01") == 2).sum() == (mask == 1).sum()
    (root / "classes.yaml").write_text("classes: [{name: liver}, {name: couch}]")
    with pytest.raises(AtrousError, match="the class 'liver' has the value 0"):
        labels(open_dataset(root), "case_01")


def test_overlaps_are_refused_unless_the_later_class_wins(root):
    scan = read_series(root / "images/case_01")
    body = np.zeros(scan.grid.shape, bool)
    body[150:350, 150:300], tumour = True, np.zeros_like(body)
    tumour[200:210, 200:210] = True
    regions = {name: contours_of(scan.change.from_ras(one)) for name, one in (("tumour", tumour), ("liver", body))}
    write(root / "masks/case_01.dcm", scan.stored, regions)
    table = "classes: [{name: background}, {name: liver}, {name: tumour}]\n"
    (root / "classes.yaml").write_text(table)
    with pytest.raises(AtrousError, match=r"\(tumour\) and 12 \(liver\) overlap|\(liver\) and 11 \(tumour\) overlap"):
        labels(open_dataset(root), "case_01")
    (root / "classes.yaml").write_text(f"overlap: last\n{table}")
    found = labels(open_dataset(root), "case_01")
    assert [(found == index).sum() for index in (1, 2)] == [(body & ~tumour).sum(), tumour.sum()]
    (root / "classes.yaml").write_text("classes: [{name: background}, {name: liver, segments: [tumour]}]\n")
    assert (labels(open_dataset(root), "case_01") == 1).sum() == body.sum()  # segments of one class may overlap
    assert ClassTable.from_yaml(root / "classes.yaml").segments == ((), ("tumour",))


@pytest.mark.parametrize("numbers", [(11, 12), (12, 11)])
@pytest.mark.parametrize("later", ["tumour", "cyst"])
def test_the_later_class_wins_also_between_segments_of_one_name(root, numbers, later):
    scan = read_series(root / "images/case_01")
    large = np.zeros(scan.grid.shape, bool)
    large[150:350, 150:300], small = True, np.zeros_like(large)
    small[200:210, 200:210] = True
    masks = dict(zip(numbers, (large, small), strict=True))
    regions = {str(number): contours_of(scan.change.from_ras(masks[number])) for number in sorted(masks)}
    path = write(root / "masks/case_01.dcm", scan.stored, regions, code=("SCT", "1", "Tumour"))
    file = pydicom.dcmread(path)
    for described, observed in zip(file.StructureSetROISequence, file.RTROIObservationsSequence, strict=True):
        described.ROIName = "Mass"
        if described.ROINumber == numbers[1]:
            observed.RTROIIdentificationCodeSequence[0].CodeValue = "2"
    file.save_as(path)
    rows = {name: f"{{name: {name}, code: [SCT, '{code}', Mass]}}" for code, name in ((1, "tumour"), (2, "cyst"))}
    first = next(name for name in rows if name != later)
    (root / "classes.yaml").write_text(
        f"overlap: last\nclasses: [{{name: background}}, {rows[first]}, {rows[later]}]\n"
    )
    found = labels(open_dataset(root), "case_01")
    winner, loser = (large, small) if later == "tumour" else (small, large)
    assert [(found == index).sum() for index in (1, 2)] == [(loser & ~winner).sum(), winner.sum()]


def test_a_mask_of_another_series_is_an_error_of_the_doctor(root, shared):
    other = shutil.copy(shared / "data/dicom_seg/highdicom_seg_image_ct_binary.dcm", root / "masks/case_01.dcm")
    names = sorted({one.name for one in described_labels(other).segments.values()})
    (root / "classes.yaml").write_text(
        json.dumps({"classes": [{"name": "background"}, {"name": "a", "segments": names}]})
    )
    assert any("grid of the scan" in one for finding in examine(root).errors for one in finding.examples)
    shutil.copy(shared / "data/dicom_seg/highdicom_ct_image.dcm", root / "masks/case_01.dcm")
    with pytest.raises(AtrousError, match="a DICOM file of a segmentation or RT-STRUCT"):
        open_dataset(root)


def test_the_doctor_proposes_the_names_of_segments(root):
    (root / "classes.yaml").unlink()
    (root / "masks/case_02.nii.gz").unlink()
    doctor(root, write_classes=True)
    table = ClassTable.from_yaml(root / "classes.yaml")
    assert table.names == ("background", "Liver") and table.raw == ((0,), (1,))


def test_notes_on_masks_are_notes_of_the_dataset(root, monkeypatch):
    file = pydicom.dcmread(root / "masks/case_01.dcm")
    file.SegmentationType = "FRACTIONAL"
    file.save_as(root / "masks/case_01.dcm")
    (root / "masks/case_02.nii.gz").unlink()
    scan = read_series(root / "images/case_02")
    mask = np.zeros(scan.grid.shape, bool)
    mask[150:160, 150:160] = True
    path = write(root / "masks/case_02.dcm", scan.stored, {"liver": contours_of(scan.change.from_ras(mask))})
    file = pydicom.dcmread(path)
    file.ROIContourSequence[0].ContourSequence[1].ContourGeometricType = "OPEN_PLANAR"
    file.save_as(path)
    expected = [
        "case_01.dcm contains fractions: voxels of at least 50% belong to a segment.",
        "case_02.dcm: 1 contour without an area (points or open lines) is not read.",
    ]
    for found in (open_dataset(root).notes, examine(root).notes):
        assert sorted(note for note in found if ".dcm" in note) == expected
    monkeypatch.setattr("atrous.data.volume_items.MOST_NOTES", 1)
    for found in (open_dataset(root, planes=("axial", "coronal")).notes, examine(root).notes):
        assert len({*expected, "1 more note like these."} & {*found}) == 2
    path.write_bytes(path.read_bytes()[:200])  # a damaged file is left out of the pictures of the doctor
    with pytest.raises(AtrousError, match=r"case_02\.dcm"):
        open_dataset(root)
    remaining = without_unfit_volumes(open_whole(root))
    assert [item.name for part in remaining.splits.values() for item in part] == ["case_01"]


@pytest.mark.parametrize(
    "names", [("BG", "Liver"), ("Background ", "bg", "liver", "Liver"), ("???", "BACKGROUND", "1", "yes: no")]
)
def test_the_proposed_table_fits_the_masks_that_it_was_made_from(root, names):
    (root / "classes.yaml").unlink()
    (root / "masks/case_02.nii.gz").unlink()
    scan = read_series(root / "images/case_01")
    regions = {}
    for index, name in enumerate(names):
        mask = np.zeros(scan.grid.shape, bool)
        mask[150 + 10 * index : 160 + 10 * index, 150:160] = True
        regions[name] = contours_of(scan.change.from_ras(mask))
    write(root / "masks/case_01.dcm", scan.stored, regions)
    mask = np.zeros(scan.grid.shape, bool)
    mask[150:160, 150:160] = True
    overlapping = dict.fromkeys(("only here", "bg2"), contours_of(scan.change.from_ras(mask)))
    write(root / "masks/case_02.dcm", scan.stored, overlapping)  # its segments cannot be read together
    proposed = examine(root).proposed_classes
    assert proposed is not None
    proposed.to_yaml(root / "classes.yaml")
    found = labels(open_dataset(root), "case_01")
    kept = sorted(name for name in names if name.strip().lower() not in BACKGROUND_NAMES)
    assert proposed.names == ("background", *sorted((*kept, "only here", "bg2")))
    for index, name in enumerate(proposed.names[1:], 1):
        assert (found == index).sum() == (300 if name in kept else 0), name
    with pytest.raises(AtrousError, match="overlap"):  # not "belong to no class"
        labels(open_dataset(root), "case_02")


def test_a_model_is_trained_and_measured_on_dicom_labels(root, tmp_path):
    recipe = to_recipe(
        {
            "name": "segments",
            "data": {"root": str(root), "workers": 0},
            "model": {"backbone": "mobilenetv2_035", "pretrained": False},
            "augment": {"crop": [64, 64]},
            "train": {"epochs": 1, "batch_size": 2},
        }
    )
    fit(recipe, tmp_path / "run")
    assert not json.loads((tmp_path / "run/doctor.json").read_text())["errors"]
    assert atrous.load(tmp_path / "run/best.safetensors").info.classes == ("background", "spleen", "LIVER")
    for split in ("train", "val"):  # one is the case of the SEG
        evaluate(tmp_path / "run/best.safetensors", root, split=split, json=tmp_path / f"{split}.json")
    cases = [json.loads((tmp_path / f"{split}.json").read_text())["volumes"]["cases"][0] for split in ("train", "val")]
    liver = [case["classes"]["LIVER"] for case in cases]
    assert liver[0] == liver[1]  # the same scan with the same mask, in DICOM and in NIfTI
