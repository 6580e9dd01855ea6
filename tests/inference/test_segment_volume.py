"""Volumes are segmented slice by slice, with the same result in any orientation of the file."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous.commands.predict import predict
from atrous.data.pictures import read_kind, read_mask, read_pixels
from atrous.data.sources.array import ArraySource
from atrous.data.sources.scene_files import open_windows
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.slices import AXES, SlicePlace, pictures_of
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError, SomeInputsFailed
from atrous.inference.picture_input import check_volumes_are_here
from atrous.inference.segment_volume import _slices, segment_volume
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.models.info import Preprocessing

nibabel = pytest.importorskip("nibabel")

OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    """A file of one model of three slices, for one plane and for three."""
    folder, model = tmp_path_factory.mktemp("models"), make_model("deeplabv3plus", backbone="mobilenetv2_050")
    files = {}
    for planes in (("axial",), ("axial", "coronal", "sagittal")):
        one = Input((0.0,) * 3, (1.0,) * 3, dtype="float32", normalize="per_image", slices=3, planes=planes)
        model.info = replace(model.info, preprocessing=Preprocessing((one,)))
        files[len(planes)] = folder / f"{len(planes)}.safetensors"
        atrous.save(model, files[len(planes)])
    return files


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    values = np.random.default_rng(0).normal(100, 30, (3, 4, 5)).astype(np.float32)
    values = np.kron(values, np.ones((4, 4, 4), np.float32))
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    affine[:3, 3] = (20, 30, -40)
    path = tmp_path_factory.mktemp("scan") / "case_01.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def test_one_plane_gives_the_masks_of_its_slices(models, scan):
    segmenter = Segmenter(models[1], **OPTIONS)
    steps = []
    labels = segment_volume(segmenter, read_nifti(scan), lambda *step: steps.append(step))
    masks = pictures_of(labels, "axial")
    for index in (0, 7, 19):
        expected = segmenter(SlicePlace(scan, "axial", index).path).mask
        np.testing.assert_array_equal(masks[index], expected)
    assert steps[-1] == (20, 20) and len(np.unique(labels)) > 1


def test_a_sagittal_slice_has_no_mirrored_view(models, scan, tmp_path):
    place, other = SlicePlace(scan, "sagittal", 5).path, SlicePlace(scan, "coronal", 5).path
    plain, mirrored = (Segmenter(models[3], **OPTIONS, flip=flip) for flip in (False, True))
    np.testing.assert_array_equal(plain(place).mask, mirrored(place).mask)
    assert (plain(other).mask != mirrored(other).mask).any()
    (file,) = predict(models[3], [place], out=tmp_path, flip=True, **OPTIONS)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), plain(place).mask)


@pytest.mark.parametrize("flip", [False, True])
def test_three_planes_average_their_probabilities(models, scan, flip):
    """Mirrored views exchange left and right of the patient, so sagittal slices have none."""
    segmenter, volume = Segmenter(models[3], **OPTIONS, flip=flip), read_nifti(scan)
    model = atrous.load(models[3]).eval()
    mean, std = volume.mean_and_std()
    values = (volume.values[..., 0] - mean[0].astype(np.float32)) / std[0].astype(np.float32)
    total = np.zeros((*values.shape, len(model.info.classes)))
    for plane in AXES:
        slices, sums = pictures_of(values, plane), pictures_of(total, plane)
        for index in range(len(slices)):
            near = [slices[min(max(index + step, 0), len(slices) - 1)] for step in (-1, 0, 1)]
            image = torch.from_numpy(np.stack(near)[None])
            with torch.inference_mode():
                mean_scores = model(image).softmax(1)
                if flip and plane != "sagittal":
                    mean_scores = (mean_scores + model(image.flip(3)).softmax(1).flip(3)) / 2
            sums[index] += mean_scores[0].permute(1, 2, 0).numpy()
    expected = total.argmax(3)
    ties = np.sort(total, axis=3)
    clear = ties[..., -1] - ties[..., -2] > 1e-5
    labels = segment_volume(segmenter, volume)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], expected[clear])


def test_probabilities_in_a_scratch_file_give_the_same_mask(models, scan, tmp_path, monkeypatch):
    lines = []
    segmenter, volume = Segmenter(models[3], **OPTIONS, say=lines.append), read_nifti(scan)
    expected = segment_volume(segmenter, volume)
    assert not lines
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    monkeypatch.setattr("atrous.inference.segment_volume.IN_MEMORY", 100)
    np.testing.assert_array_equal(segment_volume(segmenter, volume), expected)
    assert "GB in a scratch file" in lines[0] and str(tmp_path) in lines[0]
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and one.name != "lock"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(AtrousError, match="no scratch file can be written"):
        segment_volume(segmenter, volume)


def test_large_slices_of_several_planes_are_tiled(models):
    rng, sides = np.random.default_rng(0), []
    values = np.kron(rng.normal(100, 30, (20, 20, 2)), np.ones((16, 16, 1))).astype(np.float32)
    volume = Volume(values[..., None], Grid((320, 320, 2), np.eye(4)))
    segmenter = Segmenter(models[3], **OPTIONS, tile=256, overlap=128)
    run = segmenter.whole.scores
    segmenter.whole.scores = lambda image, *more: sides.append(max(image.shape[:2])) or run(image, *more)
    segment_volume(segmenter, volume)
    assert max(sides) <= 256
    for _, _, found in islice(_slices(segmenter, volume, None), 2):
        image = segmenter.preparation.filled(found)
        probabilities = segmenter.any_size.probabilities(image)
        np.testing.assert_allclose(probabilities.sum(2), 1, rtol=1e-5)
        clear = np.diff(np.sort(probabilities, axis=2)[..., -2:])[..., 0] > 1e-5
        np.testing.assert_array_equal(probabilities.argmax(2)[clear], segmenter.any_size(image)[clear])


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_the_mask_does_not_depend_on_the_orientation_of_the_file(models, scan, tmp_path, axes):
    image = nibabel.load(scan)
    target = nibabel.orientations.axcodes2ornt(axes)
    change = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target)
    nibabel.save(image.as_reoriented(change), tmp_path / "turned.nii.gz")
    predict(models[3], [scan, tmp_path / "turned.nii.gz"], out=tmp_path / "masks", **OPTIONS)
    one, other = (nibabel.load(tmp_path / "masks" / name) for name in ("case_01.nii.gz", "turned.nii.gz"))
    assert nibabel.aff2axcodes(other.affine) == tuple(axes)
    np.testing.assert_array_equal(one.affine, image.affine)
    back = other.as_reoriented(nibabel.orientations.ornt_transform(target, nibabel.io_orientation(image.affine)))
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), np.asanyarray(one.dataobj))


def test_predict_finds_the_volumes_of_a_folder_and_reports_damaged_ones(models, scan, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "scans/b.nii.gz").write_bytes(scan.read_bytes()[:300])
    with pytest.raises(SomeInputsFailed):
        predict(models[1], [tmp_path / "scans"], out=tmp_path / "masks", **OPTIONS)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.nii.gz"]
    predict(models[1], [tmp_path / "scans/a.nii.gz"], out=tmp_path / "masks", **OPTIONS)  # our own mask is replaced


def test_scans_of_one_name_get_the_names_of_their_folders_without_suffix(models, scan, tmp_path):
    names = ("a/scan.nii.gz", "b/scan.nii", "b/scan.NII.GZ")
    image = nibabel.load(scan)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = scan.read_bytes() if name.lower().endswith(".gz") else image.to_bytes()
        (tmp_path / name).write_bytes(content)
    masks = predict(models[1], [tmp_path / name for name in names], out=tmp_path / "masks", **OPTIONS)
    assert [mask.name for mask in masks] == ["a_scan.nii.gz", "b_scan.nii.gz", "b_scan_.nii.gz"]
    for mask in masks:
        np.testing.assert_array_equal(nibabel.load(mask).affine, image.affine)


def test_a_file_for_the_mask_is_refused_before_the_work(models, scan, tmp_path):
    with pytest.raises(AtrousError, match=r"named like a file; give a folder, such as \S*/mask, for"):
        predict(models[1], [scan], out=tmp_path / "mask.nii.gz", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_voxels_without_data_have_no_class(models, scan, tmp_path):
    values = nibabel.load(scan).get_fdata(dtype=np.float32)
    values[2, 3, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    for file in models.values():
        labels = segment_volume(Segmenter(file, **OPTIONS), read_nifti(tmp_path / "scan.nii"))
        assert np.argwhere(labels == 255).tolist() == [[2, 3, 4]]


def test_a_model_of_pictures_and_other_contrasts_are_refused(make_model, models, scan, tmp_path):
    atrous.save(make_model("deeplabv3plus", backbone="mobilenetv2_050"), tmp_path / "pictures.safetensors")
    with pytest.raises(AtrousError, match="trained on pictures"):
        segment_volume(Segmenter(tmp_path / "pictures.safetensors", **OPTIONS), read_nifti(scan))
    two = np.ones((4, 4, 4, 2), np.float32)
    nibabel.save(nibabel.Nifti1Image(two, np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(AtrousError, match="2 contrasts, and the model takes 1"):
        segment_volume(Segmenter(models[1], **OPTIONS), read_nifti(tmp_path / "two.nii"))


class Kept:
    """A sink that keeps nothing."""

    def write(self, window, labels):
        raise AssertionError("nothing may be written")


def test_pictures_and_arrays_in_any_form_are_refused_by_a_model_of_volumes(models, tmp_path):
    """A slice alone would be normalised by its own mean and deviation, and get another mask."""
    values, grey = np.ones((8, 8, 3), np.float32), Image.new("L", (8, 8))
    grey.save(tmp_path / "grey.png")
    grey.save(tmp_path / "grey.tif")
    segmenter = Segmenter(models[1], **OPTIONS)
    refused = [
        *(lambda one=one: segmenter(one) for one in (tmp_path / "grey.png", grey, values, values.astype(np.int16))),
        lambda: segmenter([values]),
        lambda: segmenter(torch.from_numpy(values), axes="HWC"),
        lambda: segmenter({"image": values}),
        lambda: segmenter.found({"image": read_pixels(tmp_path / "grey.png")}),
        lambda: segmenter.windows(ArraySource(values), Kept()),
        lambda: open_windows([tmp_path / "grey.tif"], segmenter.info.preprocessing.inputs),
    ]
    for call in refused:
        with pytest.raises(AtrousError, match=r"trained on slices of volumes.*Give a NIfTI file"):
            call()


def test_predict_segments_a_slice_as_a_picture(models, scan, tmp_path):
    place = SlicePlace(scan, "axial", 7)
    (mask,) = predict(models[1], [place.path], out=tmp_path, overlay=True, **OPTIONS)
    assert mask == tmp_path / "case_01_axial_0007.png"
    expected = pictures_of(segment_volume(Segmenter(models[1], **OPTIONS), read_nifti(scan)), "axial")[7]
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    with Image.open(tmp_path / "case_01_axial_0007.overlay.png") as overlay:
        assert overlay.width >= expected.shape[1] and overlay.height > expected.shape[0]


def test_the_shown_picture_of_a_slice_is_the_slice_without_its_neighbours(models, scan):
    found = Segmenter(models[1], **OPTIONS).read(SlicePlace(scan, "axial", 7).path)
    assert found.image.shape[2] == 3
    np.testing.assert_array_equal(found.shown[:, :, 0], found.image[:, :, 1])
    assert found.shown.shape[2] == 1


def test_slices_of_three_channels_are_not_called_grey(models, scan, tmp_path, capsys):
    predict(models[1], [SlicePlace(scan, "axial", 7).path], out=tmp_path, **OPTIONS)
    assert "grey" not in capsys.readouterr().out


@pytest.mark.parametrize("path", ["case_01.nii.gz/axial/0020", "case_02.nii.gz/axial/0000", "case_01.nii.gz/top/0000"])
def test_a_slice_that_does_not_exist_is_an_error(models, scan, tmp_path, path, capsys):
    with pytest.raises((AtrousError, SomeInputsFailed)) as error:
        predict(models[1], [scan.parent / path], out=tmp_path / "masks", **OPTIONS)
    said = " ".join(f"{error.value} {capsys.readouterr().out}".split())
    assert "there is no slice 20; the volume has the slices 0 to 19" in said or "no such file" in said
    assert not (tmp_path / "masks").exists()


def test_the_mask_of_a_slice_never_replaces_its_volume(models, scan, tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(scan.read_bytes())
    with pytest.raises(AtrousError, match=r"json is .*scan\.nii\.gz, a picture to segment"):
        predict(models[1], [path / "axial/0000"], out=tmp_path / "masks", json=path, overwrite=True, **OPTIONS)
    assert path.read_bytes() == scan.read_bytes()


def test_an_overlay_of_a_volume_is_refused_before_the_work(models, scan, tmp_path):
    with pytest.raises(AtrousError, match="leave --overlay out"):
        predict(models[1], [scan], out=tmp_path / "masks", overlay=True, **OPTIONS)
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("url", ["https://a.example/scan.nii.gz", "s3://a/scan.NII", "https://a.example/s.nii/axial/1"])
def test_volumes_at_urls_are_refused_before_anything_is_fetched(models, tmp_path, url):
    message = r"a(\.example)?/s.*: volumes at URLs are not read\. Download the file"
    with pytest.raises(AtrousError, match=message):
        check_volumes_are_here([tmp_path / "scan.nii", url])
    with pytest.raises(AtrousError, match=message):
        Segmenter(models[1], **OPTIONS)(url)
    if not url.startswith("s3"):  # whose listing needs s3fs and the network
        with pytest.raises(AtrousError, match=message):
            predict(models[1], [url], out=tmp_path / "masks", **OPTIONS)


def test_a_volume_in_the_place_of_a_picture_or_a_model_is_named(make_model, models, scan, tmp_path):
    with pytest.raises(AtrousError, match=r"case_01\.nii\.gz is not a model file .*give the model first"):
        Segmenter(scan, **OPTIONS)
    with pytest.raises(AtrousError, match=r"give the model first"):
        predict(scan, [models[1]], out=tmp_path, **OPTIONS)
    message = r"case_01\.nii\.gz: this is a whole volume, and one picture is needed\. Give one of its slices, such as"
    with pytest.raises(AtrousError, match=message):
        Segmenter(models[1], **OPTIONS)(scan)
    for reader in (read_pixels, read_kind, read_mask):
        with pytest.raises(AtrousError, match=message):
            reader(scan)
    with pytest.raises(AtrousError, match=message):
        Segmenter(make_model("deeplabv3plus", backbone="mobilenetv2_050"), **OPTIONS)(scan)


def test_raw_masks_have_the_values_of_training(models, scan, tmp_path):
    predict(models[1], [scan], out=tmp_path / "indices", **OPTIONS)
    predict(models[1], [scan], out=tmp_path / "raw", raw=True, **OPTIONS)
    indices, raw = (np.asanyarray(nibabel.load(tmp_path / name / scan.name).dataobj) for name in ("indices", "raw"))
    table = atrous.load(models[1]).info.table
    np.testing.assert_array_equal(raw, np.array([values[0] for values in table.raw])[indices])


def test_a_crf_over_several_planes_is_refused(models, scan):
    with pytest.raises(AtrousError, match="leave the CRF out"):
        segment_volume(Segmenter(models[3], crf="deeplabv2", **OPTIONS), read_nifti(scan))


def test_missing_values_have_no_class_in_any_number_of_planes(models, scan, tmp_path):
    values = nibabel.load(scan).get_fdata(dtype=np.float32)
    values[2, 3, 4] = -2000
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    for file in models.values():
        model = atrous.load(file)
        image = replace(model.info.preprocessing.image, missing=(-2000.0,))
        model.info = replace(model.info, preprocessing=Preprocessing((image,)))
        atrous.save(model, tmp_path / file.name)
        labels = segment_volume(Segmenter(tmp_path / file.name, **OPTIONS), read_nifti(tmp_path / "scan.nii"))
        assert np.argwhere(labels == 255).tolist() == [[2, 3, 4]]


def test_predict_keeps_the_largest_part_of_a_class(models, scan, tmp_path, make_model):
    ndimage = pytest.importorskip("scipy.ndimage")

    def parts_by_class(name, **more):
        (path,) = predict(models[3], [scan], out=tmp_path / name, **more, **OPTIONS)
        mask = np.asanyarray(nibabel.load(path).dataobj)
        return {one: ndimage.label(mask == one, np.ones((3, 3, 3)))[1] for one in np.unique(mask) if one}

    names = atrous.load(models[3]).info.classes
    before = parts_by_class("all")
    assert max(before.values()) > 1
    assert set(parts_by_class("largest", largest_part=("all",)).values()) == {1}
    several = max(before, key=before.__getitem__)
    cleaned = parts_by_class("one", largest_part=(names[several],))
    assert cleaned[several] == 1 and {**cleaned, several: 0} == {**before, several: 0}
    assert not parts_by_class("none", smallest_part=("all=1000",))
    with pytest.raises(AtrousError, match="CLASS=ML, such as liver=5, got 'liver'"):
        parts_by_class("wrong", smallest_part=("liver",))
    with pytest.raises(AtrousError, match="for whole volumes"):
        predict(
            models[3], [SlicePlace(scan, "axial", 1).path], out=tmp_path / "slice", largest_part=("all",), **OPTIONS
        )
    picture = tmp_path / "picture.safetensors"
    atrous.save(make_model("deeplabv3plus", backbone="mobilenetv2_050"), picture)
    with pytest.raises(AtrousError, match="this model was trained on pictures"):
        predict(picture, [scan], out=tmp_path / "picture", largest_part=("all",))
