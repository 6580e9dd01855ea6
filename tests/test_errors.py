import errno

import pytest

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, OutOfMemory, SomeInputsFailed, counted, missing_extra, shown, unknown_name
from atrous.memory_errors import is_out_of_memory


def test_a_few_allowed_names_are_all_listed_with_the_nearest_first():
    message = str(unknown_name("layout", "camvdi", ["voc", "folder", "camvid"]))
    assert message == "unknown layout 'camvdi'. Did you mean 'camvid'? Allowed: camvid, folder, voc."


def test_of_many_allowed_names_only_near_ones_are_listed():
    names = [f"name{number}" for number in range(100)] + ["resnet50"]
    message = str(unknown_name("backbone", "resnt50", names))
    assert "Did you mean 'resnet50'?" in message
    assert "(101 in all)" in message
    assert "name7" not in message


def test_nothing_near_is_no_hint():
    assert "Did you mean" not in str(unknown_name("verb", "xyz", ["train"]))


def test_a_missing_extra_tells_the_command():
    assert "pip install 'atrous[demo]'" in str(missing_extra("nilearn", "demo"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (10**5000, "int of 16,610 bits"),
        (-(10**5000), "int of 16,610 bits"),
        (12, "12"),
        ("x" * 100, "'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        ([10**5000], "list"),
        ({1: 2}, "dict of 1 entry"),
        (True, "True"),
    ],
    ids=["large", "negative", "number", "text", "list", "dict", "flag"],
)
def test_any_value_is_shown_in_a_line(value, words):
    assert shown(value) == words


def test_a_name_that_is_no_text_is_shown():
    class Name:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    assert "unknown key 'int of 16,610 bits'" in str(unknown_name("key", 10**5000, ["a"]))
    assert "unknown key '<Name instance at " in str(unknown_name("key", Name(), ["a"])).replace("Name <", "<")


def test_exit_codes():
    assert AtrousError.exit_code == 2
    assert SomeInputsFailed.exit_code == 1


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("deeplabv3+", "deeplabv3plus"), ("mobilenet_v2", "mobilenetv2_100"), ("DeepLabV3", "deeplabv3")],
)
def test_names_are_compared_as_they_sound(given, nearest):
    names = ["deeplabv3", "deeplabv3plus", "mobilenetv2_100", "mobileone_s2"]
    assert f"Did you mean '{nearest}'?" in str(unknown_name("name", given, names))


def test_where_nothing_is_near_some_are_listed():
    assert "Allowed: name 0, " in str(unknown_name("name", "xyz", [f"name {n}" for n in range(30)]))


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (0, "picture", "0 pictures"),
        (1, "picture", "1 picture"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (3, "process", "3 processes"),
        (12345, "pixel", "12,345 pixels"),
    ],
)
def test_counts_agree_with_their_nouns(count, noun, words):
    assert counted(count, noun) == words


@pytest.mark.parametrize(
    "error", [MemoryError(), MemoryError("no room"), OSError(errno.ENOMEM, "Cannot allocate memory")]
)
def test_too_little_memory_is_recognised_as_such_and_names_no_function(error):
    class Some:
        @checked
        def method(self) -> None:
            raise error

    @checked
    def outer() -> None:
        Some().method()

    with pytest.raises(OutOfMemory) as raised:
        outer()
    assert isinstance(raised.value, AtrousError)
    assert is_out_of_memory(raised.value)
    assert "method" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnicodeEncodeError("ascii", "/tmp/straße", 9, 10, "ordinal not in range"), "PYTHONUTF8=1"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), "not valid text"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
    ],
)
def test_names_that_an_encoding_does_not_have_are_said(error, said):
    @checked
    def fails() -> None:
        raise error

    with pytest.raises(AtrousError, match=said):
        fails()
