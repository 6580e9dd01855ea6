import dataclasses
import json

import pytest

from atrous.errors import AtrousError
from atrous.models.info import FORMAT_VERSION, Info, Preprocessing, placeholder_classes

FULL = Info(
    architecture="deeplabv3plus",
    arguments={"backbone": "resnet18", "atrous_rates": (6, 12, 18), "separable": None, "dropout": 0.1},
    preprocessing=Preprocessing((1.5, 2.0), (3.0, 4.0), enlarge=1.5, dtype="uint16"),
    classes=("straße", "空"),
    colors=((0, 1, 2), (255, 254, 253)),
    raw=((-1024, 7), (3,)),
    ignore=(255, 254),
    temperature=1.25,
    crf={"iterations": 10},
    scores={"val": {"miou": 0.5, "dice": None}},
    provenance={"data": "camvid"},
)


def through_json(info: Info) -> dict:
    return json.loads(json.dumps(info.to_dict()))


@pytest.mark.parametrize(
    "info",
    [
        FULL,
        dataclasses.replace(FULL, raw=(((1, 2, 3), (4, 5, 6)), ((7, 8, 9),)), ignore=((0, 0, 0),), crf=None),
        dataclasses.replace(FULL, ignore=()),
    ],
)
def test_a_trip_through_json_changes_nothing(info):
    assert Info.from_dict(through_json(info)) == info


@pytest.mark.parametrize("field", ["architecture", "arguments", "preprocessing", "classes", "colors", "raw"])
def test_a_missing_field_is_an_error(field):
    record = through_json(FULL)
    del record[field]
    with pytest.raises(AtrousError, match=f"incomplete or altered: .*{field}"):
        Info.from_dict(record)


def test_an_unknown_field_is_an_error():
    with pytest.raises(AtrousError, match="colour_space"):
        Info.from_dict({**through_json(FULL), "colour_space": "sRGB"})


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, None, "1"])
def test_another_version_is_an_error(version):
    with pytest.raises(AtrousError, match=f"format version {version!r}, this atrous reads {FORMAT_VERSION}"):
        Info.from_dict({**through_json(FULL), "format_version": version})


@pytest.mark.parametrize("changed", [{"classes": ["a"]}, {"colors": []}, {"raw": [[0], [1], [2]]}])
def test_classes_colours_and_raw_values_are_equally_many(changed):
    with pytest.raises(AtrousError, match="must be equally many"):
        Info.from_dict({**through_json(FULL), **changed})


def test_there_are_as_many_means_as_channels():
    with pytest.raises(AtrousError, match="pictures with 3 channels needs as many means, got 2"):
        dataclasses.replace(FULL, arguments={**FULL.arguments, "in_channels": 3})


@pytest.mark.parametrize(
    "changed", [{"classes": 3}, {"preprocessing": None}, {"arguments": [1]}, {"preprocessing": {}}]
)
def test_wrong_kinds_are_errors(changed):
    with pytest.raises(AtrousError):
        Info.from_dict({**through_json(FULL), **changed})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (), "std": ()}, "one value per channel"),
        ({"mean": (1.0,), "std": (1.0, 1.0)}, "got 1 and 2"),
        ({"mean": (1.0,), "std": (0.0,)}, "std must be positive"),
        ({"mean": (1.0,), "std": (-1.0,)}, "std must be positive"),
        ({"mean": (1.0,), "std": (float("nan"),)}, "std must be positive and finite"),
        ({"mean": (float("inf"),), "std": (1.0,)}, "mean must be finite"),
        ({"mean": (1.0,), "std": (1.0,), "enlarge": 0.0}, "enlarge must be positive"),
        ({"mean": (1.0,), "std": (1.0,), "aligned": "false"}, "aligned must be true or false, got 'false'"),
        ({"mean": (1.0,), "std": (1.0,), "enlarge": float("nan")}, "enlarge must be positive"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments, message):
    with pytest.raises(AtrousError, match=message):
        Preprocessing(**arguments)


@pytest.mark.parametrize(("num_classes", "count"), [(1, 2), (2, 2), (7, 7), (255, 255)])
def test_placeholders_name_every_class_differently(num_classes, count):
    given = placeholder_classes(num_classes)
    assert {len(set(given[key])) for key in ("classes", "colors", "raw")} == {count}
