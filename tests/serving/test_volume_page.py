"""The page at / with a model of volumes, in a real browser, where one is installed."""

import base64
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.browser import keep_screenshot, until

import atrous
from atrous.commands.predict import predict
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.slices import pictures_of
from atrous.data.volumes.volume_view import LETTERS

from .conftest import ZOO, model_of_volumes

nibabel = pytest.importorskip("nibabel")

SHAPE, SIDES = (20, 24, 12), (1.5, 1.0, 3.0)
TORCH = ("--engine", "torch", "--device", "cpu", "--precision", "float32")
OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_of_volumes(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A volume whose axes point left, posterior and superior in the file."""
    coarse = np.random.default_rng(0).normal(100, 30, tuple(side // 4 for side in SHAPE))
    values = np.kron(coarse, np.ones((4, 4, 4))).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-SIDES[0], -SIDES[1], SIDES[2], 1])), path)
    return path


@pytest.fixture(scope="module")
def expected(model, scan, tmp_path_factory) -> Path:
    (mask,) = predict(model, [scan], out=tmp_path_factory.mktemp("masks"), **OPTIONS)
    return mask


@pytest.fixture(scope="module")
def running(start, model):
    server = start(model, ZOO, *TORCH)
    yield server
    server.stop()


@pytest.fixture
def page(browser, running):
    browser.get(running.address)
    until(lambda: browser.find_element("id", "about").text)
    yield browser
    keep_screenshot(browser)


def segment(page, path: Path) -> None:
    page.find_element("id", "file").send_keys(str(path))
    until(lambda: "voxels in" in page.find_element("id", "status").text)


def plane(page, name: str):
    return page.find_elements("css selector", "#planes .plane")[list(LETTERS).index(name)]


def slider(page, name: str):
    return plane(page, name).find_element("css selector", "input")


def shown(page, name: str, shape: tuple[int, int]) -> np.ndarray:
    """The colours at the middles of the voxels of a plane's picture, H×W×3."""
    canvas = plane(page, name).find_element("css selector", "canvas")
    data = page.execute_script("return arguments[0].toDataURL('image/png')", canvas)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))
    height, width, _ = picture.shape
    rows, columns = ((np.arange(n) + 0.5) / n * side for n, side in zip(shape, (height, width), strict=True))
    return picture[np.ix_(rows.astype(int), columns.astype(int))]


def inner(picture: np.ndarray) -> np.ndarray:
    """A picture without its border, where marks show the places of the other planes."""
    return picture[2:-2, 2:-2]


def colors_of(model: Path) -> np.ndarray:
    return np.asarray(atrous.load(model).info.colors, np.uint8)


def opacity(page, key: str) -> None:
    page.find_element("id", "opacity").send_keys(key)


def test_every_slice_of_every_plane_is_the_mask_that_predict_writes(page, scan, model, expected):
    from selenium.webdriver.common.keys import Keys

    segment(page, scan)
    opacity(page, Keys.END)
    colors, labels = colors_of(model), read_nifti(expected).values[..., 0].astype(np.uint8)
    assert len(np.unique(labels)) > 1
    visible = colors.any(axis=1)
    for name in LETTERS:
        pictures = pictures_of(labels, name)
        slider(page, name).send_keys(Keys.HOME)
        for index, picture in enumerate(pictures):
            found = shown(page, name, picture.shape)
            painted = visible[picture]
            np.testing.assert_array_equal(inner(found)[inner(painted)], inner(colors[picture])[inner(painted)])
            number = plane(page, name).find_element("css selector", "output").text
            assert number == f"{index} (0–{len(pictures) - 1})"
            slider(page, name).send_keys(Keys.ARROW_RIGHT)


def test_the_scan_is_shown_in_the_radiological_convention(page, scan):
    from selenium.webdriver.common.keys import Keys

    segment(page, scan)
    opacity(page, Keys.HOME)
    values = read_nifti(scan).values[..., 0]
    low, high = np.percentile(values, (0.5, 99.5))
    grey = np.clip((values - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    for name in LETTERS:
        pictures = pictures_of(grey, name)
        found = shown(page, name, pictures[0].shape)
        np.testing.assert_allclose(inner(found[..., 0]), inner(pictures[len(pictures) // 2]), atol=1)
        letters = "".join(one.text for one in plane(page, name).find_elements("css selector", ".frame span"))
        assert letters == LETTERS[name]
    sizes = {name: plane(page, name).find_element("css selector", "canvas").size for name in LETTERS}
    right, anterior, superior = (count * side for count, side in zip(SHAPE, SIDES, strict=True))
    for name, ratio in (("axial", right / anterior), ("coronal", right / superior), ("sagittal", anterior / superior)):
        assert sizes[name]["width"] / sizes[name]["height"] == pytest.approx(ratio, rel=0.03)


def test_arrow_keys_clicks_and_the_wheel_move_the_slices(page, scan):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    segment(page, scan)
    value = lambda name: int(slider(page, name).get_property("value"))  # noqa: E731
    assert [value(name) for name in LETTERS] == [6, 12, 10]
    ActionChains(page).send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_DOWN).perform()  # the first plane has focus
    assert [value(name) for name in LETTERS] == [7, 12, 10]
    coronal = plane(page, "coronal").find_element("css selector", "canvas")
    coronal.send_keys(Keys.END)
    assert value("coronal") == 23
    coronal.send_keys(Keys.ARROW_RIGHT)
    assert value("coronal") == 23
    size = coronal.size
    left_top = (5 - size["width"] // 2, 5 - size["height"] // 2)
    ActionChains(page).move_to_element_with_offset(coronal, *left_top).click().perform()
    assert [value(name) for name in LETTERS] == [11, 23, 19]  # the patient's superior right
    page.execute_script(
        "arguments[0].dispatchEvent(new WheelEvent('wheel', { deltaY: 100, cancelable: true }))", coronal
    )
    assert value("coronal") == 22


def test_hidden_classes_and_options_redraw_the_mask(page, scan, model, tmp_path):
    from selenium.webdriver.common.keys import Keys

    segment(page, scan)
    opacity(page, Keys.END)
    slider(page, "axial").send_keys(Keys.HOME)
    page.find_element("css selector", "summary").click()
    page.find_element("id", "flip").click()
    (mask,) = predict(model, [scan], out=tmp_path, flip=True, **OPTIONS)
    colors, labels = colors_of(model), read_nifti(mask).values[..., 0].astype(np.uint8)
    picture = pictures_of(labels, "axial")[0]
    painted = colors.any(axis=1)[picture]
    until(
        lambda: np.array_equal(
            inner(shown(page, "axial", picture.shape))[inner(painted)], inner(colors[picture])[inner(painted)]
        )
    )
    assert slider(page, "axial").get_property("value") == "0"  # the same slice as before
    page.find_element("id", "none").click()
    found = inner(shown(page, "axial", picture.shape))
    assert (found[..., 0] == found[..., 1]).all()


def test_the_mask_is_downloaded_without_a_second_request(page, scan, expected):
    segment(page, scan)
    requests = "return performance.getEntriesByType('resource').filter((one) => one.name.includes('/segment')).length"
    assert page.execute_script(requests) == 1
    assert not page.find_element("id", "save-seg").is_displayed()
    assert not page.find_element("id", "save-overlay").is_displayed()
    page.find_element("id", "save-mask").click()
    file = page.downloads / "case.mask.nii.gz"
    until(lambda: file.exists() and file.read_bytes() == expected.read_bytes())
    assert page.execute_script(requests) == 1


def test_a_dicom_series_gives_both_files(page, model, shared, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    series = tmp_path / "series.zip"
    with zipfile.ZipFile(series, "w") as archive:
        for index in (1, 2, 3):
            one = pydicom.dcmread(shared / f"data/dicom_seg/dcmqi_ct-3slice_0{index}.dcm")
            pixels = np.frombuffer(one.PixelData, np.int16).reshape(-1, 512)[200:240, 100:140]
            one.Rows, one.Columns, one.PixelData = *pixels.shape, pixels.tobytes()
            content = io.BytesIO()
            one.save_as(content, enforce_file_format=True)
            archive.writestr(f"{index}.dcm", content.getvalue())
    segment(page, series)
    page.find_element("id", "save-mask").click()
    page.find_element("id", "save-seg").click()
    masks = [page.downloads / f"series.mask{suffix}" for suffix in (".nii.gz", ".dcm")]
    until(lambda: all(mask.exists() and mask.stat().st_size for mask in masks))
    (expected,) = predict(model, [series], out=tmp_path / "masks", **OPTIONS)
    assert masks[0].read_bytes() == expected.read_bytes()
    assert pydicom.dcmread(io.BytesIO(masks[1].read_bytes())).Modality == "SEG"


def test_the_note_on_a_volume_is_shown(page, scan, tmp_path):
    image = nibabel.load(scan)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None), tmp_path / "Doe_Jane.nii.gz")
    segment(page, tmp_path / "Doe_Jane.nii.gz")
    note = page.find_element("id", "note")
    assert note.text.startswith("Note: the volume does not state its orientation") and "Doe" not in note.text
    page.find_element("id", "file").send_keys(str(scan))
    until(lambda: not note.is_displayed())


def test_errors_are_shown_and_the_page_goes_on(page, scan, tmp_path):
    alert = page.find_element("id", "error")
    for name, content, words in (
        ("x.nii", b"text", "not a volume"),
        ("x.nii.gz", scan.read_bytes()[:-40], "volume"),
        ("x.zip", empty_zip(), "the volume"),
    ):
        (tmp_path / name).write_bytes(content)
        page.find_element("id", "file").send_keys(str(tmp_path / name))
        until(lambda words=words: words in alert.text)
    page.get_log("browser")  # Chromium logs the refusals, too
    segment(page, scan)
    assert not alert.is_displayed()
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")] == []


def empty_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", "text")
    return content.getvalue()


def test_the_words_are_those_of_the_model(page, scan, tmp_path):
    from selenium.webdriver.support.select import Select

    assert page.find_element("id", "choose").text == "Choose a volume"
    segment(page, scan)
    Select(page.find_element("id", "model")).select_by_visible_text("camvid")
    until(lambda: "NIfTI" in page.find_element("id", "error").text)
    assert page.find_element("id", "another").text == "Another picture"
    assert page.find_element("id", "file").get_attribute("accept") == "image/*"


def test_it_fits_a_phone(page, scan):
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        segment(page, scan)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        keep_screenshot(page, "-phone")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_has_a_name_for_screen_readers(page, scan):
    segment(page, scan)
    for element in page.find_elements("css selector", "input, select, button, canvas, progress, a"):
        if element.is_displayed() and element.get_attribute("aria-hidden") != "true":
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert "slice 6, counted from inferior to superior" in slider(page, "axial").get_attribute("aria-valuetext")
