"""Class names of any script in pictures: drawn by a font that has their letters, or by number; never as boxes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from atrous import fonts
from atrous.charts import confusion_picture
from atrous.fonts import FontWarning, draw_text, drawable, labels, text_width
from atrous.inference.legend import with_legend

SHAPED = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow does not join letters (no Raqm)")


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without any font."""
    caches = (fonts._system_fonts, fonts._runs, fonts._labels)
    monkeypatch.setattr(fonts, "_font_folders", list)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def needs_font_for(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if labels([text]) != [text]:
            pytest.skip(f"no font of this system draws {text}")


def drawn(text: str, size: int = 20) -> np.ndarray:
    picture = Image.new("RGB", (400, 60), "white")
    draw_text(picture, (10, 30), text, size, "black", "lm")
    return np.asarray(picture)


def in_pillows_font(text: str, size: int = 20) -> np.ndarray:
    picture = Image.new("RGB", (400, 60), "white")
    ImageDraw.Draw(picture).text((10, 30), text, "black", ImageFont.load_default(size), "lm")
    return np.asarray(picture)


def test_english_names_look_as_pillow_draws_them():
    assert np.array_equal(drawn("Road, wet_2"), in_pillows_font("Road, wet_2"))
    assert text_width("Road, wet_2", 20) == ImageFont.load_default(20).getlength("Road, wet_2")


@pytest.mark.parametrize("name", ["Straße", "łąka", "Дорога", "道路", "道路 road", "ถนน", "q̃ r̅ n̈ m̄ e̊"])
def test_names_in_other_letters_are_drawn_and_are_no_boxes(name):
    needs_font_for(name)
    assert not np.array_equal(drawn(name), in_pillows_font(name))
    for path, run in fonts._runs(name) or []:
        glyphs = [fonts._glyph(path, letter) for letter in run if not letter.isspace()]
        assert glyphs and fonts._missing(path) not in glyphs
    spread = np.flatnonzero((drawn(name) < 128).any((0, 2)))
    assert spread[-1] - spread[0] <= text_width(name, 20) + 2  # the width that a legend leaves for it


@SHAPED
def test_arabic_letters_are_joined_and_run_from_the_right():
    name = "مسار"
    needs_font_for(name)
    assert text_width(name, 20) < 0.9 * sum(text_width(letter, 20) for letter in name)
    both = f"{name} 道路"
    needs_font_for(both)
    width = int(text_width("道路", 20))
    assert np.array_equal(drawn(both)[:, : 10 + width], drawn("道路")[:, : 10 + width])  # read last, so it is left


def test_letters_that_must_be_joined_are_not_drawn_apart(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    for cache in (fonts._runs, fonts._labels):
        cache.cache_clear()
    with pytest.warns(FontWarning, match="class 1 مسار"):
        assert labels(["road", "مسار"]) == ["road", "class 1"]
    for cache in (fonts._runs, fonts._labels):
        cache.cache_clear()


@pytest.mark.parametrize("name", ["🚗", "car 🚗", "👩🏽‍🌾 farmer", "🇩🇪", "🏳️‍🌈", "👍🏽", "1️⃣", "☂️ rain"])
def test_emoji_have_their_colours(name):
    needs_font_for(name)
    fonts_used = {path for path, run in fonts._runs(name) or [] if any(ord(letter) > 0x2000 for letter in run)}
    assert len(fonts_used) == 1  # not in pieces of several fonts
    pixels = drawn(name).astype(int)
    if "🇩🇪" not in name and not (np.ptp(pixels, axis=2) > 60).any():
        pytest.skip("this system's font of emoji has no colours")
    assert text_width(name, 20) < 25 * len(name.replace("\u200d", ""))
    assert (pixels < 200).any()


def test_signs_that_belong_together_stay_together():
    assert fonts._clusters("e\u0301a") == ["e\u0301", "a"]
    assert fonts._clusters("👩🏽‍🌾x🇩🇪🇫🇷") == ["👩🏽‍🌾", "x", "🇩🇪", "🇫🇷"]
    england = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    assert fonts._clusters(f"{england}x") == [england, "x"]


def test_unseen_letters_are_kept_where_they_shape_words_and_dropped_where_not():
    sidewalk = "\u067e\u06cc\u0627\u062f\u0647\u200c\u0631\u0648"  # Persian, of two parts that do not join
    assert fonts.printable(sidewalk) == sidewalk
    assert fonts.printable("\u05e9\u05dc\u05d5\u05dd\u200f") == "\u05e9\u05dc\u05d5\u05dd"
    assert fonts.printable("Fu\u00df\u00adweg") == "Fu\u00dfweg"
    assert fonts.printable("a\u3000b\u00a0c") == "a b c"


@pytest.mark.usefixtures("no_fonts")
def test_names_that_no_font_draws_are_numbers_with_the_names_beside_them():
    names = ["road", "道路", "Straße", "مسار", "🚗"]
    with pytest.warns(FontWarning) as caught:
        shown = labels(names)
    assert shown == ["road", "class 1", "class 2", "class 3", "class 4"]
    assert "class 1 道路, class 2 Straße, class 3 مسار, class 4 🚗" in str(caught[0].message)
    assert drawable("photos/道路 1.png") == "photos/?? 1.png"
    with pytest.warns(FontWarning):
        picture = confusion_picture(np.eye(2, dtype=np.int64), ["road", "道路"])
    assert np.array_equal(picture, confusion_picture(np.eye(2, dtype=np.int64), ["road", "class 1"]))


@pytest.mark.usefixtures("no_fonts")
def test_a_damaged_font_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "half.ttf").write_bytes(b"\0\1\0\0half")
    (tmp_path / "none.otf").write_bytes(b"")
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path, tmp_path / "absent"])
    with pytest.warns(FontWarning):
        assert labels(["道"]) == ["class 0"]


def test_many_names_take_little_time_to_look_up():
    """A table of letters is read once for each font, not once for each letter."""
    fonts._letters.cache_clear()
    letters = [chr(0x4E00 + 7 * index) for index in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels(letters)
    assert fonts._letters.cache_info().misses <= len(fonts._system_fonts())


def test_controls_and_bytes_that_are_no_text_are_question_marks():
    assert labels(["a\nb", "\udcff", "\ue000"]) == ["a?b", "?", "?"]


def test_a_legend_leaves_room_for_wide_names():
    name = "道路道路道路"
    needs_font_for(name)
    picture = with_legend(Image.new("RGB", (120, 20)), [(name, (255, 0, 0)), (name, (0, 0, 255))], 14)
    rows = np.asarray(picture)[20:]
    assert rows.shape[0] > 2 * 14  # one below the other
    assert (rows[:, :-1] == 255).all(2).any(0)[-1]  # nothing is cut at the right
