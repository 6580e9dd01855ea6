import dataclasses
import json
from dataclasses import replace

import pytest

from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.input_spec import Input
from atrous.models.info import FORMAT_VERSION, Info, Preprocessing, placeholder_table
from atrous.models.task import Task

TABLE = ClassTable(("straße", "空"), ((0, 1, 2), (255, 254, 253)), ((-1024, 7), (3,)), (255, 254))
FULL = Info(
    architecture="deeplabv3plus",
    arguments={"backbone": "resnet18", "atrous_rates": (6, 12, 18), "separable": None, "dropout": 0.1},
    preprocessing=Preprocessing.of_pictures((1.5, 2.0), (3.0, 4.0), enlarge=1.5, dtype="uint16"),
    tasks=(Task(TABLE),),
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
        FULL.with_table(replace(TABLE, raw=(((1, 2, 3), (4, 5, 6)), ((7, 8, 9),)), ignore=((0, 0, 0),))),
        replace(FULL.with_table(replace(TABLE, ignore=())), crf=None),
        replace(FULL, tasks=(*FULL.tasks, Task(TABLE, name="weather", outputs=("a", "b")))),
    ],
)
def test_a_trip_through_json_changes_nothing(info):
    assert Info.from_dict(through_json(info)) == info


def test_several_inputs_survive_a_trip_through_json():
    depth = Input((7.0,), (8.0,), name="depth", dtype="uint16", missing=(0.0,), normalize="window", window=(0.3, 10.0))
    bands = replace(FULL.preprocessing.image, bands=("red", "nir"), wavelengths=(665.0, 842.0), colors=1)
    info = dataclasses.replace(FULL, preprocessing=Preprocessing((bands, depth), enlarge=1.5))
    assert Info.from_dict(through_json(info)) == info


def test_the_first_records_of_version_2_had_no_tasks():
    record = through_json(FULL)
    (task,) = record.pop("tasks")
    table = task["classes"]
    record |= {"classes": table["names"], **{name: table[name] for name in ("colors", "raw", "ignore")}}
    assert Info.from_dict(record) == FULL
    with pytest.raises(AtrousError, match="classes"):  # two tables: which one?
        Info.from_dict({**through_json(FULL), "classes": ["a", "b"]})


def test_a_record_of_version_1_is_read_as_it_was():
    record = through_json(FULL)
    del record["tasks"]
    record["format_version"] = 1
    record |= {
        "classes": ["straße", "空"], "colors": [[0, 1, 2], [255, 254, 253]], "raw": [[-1024, 7], [3]],
        "ignore": [255, 254],
    }  # fmt: skip
    record["preprocessing"] = {
        "mean": [1.5, 2.0], "std": [3.0, 4.0], "enlarge": 1.5, "aligned": False, "dtype": "uint16", "pages": "first"
    }  # fmt: skip
    assert Info.from_dict(record) == FULL
    del record["preprocessing"]["pages"]  # which the first files of version 1 did not have
    assert Info.from_dict(record) == FULL


@pytest.mark.parametrize("field", ["architecture", "arguments", "preprocessing", "tasks"])
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
    with pytest.raises(AtrousError, match=f"format version {version!r}, this atrous reads 1 to {FORMAT_VERSION}"):
        Info.from_dict({**through_json(FULL), "format_version": version})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"names": ["a"]}, "must be one of each"),
        ({"colors": []}, "must be one of each"),
        ({"raw": [[0], [1], [2]]}, "must be one of each"),
        ({"raw": [[0], [0]]}, "give each value only once"),
        ({"raw": [[0], [[1, 2, 3]]]}, "mix numbers and"),
        ({"raw": [[], []]}, "no raw value"),
        ({"names": ["a", "a"]}, "given twice"),
        ({"ignore": None}, "ignore"),
        ({"ignore": [3]}, "give each value only once"),
        ({"colors": [[0, 1, 2], [0, 1, 256]]}, "three whole numbers"),
        ({"pixels": 3}, "pixels"),
    ],
)
def test_a_record_whose_classes_are_no_table_is_refused(changed, said):
    record = through_json(FULL)
    record["tasks"][0]["classes"] |= changed
    with pytest.raises(AtrousError, match=said):
        Info.from_dict(record)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "depth"}, "kind must be 'semantic'"),
        ({"name": ""}, "must have a name"),
        ({"outputs": ["labels"]}, "outputs"),
        ({"outputs": ["labels", "labels"]}, "different names"),
        ({"colour": 1}, "colour"),
    ],
)
def test_an_altered_task_is_refused(changed, said):
    record = through_json(FULL)
    record["tasks"][0] |= changed
    with pytest.raises(AtrousError, match=said):
        Info.from_dict(record)


@pytest.mark.parametrize("tasks", [(), None, (TABLE,), [Task(TABLE)], (Task(TABLE), Task(TABLE))])
def test_tasks_are_a_tuple_of_different_ones(tasks):
    with pytest.raises(AtrousError, match=r"tasks must be|names of all tasks must differ"):
        replace(FULL, tasks=tasks)


def test_another_table_is_of_as_many_classes_as_the_model_separates():
    three = ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3, ((0,), (1,), (2,)))
    info = replace(FULL, arguments={**FULL.arguments, "num_classes": 2})
    with pytest.raises(AtrousError, match="2 outputs separates 2 classes, not 3"):
        info.with_table(three)


def test_there_are_as_many_means_as_channels():
    with pytest.raises(AtrousError, match="pictures with 3 channels needs 3 means, got 2"):
        dataclasses.replace(FULL, arguments={**FULL.arguments, "in_channels": 3})


@pytest.mark.parametrize(
    "changed",
    [
        {"tasks": 3},
        {"tasks": [3]},
        {"tasks": [None]},
        {"preprocessing": None},
        {"arguments": [1]},
        {"preprocessing": {}},
    ],
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
        ({"mean": (1.0,), "std": (float("nan"),)}, "std must be a number, got NaN"),
        ({"mean": (float("inf"),), "std": (1.0,)}, "mean must be"),
        ({"mean": (1.0,), "std": (1.0,), "enlarge": 0.0}, "enlarge must be positive"),
        ({"mean": (1.0,), "std": (1.0,), "aligned": "false"}, "aligned must be True or False, got 'false'"),
        ({"mean": (1.0,), "std": (1.0,), "enlarge": float("nan")}, "enlarge must be a number, got NaN"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments, message):
    with pytest.raises(AtrousError, match=message):
        Preprocessing.of_pictures(**arguments)


@pytest.mark.parametrize(("num_classes", "count"), [(1, 2), (2, 2), (7, 7), (255, 255)])
def test_placeholders_name_every_class_differently(num_classes, count):
    given = placeholder_table(num_classes)
    assert {len(set(found)) for found in (given.names, given.colors, given.raw)} == {count}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crf": "x"}, "crf must be a dict or None, got 'x'"),
        ({"crf": [1]}, "crf must be a dict or None"),
        ({"scores": None}, "scores must be a dict, got None"),
        ({"provenance": [1]}, "provenance must be a dict"),
        (
            {"preprocessing": {**dataclasses.asdict(FULL.preprocessing), "enlarge": 1e6}},
            "enlarge must be positive and finite, at most 64",
        ),
    ],
)
def test_what_no_later_call_can_use_is_no_record(changed, message):
    with pytest.raises(AtrousError, match=message):
        Info.from_dict({**through_json(FULL), **changed})


def test_a_first_record_ignores_no_value_of_a_class_and_names_classes_apart():
    record = through_json(FULL)
    del record["tasks"]
    record |= {"classes": ["a", "a"], "colors": [[0, 0, 0], [9, 9, 9]], "raw": [[0], [255]], "ignore": [255, 7]}
    table = Info.from_dict(record).table
    assert (table.names, table.raw, table.ignore) == (("a", "a (2)"), ((0,), (255,)), (7,))


@pytest.mark.parametrize("table", [["cat", "dog"], None, object(), {"names": ("a",)}])
def test_what_is_no_class_table_is_refused(table):
    with pytest.raises(AtrousError, match="ClassTable"):
        FULL.with_table(table)
    with pytest.raises(AtrousError, match="ClassTable"):
        Task(table)
