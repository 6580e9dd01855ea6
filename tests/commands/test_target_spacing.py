"""`calibrate`, `export --calibrate` and `report` of a model that resamples volumes to a target spacing."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous import model_file
from atrous.commands.calibrate import calibrate
from atrous.commands.evaluate import evaluate
from atrous.commands.export import export
from atrous.commands.predict import predict
from atrous.commands.report import pictures, report
from atrous.data.mask_value_map import ClassTable
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slice_pixels import volume_pixels
from atrous.inference.exported_onnx_and_openvino import read_info
from atrous.inference.picture_input import Found
from atrous.inference.segmenter import Segmenter
from atrous.input_spec import Input
from atrous.models.info import Preprocessing
from atrous.models.task import Task
from atrous.run_folder import read_run

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("scipy")

OPTIONS = {"engine": "torch", "precision": "float32"}
SPACING = (1.5, 1.5, 2.0)
TABLE = ClassTable(("background", "one", "two"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)), ((0,), (1,), (2,)))


def model_in(folder, **image):
    """Writes a random model of volumes or pictures with these fields of its input, and returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, in_channels=1, pretrained=False
    )
    one = Input((0.0,), (1.0,), dtype="float32", **image)
    model.info = replace(model.info, preprocessing=Preprocessing((one,)), tasks=(Task(TABLE),))
    atrous.save(model, folder / "best.safetensors")
    return folder / "best.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model with a target spacing, and scans whose masks are blocks of three classes."""
    root = tmp_path_factory.mktemp("spacing")
    model_in(root / "run", normalize="per_image", planes=("axial",), spacing=SPACING)
    for part in ("images", "masks", "splits"):
        (root / "data" / part).mkdir(parents=True)
    for number, name in enumerate("ab"):
        rng = np.random.default_rng(number)
        labels = np.kron(rng.integers(0, 3, (3, 3, 2)), np.ones((8, 8, 3))).astype(np.uint8)
        scan = (rng.normal(size=labels.shape) + 2 * labels).astype(np.float32)
        for part, values in (("images", scan), ("masks", labels)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1, 3, 1])), root / f"data/{part}/{name}.nii.gz")
    TABLE.to_yaml(root / "data/classes.yaml")
    for split in ("train", "val"):
        (root / f"data/splits/{split}.txt").write_text("a\nb\n")
    return root


def test_calibrate_measures_the_resampled_slices_and_keeps_the_spacing(folder, tmp_path):
    model = folder / "run/best.safetensors"
    results = calibrate(model, folder / "data", out=tmp_path / "model.safetensors", device="cpu")
    # volumes of 24×24×6 voxels of 1×1×3 mm become 16×16×9 voxels
    assert (results["images"], results["pixels"]) == (2 * 9, 2 * 9 * 16 * 16)
    assert results["fitted"]["nll"] < results["stored"]["nll"]
    written = model_file.read_info(tmp_path / "model.safetensors")
    assert written.preprocessing.image.spacing == SPACING
    assert written.temperature == results["fitted"]["temperature"]
    again = calibrate(tmp_path / "model.safetensors", folder / "data", device="cpu")
    assert again["stored"] == results["fitted"]


@pytest.mark.slow
def test_an_int8_file_is_calibrated_on_resampled_slices_and_resamples_volumes(folder, tmp_path, capsys):
    pytest.importorskip("nncf")
    pytest.importorskip("openvino")
    out = tmp_path / "model.xml"
    given = {"int8": True, "calibrate": folder / "data", "max_drop": 100.0, "scores": True}
    export(folder / "run/best.safetensors", out=out, **given)
    assert "measuring on the 18 validation pictures" in " ".join(capsys.readouterr().out.split())
    assert read_info(out).preprocessing.image.spacing == SPACING
    (mask,) = predict(out, [folder / "data/images/a.nii.gz"], out=tmp_path / "masks")
    assert nibabel.load(mask).shape == (24, 24, 6)


def test_the_report_shows_the_whole_volumes_and_no_slices(folder):
    run = folder / "run"
    evaluate(run / "best.safetensors", folder / "data", json=run / "evaluation.json", device="cpu", **OPTIONS)
    html = report([run]).read_text(encoding="utf-8")
    assert sorted(re.findall(r"<figcaption><b>(.)</b><span>mean Dice", html)) == ["a", "b"]
    assert html.count("The volume has 24×24×6 voxels of 1×1×3 mm.") == 2
    assert "cannot be drawn again" not in html and "cannot be shown" not in html
    assert "<h2>Pictures</h2>" not in html


def test_the_report_shows_sagittal_slices_as_they_were_measured(folder, tmp_path):
    """With flip, only slices that are not sagittal are averaged with their mirror image."""
    model, data = model_in(tmp_path / "run", normalize="per_image"), tmp_path / "data"
    data.mkdir()
    for part in ("images", "masks", "splits", "classes.yaml"):
        (data / part).symlink_to(folder / "data" / part)
    (data / "inputs.yaml").write_text(json.dumps({"inputs": {"image": {"planes": ["axial", "sagittal"]}}}))
    evaluate(model, data, json=tmp_path / "run/evaluation.json", flip=True, device="cpu", **OPTIONS)
    groups, notes = pictures(read_run(tmp_path / "run"))
    assert not notes
    flipped, plain = (Segmenter(model, device="cpu", flip=flip, **OPTIONS) for flip in (True, False))
    sagittal = []
    for row in (row for _, rows in groups for row in rows):
        name, plane, index = row["name"].rsplit("_", 2)
        image = plain.info.preprocessing.image
        values, valid = volume_pixels(read_volume(data / f"images/{name}.nii.gz"), plane, int(index), image)
        prepared = plain.preparation.filled(Found(values, values, valid, ""))
        masks = {segmenter.whole.flip: segmenter.any_size(prepared, valid) for segmenter in (plain, flipped)}
        if plane == "sagittal":
            sagittal.append((masks[False] != masks[True]).any())
        expected = masks[plane != "sagittal"]
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["prediction"].partition(",")[2]))).convert("RGB"))
        np.testing.assert_array_equal(shown, np.array(TABLE.colors, np.uint8)[expected])
    assert any(sagittal)
