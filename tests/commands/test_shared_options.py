"""What several verbs take is declared once: the same type, default and sentence, however it is typed."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import atrous
from atrous.cli import _parse
from atrous.command_discovery import Option, function_of, options, verbs
from atrous.commands._recorded_options import recorded_options, recorded_reading
from atrous.data.dataset_spec import DatasetSpec
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.learning.evaluation import Measuring, spec_to_measure
from atrous.option_fields import fields_of

VERBS = sorted(verbs())
MEASURING = ("evaluate", "compare")
#: Options that are named alike, and mean another thing in each verb, or in one verb.
OWN = {"out", "json", "overwrite", "classes", "in_channels", "output_stride of convert", "format"} | {
    "largest_part of evaluate",  # also states which scores are of the masks without these parts
    "smallest_part of evaluate",
}
#: The verbs that run a model or read a dataset, with the options that they share.
TAKEN = {
    "predict": {*fields_of(ModelSpec), "input"} - {"path"},
    "area": {*fields_of(ModelSpec), "layout", "groups"} - {"path"},
    "evaluate": {*fields_of(ModelSpec), *fields_of(DatasetSpec)} - {"path", "root"},
    "compare": {*fields_of(ModelSpec), *fields_of(DatasetSpec)} - {"path", "root"},
    "explain": {"crf", "range", "device", "input"},
    "serve": {"engine", "device", "precision", "memory"},
    "calibrate": {"layout", "input", "groups", "device"},
    "doctor": {"layout", "input", "groups"},
    "export": {"layout", "input", "groups"},
}


def declared(option: Option) -> tuple[object, ...]:
    return option.hint, option.default, option.sentence.rstrip(".")


def test_an_option_of_several_verbs_has_one_type_default_and_sentence():
    found: dict[str, dict[tuple[object, ...], list[str]]] = {}
    for verb in VERBS:
        for option in options(verb):
            if option.of_recipe or option.positional or {option.name, f"{option.name} of {verb}"} & OWN:
                continue
            place = "to measure" if verb in MEASURING and option.name in fields_of(Measuring) else ""
            found.setdefault(f"{option.name} {place}", {}).setdefault(declared(option), []).append(verb)
    several = {name: by for name, by in found.items() if len(by) > 1}
    assert not several


@pytest.mark.parametrize("verb", sorted(TAKEN))
def test_shared_options_are_those_of_the_dataclasses(verb):
    known = {option.name: option for option in options(verb) if not option.positional}
    shared = {*fields_of(ModelSpec), *fields_of(DatasetSpec)} - {"path", "root"}
    assert known.keys() & shared == TAKEN[verb]
    for name in TAKEN[verb]:
        kind = next(
            kind
            for kind in (*([Measuring] if verb in MEASURING else []), ModelSpec, DatasetSpec)
            if name in fields_of(kind)
        )
        assert known[name].sentence.rstrip(".") == fields_of(kind)[name].sentence
        assert known[name].default == kind.__dataclass_fields__[name].default
        assert name in inspect.signature(function_of(verb)).parameters


@pytest.mark.parametrize("verb", sorted(TAKEN))
def test_unknown_and_misspelt_options_name_the_nearest(verb):
    name = min(TAKEN[verb])
    required = [one for one in options(verb) if one.positional]
    given = {one.name: "absent" for one in required}
    with pytest.raises(AtrousError, match=f"did you mean {name}"):
        function_of(verb)(**given, **{f"{name}z": None})


@pytest.mark.parametrize(
    "words",
    [
        ["--input", "depth=d,lidar=l", "--scales", "0.5,1"],
        ["--input", "depth=d", "--scales=0.5", "--input=lidar=l", "--scales", "1"],
        ["--input=depth=d", "--input", "lidar=l", "--scales", "[0.5]", "--scales=[1]"],
    ],
)
@pytest.mark.parametrize("verb", ["predict", "evaluate", "compare"])
def test_a_flag_that_is_repeated_is_one_list(verb, words):
    given = ["a.safetensors", *(["b.safetensors"] if verb == "compare" else []), "data"]
    parsed = _parse(verb, [*given, *words])
    assert list(parsed["input"]) == ["depth=d", "lidar=l"]
    assert list(parsed["scales"]) == [0.5, 1.0]


def test_of_a_repeated_pair_the_last_is_taken():
    assert list(_parse("predict", ["m", "x.png", "--range", "0,1", "--range=0,4095"])["range"]) == [0, 4095]


def test_a_repeated_flag_of_a_recipe_is_one_list_too():
    parsed = _parse("train", ["quickstart", "--train.frozen", "backbone", "--train.frozen", "head.0,head.1"])
    assert parsed["recipe"].train.frozen == ("backbone", "head.0", "head.1")


def test_what_the_command_line_gives_makes_the_specs():
    words = ["m.safetensors", "data", "--flip", "--tile", "64", "--overlap", "0", "--range", "0,255", "--groups", "(a)"]
    parsed = _parse("evaluate", words)
    spec = spec_to_measure(parsed.pop("model"), parsed)
    assert (spec.engine, spec.precision) == ("torch", "float32")
    assert recorded_options(spec) == {"flip": True, "range": [0.0, 255.0], "tile": 64, "overlap": 0}
    reading = DatasetSpec("data", groups="(a)", input=["depth=d"])  # pyright: ignore[reportArgumentType]
    assert recorded_reading(reading) == {"groups": "(a)", "input": ["depth=d"]}


@pytest.mark.parametrize(
    ("file", "given", "engine"),
    [("m.safetensors", None, "torch"), ("m.onnx", None, "auto"), ("m.onnx", "onnxruntime", "onnxruntime")],
)
def test_measuring_takes_torch_where_the_file_has_no_runtime_of_its_own(file, given, engine):
    spec = spec_to_measure(file, {"engine": given, "split": "val"})
    assert (spec.engine, spec.precision) == (engine, "float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("untrained") / "model.safetensors"
    atrous.save(atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=2), path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "cityscape"}, "Did you mean 'cityscapes'"),
        ({"input": ["depth"]}, "NAME=FOLDER"),
        ({"input": ["depth=a", "depth=b"]}, "given twice"),
        ({"groups": 5}, "groups must be text"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "calibrate", "doctor"])
def test_what_cannot_be_is_refused_alike(verb, options, message, tmp_path, file):
    given = {} if verb == "doctor" else {"model": file}
    with pytest.raises(AtrousError, match=message):
        function_of(verb)(**given, data=tmp_path, **options)
