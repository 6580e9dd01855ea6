import dataclasses
import errno
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import atrous
from atrous import model_file
from atrous.cli import main
from atrous.commands.predict import predict
from atrous.data.pictures import read_raw_mask
from atrous.errors import AtrousError, SomeInputsFailed
from atrous.inference import segmenter as segmenter_module
from atrous.inference.picture_paths import find_pictures
from atrous.inference.segmenter import Segmenter
from atrous.models.info import Info

COLORS = np.array([(90, 60, 30), (220, 40, 40), (40, 60, 220)], np.uint8)


@pytest.fixture(scope="module")
def segmenter(model) -> Segmenter:
    return Segmenter(model, device="cpu", precision="float32")


@pytest.fixture
def photos(shapes, tmp_path) -> Path:
    """Five pictures: three of the test split, one grey, one of an odd size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes((shapes / "images" / f"test_{index}.png").read_bytes())
    picture = Image.open(folder / "0.png")
    picture.convert("L").save(folder / "grey.tif")
    picture.resize((37, 21)).save(folder / "odd.JPG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(model, *words: object) -> int:
    fixed = ["--device", "cpu", "--precision", "float32"]
    return main(["predict", str(model), *map(str, words), *fixed])


def with_raw(info: Info, *values: object) -> Info:
    """The same with one raw value in masks for each class, and none for ignored pixels."""
    return info.with_table(dataclasses.replace(info.table, raw=tuple((value,) for value in values), ignore=()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder(model, segmenter, photos, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert run(model, photos, "--out", out) == 0
    assert names(out) == ["0.png", "1.png", "2.png", "grey.png", "odd.png"]
    assert "5 masks in" in capsys.readouterr().out
    seen = set()
    for picture in photos.iterdir():
        if picture.suffix == ".txt":
            continue
        mask = Image.open(out / f"{picture.stem}.png")
        assert mask.mode == "P"
        assert mask.size == Image.open(picture).size
        assert np.array_equal(np.asarray(mask), segmenter(picture).mask)
        assert np.array_equal(np.asarray(mask.convert("RGB")), COLORS[np.asarray(mask)])
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["1.png"], ["1.png"]),
        (["[01].png"], ["0.png", "1.png"]),
        (["*.png", "1.png", "."], ["0.png", "1.png", "2.png", "grey.png", "odd.png"]),
        (["../**/*.tif"], ["grey.png"]),
    ],
)
def test_files_and_patterns(model, photos, tmp_path, patterns, expected):
    written = predict(model, [photos / pattern for pattern in patterns], out=tmp_path / "out", device="cpu")
    assert names(tmp_path / "out") == expected
    assert sorted(path.name for path in written) == expected
    assert all(path.is_file() for path in written)


def test_a_file_named_like_a_pattern_is_that_file(model, photos, tmp_path):
    (photos / "0.png").rename(photos / "[12].png")
    predict(model, [photos / "[12].png"], out=tmp_path / "out", device="cpu")
    assert names(tmp_path / "out") == ["[12].png"]


def test_the_classes_found_are_named_the_largest_first(model, segmenter, photos, tmp_path, capsys):
    predict(model, [photos / "1.png"], out=tmp_path / "out", device="cpu", precision="float32")
    mask = segmenter(photos / "1.png").mask
    counts = np.bincount(mask.ravel(), minlength=3)
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    shares = ", ".join(f"{segmenter.info.classes[index]} {counts[index] / mask.size:.1%}" for index in order)
    assert f"1 mask in {tmp_path / 'out'}: {shares}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_whose_head_nobody_trained_says_so(photos, tmp_path, capsys):
    backbone = {
        key.removeprefix("backbone.net."): value
        for key, value in atrous.create_model("deeplabv3", backbone="resnet18", num_classes=2).state_dict().items()
        if key.startswith("backbone.net.")
    }
    atrous.convert(backbone, source="timm-backbone", backbone="resnet18", num_classes=2, out=tmp_path / "m.safetensors")
    predict(tmp_path / "m.safetensors", [photos / "1.png"], out=tmp_path / "out", device="cpu")
    assert "untrained: " in capsys.readouterr().out


def test_overlays_lie_beside_the_masks(model, segmenter, photos, tmp_path):
    out = tmp_path / "out"
    assert run(model, photos / "1.png", photos / "grey.tif", "--overlay", "--out", out) == 0
    assert names(out) == ["1.overlay.png", "1.png", "grey.overlay.png", "grey.png"]
    expected = np.asarray(segmenter(photos / "1.png").overlay(legend=True))
    assert np.array_equal(np.asarray(Image.open(out / "1.overlay.png")), expected)


def test_raw_values_are_those_of_the_training_masks(model, segmenter, photos, tmp_path):
    assert run(model, photos / "1.png", "--raw", "--out", tmp_path / "out") == 0
    values = np.asarray(Image.open(tmp_path / "out" / "1.png"))
    mask = segmenter(photos / "1.png").mask
    assert np.array_equal(values, np.array([0, 7, 300])[mask])


@pytest.mark.slow
@pytest.mark.parametrize(
    "raw",
    [((0, 0, 0), (255, 0, 0), (0, 0, 255)), (0, 40_000, 65_535), (-1024, 0, 70_000)],
    ids=["colours", "large", "negative and very large"],
)
def test_any_raw_values_read_back(model, segmenter, photos, tmp_path, raw):
    loaded = model_file.load(model)
    loaded.info = with_raw(loaded.info, *raw)
    atrous.save(loaded, tmp_path / "m.safetensors")
    out, fixed = tmp_path / "out", {"raw": True, "device": "cpu", "precision": "float32"}
    predict(tmp_path / "m.safetensors", [photos / "1.png"], out=out, **fixed)
    (written,) = out.iterdir()
    assert np.array_equal(read_raw_mask(written), np.array(raw)[segmenter(photos / "1.png").mask])


def test_one_bad_picture_is_skipped_and_named(model, photos, tmp_path, capsys):
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("I am no picture")
    out = tmp_path / "out"
    assert run(model, photos, "--out", out, "--json", tmp_path / "done.json") == 1
    assert names(out) == ["0.png", "2.png", "grey.png", "odd.png"]
    said = capsys.readouterr()
    assert "3 of 7 pictures could not be used; the others are done" in said.err
    for name in ("1.png", "empty.png", "text.jpg"):
        assert f"skipped {photos / name}" in said.out
    records = json.loads((tmp_path / "done.json").read_text())["pictures"]
    assert [Path(record["image"]).name for record in records if "error" in record] == ["1.png", "empty.png", "text.jpg"]
    with pytest.raises(SomeInputsFailed):
        predict(model, [photos], out=out, device="cpu")


def test_a_picture_of_a_kind_the_model_cannot_take_is_skipped(model, photos, tmp_path, capsys):
    Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(photos / "rgba.png")  # is taken: alpha is dropped
    Image.fromarray(np.zeros((20, 30), np.float32)).save(photos / "heights.tif")
    assert run(model, photos, "--out", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["0.png", "1.png", "2.png", "grey.png", "odd.png", "rgba.png"]
    assert "float32" in capsys.readouterr().out


def test_json_tells_what_was_done(model, segmenter, photos, tmp_path):
    out = tmp_path / "out"
    assert run(model, photos / "0.png", photos / "odd.JPG", "--out", out, "--json", tmp_path / "done.json") == 0
    record = json.loads((tmp_path / "done.json").read_text())
    assert record["model"] == str(model)
    first, second = record["pictures"]
    assert first["image"] == str(photos / "0.png")
    assert second["mask"] == str(out / "odd.png")
    mask = segmenter(photos / "0.png").mask
    assert first["share"] == {
        name: pytest.approx((mask == index).mean()) for index, name in enumerate(("ground", "box", "disc"))
    }


def test_pictures_of_the_same_name_do_not_overwrite_each_other(model, segmenter, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.png").write_bytes((photos / "2.png").read_bytes())
    Image.open(photos / "1.png").save(photos / "0.bmp")
    given = [photos / "0.png", other / "0.png", photos / "0.bmp", photos / "1.png"]
    written = predict(model, given, out=tmp_path / "out", device="cpu", precision="float32")
    assert len(set(written)) == 4
    assert written[3].name == "1.png"
    for picture, mask in zip(given, written, strict=True):
        assert np.array_equal(np.asarray(Image.open(mask)), segmenter(picture).mask)


def test_folders_of_the_same_name_do_not_collide_either(model, photos, tmp_path):
    given = []
    for parent in "ab":
        folder = tmp_path / parent / "day"
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((photos / "0.png").read_bytes())
        given.append(folder)
    assert len({*predict(model, given, out=tmp_path / "out", device="cpu")}) == 2
    assert len(names(tmp_path / "out")) == 2


def test_the_same_picture_twice_is_one(photos):
    assert find_pictures([photos / "0.png", photos / "0.png"]) == [photos / "0.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.png"], "absent.png: no such file or folder, and no file matches"),
        (["*.jpeg2000"], "no file matches"),
        (["empty"], "no pictures in .*empty; known suffixes are .*.png"),
    ],
)
def test_nothing_to_do(model, photos, tmp_path, capsys, words, message):
    (photos / "empty").mkdir()
    assert run(model, *(photos / word for word in words), "--out", tmp_path / "out") == 2
    with pytest.raises(AtrousError, match=message):
        find_pictures([photos / word for word in words])
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none(photos, tmp_path, capsys):
    for path in (photos / "0.png", tmp_path / "absent.safetensors"):
        assert run(path, photos, "--out", tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert "not a model file" in message or "no model file at" in message


def test_a_folder_that_cannot_be_made(model, photos, capsys):
    assert run(model, photos / "0.png", "--out", photos / "notes.txt" / "out") == 2
    assert "cannot make the folder" in capsys.readouterr().err


def test_a_mask_never_overwrites_its_picture(model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / "a.png")
    before = (photos / "a.png").read_bytes()
    with pytest.raises(AtrousError, match=r"would overwrite that picture: give another folder with --out"):
        predict(model, [photos], out=photos, device="cpu")
    assert (photos / "a.png").read_bytes() == before


@pytest.mark.slow
def test_negative_raw_values_go_into_a_tiff_that_is_named(model, tmp_path):
    negative = atrous.load(model)
    negative.info = with_raw(negative.info, -1024, 0, 7)
    atrous.save(negative, tmp_path / "negative.safetensors")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    (written,) = predict(tmp_path / "negative.safetensors", [tmp_path / "a.png"], out=tmp_path / "masks", raw=True)
    assert written.suffix == ".tif"
    assert set(np.unique(read_raw_mask(written))) <= {-1024, 0, 7}


def test_a_mask_that_cannot_be_written_is_named_and_the_others_are_done(model, tmp_path):
    for name in "ab":
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "masks/a.png").mkdir(parents=True)
    with pytest.raises(SomeInputsFailed, match="1 of 2 pictures"):
        predict(
            model, [tmp_path / "a.png", tmp_path / "b.png"], out=tmp_path / "masks", json=tmp_path / "new/done.json"
        )
    assert (tmp_path / "masks/b.png").is_file()
    done = json.loads((tmp_path / "new/done.json").read_text())
    assert ["error" in record for record in done["pictures"]] == [True, False]


def test_12_bits_in_16_are_said_and_the_range_gives_the_masks_of_8_bits(model, photos, tmp_path, capsys):
    import cv2

    deep = tmp_path / "deep"
    deep.mkdir()
    for index in range(3):
        picture = cv2.imread(str(photos / f"{index}.png"))
        cv2.imwrite(str(deep / f"{index}.png"), np.rint(picture / 255 * 4095).astype(np.uint16))
    assert run(model, deep, "--out", tmp_path / "dark") == 0
    said = capsys.readouterr().err
    assert said.count("give --range 0,4095") == 1 and f"{deep / '0.png'}: 16-bit pictures" in said
    assert run(model, deep, "--out", tmp_path / "out", "--range", "0,4095") == 0
    assert "range" not in capsys.readouterr().err
    assert run(model, photos / "0.png", "--out", tmp_path / "of_8_bits") == 0
    assert (tmp_path / "out" / "0.png").read_bytes() == (tmp_path / "of_8_bits" / "0.png").read_bytes()


def test_crf(model, segmenter, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(model, photos / "0.png", "--crf", "deeplabv2,bilateral_rgb=20", "--out", out) == 0
    refined = Segmenter(model, device="cpu", precision="float32", crf="deeplabv2,bilateral_rgb=20")
    mask = np.asarray(Image.open(out / "0.png"))
    assert np.array_equal(mask, refined(photos / "0.png").mask)
    assert (mask != segmenter(photos / "0.png").mask).any()
    capsys.readouterr()
    assert run(model, photos / "0.png", "--crf", "model", "--out", out) == 2
    assert "the model file stores no CRF settings" in capsys.readouterr().err


@pytest.mark.parametrize("crf", ['{"bilateral_rgb": 20}', "{bilateral_rgb: 20}", "bilateral_rgb=20"])
def test_crf_settings_as_words(model, photos, tmp_path, crf):
    assert run(model, photos / "0.png", "--crf", crf, "--out", tmp_path / "out") == 0
    expected = Segmenter(model, device="cpu", precision="float32", crf={"bilateral_rgb": 20})(photos / "0.png").mask
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/0.png")), expected)


@pytest.mark.parametrize(
    ("crf", "message"),
    [
        ("deeplabv22", "Did you mean 'deeplabv2'?"),
        ("bilateral_rbg=5", "Did you mean 'bilateral_rgb'?"),
        ("5", "unknown CRF '5'"),
        ("bilateral_rgb=0", "bilateral_rgb must be more than 0"),
    ],
)
def test_a_crf_that_cannot_be(model, photos, tmp_path, capsys, crf, message):
    assert run(model, photos / "0.png", "--crf", crf, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_a_picture_the_crf_cannot_take_is_skipped(model, photos, tmp_path, capsys):
    assert run(model, photos, "--crf", "bilateral_rgb=1e-9", "--out", tmp_path / "out") == 1
    assert "standard deviations from 0" in capsys.readouterr().out


FAULTS = [MemoryError(), struct.error("cut off"), KeyError("tag"), SyntaxError("broken"), Exception("x")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_decoder_raises_costs_its_own_picture_only(model, photos, tmp_path, monkeypatch, capsys, fault):
    def decode(path, *more, **options):
        if Path(path).name == "1.png":
            raise fault
        return read(path, *more, **options)

    read = segmenter_module.read_pixels
    monkeypatch.setattr("atrous.inference.segmenter.read_pixels", decode)
    assert run(model, photos, "--out", tmp_path / "out", "--json", tmp_path / "done.json") == 1
    assert names(tmp_path / "out") == ["0.png", "2.png", "grey.png", "odd.png"]
    said = capsys.readouterr().out
    words = "this takes more memory than there is" if isinstance(fault, MemoryError) else type(fault).__name__
    assert f"{photos / '1.png'}: {words}" in said.replace("\n", "")
    records = json.loads((tmp_path / "done.json").read_text())["pictures"]
    assert [Path(record["image"]).name for record in records if "error" in record] == ["1.png"]


def test_an_interrupt_still_stops(model, photos, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("atrous.inference.segmenter.read_pixels", interrupt)
    assert run(model, photos, "--out", tmp_path / "out") == 130


def test_a_mask_that_cannot_be_written_whole_is_not_there(model, photos, tmp_path, monkeypatch, capsys):
    """As on a full disk: the first bytes are written, then nothing more."""

    def save(self, file, *more, **options):
        if Path(file).name.startswith(".1.png"):
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, file, *more, **options)

    whole = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", save)
    assert run(model, photos, "--out", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["0.png", "2.png", "grey.png", "odd.png"]
    assert "1.png cannot be written: [Errno 28] No space left" in capsys.readouterr().out


def test_masks_beside_the_pictures_are_not_segmented_again(model, photos, tmp_path, capsys):
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for index in range(2):
        Image.open(photos / f"{index}.png").save(folder / f"{index}.jpg")
    first = {path: path.read_bytes() for path in predict(model, [folder], out=folder, device="cpu")}
    for _ in range(2):
        again = {path: path.read_bytes() for path in predict(model, [folder], out=folder, device="cpu")}
        assert again == first
        assert "2 pictures in" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["0.jpg", "0.png", "1.jpg", "1.png"]
    assert find_pictures([folder / "0.png"]) == [folder / "0.png"]


def test_a_mask_that_somebody_corrected_is_no_picture(model, photos, tmp_path, capsys):
    folder = tmp_path / "jpegs"
    folder.mkdir()
    Image.open(photos / "0.png").convert("RGB").save(folder / "0.jpg")
    (mask,) = predict(model, [folder], out=folder, device="cpu")
    with Image.open(mask) as written:
        corrected, text = np.array(written), PngInfo()
        text.add_text("Software", written.info["Software"])
        palette = written.getpalette()
    corrected[:4] = 1 - corrected[:4].clip(0, 1)
    changed = Image.fromarray(corrected)
    changed.putpalette(palette or [])
    changed.save(mask, pnginfo=text)
    capsys.readouterr()
    assert find_pictures([folder]) == [folder / "0.jpg"]
    said = " ".join(capsys.readouterr().out.split())
    assert "changed afterwards, so probably corrected masks (0.png)" in said
    assert find_pictures([mask]) == [mask]
    with pytest.raises(AtrousError, match="did not write"):
        predict(model, [folder], out=folder, device="cpu")
    assert np.array_equal(np.asarray(Image.open(mask)), corrected)


def test_subfolders_with_pictures_are_named(model, photos, tmp_path, capsys):
    more, masks = photos / "more", photos / "masks"
    more.mkdir()
    (photos / "0.png").rename(more / "0.png")
    predict(model, [photos / "1.png"], out=masks, device="cpu")
    capsys.readouterr()
    find_pictures([photos])
    said = " ".join(capsys.readouterr().out.split())
    assert "Subfolders are not searched; to include one, give its path" in said
    assert "more (1 picture)." in said and "masks" not in said
    find_pictures([photos, more])
    assert "Subfolders" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["one.png", "MASKS.TIF", "page.html", "mask.nii.gz", "MASK.NII"])
@pytest.mark.parametrize("verb", ["predict", "explain"])
def test_a_files_name_is_no_folder(model, photos, tmp_path, capsys, verb, name):
    assert main([verb, str(model), str(photos / "0.png"), "--out", str(tmp_path / name)]) == 2
    assert "is named like a file; give a folder" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def cut_out(path: Path) -> Path:
    """A picture a quarter of which is transparent."""
    picture = Image.fromarray(np.full((20, 32, 4), 255, np.uint8))
    picture.paste((0, 0, 0, 0), (0, 0, 8, 20))
    picture.save(path)
    return path


def test_pixels_without_data_are_in_the_summary_and_in_the_record(model, photos, tmp_path, capsys):
    cut_out(photos / "cut.png")
    assert (
        run(model, photos / "cut.png", photos / "0.png", "--out", tmp_path / "out", "--json", tmp_path / "a.json") == 0
    )
    assert "12.5% without data" in " ".join(capsys.readouterr().out.split())
    cut, whole = json.loads((tmp_path / "a.json").read_text())["pictures"]
    assert cut["no_data"] == 0.25 and sum(cut["share"].values()) == pytest.approx(1)
    assert "no_data" not in whole
    assert run(model, photos / "0.png", "--out", tmp_path / "out") == 0
    assert "without data" not in capsys.readouterr().out


@pytest.mark.slow
def test_void_pixels_for_which_raw_masks_have_no_value_are_an_error_without_a_mask(model, photos, tmp_path, capsys):
    loaded = atrous.load(model)
    loaded.info = with_raw(loaded.info, 0, 128, 255)
    atrous.save(loaded, tmp_path / "m.safetensors")
    cut = cut_out(tmp_path / "cut.png")
    out, done = tmp_path / "new" / "out", tmp_path / "done.json"
    assert run(tmp_path / "m.safetensors", cut, "--raw", "--out", out, "--json", done) == 1
    assert "without --raw" in " ".join(capsys.readouterr().out.split())
    (record,) = json.loads(done.read_text())["pictures"]
    assert record.keys() == {"image", "error"}
    assert not out.parent.exists()  # nothing was written, so no folder is left
    assert run(tmp_path / "m.safetensors", cut, photos / "0.png", "--raw", "--out", out, "--json", done) == 1
    first, second = json.loads(done.read_text())["pictures"]
    assert "mask" not in first and Path(second["mask"]).is_file()
    assert names(out) == ["0.png"]


def test_where_all_fails_no_folder_is_left_but_one_that_was_there(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "there").mkdir()
    for out in ("a/b", "there/c", "there"):
        assert run(model, tmp_path / "broken.png", "--out", tmp_path / out) == 1
    assert names(tmp_path) == ["broken.png", "there"] and names(tmp_path / "there") == []
    words = ["explain", model, tmp_path / "broken.png", "--out", tmp_path / "explained", "--device", "cpu"]
    assert main([str(word) for word in words]) == 1
    assert not (tmp_path / "explained").exists()


def test_subfolders_with_pictures_are_named_where_a_folder_has_none(model, tmp_path, capsys):
    for folder, count in (("a", 1), ("b/c", 2)):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photos" / folder / f"{index}.png")
    assert main(["predict", str(model), str(tmp_path / "photos"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'photos' / 'a'} (1 picture), {tmp_path / 'photos' / 'b' / 'c'} (2 pictures)." in told


def test_grey_pictures_are_said_once(model, photos, tmp_path, capsys):
    assert main(["predict", str(model), str(photos), "--out", str(tmp_path / "masks")]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("1 picture in grey: the model takes 3 channels, so the grey values are repeated") == 1
    assert main(["predict", str(model), str(photos / "0.png"), "--out", str(tmp_path / "colour")]) == 0
    assert "in grey" not in "".join(capsys.readouterr())


def test_others_are_done_only_if_there_are_others(model, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SomeInputsFailed, match=r"1 of 1 picture could not be used\.$"):
        predict(model, [photos / "broken.png"], out=tmp_path / "masks")
    with pytest.raises(SomeInputsFailed, match=r"1 of 6 pictures could not be used; the others are done\.$"):
        predict(model, [photos], out=tmp_path / "masks")


def test_a_mistyped_path_is_refused_before_torch_is_imported(model, tmp_path):
    code = "import sys; from atrous.cli import main; assert main(sys.argv[1:]) == 2; assert 'torch' not in sys.modules"
    for words in ([tmp_path / "mistyped.safetensors", model], [model, tmp_path / "mistyped.png"]):
        subprocess.run([sys.executable, "-c", code, "predict", *words], check=True)
