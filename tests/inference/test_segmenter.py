import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import atrous
from atrous.data.formats.pillow import pixels_of_picture
from atrous.data.mask_value_map import ClassTable
from atrous.data.pictures import read_pixels
from atrous.errors import AtrousError
from atrous.inference.picture_input import as_array
from atrous.inference.prediction import Prediction
from atrous.inference.segmenter import Segmenter

CLASSES = ClassTable(
    ("sky", "road", "tree"), ((10, 20, 230), (120, 120, 120), (0, 200, 0)), ((-5, 1), (300,), (7, 8, 9)), (65535,)
)


def make(**arguments):
    """A small model whose answers vary over a picture."""
    torch.manual_seed(1)
    arguments = {"backbone": "mobilenetv2_035", "num_classes": 3, "aspp_channels": 16, "low_channels": 8, **arguments}
    model = atrous.create_model("deeplabv3plus", **arguments).eval()
    torch.nn.init.normal_(model.classifier.weight)
    channels = model.info.arguments["in_channels"]
    with torch.no_grad():  # the classes' scores take turns, by centring them on noise
        noise = 60 * torch.randn(4, channels, 60, 70)
        model.classifier.bias.sub_(model.scores(noise / 58)["main"].mean((0, 2, 3)))
    if model.info.arguments["num_classes"] == 3:
        model.info = model.info.with_table(CLASSES)
    return model


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(make(), device="cpu", precision="float32")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(blocks, (83, 61), interpolation=cv2.INTER_CUBIC)


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_its_repr_names_the_model_the_classes_and_the_engine(segmenter):
    assert re.fullmatch(r"Segmenter\(\S+, \d+ classes, torch float32 on cpu\)", repr(segmenter))


def test_the_mask_is_the_models_argmax(segmenter, picture):
    prediction = segmenter(picture)
    assert prediction.mask.shape == picture.shape[:2]
    assert prediction.mask.dtype == np.uint8
    assert len(np.unique(prediction.mask)) > 1  # not vacuous
    model = make()
    preprocessing = model.info.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    images = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() - mean) / std
    with torch.no_grad():
        expected = model(images).argmax(1)[0].numpy()
    assert (prediction.mask == expected).mean() > 0.999


def test_path_pil_and_array_are_one_picture(segmenter, picture, tmp_path):
    path = save(tmp_path / "picture.png", picture)
    masks = [segmenter(given).mask for given in (picture, path, str(path), Image.fromarray(picture), Image.open(path))]
    assert all(np.array_equal(masks[0], mask) for mask in masks)


@pytest.mark.parametrize("kind", ["grey", "RGBA", "palette", "one bit", "16-bit", "grey with alpha"])
def test_every_kind_of_file_is_the_same_as_pil(segmenter, picture, tmp_path, kind):
    grey = picture[..., 0]
    image = {
        "grey": lambda: Image.fromarray(grey),
        "RGBA": lambda: Image.fromarray(np.dstack([picture, grey])),
        "palette": lambda: Image.fromarray(picture).quantize(16),
        "one bit": lambda: Image.fromarray(grey > 127),
        "16-bit": lambda: Image.fromarray(grey.astype(np.uint16) * 255 + 99),
        "grey with alpha": lambda: Image.merge("LA", [Image.fromarray(grey), Image.fromarray(picture[..., 1])]),
    }[kind]()
    path = tmp_path / "picture.png"
    image.save(path)
    from_path, from_pil = segmenter(path), segmenter(image)
    assert np.array_equal(from_path.mask, from_pil.mask)
    assert len(np.unique(from_path.mask)) > 1
    for prediction in (from_path, from_pil):
        overlay = prediction.overlay()
        assert overlay.size == image.size
        assert overlay.mode == "RGB"


def test_grey_and_alpha_are_what_they_look_like(segmenter, picture):
    grey = picture[..., 0]
    assert np.array_equal(segmenter(grey).mask, segmenter(np.dstack([grey] * 3)).mask)
    assert np.array_equal(segmenter(grey[..., None]).mask, segmenter(grey).mask)
    with_alpha = np.dstack([picture, grey])
    assert np.array_equal(segmenter(with_alpha).mask, segmenter(picture).mask)


def test_sixteen_bits_are_rescaled_to_what_the_model_was_trained_on(segmenter, picture):
    assert np.array_equal(segmenter(picture.astype(np.uint16) * 257).mask, segmenter(picture).mask)
    deep = make()
    deep.info = dataclasses.replace(
        deep.info,
        preprocessing=deep.info.preprocessing.with_image(
            mean=tuple(257 * value for value in deep.info.preprocessing.mean),
            std=tuple(257 * value for value in deep.info.preprocessing.std),
            dtype="uint16",
        ),
    )
    sixteen = Segmenter(deep, device="cpu", precision="float32")
    expected = segmenter(picture).mask
    for given in (picture, picture.astype(np.uint16) * 257):
        assert (sixteen(given).mask == expected).mean() > 0.999


def test_sixteen_bit_colour_files_keep_their_bits(picture, tmp_path):
    deep = picture.astype(np.uint16) * 257 + 3
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    assert np.array_equal(as_array(tmp_path / "deep.png"), deep)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (2, 3), (65, 64)])
def test_any_size(segmenter, size):
    assert segmenter(np.zeros((*size, 3), np.uint8)).mask.shape == size


def test_one_logit_gives_two_classes(picture):
    mask = Segmenter(make(num_classes=1), device="cpu", precision="float32")(picture).mask
    assert set(np.unique(mask)) == {0, 1}


def test_many_channels():
    model = make(in_channels=12)
    image = np.random.default_rng(0).random((40, 50, 12)).astype(np.float32) * 255
    model.info = dataclasses.replace(model.info, preprocessing=model.info.preprocessing.with_image(dtype="float32"))
    prediction = Segmenter(model, device="cpu")(image)
    assert prediction.mask.shape == (40, 50)
    assert prediction.overlay().size == (50, 40)
    with pytest.raises(AtrousError, match="3 channels, but 12 are needed"):
        Segmenter(model, device="cpu")(image[..., :3])


def test_enlarged_pictures_give_masks_of_their_own_size(picture):
    model = make()
    model.info = dataclasses.replace(
        model.info, preprocessing=dataclasses.replace(model.info.preprocessing, enlarge=2.0)
    )
    assert Segmenter(model, device="cpu")(picture).mask.shape == picture.shape[:2]


def test_a_saved_mask_reads_back_as_indices_with_the_models_colours(segmenter, picture, tmp_path):
    prediction = segmenter(picture)
    prediction.save(tmp_path / "mask.png")
    back = Image.open(tmp_path / "mask.png")
    assert back.mode == "P"
    assert np.array_equal(np.asarray(back), prediction.mask)
    colours = np.asarray(CLASSES.colors, np.uint8)[prediction.mask]
    assert np.array_equal(np.asarray(back.convert("RGB")), colours)


def test_the_raw_mask_holds_the_first_raw_value_of_each_class(segmenter, picture):
    prediction = segmenter(picture)
    raw = prediction.raw_mask()
    for index, value in enumerate((-5, 300, 7)):
        assert np.array_equal(raw == value, prediction.mask == index)


@pytest.mark.parametrize("opacity", [0.0, 0.55, 1.0])
def test_an_overlay_mixes_picture_and_colours(segmenter, picture, opacity):
    prediction = segmenter(picture)
    colours = np.asarray(CLASSES.colors, np.float32)[prediction.mask]
    expected = picture * (1 - opacity) + colours * opacity
    assert np.abs(np.asarray(prediction.overlay(opacity)) - expected).max() <= 0.51


def test_a_black_class_leaves_the_picture_as_it_is(segmenter, picture):
    table = segmenter.info.table
    info = segmenter.info.with_table(dataclasses.replace(table, colors=((0, 0, 0), *table.colors[1:])))
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, 40:] = 1
    overlay = np.asarray(Prediction(mask, picture, info).overlay(1.0))
    assert np.array_equal(overlay[:, :40], picture[:, :40])
    assert (overlay[:, 40:] == info.colors[1]).all()


def test_a_legend_shows_the_colours_of_the_classes_there(segmenter, picture):
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, 40:] = 2
    prediction = Prediction(mask, picture, segmenter.info)
    shown = prediction.overlay(legend=True)
    height, width = mask.shape
    assert shown.width == width
    assert np.array_equal(np.asarray(shown)[:height], np.asarray(prediction.overlay()))
    below = np.asarray(shown)[height:].reshape(-1, 3)
    seen = [bool((below == color).all(1).any()) for color in segmenter.info.colors]
    assert seen == [True, False, True]


def test_channels_first_are_told_from_a_picture_of_many_channels(segmenter, picture):
    with pytest.raises(AtrousError, match=r"C×H×W, \(3, 61, 83\): give picture\.transpose\(1, 2, 0\)"):
        segmenter(picture.transpose(2, 0, 1))
    assert segmenter(np.zeros((3, 40, 4), np.uint8)).mask.shape == (3, 40)  # three rows of colours and alpha


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_deep_picture_is_stretched_to_be_seen(segmenter, dtype):
    ramp = np.linspace(1000, 5000, 40 * 60).reshape(40, 60, 1).astype(dtype)
    shown = np.asarray(Prediction(np.zeros((40, 60), np.uint8), ramp, segmenter.info).overlay(0.0))
    assert shown.shape == (40, 60, 3)
    assert shown.min() == 0
    assert shown.max() == 255
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()


def test_a_prediction_tells_its_largest_classes(segmenter):
    mask = np.array([[1, 1, 1, 0]], np.uint8)
    text = repr(Prediction(mask, np.zeros((1, 4, 3), np.uint8), segmenter.info))
    assert text == "Prediction(1×4: road 75%, sky 25%)"


@pytest.mark.slow
def test_a_model_file_is_enough(segmenter, picture, tmp_path):
    atrous.save(make(), tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        loaded = Segmenter(path, device="cpu", precision="float32")
        assert loaded.info == segmenter.info
        assert np.array_equal(loaded(picture).mask, segmenter(picture).mask)


def test_bfloat16_answers_almost_the_same(segmenter, picture):
    half = Segmenter(make(), device="cpu", precision="bfloat16")
    assert (half(picture).mask == segmenter(picture).mask).mean() > 0.9
    assert half.engine.precision == "bfloat16"
    assert segmenter.engine.precision == "float32"
    assert segmenter.engine.device == "cpu"


def test_the_picture_is_left_alone(segmenter, picture):
    before = picture.copy()
    segmenter(picture).overlay()
    assert np.array_equal(picture, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "a path, a PIL image or an array, got int"),
        (np.zeros((4, 5, 3), np.int64), "int64"),
        (np.zeros((4, 5, 3), bool), "bool"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\(2, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (np.zeros((4, 5, 2), np.uint8), "2 channels, but 3 are needed"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        ("absent.png", "absent.png: no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_for_this_model_is_refused(segmenter, given, message):
    with pytest.raises(AtrousError, match=message):
        segmenter(given)


@pytest.mark.parametrize("options", [{"device": "cuda:99"}, {"device": "gpu"}, {"precision": "float16"}])
def test_unknown_devices_and_precisions_are_refused(options):
    with pytest.raises(AtrousError, match="unknown"):
        Segmenter(make(), **options)


def test_a_crf_refines_the_probabilities_of_the_whole_picture(segmenter, picture):
    crf = atrous.DenseCRF(bilateral_xy=20, bilateral_rgb=20)
    refined = Segmenter(make(), device="cpu", precision="float32", crf=crf)
    model = make()
    preprocessing = model.info.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        logits = model(((torch.from_numpy(picture).permute(2, 0, 1) - mean) / std)[None])
    expected = crf(picture, logits[0].softmax(0).numpy()).argmax(0)
    mask = refined(picture).mask
    assert mask.dtype == np.uint8
    assert (mask == expected).mean() > 0.999  # but for ties
    assert (mask != segmenter(picture).mask).mean() > 0.01  # not vacuous


def test_a_crf_by_its_settings(picture):
    model = make()
    by_name, by_mapping = (
        Segmenter(model, device="cpu", crf=given)
        for given in ("deeplabv1", {"bilateral_xy": 121, "bilateral_rgb": 5, "gaussian_xy": 3})
    )
    assert np.array_equal(by_name(picture).mask, by_mapping(picture).mask)
    model.info = dataclasses.replace(model.info, crf={"iterations": 0})
    stored, plain = Segmenter(model, device="cpu", crf="model"), Segmenter(model, device="cpu")
    assert stored.crf is not None
    assert stored.crf.iterations == 0
    assert plain.crf is None  # only when asked for
    assert np.array_equal(stored(picture).mask, plain(picture).mask)
    with pytest.raises(AtrousError, match="unknown CRF 'deeplab'"):
        Segmenter(model, device="cpu", crf="deeplab")


def test_the_temperature_softens_what_the_crf_gets(picture):
    masks = []
    for temperature in (1.0, 100.0):
        model = make()
        model.info = dataclasses.replace(model.info, temperature=temperature)
        masks.append(Segmenter(model, device="cpu", crf="bilateral_weight=1,gaussian_weight=1")(picture).mask)
    assert (masks[0] != masks[1]).mean() > 0.01


def test_one_logit_is_refined_as_two_classes(picture):
    model = make(num_classes=1)
    refined = Segmenter(model, device="cpu", crf="iterations=0")
    assert np.array_equal(refined(picture).mask, Segmenter(model, device="cpu")(picture).mask)
    smoothed = Segmenter(model, device="cpu", crf="bilateral_rgb=30")(picture).mask
    assert set(np.unique(smoothed)) <= {0, 1}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pictures_are_refined_in_their_own_depth(picture, dtype):
    model = make()
    preprocessing = model.info.preprocessing
    factor = 257 if dtype == "uint16" else 1
    deep = preprocessing.with_image(
        mean=tuple(factor * value for value in preprocessing.mean),
        std=tuple(factor * value for value in preprocessing.std),
        dtype=dtype,
    )
    crf = "bilateral_rgb=20"
    expected = Segmenter(model, device="cpu", precision="float32", crf=crf)(picture).mask
    model.info = dataclasses.replace(model.info, preprocessing=deep)
    mask = Segmenter(model, device="cpu", precision="float32", crf=crf)(
        (picture * np.ones(1, dtype) * factor).astype(dtype)
    ).mask
    assert (mask == expected).mean() > 0.999


def test_pixels_that_are_not_valid_stay_the_networks(segmenter, picture):
    crf = atrous.DenseCRF(bilateral_xy=20, bilateral_rgb=20)
    refined = Segmenter(make(), device="cpu", precision="float32", crf=crf)
    valid = np.arange(picture.shape[1]) < 40
    valid = np.broadcast_to(valid, picture.shape[:2])
    mask = refined.segment(refined.preparation.prepare(picture), valid)
    assert np.array_equal(mask[~valid], segmenter(picture).mask[~valid])
    assert (mask != segmenter(picture).mask).any()


@pytest.mark.slow
def test_another_output_stride_on_the_same_weights(picture, tmp_path):
    model = make(output_stride=16)
    finer = make(output_stride=8)
    finer.load_state_dict(model.state_dict())
    expected = Segmenter(finer, device="cpu", precision="float32")(picture).mask
    atrous.save(model, tmp_path / "model.safetensors")
    for given in (model, tmp_path / "model.safetensors"):
        segmenter = Segmenter(given, device="cpu", precision="float32", output_stride=8)
        assert segmenter.info.arguments["output_stride"] == 8
        assert (segmenter(picture).mask == expected).all()
    assert model.info.arguments["output_stride"] == 16  # a module is left as it is
    assert (Segmenter(model, device="cpu", precision="float32")(picture).mask != expected).any()
    with pytest.raises(AtrousError, match="8, 16 or 32"):
        Segmenter(model, output_stride=12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_pil_image_has_the_channels_and_type_of_its_mode_whatever_its_values(mode, tmp_path):
    for brightest in (1, 255):  # of which neither may decide the type
        grey = Image.fromarray(np.array([[0, 1], [brightest, 0]], np.uint8))
        image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
        pixels = pixels_of_picture(image)
        file = tmp_path / f"{brightest}.{'tif' if mode in ('CMYK', 'I', 'F') else 'png'}"
        image.save(file)
        stored = read_pixels(file)
        assert pixels.values.dtype == stored.values.dtype
        assert np.array_equal(pixels.values, stored.values)
        assert (pixels.masked is None) == (stored.masked is None)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_a_pil_image_of_16_bits_keeps_its_type_in_any_order_of_bytes(order, tmp_path):
    values = np.array([[0, 1], [300, 65535]], np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=order[0]) as file:
        file.write(values, photometric="minisblack")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode.startswith("I;16")
        found = pixels_of_picture(image).values
    assert found.dtype == np.uint16 and found.dtype.isnative
    assert np.array_equal(found[:, :, 0], values)


def test_a_pil_image_that_cannot_be_read_is_refused_in_words(segmenter, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    for image in (closed, Image.open(tmp_path / "cut.png")):
        with pytest.raises(AtrousError, match="the picture: cannot be read"):
            segmenter(image)


def test_saving_a_mask_replaces_our_masks_and_nothing_else(small, tmp_path):
    """Neither the picture itself, nor a mask that somebody has corrected."""
    picture, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(picture)
    prediction = atrous.Segmenter(small, engine="torch", device="cpu")(picture)
    for _ in range(2):
        prediction.save(mask)
    corrected = np.asarray(Image.open(mask)).copy()
    corrected[:5] = 3
    with Image.open(mask) as ours:
        changed = ours.copy()
    changed.putdata(corrected.ravel().tolist())
    changed.save(mask)
    before = {file: file.read_bytes() for file in (picture, mask)}
    for file in (picture, mask):
        with pytest.raises(AtrousError, match=r"not a mask of atrous, so it is not replaced; .*overwrite=True"):
            prediction.save(file)
    assert {file: file.read_bytes() for file in (picture, mask)} == before
    prediction.save(mask, overwrite=True)
    assert np.array_equal(np.asarray(Image.open(mask)), prediction.mask)


def test_tensors_are_taken_where_their_axes_are_said(segmenter, picture):
    expected = segmenter(picture).mask
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    assert (segmenter(tensor, axes="CHW").mask == expected).all()
    assert (segmenter(picture, axes="HWC").mask == expected).all()
    assert all((one.mask == expected).all() for one in segmenter([tensor, tensor], axes="chw"))
    with pytest.raises(AtrousError, match='give the order of the axes, as in segmenter\\(tensor, axes="CHW"\\)'):
        segmenter(tensor)
    with pytest.raises(AtrousError, match="Give each picture of a batch by itself"):
        segmenter(tensor[None], axes="CHW")
    for wrong in ("NCHW", "CH", "", "CHX"):
        with pytest.raises(AtrousError, match="axes must be the letters"):
            segmenter(tensor, axes=wrong)
    with pytest.raises(AtrousError, match="axes are only for arrays and tensors"):
        segmenter("a.png", axes="CHW")
