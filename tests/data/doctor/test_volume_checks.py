"""The doctor on datasets of volumes: checks of grids, spacing, intensities, masks and copies, and splits by volumes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import Diagnosis, examine
from atrous.data.doctor.outliers import FEWEST, outliers
from atrous.data.doctor.volume_facts import fingerprint
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.statistics import class_pixels
from atrous.data.volumes.read_volume import read_volume
from atrous.errors import AtrousError

nibabel = pytest.importorskip("nibabel")

SHAPE = (24, 20, 16)
TABLE = ClassTable(("background", "organ"), default_colors(2), ((0,), (1,)), (255,))


def write(path: Path, values: np.ndarray, sides=(1.0, 1.0, 2.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*sides, 1.0])), path)


def read(path: Path) -> np.ndarray:
    return np.asanyarray(nibabel.load(path).dataobj)


def patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan whose body fills the patient's left half, with texture and an organ, and its mask.

    The first and last two slices are blank, as they are in many scans.
    """
    rng = np.random.default_rng(seed)
    scan, mask = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    coarse = rng.normal(size=(6, 10, 8)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    scan[:12, :, :] = 100 + 15 * coarse + rng.normal(size=(12, *SHAPE[1:]))
    mask[3:9, 5:15, 4:12] = 1
    scan[mask == 1] += 60
    scan[:, :, [0, 1, -2, -1]], mask[:, :, [0, 1, -2, -1]] = 0, 0
    return scan, mask


def dataset(root: Path, names=tuple(f"scan{index}" for index in range(10))) -> Path:
    for index, name in enumerate(names):
        scan, mask = patient(index)
        write(root / f"images/{name}.nii.gz", scan)
        write(root / f"masks/{name}.nii.gz", mask)
    TABLE.to_yaml(root / "classes.yaml")
    return root


def lists(root: Path, **splits) -> None:
    (root / "splits").mkdir()
    for name, items in splits.items():
        (root / f"splits/{name}.txt").write_text("\n".join(items))


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [finding.kind for finding in (*diagnosis.errors, *diagnosis.warnings)]


def told(diagnosis: Diagnosis, kind: str):
    (finding,) = [one for one in (*diagnosis.errors, *diagnosis.warnings) if one.kind == kind]
    return finding


def test_a_clean_dataset_has_no_findings_but_small_splits(tmp_path):
    diagnosis = examine(dataset(tmp_path))
    assert kinds(diagnosis) == ["few_pictures"]
    assert "'val' has 1 volume: too few for a reliable score" in told(diagnosis, "few_pictures").message
    assert diagnosis.images == {"train": 8, "val": 1, "test": 1}
    assert diagnosis.slices == {"train": 8 * 16, "val": 16, "test": 16}
    assert diagnosis.as_json()["slices"] == diagnosis.slices


def test_real_volumes_raise_no_false_alarm(tmp_path, shared):
    for name, own in (("images", "images"), ("labels", "masks")):
        (tmp_path / own).symlink_to(shared / "data/msd_hippocampus" / name)
    ClassTable(("background", "anterior", "posterior"), default_colors(3), ((0,), (1,), (2,))).to_yaml(
        tmp_path / "classes.yaml"
    )
    diagnosis = examine(tmp_path)
    assert sum(diagnosis.images.values()) == 48 and kinds(diagnosis) == []


def test_blank_slices_of_different_patients_are_not_copies(tmp_path):
    root = dataset(tmp_path)
    lists(root, train=[f"scan{index}" for index in range(6)], val=["scan6", "scan7", "scan8"])
    assert "near_identical" not in kinds(examine(root))


def test_blank_pictures_are_not_copies(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(8):
        picture = np.zeros((32, 32), np.uint8) if index % 2 else rng.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"images/{index}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / f"masks/{index}.png")
    TABLE.to_yaml(tmp_path / "classes.yaml")
    lists(tmp_path, train="0123", val="4567")
    assert "near_identical" not in kinds(examine(tmp_path))
    shutil.copy(tmp_path / "images/0.png", tmp_path / "images/6.png")
    assert told(examine(tmp_path), "near_identical").examples == ("val '6.png' is train '0.png', pixel for pixel",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scan: scan, "val 'scan7.nii.gz' is train 'scan1.nii.gz', voxel for voxel"),
        (lambda scan: (scan * 10).astype(np.int16), "val 'scan7.nii.gz' ≈ train 'scan1.nii.gz' (correlation 1.00)"),
        (
            lambda scan: scan * 2 + 50 + np.random.default_rng(9).normal(size=SHAPE).astype(np.float32),
            "val 'scan7.nii.gz' ≈ train 'scan1.nii.gz' (correlation 1.00)",
        ),
    ],
    ids=["same file", "other type", "rescaled with noise"],
)
def test_the_same_scan_under_two_names_is_told_and_kept_together(tmp_path, change, words):
    root = dataset(tmp_path)
    write(root / "images/scan7.nii.gz", change(read(root / "images/scan1.nii.gz")))
    names = [f"scan{index}" for index in range(10)]
    lists(root, train=names[:6], val=names[6:])
    finding = told(examine(root), "near_identical")
    assert finding.examples == (words,) and finding.count == 1
    assert finding.message.startswith("Volumes of val look nearly like a volume of train")
    shutil.rmtree(root / "splits")
    proposed = examine(root).proposed_split
    assert len({split for split, items in proposed.items() for item in items if item.name in ("scan1", "scan7")}) == 1


def test_brains_of_different_people_in_one_space_are_not_copies(shared):
    """Colin27 and MNI152 are both skull-stripped and in MNI space, so that they resemble each other."""
    pytest.importorskip("nilearn")
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_to_img

    from atrous.data.doctor.near_duplicates import VOLUMES_ALIKE

    average = load_mni152_template(resolution=2)
    colin = nibabel.load(shared / "data/colin27_aal/ch2bet.nii.gz")
    colin = resample_to_img(colin, average, force_resample=True, copy_header=True).get_fdata()
    one, other = fingerprint(colin)[0], fingerprint(average.get_fdata())[0]
    assert one @ other < VOLUMES_ALIKE - 0.01
    noisy = 3 * colin + 7 + np.random.default_rng(0).normal(size=colin.shape) * colin.std() / 10
    assert one @ fingerprint(noisy)[0] > VOLUMES_ALIKE


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 17), (64, 64, 5)])
def test_fingerprints_have_length_one_or_are_zero(shape):
    values = np.random.default_rng(0).normal(size=shape)
    found, contrast = fingerprint(values)
    assert found.shape == (4096,)
    assert np.linalg.norm(found) == pytest.approx(1 if values.size > 1 else 0) and (contrast > 0) == (values.size > 1)
    assert not fingerprint(np.full(shape, 7, np.int16))[0].any()
    assert not fingerprint(np.full(shape, np.nan, np.float32))[0].any()


def test_write_split_writes_volumes_by_patient(tmp_path, capsys):
    names = [f"patient{index // 2:02}_{'ab'[index % 2]}" for index in range(12)]
    root = dataset(tmp_path / "data", names)
    assert "shared_group" in kinds(examine(root))
    assert doctor(root, write_split=True, json=tmp_path / "found.json") == 0
    written = {path.stem: path.read_text().split() for path in (root / "splits").iterdir()}
    assert sorted(name for part in written.values() for name in part) == names
    patients = {split: {name.split("_")[0] for name in part} for split, part in written.items()}
    assert len(set().union(*patients.values())) == sum(map(len, patients.values())) == 6
    assert json.loads((tmp_path / "found.json").read_text())["images"] == {s: len(part) for s, part in written.items()}
    slices = open_dataset(root).splits
    assert {split: len(items) for split, items in slices.items()} == {s: 16 * len(part) for s, part in written.items()}
    assert "volumes: train" in capsys.readouterr().out


def test_planes_and_slices_are_those_of_training(tmp_path):
    root = dataset(tmp_path)
    planes = ("axial", "sagittal")
    for found in (examine(root, planes=planes, slices=3), _with_inputs(root, planes)):
        opened = open_dataset(root, planes=planes)
        assert found.slices == {name: len(items) for name, items in opened.splits.items()}
        assert {split: list(found.pixels[split]) for split in found.pixels} == {
            split: class_pixels(opened, split) for split in opened.splits
        }


def _with_inputs(root: Path, planes) -> Diagnosis:
    (root / "inputs.yaml").write_text(f"inputs:\n  image: {{planes: [{', '.join(planes)}], slices: 3}}\n")
    return examine(root)


def test_planes_are_given_on_the_command_line(tmp_path, capsys):
    root = dataset(tmp_path)
    assert main(["doctor", str(root), "--planes", "axial,coronal", "--slices", "3"]) == 0
    assert f"train {8 * (16 + 20)}, val {16 + 20}, test {16 + 20}" in capsys.readouterr().out
    assert main(["doctor", str(root), "--planes", "oblique"]) == 2


def test_missing_masks_and_volumes_are_named(tmp_path):
    root = dataset(tmp_path)
    (root / "masks/scan2.nii.gz").unlink()
    (root / "images/scan3.nii.gz").unlink()
    diagnosis = examine(root)
    assert told(diagnosis, "missing_mask").message.startswith("Volumes without a mask.")
    assert told(diagnosis, "missing_mask").examples == ("images/scan2.nii.gz",)
    assert told(diagnosis, "missing_image").examples == ("masks/scan3.nii.gz",)


@pytest.mark.parametrize("written", ["scan99", "scan99.nii.gz"])
def test_a_missing_volume_of_a_list_is_named(tmp_path, written):
    root = dataset(tmp_path)
    lists(root, train=["scan0", "scan1", "scan2", "scan3", written], val=["scan4", "scan5"])
    diagnosis = examine(root)
    found = [one for finding in diagnosis.errors for one in finding.examples if "scan99" in one]
    assert found and any("train.txt, line 5" in one for one in found)
    opened = open_dataset(root)
    assert opened.split("train")[-1].name == "scan99"
    with pytest.raises(AtrousError, match=r"scan99: there is no such .*train\.txt, line 5"):
        opened.read(opened.split("train")[-1])


@pytest.mark.parametrize(("channels", "slices", "wrong"), [(3, 3, False), (3, 1, True), (1, 3, True), (1, 1, False)])
def test_the_models_channels_are_contrasts_times_slices(tmp_path, channels, slices, wrong):
    diagnosis = examine(dataset(tmp_path), in_channels=channels, slices=slices)
    assert ("channels_without_a_way" in kinds(diagnosis)) == wrong


def test_volumes_with_other_contrasts_are_an_error(tmp_path):
    root = dataset(tmp_path)
    write(root / "images/scan3.nii.gz", np.stack([read(root / "images/scan3.nii.gz")] * 2, axis=3))
    finding = told(examine(root), "mixed_contrasts")
    assert "9 volumes with 1, 1 volume with 2" in finding.message and "2: images/scan3.nii.gz" in finding.examples


def test_all_masks_on_another_grid_and_all_damaged_files_are_listed_at_once(tmp_path):
    root = dataset(tmp_path)
    for index in (2, 5):
        write(root / f"masks/scan{index}.nii.gz", read(root / f"masks/scan{index}.nii.gz"), sides=(1, 1, 3))
    write(root / "masks/scan6.nii.gz", read(root / "masks/scan6.nii.gz")[:-1])
    whole = (root / "images/scan8.nii.gz").read_bytes()
    (root / "images/scan8.nii.gz").write_bytes(whole[: len(whole) // 2])
    (root / "masks/scan9.nii.gz").write_bytes(b"")
    diagnosis = examine(root)
    grids, damaged = told(diagnosis, "grid_mismatch"), told(diagnosis, "unreadable")
    assert {text.split(" is not on the grid of ")[0] for text in grids.examples} == {
        f"masks/scan{index}.nii.gz" for index in (2, 5, 6)
    }
    assert damaged.count == 2 and {text.split(":")[0] for text in damaged.examples} == {
        "images/scan8.nii.gz",
        "masks/scan9.nii.gz",
    }
    assert doctor(root, pictures=tmp_path.parent / f"{tmp_path.name}_sheets") == 2


def test_a_mask_whose_numbers_may_be_rounded_is_named_as_in_training(tmp_path):
    root = dataset(tmp_path)
    write(root / "masks/scan4.nii.gz", read(root / "masks/scan4.nii.gz").astype(np.float64) * (2**24 + 1))
    finding = told(examine(root), "unreadable")
    assert (
        finding.count == 1 and "masks/scan4.nii.gz: the mask holds numbers of 16777216 or more" in finding.examples[0]
    )


def test_values_of_no_class_name_the_volume_and_the_slice(tmp_path):
    root = dataset(tmp_path)
    mask = read(root / "masks/scan4.nii.gz")
    mask[5, 6, 9] = 7
    write(root / "masks/scan4.nii.gz", mask)
    (text,) = [text for finding in examine(root).errors for text in finding.examples]
    x, y = SHAPE[0] - 1 - 5, SHAPE[1] - 1 - 6  # pictures of axial slices have right at the left and anterior at the top
    assert text == f"masks/scan4.nii.gz: value 7 in 1 voxels, first at pixel x={x}, y={y} of the axial slice 9"


@pytest.mark.parametrize(("sides", "words"), [((1, 1, 5), "5 mm head–foot, usually 2 mm"), ((1, 1, 3.9), None)])
def test_voxels_of_an_unusual_size_are_told(tmp_path, sides, words):
    root = dataset(tmp_path)
    for folder in ("images", "masks"):
        write(root / f"{folder}/scan3.nii.gz", read(root / f"{folder}/scan3.nii.gz"), sides)
    diagnosis = examine(root)
    if words is None:
        assert "spacing_outlier" not in kinds(diagnosis)
    else:
        assert told(diagnosis, "spacing_outlier").examples == (f"images/scan3.nii.gz: {words}",)


@pytest.mark.parametrize(
    ("change", "normalize", "found"),
    [
        (lambda scan: scan - 1024, "per_image", True),  # Hounsfield units among values with an offset
        (lambda scan: -scan, "per_image", True),
        (lambda scan: scan * 100, "per_image", False),  # each volume is divided by its own deviation
        (lambda scan: scan * 100, "window", True),
        (lambda scan: scan * 1.5, "window", False),
    ],
)
def test_unusual_intensities_are_told_if_training_keeps_them(tmp_path, change, normalize, found):
    root = dataset(tmp_path)
    if normalize == "window":
        (root / "inputs.yaml").write_text("inputs:\n  image: {normalize: window, window: [0, 200]}\n")
    write(root / "images/scan3.nii.gz", change(read(root / "images/scan3.nii.gz")))
    diagnosis = examine(root)
    if found:
        finding = told(diagnosis, "intensity_outlier")
        assert finding.count == 1 and finding.examples[0].startswith("images/scan3.nii.gz: ")
    else:
        assert "intensity_outlier" not in kinds(diagnosis)


def test_a_volume_of_one_value_is_told(tmp_path):
    root = dataset(tmp_path)
    write(root / "images/scan3.nii.gz", np.full(SHAPE, 40, np.float32))
    assert told(examine(root), "blank_volume").examples == ("images/scan3.nii.gz",)


def test_a_mask_mirrored_out_of_the_body_is_told(tmp_path):
    root = dataset(tmp_path)
    write(root / "masks/scan3.nii.gz", read(root / "masks/scan3.nii.gz")[::-1].copy())
    finding = told(examine(root), "misplaced_mask")
    (text,) = finding.examples
    assert text.startswith(
        "masks/scan3.nii.gz: 100% on dark voxels, deviation 0% of the range, usually 0% on dark voxels"
    )
    assert text.endswith("; it fits with left and right exchanged")


def test_a_mirrored_liver_that_stays_in_the_body_is_told(tmp_path, shared):
    """Ten slabs of three slices of a real CT of the abdomen; one mask is mirrored, so that 8 % of it is on air."""
    scan = read_volume(shared / "data/chaos_ct_liver/series.zip")
    liver = read_volume(shared / "data/chaos_ct_liver/liver_mask.nii.gz").values[..., 0].astype(np.uint8)
    for index in range(10):
        part = slice(3 * index, 3 * index + 3)
        write(tmp_path / f"images/slab{index}.nii.gz", scan.values[:, :, part, 0], scan.grid.spacing)
        write(tmp_path / f"masks/slab{index}.nii.gz", liver[:, :, part], scan.grid.spacing)
    TABLE.to_yaml(tmp_path / "classes.yaml")
    assert kinds(examine(tmp_path)) == ["few_pictures"]
    write(tmp_path / "masks/slab4.nii.gz", liver[::-1, :, 12:15].copy(), scan.grid.spacing)
    (text,) = told(examine(tmp_path), "misplaced_mask").examples
    assert text.startswith("masks/slab4.nii.gz: 8% on dark voxels") and text.endswith("left and right exchanged")


def test_dark_organs_such_as_lungs_are_no_false_alarm(tmp_path):
    root = dataset(tmp_path)
    for path in (root / "images").iterdir():
        scan, mask = read(path), read(root / "masks" / path.name)
        write(path, np.where(mask == 1, np.float32(1), scan))
    assert "misplaced_mask" not in kinds(examine(root))


def test_few_volumes_have_no_outliers():
    assert not outliers(np.array([1.0] * (FEWEST - 2) + [99.0]), 0.5).any()
    assert outliers(np.array([1.0] * (FEWEST - 1) + [99.0]), 0.5).tolist() == [False] * (FEWEST - 1) + [True]
    assert not outliers(np.array([1.0, 2.0] * 5 + [9.0]), 0.5).any()  # 7.5 from the median, and the others vary by 0.5
