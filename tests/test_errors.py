from atrous.errors import AtrousError, SomeInputsFailed, missing_extra, unknown_name


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
