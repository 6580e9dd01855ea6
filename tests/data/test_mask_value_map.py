import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import IGNORE_INDEX, UNKNOWN, ClassTable
from atrous.errors import AtrousError


def table(*raw, ignore=()):
    count = len(raw)
    return ClassTable(tuple(f"c{i}" for i in range(count)), default_colors(count), tuple(raw), tuple(ignore))


@st.composite
def tables(draw, values):
    """Tables of one to 40 classes with one to three raw values each, and perhaps ignore values."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=40))
    ignored = draw(st.integers(0, 2))
    total = sum(sizes) + ignored
    drawn = iter(draw(st.lists(values, min_size=total, max_size=total, unique=True)))
    raw = [tuple(next(drawn) for _ in range(size)) for size in sizes]
    return table(*raw, ignore=tuple(drawn))


NUMBERS = st.one_of(st.integers(0, 300), st.integers(-(2**31), 2**31 - 1))
COLORS = st.tuples(*[st.integers(0, 255)] * 3)


@given(tables(NUMBERS), st.integers(0, 2**32 - 1))
def test_round_trip_of_numbers(classes, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(classes), (5, 6)).astype(np.uint8)
    if classes.ignore:
        label[rng.random(label.shape) < 0.3] = IGNORE_INDEX
    raw = classes.decode(label)
    assert raw.dtype.kind in "ui"
    np.testing.assert_array_equal(classes.encode(raw), label)


@given(tables(COLORS), st.integers(0, 2**32 - 1))
def test_round_trip_of_colors(classes, seed):
    label = np.random.default_rng(seed).integers(0, len(classes), (5, 6)).astype(np.uint8)
    raw = classes.decode(label)
    assert raw.shape == (5, 6, 3)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(classes.encode(raw), label)


@given(tables(st.one_of(NUMBERS)))
def test_yaml_round_trip(tmp_path_factory, classes):
    path = tmp_path_factory.mktemp("yaml") / "classes.yaml"
    classes.to_yaml(path)
    assert ClassTable.from_yaml(path) == classes


def test_yaml_round_trip_of_colors_and_odd_names(tmp_path):
    classes = ClassTable(
        ("no", "Straße: nass", "3"), default_colors(3), (((1, 2, 3),), ((4, 5, 6),), ((7, 8, 9), (0, 0, 0)))
    )
    classes.to_yaml(tmp_path / "classes.yaml")
    assert ClassTable.from_yaml(tmp_path / "classes.yaml") == classes


def test_several_raw_values_mean_one_class_and_the_first_is_written():
    classes = table((0,), (100, 200, -1024), ignore=(-1, 255))
    raw = np.array([[0, 100, 200], [-1024, -1, 255]], np.int16)
    np.testing.assert_array_equal(classes.encode(raw), [[0, 1, 1], [1, 255, 255]])
    written = classes.decode(np.array([[0, 1, 255]], np.uint8))
    np.testing.assert_array_equal(written, [[0, 100, -1]])
    assert written.dtype == np.int8


@pytest.mark.parametrize(
    ("last", "dtype"),
    [(255, "uint8"), (-1, "int8"), (256, "uint16"), (-129, "int16"), (2**16, "uint32"), (-40000, "int32")],
)
def test_decode_takes_the_smallest_dtype(last, dtype):
    assert table((0,), (last,), ignore=(1,)).decode(np.array([[0]], np.uint8)).dtype == dtype


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_unknown_values_are_named_with_count_and_place(dtype):
    raw = np.zeros((4, 5), dtype=dtype)
    raw[2, 3] = raw[3, 0] = 7
    with pytest.raises(AtrousError, match=r"value 7 \(2 pixels\).*pixel x=3, y=2"):
        table((0,), (1,)).encode(raw)
    assert (table((0,), (1,)).look_up(raw) == UNKNOWN).sum() == 2


def test_unknown_colors_are_named():
    raw = np.zeros((2, 2, 3), dtype=np.uint8)
    raw[1, 0] = (9, 8, 7)
    with pytest.raises(AtrousError, match=r"\(9, 8, 7\).*x=0, y=1"):
        table(((0, 0, 0),)).encode(raw)


def test_modes():
    grey_as_rgb = np.repeat(np.array([[[0], [1]]], np.uint8), 3, axis=2)
    np.testing.assert_array_equal(table((0,), (1,)).encode(grey_as_rgb), [[0, 1]])
    with pytest.raises(AtrousError, match="holds colours"):
        table((0,), (1,)).encode(np.array([[[0, 1, 0]]], np.uint8))
    with pytest.raises(AtrousError, match="one number per pixel"):
        table(((0, 0, 0),)).encode(np.array([[0]], np.uint8))


def test_ignored_pixels_without_a_value():
    assert table((0,)).decode(np.array([[255]], np.uint8)) == 255
    with pytest.raises(AtrousError, match="ignore"):
        table((0,), (255,)).decode(np.array([[255]], np.uint8))
    with pytest.raises(AtrousError, match="index 2"):
        table((0,), (1,)).decode(np.array([[2]], np.uint8))


def test_255_classes_fit():
    classes = table(*((3 * index,) for index in range(255)), ignore=(1,))
    raw = np.arange(255, dtype=np.int32)[None] * 3
    np.testing.assert_array_equal(classes.encode(raw), np.arange(255)[None])
    with pytest.raises(AtrousError, match="256 classes"):
        table(*((index,) for index in range(256)))


@pytest.mark.parametrize(
    ("raw", "ignore", "message"),
    [
        (((0,), (0,)), (), "raw value 0 is given for 'c0' and again for 'c1'"),
        (((0,), (1,)), (1,), "again for 'ignore'"),
        (((0,), ((1, 2, 3),)), (), "mix"),
        (((0,), ()), (), "no raw value"),
        (((True,),), (), "neither"),
        (((128, 0, 0),), (), r"raw: \[\[r, g, b\]\]"),
    ],
)
def test_wrong_tables(raw, ignore, message):
    with pytest.raises(AtrousError, match=message):
        table(*raw, ignore=ignore)


def test_yaml_defaults(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes:\n- name: sky\n- {name: road, raw: 7}\n")
    classes = ClassTable.from_yaml(path)
    assert classes.raw == ((0,), (7,))
    assert classes.colors == default_colors(2)
    assert classes.ignore == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: []", "Did you mean 'classes'"),
        ("classes: [{name: a, colour: [1, 2, 3]}]", "Did you mean 'color'"),
        ("classes: [{name: no}]", "name False"),
        ("classes: []", "must be a list"),
        ("classes: [a]", "'a' given"),
        ("classes: [{name: a, color: red}]", "colour red"),
        ("classes: [{name: a, raw: [x]}]", "raw value 'x'"),
        ("classes: [", "YAML"),
        ("", "None given"),
    ],
)
def test_wrong_yaml_names_the_file(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(AtrousError, match=message) as caught:
        ClassTable.from_yaml(path)
    assert str(path) in str(caught.value)


def test_voc_colors():
    # the published map: background, aeroplane, bicycle, bird, … tvmonitor, and void
    colors = default_colors(256)
    assert colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colors[20] == (0, 64, 128)
    assert colors[255] == (224, 224, 192)
    assert len(set(colors)) == 256


@pytest.mark.parametrize(("given", "expected"), [("0", (0,)), ("[0, 255]", (0, 255)), ("[]", ()), ("null", ())])
def test_zero_can_be_ignored(tmp_path, given, expected):
    path = tmp_path / "classes.yaml"
    path.write_text(f"classes: [{{name: a, raw: 1}}, {{name: b, raw: 2}}]\nignore: {given}\n")
    assert ClassTable.from_yaml(path).ignore == expected


def test_ignored_numbers_in_quotes_are_refused(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [{name: a}]\nignore: [fallow, '255']\n")
    with pytest.raises(AtrousError, match=r"'255' is a whole number, given as text.*without quotes: 255"):
        ClassTable.from_yaml(path)
    path.write_text("classes: [{name: a}]\nignore: [fallow, '007', '1.5', '', '98765432109876543210', 255]\n")
    table = ClassTable.from_yaml(path)
    assert table.ignored_values == ("fallow", "007", "1.5", "", "98765432109876543210")  # no number has such a text
    assert table.ignore == (255,)


def test_listed_numbers_contain_ignored_ones_and_are_computed_once():
    table = ClassTable(("a", "b"), default_colors(2), ((-9999, 3), (1,)), ignore=(255,))
    assert table.listed_numbers == {-9999, 1, 3, 255}
    assert table.listed_numbers is table.listed_numbers
    assert ClassTable(("a",), default_colors(1), (((1, 2, 3),),)).listed_numbers == frozenset()


def test_yaml_nested_beyond_reason_is_an_error(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: " + "[" * 100_000)
    with pytest.raises(AtrousError, match="cannot be read as YAML"):
        ClassTable.from_yaml(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_table_in_any_unicode(tmp_path, encoding):
    path = tmp_path / "classes.yaml"
    path.write_bytes("classes:\r\n  - {name: straße}\r\n  - {name: 車}\r\n".encode(encoding))
    assert ClassTable.from_yaml(path).names == ("straße", "車")
    path.write_bytes("classes: [{name: straße}]".encode("cp1252"))
    with pytest.raises(AtrousError, match=r"classes\.yaml: line 1 is not UTF-8"):
        ClassTable.from_yaml(path)


def test_a_file_of_others_is_not_replaced_by_a_table(tmp_path):
    table, path = ClassTable(("a",), default_colors(1), ((0,),)), tmp_path / "classes.yaml"
    table.to_yaml(path)
    table.to_yaml(path)  # its own
    path.write_text("classes: [{name: by hand}]\n")
    with pytest.raises(AtrousError, match="overwrite=True"):
        table.to_yaml(path)
    assert path.read_text() == "classes: [{name: by hand}]\n"
    table.to_yaml(path, overwrite=True)
    assert ClassTable.from_yaml(path).names == ("a",)
    with pytest.raises(AtrousError, match="is a folder"):
        table.to_yaml(tmp_path)


def test_codes_are_read_written_and_checked(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(
        "classes:\n"
        "  - {name: background}\n"
        "  - {name: liver, code: [SCT, 10200004, Liver]}\n"
        "  - {name: tumour, code: [SCT, '4147007', Mass], category: [SCT, '49755003', Morphologically Abnormal]}\n"
    )
    table = ClassTable.from_yaml(path)
    liver, mass = ("SCT", "10200004", "Liver"), ("SCT", "4147007", "Mass")
    assert table.codes == ((), (liver,), (mass, ("SCT", "49755003", "Morphologically Abnormal")))
    table.to_yaml(tmp_path / "again.yaml")
    assert ClassTable.from_yaml(tmp_path / "again.yaml") == table
    assert ClassTable(**json.loads(json.dumps(asdict(table)))) == table
    assert ClassTable(("a",), ((0, 0, 0),), ((0,),), codes=((),)).codes == ()
    for entry, match in (
        ("code: [SCT, 1]", "class 'a' has the code"),
        ("code: SCT", "give .scheme, value, meaning."),
        (f"code: [SCT, 1, {'m' * 65}]", "at most 16, 16 and 64"),
        ("code: [SCT, 1, 'a\\b']", "without a backslash"),
        ("category: [SCT, 1, a]", "a category but no code"),
    ):
        path.write_text(f"classes:\n  - {{name: a, {entry}}}\n")
        with pytest.raises(AtrousError, match=match):
            ClassTable.from_yaml(path)
    for codes in ((liver,), ((liver, liver, liver),), (7,), ((), ())):
        with pytest.raises(AtrousError):
            ClassTable(("a",), ((0, 0, 0),), ((0,),), codes=codes)


@pytest.mark.parametrize("key", ["bands: [B4, B3]", "wavelengths: [665]", "inputs: {image: {bands: [B4]}}"])
def test_keys_of_pictures_are_sent_to_inputs_yaml(tmp_path, key):
    path = tmp_path / "classes.yaml"
    path.write_text(f"{key}\nclasses: [{{name: a}}]\n")
    with pytest.raises(AtrousError, match=r"describes the pictures, not the classes. Write it into inputs.yaml"):
        ClassTable.from_yaml(path)
