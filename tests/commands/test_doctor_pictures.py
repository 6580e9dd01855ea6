"""The doctor's pictures: outlines stand where masks change, and nothing but the named files is written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous.commands._doctor_pictures import (
    COLUMNS,
    MARGIN,
    MOST_PAIRS,
    MOST_TURNED,
    OUTLINE_COLOR,
    SIDE,
    TURNED_SIDE,
    UNKNOWN_COLOR,
    colored,
    outlined,
)
from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.formats.exif_orientation import upright
from atrous.data.mask_value_map import UNKNOWN, ClassTable
from atrous.errors import AtrousError
from atrous.inference.prediction import NO_DATA_COLOR
from atrous.overwrite_checks import is_our_picture, save_picture

RED = (200, 0, 0)


def make_data(root: Path, count: int = 4, orientation: int = 1, suffix: str = ".jpg") -> Path:
    """Square pictures of a disc off the centre, whose masks are drawn on the stored pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        label = cv2.circle(np.zeros((64, 64), np.uint8), (18 + index % 5, 22), 11, 1, -1)
        picture = np.repeat(label[:, :, None] * np.uint8(120) + 60, 3, axis=2)
        Image.fromarray(picture).save(root / f"images/{index:02}{suffix}", exif=exif.tobytes())
        Image.fromarray(label).save(root / f"masks/{index:02}.png")
    names = [f"{index:02}" for index in range(count)]
    for split, part in (("train", names[:-1]), ("val", names[-1:])):
        (root / f"splits/{split}.txt").write_text("\n".join(part))
    ClassTable(("ground", "disc"), ((0, 0, 0), RED), ((0,), (1,)), (255,)).to_yaml(root / "classes.yaml")
    return root


def both_sides(mask: np.ndarray) -> np.ndarray:
    """Where a pixel differs from one above, below, left or right."""
    padded = np.pad(mask, 1, mode="edge")
    around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    return np.any([other != mask for other in around], axis=0)


def is_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(axis=2)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_both_readings_have_the_outline_where_the_mask_changes(tmp_path, orientation):
    data = make_data(tmp_path / "data", 2, orientation)
    assert doctor(data, pictures=tmp_path / "look") == 0
    sheet = np.asarray(Image.open(tmp_path / "look/turned_by_exif.png"))
    times = TURNED_SIDE // 64
    side = 64 * times
    mask = np.asarray(Image.open(data / "masks/00.png")).repeat(times, 0).repeat(times, 1)
    with Image.open(data / "images/00.jpg") as picture:
        stored = np.asarray(picture)  # Pillow leaves pixels as they are stored
    for column, shown in enumerate((upright(stored, orientation), stored)):
        left = MARGIN + column * (side + MARGIN)
        tile = sheet[MARGIN : MARGIN + side, left : left + side]
        line = is_color(tile, OUTLINE_COLOR)
        assert np.array_equal(line, both_sides(mask))
        assert np.array_equal(tile[~line], shown.repeat(times, 0).repeat(times, 1)[~line])


def test_pictures_whose_masks_fit_are_not_drawn_as_turned(tmp_path):
    doctor(make_data(tmp_path / "data"), pictures=tmp_path / "look")
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == ["train.png", "val.png"]


def test_the_finding_tells_of_pictures_and_text_and_json_name_the_files(tmp_path, capsys):
    data, look = make_data(tmp_path / "data", MOST_TURNED + 4, 3), tmp_path / "look"
    doctor(data, pictures=look, json=tmp_path / "found.json")
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "found.json").read_text())
    written = [str(look / name) for name in ("turned_by_exif.png", "train.png", "val.png")]
    assert found["pictures"] == written
    assert all(f"Wrote {path}: " in said for path in written)
    assert f"{MOST_TURNED} of {MOST_TURNED + 4} doubtful turned pictures" in said
    assert all(map(is_our_picture, look.iterdir()))
    assert f"`atrous doctor {data} --pictures DIR`" in found["warnings"][-1]["message"]
    assert np.asarray(Image.open(look / "turned_by_exif.png")).shape[1] == MARGIN + COLUMNS * (6 * 64 + MARGIN)


def test_nothing_is_written_without_being_asked(tmp_path):
    data = make_data(tmp_path / "data", 2, 3)
    before = files(tmp_path)
    doctor(data)
    assert files(tmp_path) == before


def test_a_sheet_shows_twelve_pairs_evenly_chosen_with_their_classes(tmp_path):
    data = make_data(tmp_path / "data", 41)
    doctor(data, pictures=tmp_path / "look")
    sheet = np.asarray(Image.open(tmp_path / "look/train.png"))
    assert sheet.shape[1] == MARGIN + COLUMNS * (SIDE + MARGIN)
    tiles = [
        sheet[top + 1 : top + SIDE - 1, left + 1 : left + SIDE - 1]
        for top in range(MARGIN, sheet.shape[0] - SIDE, SIDE + MARGIN + 21)
        for left in range(MARGIN, sheet.shape[1] - SIDE, SIDE + MARGIN)
    ]
    drawn = [tile for tile in tiles if is_color(tile, RED).any()]
    # in the order of the split
    columns = [round(np.argwhere(is_color(tile, RED))[:, 1].mean() / (SIDE // 64)) for tile in drawn]
    assert columns == [18 + index % 5 for index in (at * 40 // MOST_PAIRS for at in range(MOST_PAIRS))]
    assert is_color(sheet[-40:], RED).any()  # the legend


def test_what_cannot_be_read_is_left_out(tmp_path, capsys):
    data, look = make_data(tmp_path / "data", 6), tmp_path / "look"
    (data / "images/00.jpg").write_bytes(b"no picture")
    (data / "masks/01.png").write_bytes((data / "masks/01.png").read_bytes()[:40])
    (data / "masks/02.png").unlink()
    Image.new("L", (9, 9)).save(data / "masks/03.png")
    (data / "images/05.jpg").write_bytes(b"")
    save_picture(Image.new("RGB", (9, 9)), look / "val.png")  # as an earlier examination wrote it
    assert doctor(data, pictures=look) == 2
    assert "train.png: 1 of 5 pairs of train." in capsys.readouterr().out
    assert [path.name for path in look.iterdir()] == ["train.png"]


def test_no_folder_is_left_where_nothing_can_be_drawn(tmp_path):
    data = make_data(tmp_path / "data", 3)
    for path in (data / "masks").iterdir():
        path.write_bytes(b"no mask")
    assert doctor(data, pictures=tmp_path / "a/look") == 2
    assert not (tmp_path / "a").exists()


def test_files_of_others_stay_and_ones_own_are_drawn_again(tmp_path):
    data, look = make_data(tmp_path / "data"), tmp_path / "look"
    look.mkdir()
    (look / "val.png").write_bytes(b"precious")
    before = files(tmp_path)
    with pytest.raises(AtrousError, match=r"holds files that doctor did not write .*: val\.png.*--overwrite"):
        doctor(data, pictures=look)
    assert files(tmp_path) == before
    doctor(data, pictures=look, overwrite=True)
    first = files(tmp_path)
    doctor(data, pictures=look)
    assert files(tmp_path) == first


@pytest.mark.needs("links")
@pytest.mark.parametrize("folder", ["data", "data/images", "data/look", "elsewhere", "link/look"])
def test_a_folder_of_the_data_set_is_refused(tmp_path, folder):
    data = make_data(tmp_path / "data")
    (data / "images").rename(tmp_path / "elsewhere")
    (data / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(data)
    before = files(tmp_path)
    with pytest.raises(AtrousError, match=r"a folder of the data set .*Give a folder outside"):
        doctor(data, pictures=tmp_path / folder, overwrite=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("bands", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_depth_and_bands_are_drawn_with_their_void_pixels(tmp_path, bands, dtype):
    data = make_data(tmp_path / "data", 2)
    for path in list((data / "images").iterdir()):
        path.unlink()
        values = np.random.default_rng(0).integers(1, 250, (64, 64, bands)).astype(dtype)
        values[:16] = 0
        tag = [(42113, 2, 0, "0", True)]  # GDAL_NODATA
        kind = {"photometric": "minisblack", "planarconfig": "contig", "extratags": tag}
        tifffile.imwrite(path.with_suffix(".tif"), values if bands > 1 else values[:, :, 0], **kind)
    assert doctor(data, pictures=tmp_path / "look") == 0
    tile = np.asarray(Image.open(tmp_path / "look/val.png"))[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    void = is_color(tile, NO_DATA_COLOR)
    assert 0.4 < void[: 16 * SIDE // 64].mean() < 0.6  # stripes
    assert void[16 * SIDE // 64 :].mean() < 0.01
    assert tile[16 * SIDE // 64 :].std() > 20


def test_values_of_no_class_are_striped_and_masks_without_a_table_show_their_values(tmp_path):
    data = make_data(tmp_path / "data", 3)
    mask = np.asarray(Image.open(data / "masks/02.png")).copy()
    mask[40:, :] = 9
    Image.fromarray(mask).save(data / "masks/02.png")
    assert doctor(data, pictures=tmp_path / "look") == 2
    tile = np.asarray(Image.open(tmp_path / "look/val.png"))[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    assert 0.4 < is_color(tile, UNKNOWN_COLOR)[40 * SIDE // 64 :].mean() < 0.6
    assert not is_color(tile, UNKNOWN_COLOR)[: 40 * SIDE // 64].any()
    # 0/1/2 in some and 0/255 in others: no table is proposed, yet both are drawn
    (data / "classes.yaml").unlink()
    for name, values in (("00", [0, 1, 2]), ("01", [0, 1, 2]), ("02", [0, 255])):
        stripes = np.array(values, np.uint8).repeat(-(-64 // len(values)))[:64]
        Image.fromarray(stripes[None].repeat(64, 0)).save(data / f"masks/{name}.png")
    assert doctor(data, pictures=tmp_path / "look") == 2
    sheet = np.asarray(Image.open(tmp_path / "look/val.png"))
    assert is_color(sheet[MARGIN : MARGIN + SIDE], default_colors(4)[3]).any()  # 255, the fourth value


def test_masks_in_colours_are_drawn_by_the_proposed_table(tmp_path):
    data = make_data(tmp_path / "data", 3)
    for path in (data / "masks").iterdir():
        Image.fromarray(np.array([(0, 0, 0), (0, 90, 0)], np.uint8)[np.asarray(Image.open(path))]).save(path)
    assert doctor(data, pictures=tmp_path / "look") == 2  # the table lists numbers
    assert is_color(np.asarray(Image.open(tmp_path / "look/train.png")), (0, 90, 0)).any()


def test_names_that_no_font_draws_end_nothing(tmp_path):
    data = make_data(tmp_path / "data", 2)
    for name in ("line\nbreak", "bytes\udce9", "字", "x" * 120):
        for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
            (data / folder / f"{name}{suffix}").write_bytes((data / folder / f"00{suffix}").read_bytes())
    for path in (data / "splits").iterdir():
        path.unlink()
    table = ClassTable(("ground", "a\nb"), ((0, 0, 0), RED), ((0,), (1,)))
    table.to_yaml(data / "classes.yaml")
    assert doctor(data, pictures=tmp_path / "look") == 0
    assert (tmp_path / "look/train.png").exists()


def test_thin_classes_of_large_pictures_keep_their_outline():
    labels = np.zeros((900, 1600), np.uint8)
    labels[300, :] = 1
    shown = colored(np.full((900, 1600, 3), 90, np.uint8), labels, [(0, 0, 0), RED], SIDE)
    assert shown.shape == (180, 320, 3)
    assert np.flatnonzero(is_color(shown, RED).all(axis=1)).tolist() == [60]
    line = is_color(outlined(np.full((900, 1600, 3), 90, np.uint8), labels, SIDE), OUTLINE_COLOR)
    assert np.flatnonzero(line.all(axis=1)).tolist() == [59, 60]


def test_a_class_is_tinted_inside_its_outline_and_void_is_striped():
    labels = np.zeros((80, 80), np.uint16)
    labels[20:60, 20:60] = 1
    labels[:10] = 255
    labels[70:] = UNKNOWN
    shown = colored(np.full((80, 80, 3), 100, np.uint8), labels, [(0, 0, 0), RED], 80)
    assert shown.shape == (80, 80, 3)
    line = is_color(shown, RED)
    assert line[20, 20:60].all() and line[20:60, 20].all() and line[59, 20:60].all() and line[20:60, 59].all()
    assert line.sum() == 4 * 39
    assert (shown[21:59, 21:59] == (140, 60, 60)).all()
    assert (shown[10:20] == 100).all()
    assert 0.4 < is_color(shown[:10], NO_DATA_COLOR).mean() < 0.6
    assert 0.4 < is_color(shown[70:], UNKNOWN_COLOR).mean() < 0.6
