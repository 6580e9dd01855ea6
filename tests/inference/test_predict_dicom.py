"""DICOM series in prediction: which series a folder holds, and masks on the grid of the series."""

import json
import os
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.volumes.series_files import write_series

import atrous
from atrous.commands.predict import predict
from atrous.data.volumes.dicom_seg_read import read_dicom_seg
from atrous.data.volumes.dicom_series import read_series
from atrous.data.volumes.grid import check_same_grid
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slices import pictures_of
from atrous.errors import AtrousError, SomeInputsFailed
from atrous.inference import predict_jobs
from atrous.inference.picture_paths import find_places
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.models.info import Preprocessing

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}
SECRET = "Doe^Jane"


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    """A file of a model of axial slices."""
    model = make_model("deeplabv3plus", backbone="mobilenetv2_050")
    one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image", slices=3, planes=("axial",))
    model.info = replace(model.info, preprocessing=Preprocessing((one,)))
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    atrous.save(model, path)
    return path


@pytest.fixture
def series(shared, tmp_path):
    """Returns a function that copies a real series of three slices into a folder, with another UID and a name."""

    def copy(folder: str, uid: str = "1.2.826.0.1.111111", rows: slice = slice(200, 264)) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for index in (1, 2, 3):
            one = pydicom.dcmread(shared / f"data/dicom_seg/dcmqi_ct-3slice_0{index}.dcm")
            one.SeriesInstanceUID, one.PatientName, one.PatientID = uid, SECRET, SECRET
            pixels = np.frombuffer(one.PixelData, np.int16).reshape(-1, 512)[rows, 100:164]
            one.Rows, one.Columns, one.PixelData = *pixels.shape, pixels.tobytes()
            one.save_as(tmp_path / folder / f"{SECRET}_{uid}_{index}.dcm", enforce_file_format=True)
        return tmp_path / folder

    return copy


def packed(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for one in sorted(folder.rglob("*")):
            archive.write(one, one.relative_to(folder))
    return path


def test_the_mask_of_a_series_is_that_of_the_same_volume_in_nifti(model, series, tmp_path):
    folder = series("case.01")
    volume = read_series(folder)
    values = volume.change.from_ras(volume.values)[..., 0]
    nibabel.save(nibabel.Nifti1Image(values, volume.stored.affine), tmp_path / "scan.nii.gz")
    packed(folder, tmp_path / "case_02.zip")
    out = tmp_path / "masks"
    done = predict(model, [folder, tmp_path / "case_02.zip", tmp_path / "scan.nii.gz"], out=out, **OPTIONS)
    assert [path.name for path in done] == ["case.01.nii.gz", "case_02.nii.gz", "scan.nii.gz"]
    one, two, scan = (nibabel.load(path) for path in done)
    assert one.get_sform(coded=True)[1] == one.get_qform(coded=True)[1] == 1
    for image in (one, two):
        np.testing.assert_array_equal(image.affine, scan.affine)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.asanyarray(scan.dataobj))
        np.testing.assert_allclose(image.get_qform(), volume.stored.affine, atol=1e-4)
    assert len(np.unique(one.dataobj)) > 1
    check_same_grid(volume.grid, read_nifti(done[0]).grid, "the series", "the mask")
    predict(model, [folder], out=out, **OPTIONS)  # our own mask is replaced


def test_a_real_ct_is_segmented_on_the_grid_of_its_mask(model, shared, tmp_path):
    """The slices of this series lie in falling order, and SliceThickness is not their distance."""
    folder = shared / "data/chaos_ct_liver"
    mask = predict(model, [folder / "series.zip"], out=tmp_path, **OPTIONS)[0]
    truth, found = read_nifti(folder / "liver_mask.nii.gz"), read_nifti(mask)
    check_same_grid(truth.grid, found.grid, "the liver", "the mask")
    values = read_series(folder / "series.zip").values[truth.values > 0]
    assert abs(float(values.mean()) - 142) < 1


def test_folders_of_series_of_pictures_and_of_volumes_are_distinguished_by_content(series, tmp_path, capsys):
    series("cases/a")
    series("cases/b/deep", "1.2.826.0.1.222222")
    packed(tmp_path / "cases/a", tmp_path / "cases/c.zip")
    (tmp_path / "cases/notes.txt").write_text("no DICOM")
    (tmp_path / "cases/.hidden").mkdir()
    cases = tmp_path / "cases"
    assert find_places([cases]) == [cases / "a", cases / "b/deep", cases / "c.zip"]
    assert find_places([cases / "b"]) == [cases / "b/deep"]
    shutil.copy(Path(__file__).parents[2] / "docs/images/demo.png", tmp_path / "cases/preview.png")
    assert find_places([cases]) == [cases / "preview.png", cases / "c.zip"]  # subfolders are not searched
    series("cases", "1.2.826.0.1.333333")
    assert cases / "preview.png" in find_places([cases]) and len(find_places([cases])) == 5
    assert "Doe" not in capsys.readouterr().out


def test_each_of_several_series_in_a_folder_is_segmented(model, series, tmp_path, capsys):
    series("study")
    series("study", "1.2.826.0.1.222222", slice(200, 240))
    study, uids = tmp_path / "study", ("1.2.826.0.1.111111", "1.2.826.0.1.222222")
    assert find_places([study]) == [study / uid for uid in uids]
    done = predict(model, [study], out=tmp_path / "masks", json=tmp_path / "masks.json", **OPTIONS)
    assert [path.name for path in done] == ["study_1.111111.nii.gz", "study_1.222222.nii.gz"]
    assert [nibabel.load(path).shape for path in done] == [(64, 64, 3), (64, 40, 3)]
    archive = packed(study, tmp_path / "study.zip")
    assert find_places([archive]) == [archive / uid for uid in uids]
    assert find_places([archive / uids[1]]) == [archive / uids[1]]
    only = predict(model, [archive / uids[1]], out=tmp_path / "one", **OPTIONS)
    assert [path.name for path in only] == ["study_1.222222.nii.gz"]
    np.testing.assert_array_equal(*(np.asanyarray(nibabel.load(path).dataobj) for path in (done[1], only[0])))
    slice_ = Segmenter(model, **OPTIONS)(study / uids[1] / "axial/0001").mask
    assert slice_.shape == (40, 64)
    for text in (capsys.readouterr().out, (tmp_path / "masks.json").read_text(), *map(str, done)):
        assert "Doe" not in text


def test_a_note_on_a_folder_of_several_series_is_printed_once(model, tmp_path, capsys):
    values = np.random.default_rng(0).integers(0, 900, (40, 40, 3))
    for number in (1, 2):
        uid = f"1.2.826.0.1.{number}"
        write_series(tmp_path / "study" / str(number), values, uid)
    for number in (1, 2):  # the slices of both series in one folder
        for file in (tmp_path / "study" / str(number)).iterdir():
            file.rename(tmp_path / "study" / f"{number}{file.name}")
        (tmp_path / "study" / str(number)).rmdir()
    (tmp_path / "study/notes.txt").write_text("no DICOM")
    done = predict(model, [tmp_path / "study"], out=tmp_path / "masks", **OPTIONS)
    assert len(done) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("1 of 7 files are not DICOM images") == 1


def test_a_grey_picture_for_a_model_of_volumes_is_refused_without_a_note_on_its_channels(model, tmp_path, capsys):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(SomeInputsFailed):
        predict(model, [tmp_path / "grey.png"], out=tmp_path / "masks", **OPTIONS)
    said = " ".join(capsys.readouterr().out.split())
    assert "skipped" in said and "repeated" not in said


def test_series_that_are_no_grid_fail_alone(model, series, tmp_path, capsys):
    series("cases/good")
    bad = series("cases/bad", "1.2.826.0.1.222222")
    damaged = series("cases/damaged", "1.2.826.0.1.333333")
    shutil.copy(bad / f"{SECRET}_1.2.826.0.1.222222_1.dcm", bad / "copy.dcm")
    file = next(damaged.iterdir())
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(SomeInputsFailed, match="2 of 3"):
        predict(model, [tmp_path / "cases"], out=tmp_path / "masks", **OPTIONS)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["good.nii.gz"]
    text = " ".join(capsys.readouterr().out.split())
    assert "at the position of another slice" in text and "damaged or not valid DICOM" in text
    assert "Doe" not in text


def test_with_case_ids_nothing_but_the_table_names_the_folders(model, series, tmp_path, capsys):
    series("cases/Doe_Jane")
    bad = series("cases/Roe_Jim", "1.2.826.0.1.222222")
    shutil.copy(bad / f"{SECRET}_1.2.826.0.1.222222_1.dcm", bad / "copy.dcm")
    values = np.random.default_rng(0).normal(size=(32, 32, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, None), tmp_path / "Poe_Ann.nii.gz")  # without an orientation
    table, out = tmp_path / "private/ids.csv", tmp_path / "masks"
    given = {"out": out, "case_ids": table, "json": tmp_path / "found.json", **OPTIONS}
    with pytest.raises(SomeInputsFailed):
        predict(model, [tmp_path / "cases", tmp_path / "Poe_Ann.nii.gz"], **given)
    assert sorted(path.name for path in out.iterdir()) == ["case_0001.nii.gz", "case_0003.nii.gz"]
    rows = [line.split(",") for line in table.read_text().splitlines()]
    names = ("Doe_Jane", "Roe_Jim", "Poe_Ann.nii.gz")
    assert rows[0] == ["case_id", "volume"] and [Path(one).name for _, one in rows[1:]] == list(names)
    assert os.name != "posix" or table.stat().st_mode & 0o777 == 0o600
    said, found = " ".join(capsys.readouterr().out.split()), (tmp_path / "found.json").read_text()
    assert "case_0003 does not state its orientation" in said and "case_0002: 1 of 4 slices" in said
    assert [one["image"] for one in json.loads(found)["pictures"]] == ["case_0001", "case_0002", "case_0003"]
    for text in (said, found):
        assert not any(name in text for name in ("Doe", "Roe", "Poe", "Jane"))
    series("more/Zoe_Kim", "1.2.826.0.1.444444")
    done = predict(model, [tmp_path / "more", tmp_path / "cases/Doe_Jane"], **given)
    assert [path.name for path in done] == ["case_0004.nii.gz", "case_0001.nii.gz"]
    assert len(table.read_text().splitlines()) == 5
    with pytest.raises(AtrousError, match="case_0003 is not a DICOM series") as caught:
        predict(model, [tmp_path / "Poe_Ann.nii.gz"], format="dicom-seg", **given)
    assert "Poe" not in str(caught.value)
    with pytest.raises(AtrousError, match="1 input of 1 are pictures"):
        predict(model, [Path(__file__).parents[2] / "docs/images/demo.png"], **given)
    table.write_text("name,age\n")
    with pytest.raises(AtrousError, match="no table of case ids"):
        predict(model, [tmp_path / "more"], **given)
    assert table.read_text() == "name,age\n"


def test_folders_without_series_uid_are_series_of_their_own(series, tmp_path):
    for case in ("a", "b"):
        for path in series(f"cases/{case}").iterdir():
            header = pydicom.dcmread(path)
            del header.SeriesInstanceUID
            header.save_as(path)
    assert find_places([tmp_path / "cases"]) == [tmp_path / "cases/a", tmp_path / "cases/b"]
    assert read_volume(tmp_path / "cases/a").values.shape == (64, 64, 3, 1)


def test_slices_of_a_series_and_of_a_volume_are_pictures(model, series, tmp_path):
    folder = series("case")
    volume = predict(model, [folder], out=tmp_path / "masks", **OPTIONS)[0]
    slices = [folder / "axial/0001", volume / "axial/0001", packed(folder, tmp_path / "c.zip") / "axial/0002"]
    masks = predict(model, slices[::2], out=tmp_path / "masks", **OPTIONS)
    assert [path.name for path in masks] == ["case_axial_0001.png", "c_axial_0002.png"]
    labels = pictures_of(read_nifti(volume).values[..., 0], "axial")
    for path, index in zip(masks, (1, 2), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), labels[index])
    assert find_places(slices) == slices


def test_one_file_of_a_series_and_a_missing_zip_are_refused(series, tmp_path):
    file = next(series("case").iterdir()).rename(tmp_path / "case/one.dcm")
    with pytest.raises(AtrousError, match="one file of a DICOM series: give the folder"):
        find_places([file])
    with pytest.raises(AtrousError, match="no such file or folder"):
        find_places([tmp_path / "none.zip"])


def test_dicom_seg_holds_the_same_mask_as_nifti(model, series, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    folder = series("case")
    nifti = predict(model, [folder], out=tmp_path / "masks", **OPTIONS)[0]
    seg = predict(model, [folder], out=tmp_path / "masks", format="dicom-seg", **OPTIONS)[0]
    assert seg == tmp_path / "masks/case.dcm"
    volume, truth = read_series(folder), read_nifti(nifti).values
    found = read_dicom_seg(seg, volume.stored)
    names = atrous.load(model).info.classes
    assert list(found.names.values()) == list(names)  # none of the four classes is a background
    np.testing.assert_array_equal(found.volume.values, np.where(truth == 255, 0, truth + 1))
    theirs = highdicom.seg.segread(seg).get_volume(combine_segments=True)
    assert np.unique(theirs.array).tolist() == np.unique(found.volume.values).tolist()
    predict(model, [folder], out=tmp_path / "masks", format="dicom-seg", **OPTIONS)  # our own mask is replaced
    shutil.copy(next(folder.iterdir()), seg)
    with pytest.raises(AtrousError, match=r"case\.dcm"):
        predict(model, [folder], out=tmp_path / "masks", format="dicom-seg", **OPTIONS)


def test_dicom_seg_is_refused_before_the_work_starts(model, series, tmp_path, monkeypatch, capsys):
    folder, options = series("case"), {"out": tmp_path / "masks", "format": "dicom-seg", **OPTIONS}
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(AtrousError, match=r"only for DICOM series, but .*scan\.nii is not a DICOM series"):
        predict(model, [folder, tmp_path / "scan.nii"], **options)
    with pytest.raises(AtrousError, match="raw values cannot be written as DICOM-SEG"):
        predict(model, [folder], raw=True, **options)
    with pytest.raises(AtrousError, match="Allowed: dicom-seg, nifti"):
        predict(model, [folder], **{**options, "format": "dicom"})
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        del header.FrameOfReferenceUID
        header.save_as(path)
    monkeypatch.setattr(predict_jobs, "segment_volume", None)  # it is not called
    with pytest.raises(SomeInputsFailed):
        predict(model, [folder], **options)
    assert "the headers lack FrameOfReferenceUID" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(AtrousError, match=r"'highdicom', which is not installed.*atrous\[medical\]"):
        predict(model, [folder], **options)
    assert not (tmp_path / "masks").exists()
