"""Masks whose values mislead: blended edges, codings and palettes that differ from file to file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import Diagnosis, examine
from atrous.data.doctor.propose_classes import propose_classes
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

TWO = ClassTable(("background", "foreground"), default_colors(2), ((0,), (1,)))
COLORS = np.array([(0, 0, 0), (200, 30, 60), (20, 180, 240)], np.uint8)


def shapes(seed: int, factor: int = 1) -> np.ndarray:
    """Labels 0, 1 and 2: two ellipses and a thin ring on a background, 96×96 times the factor."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((96 * factor, 96 * factor), np.uint8)
    for label in (1, 2):
        x, y = (int(value) for value in rng.integers(25, 70, 2) * factor)
        cv2.ellipse(canvas, (x, y), (20 * factor, 13 * factor), float(rng.integers(180)), 0, 360, label, -1)
    cv2.circle(canvas, (48 * factor, 48 * factor), 40 * factor, 1, 2 * factor)
    return canvas


def dataset(root: Path, masks: list[Image.Image], classes: ClassTable | None = None) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index, mask in enumerate(masks):
        noise = rng.integers(0, 255, (mask.height, mask.width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{index:02}.png")
        mask.save(root / f"masks/{index:02}.png")
    if classes:
        classes.to_yaml(root / "classes.yaml")
    return root


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [finding.kind for finding in diagnosis.errors]


def antialiased(values: np.ndarray, how: str, seed: int) -> Image.Image:
    if how == "resized":
        size = shapes(seed).shape
        return Image.fromarray(cv2.resize(values[shapes(seed, 4)], size, interpolation=cv2.INTER_AREA))
    if how == "linear":
        return Image.fromarray(cv2.resize(values[shapes(seed)], (130, 130), interpolation=cv2.INTER_LINEAR))
    return Image.fromarray(cv2.GaussianBlur(values[shapes(seed)], (3, 3), 0))


@pytest.mark.parametrize("how", ["resized", "linear", "blurred"])
@pytest.mark.parametrize(
    "values", [np.array([0, 120, 200], np.uint8), np.array([10, 90, 250], np.uint8), COLORS], ids=["0", "10", "colours"]
)
@pytest.mark.parametrize("known", [False, True])
def test_blended_edges_are_no_classes(tmp_path, values, how, known):
    in_color = values.ndim == 2
    raw = (
        tuple((tuple(value),) if in_color else (int(value),) for value in values.tolist())
        if in_color
        else tuple((int(v),) for v in values)
    )
    table = ClassTable(("a", "b", "c"), default_colors(3), raw) if known else None
    root = dataset(tmp_path, [antialiased(values, how, seed) for seed in range(6)], table)
    diagnosis = examine(root)
    assert "blended_edges" in kinds(diagnosis)
    told = next(finding for finding in diagnosis.errors if finding.kind == "blended_edges")
    assert told.count == 6
    assert "nearest" in told.message
    assert "masks/00.png" in told.examples[0]
    proposed = diagnosis.proposed_classes
    assert proposed is not None
    assert sorted(value for values in proposed.raw for value in values) == sorted(value for (value,) in raw)
    if not in_color and how != "blurred":
        proposed.to_yaml(root / "classes.yaml")
        cured = examine(root)
        assert not cured.errors
        assert cured.classes and len(cured.classes) == 3


def test_lines_noise_and_small_classes_are_no_blends(tmp_path):
    masks = []
    for seed in range(6):
        labels = shapes(seed)
        labels[30:60, 40:41] = 3  # a line of a class of its own
        border = cv2.dilate(labels, np.ones((3, 3), np.uint8)) != cv2.erode(labels, np.ones((3, 3), np.uint8))
        labels[border] = 5
        masks.append(Image.fromarray(labels))
    diagnosis = examine(dataset(tmp_path / "lines", masks))
    assert "blended_edges" not in kinds(diagnosis)
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 9, (40, 40)).astype(np.uint8)) for i in range(4)]
    diagnosis = examine(dataset(tmp_path / "noise", noise))
    assert "blended_edges" not in kinds(diagnosis)
    assert diagnosis.proposed_classes and len(diagnosis.proposed_classes) == 9


def test_white_in_16_bits_is_the_foreground(tmp_path):
    masks = [Image.fromarray(np.where(shapes(seed) > 0, 65535, 0).astype(np.uint16)) for seed in range(4)]
    root = dataset(tmp_path, masks, TWO)
    diagnosis = examine(root)
    assert kinds(diagnosis) == ["foreground_is_65535"]
    assert diagnosis.proposed_classes
    assert diagnosis.proposed_classes.names == TWO.names
    assert diagnosis.proposed_classes.raw == ((0,), (65535,))
    diagnosis.proposed_classes.to_yaml(root / "classes.yaml")
    assert not examine(root).errors


@pytest.mark.parametrize("white", [255, 65535])
@pytest.mark.parametrize(
    "table", [None, TWO, ClassTable(TWO.names, TWO.colors, TWO.raw, (255,))], ids=["none", "two", "255 ignored"]
)
def test_files_of_different_codings_are_named_and_no_table_is_proposed(tmp_path, white, table):
    masks = [Image.fromarray(shapes(seed)) for seed in range(3)]
    masks += [Image.fromarray(np.where(shapes(seed) > 0, white, 0).astype(np.uint16)) for seed in range(3)]
    diagnosis = examine(dataset(tmp_path, masks, table))
    told = next(finding for finding in diagnosis.errors if finding.kind == "mixed_coding")
    assert any("masks/00.png" in example and "class numbers" in example for example in told.examples)
    assert any("masks/03.png" in example and f"0 and {white}" in example for example in told.examples)
    assert diagnosis.proposed_classes is None
    if table is None:
        with pytest.raises(AtrousError, match="no class table fits"):
            doctor(tmp_path, write_classes=True)


def test_255_beside_other_numbers_is_what_it_always_was(tmp_path):
    masks = [Image.fromarray(np.where(shapes(seed) == 2, 255, shapes(seed)).astype(np.uint8)) for seed in range(3)]
    masks.append(Image.fromarray(np.where(shapes(5) == 2, 255, 0).astype(np.uint8)))
    diagnosis = examine(dataset(tmp_path, masks, ClassTable(TWO.names, TWO.colors, TWO.raw, (255,))))
    assert not diagnosis.errors


def palette_mask(labels: np.ndarray, order: list[int]) -> Image.Image:
    """The labels in COLORS, with the palette in another order."""
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[labels]).convert("P")
    picture.putpalette(COLORS[order].ravel().tolist())
    return picture


def test_palettes_that_differ_are_mapped_by_colour_or_refused(tmp_path):
    orders = [[0, 1, 2], [2, 0, 1], [1, 0, 2], [0, 2, 1]]
    masks = [palette_mask(shapes(seed), order) for seed, order in enumerate(orders)]
    names = ("ground", "crack", "weld")
    colors = tuple((int(r), int(g), int(b)) for r, g, b in COLORS)
    by_number = ClassTable(names, colors, ((0,), (1,), (2,)))
    root = dataset(tmp_path, masks, by_number)
    diagnosis = examine(root)
    assert kinds(diagnosis) == ["palettes_differ"]
    assert "masks/00.png" in diagnosis.errors[0].message
    assert "masks/01.png" in diagnosis.errors[0].message
    opened = open_dataset(root)
    items = sorted((item for part in opened.splits.values() for item in part), key=lambda item: item.name)
    opened.read(items[0])
    with pytest.raises(AtrousError, match=r"palettes.*00\.png.*01\.png"):
        opened.read(items[1])
    assert diagnosis.proposed_classes
    assert diagnosis.proposed_classes.names == names
    diagnosis.proposed_classes.to_yaml(root / "classes.yaml")
    assert not examine(root).errors
    opened = open_dataset(root)
    for seed, item in enumerate(items):
        assert np.array_equal(opened.read(item).label, shapes(seed))


def test_unused_colours_of_palettes_may_differ(tmp_path):
    masks = [palette_mask(shapes(seed), [0, 1, 2]) for seed in range(3)]
    for index, mask in enumerate(masks):
        mask.putpalette([*COLORS.ravel().tolist(), index, index, index])
    assert not examine(
        dataset(tmp_path, masks, ClassTable(("a", "b", "c"), default_colors(3), ((0,), (1,), (2,))))
    ).errors


VALUES = {
    "255 alone above 0 is the object": ([0, 255], [0, 255], []),
    "65535 alone above 0 is the object": ([0, 65535], [0, 65535], []),
    "255 beside class numbers": ([0, 1, 255], [0, 1], [255]),
    "65535 beside class numbers": ([0, 1, 2, 65535], [0, 1, 2], [65535]),
    "all bits of 32": ([0, 1, 2, 2**32 - 1], [0, 1, 2], [2**32 - 1]),
    "three grey levels": ([0, 128, 255], [0, 128, 255], []),
    "four grey levels": ([0, 85, 170, 255], [0, 85, 170, 255], []),
    "grey of colours": ([29, 76, 150, 226, 255], [29, 76, 150, 226, 255], []),
    "-1": ([-1, 0, 1], [0, 1], [-1]),
    "-128": ([-128, 0, 1], [0, 1], [-128]),
    "-9999": ([-9999, 0, 1, 2], [0, 1, 2], [-9999]),
    "255 below larger numbers": ([0, 1, 2, 255, 300], [0, 1, 2, 255, 300], []),
    "two values": ([1, 255], [1, 255], []),
}


@pytest.mark.parametrize("case", VALUES)
def test_which_values_are_proposed_as_ignored(case):
    found, classes, ignore = VALUES[case]
    proposal = propose_classes(dict.fromkeys(found, 100), None)
    assert proposal and proposal.classes
    assert [values[0] for values in proposal.classes.raw] == classes
    assert list(proposal.classes.ignore) == ignore
    if len(found) > 2:
        assert not ignore or f"It ignores pixels of value {ignore[0]}" in proposal.reason
        assert ("255 for a class" in proposal.reason) == (found[-1] == 255 and not ignore)


@pytest.mark.parametrize(
    ("listed", "found", "ignore"),
    [((0, 1), (0, 1, 255), (255,)), ((0, 1), (0, 1, 65535), (65535,)), ((0, 1), (-1, 0, 1), (-1,)),
     ((0, 128), (0, 128, 255), ())],
)  # fmt: skip
def test_a_value_that_the_table_does_not_list(listed, found, ignore):
    table = ClassTable(("a", "b"), default_colors(2), tuple((value,) for value in listed))
    proposal = propose_classes(dict.fromkeys(found, 100), table)
    assert proposal and proposal.classes
    assert proposal.classes.ignore == ignore
    assert len(proposal.classes) == (2 if ignore else 3)


@pytest.mark.parametrize("highest", [1, 2])
def test_masks_of_whole_floats(tmp_path, highest):
    root = dataset(tmp_path, [Image.fromarray(shapes(seed)) for seed in range(3)])
    for seed in range(3):
        (root / f"masks/{seed:02}.png").unlink()
        Image.fromarray(np.minimum(shapes(seed), highest).astype(np.float32)).save(root / f"masks/{seed:02}.tif")
    proposed = examine(root).proposed_classes
    assert proposed and proposed.raw == tuple((value,) for value in range(highest + 1))
    proposed.to_yaml(root / "classes.yaml")
    assert not examine(root).errors


def test_masks_of_mixed_codings_speak_of_no_proposed_table(tmp_path):
    masks = [Image.fromarray(shapes(seed)) for seed in range(3)]
    masks += [Image.fromarray(np.where(shapes(seed) > 0, 255, 0).astype(np.uint8)) for seed in range(3, 6)]
    found = examine(dataset(tmp_path, masks))
    message = " ".join(finding.message for finding in found.errors)
    assert "mixed_coding" in [finding.kind for finding in found.errors] and found.proposed_classes is None
    assert "proposed table" not in message and "--write-classes" not in message
    assert "No class table is proposed, because none fits all masks." in message


def test_nan_in_masks_is_told_with_what_to_write(tmp_path):
    root = dataset(tmp_path, [Image.fromarray(shapes(seed)) for seed in range(3)])
    values = shapes(0).astype(np.float32)
    values[:2] = np.nan
    for path in sorted((root / "masks").iterdir())[:1]:
        Image.fromarray(values).save(path.with_suffix(".tif"))
        path.unlink()
    ClassTable(("a", "b", "c"), default_colors(3), ((0,), (1,), (2,))).to_yaml(root / "classes.yaml")
    found = next(finding for finding in examine(root).warnings if finding.kind == "void_labels")
    assert "numpy.nan_to_num(mask, nan=5)" in found.message and found.examples == ("masks/00.tif",)


def test_masks_of_fractions_are_told(tmp_path):
    root = dataset(tmp_path, [Image.fromarray(shapes(seed)) for seed in range(3)])
    (root / "masks/00.png").unlink()
    Image.fromarray(shapes(0).astype(np.float32) / 4).save(root / "masks/00.tif")
    told = [example for finding in examine(root).errors for example in finding.examples]
    assert any("masks/00.tif" in example and "whole" in example for example in told), told


@pytest.mark.parametrize("blur", [5, 9])
@pytest.mark.parametrize("known", [False, True])
def test_two_classes_with_many_blends_are_cut_at_the_middle(tmp_path, known, blur):
    """However many pixels are blended: ignoring the seen blends would leave out all edges, and refuse the next mask."""
    values = np.array([0, 255], np.uint8)
    masks = [
        Image.fromarray(cv2.GaussianBlur(values[(shapes(seed) == 2).astype(int)], (blur, blur), 0)) for seed in range(6)
    ]
    table = ClassTable(("a", "b"), default_colors(2), ((0,), (255,))) if known else None
    root = dataset(tmp_path, masks, table)
    diagnosis = examine(root)
    proposed = diagnosis.proposed_classes
    assert proposed is not None and not proposed.ignore
    assert proposed.raw == (tuple(range(128)), tuple(range(128, 256)))
    assert proposed.names == (("a", "b") if known else ("background", "foreground"))
    proposed.to_yaml(root / "classes.yaml")
    assert not examine(root).errors
