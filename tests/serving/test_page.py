"""The page at / in a real browser, where one is installed."""

import base64
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.browser import keep_screenshot, until

import atrous
from atrous.serving.note_header import note_header

from .conftest import ZOO, png


@pytest.fixture
def page(browser, server):
    browser.get(server.address)
    until(lambda: browser.find_element("id", "about").text)
    yield browser
    keep_screenshot(browser)


@pytest.fixture
def street(streets, tmp_path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(png(streets[0]))
    return path


def segment(page, path: Path) -> None:
    page.find_element("id", "file").send_keys(str(path))
    until(lambda: "pixels in" in page.find_element("id", "status").text)


def painted(page) -> np.ndarray:
    """The mask's canvas, H×W×4."""
    data = page.execute_script("return document.getElementById('mask').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))))


def downloaded(page, name: str) -> Image.Image:
    path = page.downloads / name
    until(path.exists)
    until(lambda: path.stat().st_size > 0)
    picture = Image.open(io.BytesIO(path.read_bytes()))
    path.unlink()
    return picture


def test_a_picture_becomes_its_mask(page, street, segmenter, streets):
    segment(page, street)
    expected = segmenter(streets[0])
    colors = np.asarray(expected.info.colors, np.uint8)
    assert np.array_equal(painted(page)[..., :3], colors[expected.mask])
    assert (painted(page)[..., 3] == 255).all()
    shown = [entry.text.split("\n")[0] for entry in page.find_elements("css selector", "#classes li")]
    counts = np.bincount(expected.mask.ravel(), minlength=11)
    assert shown == [expected.info.classes[index] for index in np.argsort(-counts, kind="stable") if counts[index]]
    share = page.find_element("css selector", "#classes .share").text
    assert share == f"{100 * counts.max() / counts.sum():.1f} %"
    assert not page.find_element("id", "drop").is_displayed()


def test_classes_are_hidden_by_keyboard(page, street, segmenter, streets):
    from selenium.webdriver.common.keys import Keys

    segment(page, street)
    largest = np.bincount(segmenter(streets[0]).mask.ravel()).argmax()
    page.find_element("css selector", "#classes input").send_keys(Keys.SPACE)
    of_class = segmenter(streets[0]).mask == largest
    assert np.array_equal(painted(page)[..., 3] > 0, ~of_class)
    page.find_element("id", "none").click()
    assert not painted(page)[..., 3].any()
    page.find_element("id", "all").click()
    assert painted(page)[..., 3].all()


def test_opacity_and_comparison(page, street):
    from selenium.webdriver.common.keys import Keys

    segment(page, street)
    page.find_element("id", "opacity").send_keys(Keys.HOME)
    assert page.find_element("id", "mask").value_of_css_property("opacity") == "0"
    page.find_element("id", "opacity").send_keys(Keys.END)
    split = page.find_element("id", "split")
    split.send_keys(Keys.END)
    assert page.find_element("id", "mask").value_of_css_property("clip-path").startswith("inset(0px 0px 0px 100%")
    split.send_keys(Keys.ARROW_LEFT)
    assert "99.5%" in page.find_element("id", "mask").value_of_css_property("clip-path")


def test_downloads(page, street, segmenter, streets):
    segment(page, street)
    expected = segmenter(streets[0])
    page.find_element("id", "save-mask").click()
    mask = downloaded(page, "street.mask.png")
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), expected.mask)
    page.find_element("id", "save-overlay").click()
    overlay = np.asarray(downloaded(page, "street.overlay.png").convert("RGB")).astype(int)
    assert np.abs(overlay - np.asarray(expected.overlay(0.6)).astype(int)).max() <= 2


def test_pictures_are_dropped_and_pasted(page, streets, segmenter):
    """As the browser hands files over: by a DataTransfer."""
    script = """
      const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "x.png", { type: "image/png" }));
      const event = arguments[1] === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
      document.body.dispatchEvent(event);"""
    for kind, picture in (("drop", streets[1]), ("paste", streets[2])):
        page.execute_script(script, base64.b64encode(png(picture)).decode(), kind)
        expected = segmenter(picture)
        colors = np.asarray(expected.info.colors, np.uint8)[expected.mask]
        until(lambda colors=colors: np.array_equal(painted(page)[..., :3], colors))


def test_options_change_the_mask(page, street, segmenter, streets):
    segment(page, street)
    page.find_element("css selector", "summary").click()
    page.find_element("id", "flip").click()
    expected = segmenter.looking(flip=True)(streets[0])
    colors = np.asarray(expected.info.colors, np.uint8)[expected.mask]
    until(lambda: np.array_equal(painted(page)[..., :3], colors))


def test_what_the_browser_cannot_show_the_server_does(page, streets, tmp_path):
    Image.fromarray(streets[0]).save(tmp_path / "x.tif")
    segment(page, tmp_path / "x.tif")
    data = page.execute_script("return document.getElementById('picture').toDataURL('image/png')")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")).astype(int)
    assert np.abs(shown - streets[0]).mean() < 12  # by way of a JPEG


def test_mistakes_are_said_aloud(page, tmp_path, street):
    (tmp_path / "x.png").write_text("no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "x.png"))
    alert = page.find_element("css selector", "[role=alert]")
    until(lambda: "not a picture" in alert.text)
    segment(page, street)
    assert not alert.is_displayed()


def test_a_picture_that_changed_on_the_disk_is_named(page, street):
    segment(page, street)
    street.write_bytes(b"something else, of another length")
    page.find_element("css selector", "summary").click()
    page.find_element("id", "flip").click()
    until(lambda: "has changed or is gone" in page.find_element("id", "error").text)
    page.get_log("browser")  # where Chromium says so too, which is not to be another test's complaint


def test_it_fits_a_phone(page, street):
    page.set_window_size(500, 900)  # the narrowest that headless Chromium takes
    try:
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        segment(page, street)
        width = page.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
        keep_screenshot(page, "-phone")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.set_window_size(1280, 860)


def test_everything_has_a_name_for_screen_readers(page, street):
    segment(page, street)
    page.find_element("css selector", "summary").click()
    for element in page.find_elements("css selector", "input, select, button, canvas, progress, a"):
        if element.is_displayed() and element.get_attribute("aria-hidden") != "true":
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert page.find_element("tag name", "html").get_attribute("lang") == "en"
    assert page.find_element("css selector", "[role=status]").text


def test_nothing_comes_from_elsewhere_and_nothing_is_complained_of(page, server, street):
    segment(page, street)
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names and all(name.startswith((server.address, "blob:", "data:")) for name in names)
    complaints = [entry for entry in page.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    assert [entry for entry in complaints if "422" not in entry["message"]] == []  # of the picture that is none


def test_a_download_disturbs_nothing(page, street, segmenter, streets):
    segment(page, street)
    page.find_element("css selector", "summary").click()
    page.find_element("id", "flip").click()
    page.find_element("id", "save-mask").click()
    downloaded(page, "street.mask.png")
    expected = segmenter.looking(flip=True)(streets[0])
    colors = np.asarray(expected.info.colors, np.uint8)[expected.mask]
    until(lambda: np.array_equal(painted(page)[..., :3], colors))
    page.execute_script("document.getElementById('status').textContent = ''")
    segment(page, street)  # the same file once more


@pytest.mark.slow
def test_a_replaced_model_brings_its_own_classes(browser, start, other_model, street, tmp_path):
    path = tmp_path / "streets.safetensors"
    shutil.copy(ZOO, path)
    server = start(path)
    browser.get(server.address)
    until(lambda: browser.find_element("id", "about").text)
    segment(browser, street)
    assert names_on(browser) & {"Building"}
    model = atrous.load(other_model)
    names = tuple(f"thing {index}" for index in range(11))
    model.info = model.info.with_table(dataclasses.replace(model.info.table, names=names))
    atrous.save(model, tmp_path / "new.safetensors")
    (tmp_path / "new.safetensors").replace(path)
    until(lambda: any("replaced by the new version" in line for line in server.lines))
    assert names_on(browser) & {"Building"}  # what is shown is still the old model's
    browser.find_element("css selector", "summary").click()
    browser.find_element("id", "flip").click()
    until(lambda: names_on(browser) and names_on(browser) <= set(names))
    server.stop()


def names_on(browser) -> set[str]:
    script = "return [...document.querySelectorAll('#classes .name')].map((one) => one.textContent)"
    return set(browser.execute_script(script))


@pytest.mark.slow
def test_a_key_is_asked_for(browser, start, tmp_path, street):
    from selenium.webdriver.common.keys import Keys

    def dialog():
        return browser.find_element("id", "ask").get_attribute("open")

    def give(key: str) -> None:
        browser.find_element("id", "key").send_keys(key)
        browser.find_element("css selector", "dialog button").click()

    server = start(ZOO, "--key-file", key_file(tmp_path))
    browser.get(server.address)
    until(dialog)
    give("Schlüssel")  # which no header can carry
    assert dialog()
    browser.find_element("id", "key").clear()
    give("open-seasame")
    until(lambda: browser.find_element("id", "wrong").is_displayed())
    browser.find_element("id", "key").send_keys(Keys.ESCAPE)
    until(lambda: "needs a key" in browser.find_element("id", "error").text)
    browser.find_element("id", "file").send_keys(str(street))  # asks again
    until(dialog)
    give("open-sesame")
    until(lambda: "pixels in" in browser.find_element("id", "status").text)
    assert "classes" in browser.find_element("id", "about").text
    keep_screenshot(browser)
    server.stop()


def key_file(folder: Path) -> Path:
    (folder / "key").write_text("open-sesame")
    return folder / "key"


def test_the_note_of_the_server_is_shown_and_disappears(page, street, streets, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(streets[0][..., 0].astype(np.uint16) * 16).save(deep)  # 12 of 16 bits
    note = page.find_element("id", "note")
    segment(page, deep)
    assert "values reach only" in note.text and "range=0,4095" in note.text
    page.find_element("id", "file").send_keys(str(street))
    until(lambda: not note.is_displayed() and "pixels in" in page.find_element("id", "status").text)


def test_a_note_of_other_characters_is_decoded(page, street):
    said = "Gefäß 道 – 50 % of 2×3, a%20b"
    page.execute_script(
        """const real = window.fetch, header = arguments[0];
        window.fetch = async (...given) => {
          const answer = await real(...given);
          const headers = new Headers(answer.headers);
          if (String(given[0]).includes("/segment")) headers.set("X-Note", header);
          return new Response(answer.body, { status: answer.status, headers });
        };""",
        note_header(said)["X-Note"],
    )
    segment(page, street)
    assert page.find_element("id", "note").text == f"Note: {said}"
