import pytest

from atrous.errors import AtrousError, SomeInputsFailed, counted, missing_extra, unknown_name


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
