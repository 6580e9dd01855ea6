"""Datasets with one mistake each: the doctor must name it, and only it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.doctor import scan as survey_module
from atrous.data.doctor import taken_channels
from atrous.data.doctor.examine import Diagnosis, examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

THREE = ClassTable(("wall", "door", "window"), default_colors(3), ((0,), (1,), (2,)), (255,))
TWO = ClassTable(("background", "crack"), default_colors(2), ((0,), (1,)), (255,))
SPLITS = {"train": "abcdef", "val": "ghi", "test": "j"}


def save(path: Path, array, **options) -> Path:
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def mask(values) -> np.ndarray:
    """A 20×24 mask of vertical stripes, one per value."""
    return np.repeat(np.asarray(values), 24 // len(values), axis=0)[None].repeat(20, axis=0)


@pytest.fixture
def data(tmp_path) -> Path:
    """A sound dataset of ten pictures in three classes."""
    root = tmp_path / "walls"
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, stems in SPLITS.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            save(root / "images" / f"{stem}.png", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
            save(root / "masks" / f"{stem}.png", mask([0, 1, 2]).astype(np.uint8))
    THREE.to_yaml(root / "classes.yaml")
    return root


def all_masks(root: Path, change) -> None:
    for path in (root / "masks").iterdir():
        changed = np.asarray(change(np.asarray(Image.open(path))))
        save(path, changed)


def kinds(findings) -> list[str]:
    return [finding.kind for finding in findings]


def told(diagnosis: Diagnosis, kind: str) -> str:
    """All that is said about one kind of problem."""
    found = [f for f in (*diagnosis.errors, *diagnosis.warnings) if f.kind == kind]
    assert found, f"{kind} was not found, but {kinds(diagnosis.errors)} and {kinds(diagnosis.warnings)}"
    return "\n".join([found[0].message, *found[0].examples])


def assert_cured(root: Path, diagnosis: Diagnosis) -> Diagnosis:
    """Write the proposed table and examine again."""
    assert diagnosis.proposed_classes is not None
    diagnosis.proposed_classes.to_yaml(root / "classes.yaml")
    cured = examine(root)
    assert not cured.errors
    return cured


def test_sound_dataset(data):
    calls = []
    diagnosis = examine(data, progress=lambda done, total: calls.append((done, total)))
    assert not diagnosis.errors
    assert not diagnosis.warnings
    assert diagnosis.pixels == {"train": (960,) * 3, "val": (480,) * 3, "test": (160,) * 3}
    assert diagnosis.images == {"train": 6, "val": 3, "test": 1}
    assert diagnosis.proposed_classes is None
    assert calls[-1] == (10, 10)
    diagnosis.raise_for_errors()
    assert doctor(data) == 0


def test_foreground_255_in_all_masks(data):
    TWO.to_yaml(data / "classes.yaml")
    all_masks(data, lambda _: mask([0, 255]).astype(np.uint8))
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["foreground_is_255"]
    cured = assert_cured(data, diagnosis)
    assert cured.classes
    assert cured.classes.names == TWO.names
    assert cured.pixels["train"] == (1440, 1440)


def test_foreground_255_where_the_table_does_not_know_it(data):
    ClassTable(TWO.names, TWO.colors, TWO.raw).to_yaml(data / "classes.yaml")
    all_masks(data, lambda _: mask([0, 255]).astype(np.uint8))
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["foreground_is_255"]
    assert "value 255 in 240 pixels, first at pixel x=12, y=0" in told(diagnosis, "foreground_is_255")
    assert_cured(data, diagnosis)


def test_foreground_255_in_one_mask_is_a_warning(data):
    TWO.to_yaml(data / "classes.yaml")
    all_masks(data, lambda _: mask([0, 1]).astype(np.uint8))
    save(data / "masks/c.png", mask([0, 255]).astype(np.uint8))
    diagnosis = examine(data)
    assert not diagnosis.errors
    assert "masks/c.png" in told(diagnosis, "foreground_is_255")


def test_off_by_one(data):
    all_masks(data, lambda values: values + np.uint8(1))
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["off_by_one"]
    assert "value 3 in 160 pixels, first at pixel x=16, y=0" in told(diagnosis, "off_by_one")
    cured = assert_cured(data, diagnosis)
    assert cured.classes
    assert cured.classes.names == THREE.names
    assert cured.pixels["train"] == (960,) * 3


def test_sparse_values(data):
    all_masks(data, lambda values: np.array([0, 100, 200], np.uint8)[values])
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["unknown_value"]
    assert "100, 200" in told(diagnosis, "unknown_value")
    assert assert_cured(data, diagnosis).pixels["train"] == (960, 0, 0, 960, 960)


def test_negative_values_in_tiff(data):
    for path in list((data / "masks").iterdir()):
        values = np.array([-1024, -1, 70000], np.int32)[np.asarray(Image.open(path))]
        path.unlink()
        save(path.with_suffix(".tif"), values)
    (data / "classes.yaml").unlink()
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["no_classes"]
    cured = assert_cured(data, diagnosis)
    assert cured.classes
    assert cured.classes.raw == ((-1024,), (70000,))
    assert cured.classes.ignore == (-1,)


def test_single_unknown_value_names_file_pixel_and_value(data):
    values = mask([0, 1, 2]).astype(np.uint8)
    values[7, 5] = 9
    save(data / "masks/b.png", values)
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["unknown_value"]
    assert "masks/b.png: value 9 in 1 pixels, first at pixel x=5, y=7" in told(diagnosis, "unknown_value")
    with pytest.raises(AtrousError, match=r"nothing was started[^$]*masks/b\.png: value 9"):
        diagnosis.raise_for_errors()


def test_color_coded_masks(data):
    colors = np.array(THREE.colors, np.uint8)
    all_masks(data, lambda values: colors[values])
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["wrong_mode"]
    assert "masks/a.png: holds (0, 0, 0)" in told(diagnosis, "wrong_mode")
    cured = assert_cured(data, diagnosis)
    assert cured.classes
    assert cured.classes.names == THREE.names
    assert cured.pixels["train"] == (960,) * 3


def test_one_color_coded_mask_among_indices(data):
    save(data / "masks/b.png", np.array(THREE.colors, np.uint8)[mask([0, 1, 2])])
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["wrong_mode"]
    assert "masks/b.png" in told(diagnosis, "wrong_mode")


def test_indices_where_the_table_lists_colors(data):
    ClassTable(THREE.names, THREE.colors, tuple((c,) for c in THREE.colors)).to_yaml(data / "classes.yaml")
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["wrong_mode"]
    assert assert_cured(data, diagnosis).pixels["train"] == (960,) * 3


def test_grey_stored_as_rgb_and_palette_are_fine(data):
    save(data / "masks/a.png", np.repeat(mask([0, 1, 2]).astype(np.uint8)[:, :, None], 3, axis=2))
    palette = Image.fromarray(mask([0, 1, 2]).astype(np.uint8)).convert("P")
    palette.putpalette([channel for color in THREE.colors for channel in color])
    palette.save(data / "masks/b.png")
    assert not examine(data).errors


def test_truncated_and_empty_files(data):
    whole = (data / "images/a.png").read_bytes()
    (data / "images/a.png").write_bytes(whole[: len(whole) // 2])
    (data / "masks/b.png").write_bytes(b"")
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["unreadable"]
    assert diagnosis.errors[0].count == 2
    assert "images/a.png: cannot be read" in told(diagnosis, "unreadable")
    assert "masks/b.png: the file is empty" in told(diagnosis, "unreadable")


def test_wrong_size(data):
    save(data / "masks/d.png", mask([0, 1, 2]).astype(np.uint8)[:10])
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["size_mismatch"]
    assert "masks/d.png: the mask is 24×10" in told(diagnosis, "size_mismatch")


def test_jpeg_named_png(data):
    values = np.array([0, 120, 240], np.uint8)[mask([0, 1, 2])]
    ClassTable(THREE.names, THREE.colors, ((0,), (120,), (240,))).to_yaml(data / "classes.yaml")
    all_masks(data, lambda _: values)
    noisy = np.where(np.random.default_rng(0).random(values.shape) < 0.5, values, 0).astype(np.uint8)
    save(data / "masks/e.png", noisy, format="JPEG", quality=50)
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["lossy_mask"]
    said = told(diagnosis, "lossy_mask")
    assert "masks/e.png" in said
    assert "pixels with stray values, first at pixel x=" in said


def test_lossy_mask_without_strays_is_a_warning(data):
    save(data / "masks/e.png", np.zeros((20, 24), np.uint8), format="JPEG")
    diagnosis = examine(data)
    assert not diagnosis.errors
    assert "masks/e.png" in told(diagnosis, "lossy_mask")


def test_smeared_masks_get_a_threshold(data):
    rng = np.random.default_rng(0)
    smear = mask([0, 255])
    smear[:, 11:13] = rng.integers(0, 256, (20, 2))
    (data / "classes.yaml").unlink()
    all_masks(data, lambda _: np.where(rng.random((20, 24)) < 0.9, smear, mask([0, 255])).astype(np.uint8))
    diagnosis = examine(data)
    assert "128 as the threshold" in told(diagnosis, "no_classes")
    assert_cured(data, diagnosis)


def test_missing_pairs(data):
    (data / "masks/a.png").unlink()
    (data / "images/g.png").unlink()
    with (data / "splits/train.txt").open("a") as file:
        file.write("\nnobody.png\n")
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["missing_mask", "missing_image"]
    assert "images/a.png" in told(diagnosis, "missing_mask")
    assert "masks/g.png" in told(diagnosis, "missing_image")
    assert "images/nobody (in splits/train.txt, line 7)" in told(diagnosis, "missing_image")


def test_no_classes_file_is_proposed_and_written(data, capsys):
    (data / "classes.yaml").unlink()
    assert doctor(data) == 2
    assert "class_2" in capsys.readouterr().out
    assert doctor(data, write_classes=True) == 0
    assert open_dataset(data).classes.raw == ((0,), (1,), (2,))
    with pytest.raises(AtrousError, match="never overwritten"):
        doctor(data, write_classes=True)


def test_instance_ids_are_no_classes(data):
    (data / "classes.yaml").unlink()
    numbers = np.arange(480, dtype=np.uint16).reshape(20, 24)
    save(data / "masks/a.png", numbers)
    diagnosis = examine(data)
    assert "instances" in told(diagnosis, "no_classes")
    assert diagnosis.proposed_classes is None
    with pytest.raises(AtrousError, match="none was written"):
        doctor(data, write_classes=True)


def test_near_and_exact_copies_across_splits(data):
    rng = np.random.default_rng(1)
    for stem in "abcdefghij":
        coarse = rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)
        save(data / f"images/{stem}.png", np.asarray(Image.fromarray(coarse).resize((24, 20))))
    original = np.asarray(Image.open(data / "images/a.png")).astype(int)
    save(data / "images/g.png", np.clip(original * 0.8 + rng.normal(0, 3, original.shape), 0, 255).astype("u1"))
    save(data / "images/j.png", original.astype(np.uint8))
    diagnosis = examine(data)
    assert not diagnosis.errors
    said = "\n".join(line for finding in diagnosis.warnings for line in finding.examples)
    assert set(kinds(diagnosis.warnings)) == {"near_identical"}
    assert "val 'g.png' ≈ train 'a.png'" in said
    assert "test 'j.png' is train 'a.png', pixel for pixel" in said


def test_one_picture_in_two_splits(data):
    (data / "splits/val.txt").write_text("a\ng\nh")
    diagnosis = examine(data)
    assert kinds(diagnosis.warnings) == ["same_picture"]
    assert "images/a.png" in told(diagnosis, "same_picture")


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test"), ("trainval", "test")])
def test_a_split_inside_one_that_it_is_scored_against_is_a_leak(data, first, second):
    (data / f"splits/{first}.txt").write_text("\n".join("abcdefghij"))
    (data / f"splits/{second}.txt").write_text("a\nb")
    leaks = [finding.message for finding in examine(data).warnings if finding.kind == "same_picture"]
    assert any(f"listed in both {first} and {second}" in leak for leak in leaks)


def test_a_split_that_contains_others_is_no_leak(data):
    (data / "splits/trainval.txt").write_text("\n".join("abcdefghi"))
    assert not examine(data).warnings


def test_empty_class_and_imbalance_and_all_ignored(data):
    all_masks(data, lambda values: np.where(values == 2, 0, values).astype(np.uint8))
    all_masks(data, lambda values: np.where((np.indices(values.shape).sum(0) == 20), values, 0).astype(np.uint8))
    save(data / "masks/g.png", np.full((20, 24), 255, np.uint8))
    diagnosis = examine(data)
    assert not diagnosis.errors
    assert "window" in told(diagnosis, "empty_class")
    assert "masks/g.png" in told(diagnosis, "all_ignore")
    assert diagnosis.ignored["val"] == 480


def test_imbalance(data):
    rare = np.zeros((20, 24), np.uint8)
    rare[3, 3], rare[:, 12:] = 2, 1
    all_masks(data, lambda _: rare)
    diagnosis = examine(data)
    assert kinds(diagnosis.warnings) == ["imbalance"]
    assert "window: 0.21%" in told(diagnosis, "imbalance")


def test_mixed_channels_and_depths(data):
    save(data / "images/a.png", np.random.default_rng(5).integers(0, 256, (20, 24), dtype=np.uint8))
    save(data / "images/b.png", np.random.default_rng(6).integers(0, 60000, (20, 24), dtype=np.uint16))
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["mixed_depths"]
    assert "uint16: images/b.png" in told(diagnosis, "mixed_depths")
    assert "1: images/a.png" in told(diagnosis, "mixed_channels")


def test_not_finite_pictures(data):
    for path in list((data / "images").iterdir()):
        image = np.random.default_rng(ord(path.stem)).random((20, 24), dtype=np.float32)
        image[2, 2] = np.nan if path.stem == "c" else 0
        path.unlink()
        save(path.with_suffix(".tif"), image)
    diagnosis = examine(data)
    assert not diagnosis.errors
    assert "images/c.tif: 0.2% of its pixels" in told(diagnosis, "void")


def test_photographs_as_masks(data):
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    large = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    save(data / "masks/a.png", large)
    save(data / "images/a.png", large)
    save(data / "masks/b.png", noise, format="JPEG")
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["wrong_mode", "lossy_mask", "too_many_values"]
    assert diagnosis.proposed_classes is None


def test_repeated_problems_are_one_finding(data):
    all_masks(data, lambda values: np.full_like(values, 77))
    diagnosis = examine(data)
    assert kinds(diagnosis.errors) == ["unknown_value"]
    assert diagnosis.errors[0].count == 10
    assert len(diagnosis.errors[0].examples) == 5


def test_json(data, tmp_path, capsys):
    all_masks(data, lambda values: values + np.uint8(1))
    assert doctor(data, json=tmp_path / "out.json") == 2
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["errors"][0]["kind"] == "off_by_one"
    assert out["errors"][0]["count"] == 10
    assert out["classes"][1] == {"name": "door", "pixels": {"train": 960, "val": 480, "test": 160}}
    assert "raw: [1]" in out["proposed_classes"]
    printed = capsys.readouterr().out
    assert "off_by_one" in printed
    assert "1 error, " in printed


@pytest.mark.slow
def test_real_camvid_is_clean(shared):
    diagnosis = examine(shared / "data/camvid")
    assert not diagnosis.errors
    # as counted in the README beside the data
    assert diagnosis.pixels["train"][0] == 10682767
    assert diagnosis.ignored["train"] == 2503995


def test_real_nuclei_get_their_classes_proposed(shared):
    diagnosis = examine(shared / "data/dsb2018_nuclei")
    assert kinds(diagnosis.errors) == ["no_classes"]
    assert diagnosis.proposed_classes
    assert diagnosis.proposed_classes.raw == ((0,), (1,))


FAULTS = [MemoryError(), KeyError("tag"), RuntimeError("no codec")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize(
    ("module", "reader"), [(taken_channels, "read_pixels"), (survey_module, "stored_mask")], ids=["picture", "mask"]
)
def test_whatever_a_decoder_raises_is_one_unreadable_file(data, monkeypatch, module, reader, fault):
    def read(path, *more):
        if path.name == "a.png":
            raise fault
        return real(path, *more)

    real = getattr(module, reader)
    monkeypatch.setattr(module, reader, read)
    diagnosis = examine(data)
    (finding,) = [each for each in diagnosis.errors if each.kind == "unreadable"]
    assert finding.count == 1
    assert type(fault).__name__ in finding.examples[0]
