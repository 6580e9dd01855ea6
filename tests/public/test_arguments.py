"""Arguments of public calls that are unknown, missing, or of another kind are said with what to give instead."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from public_calls import CALLS

import atrous
from atrous.errors import AtrousError, WrongArguments, shown
from atrous.learning.recipe_sections import Optim
from atrous.models.info import Preprocessing


@pytest.mark.parametrize("arguments", [{"backbone": object()}, {"num_classes": "3"}, {"aspp_channels": -1}, {"x": 1}])
def test_create_model_refuses_arguments_that_no_network_has(arguments):
    with pytest.raises(AtrousError):
        atrous.create_model("deeplabv3plus", **{"backbone": "mobilenetv2_035", "num_classes": 2, **arguments})
    with pytest.raises(AtrousError):
        atrous.create_model(None)


#: Calls of torch's own, whose arguments Python binds.
BOUND_BY_TORCH = {"DenseCRF.__call__", "a model", "a model's scores"}
#: Calls by keyword where any name may be meant for what they make.
TAKING_FURTHER = {"create_model", "convert", "DenseCRF.preset", "Preprocessing.with_image"}


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name not in BOUND_BY_TORCH | TAKING_FURTHER and " of " not in name]
)
def test_unknown_and_missing_arguments_are_said_with_the_nearest_name(table, name):
    function, arguments = table[name]
    first = next(iter(arguments))
    with pytest.raises(WrongArguments, match=f"no argument '{first}x'; did you mean {first}") as raised:
        function(**arguments, **{f"{first}x": 1})
    assert isinstance(raised.value, AtrousError)
    assert isinstance(raised.value, TypeError)
    with pytest.raises(WrongArguments, match=r"no argument '0815'\. Allowed: "):
        function(**arguments, **{"0815": 1})
    parameters = inspect.signature(function).parameters.values()
    needed = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if needed:
        with pytest.raises(WrongArguments, match=f"missing a required.*'{needed[0].name}'"):
            function()


def test_a_misspelt_option_of_a_network_is_said_with_the_nearest_name():
    with pytest.raises(WrongArguments, match="Did you mean 'backbone'"):
        atrous.create_model("deeplabv3plus", bakbone="resnet18")


@pytest.mark.parametrize(
    "view", [np.s_[..., ::-1], np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3], np.s_[::-2, ::-1, ::-1]]
)
def test_a_view_gives_the_mask_of_its_copy(model, view):
    rng = np.random.default_rng(0)
    segmenter = atrous.Segmenter(model, engine="torch")
    for dtype in (np.uint8, np.uint16):
        picture = rng.integers(0, 255, (40, 48, 3)).astype(dtype)
        picture.setflags(write=False)
        assert np.array_equal(segmenter(picture[view]).mask, segmenter(picture[view].copy()).mask)
    turned = np.asfortranarray(picture)
    assert np.array_equal(segmenter(turned).mask, segmenter(picture).mask)
    assert np.array_equal(segmenter(picture.astype(">u2")).mask, segmenter(picture).mask)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a wrapped model", r"a DataParallel wraps the model: give the model in its attribute \.module"),
        ("a state dict", r"a state dict contains only weights.*atrous\.convert"),
        ("another's module", r"Linear is not a model of atrous.*atrous\.convert\(module\.state_dict\(\)\)"),
        ("a model of halves", r"weights are float16.*model\.float\(\)"),
        ("None", "a model must come from atrous.create_model, load or convert, got None"),
        ("a class", "a model must come from"),
        ("a .pt2", "is for other programs"),
        ("a .bin", "may be the weights of an exported file"),
    ],
)
def test_what_is_no_model_is_named_with_what_to_do(odd, name, said):
    with pytest.raises(AtrousError, match=said):
        atrous.Segmenter(odd[name])


def test_weights_of_an_exported_file_lead_to_the_file(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\0")
    (tmp_path / "x.xml").write_text("<net/>")
    with pytest.raises(AtrousError, match=r"give .*x\.xml"):
        atrous.Segmenter(tmp_path / "x.bin")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(AtrousError, match="atrous convert"):
        atrous.Segmenter(tmp_path / "pytorch_model.bin")


def test_tensors_and_damaged_pictures_are_told_apart(model, odd):
    segmenter = atrous.Segmenter(model, engine="torch")
    for name, said in {
        "a tensor": r"give the order of the axes, as in segmenter\(tensor, axes=\"CHW\"\)",
        "a closed picture": "the picture: cannot be read",
        "a cut picture": "the picture: cannot be read",
        "masked": "a picture must not be a masked array",
        "C first": r"picture\.transpose\(1, 2, 0\)",
    }.items():
        with pytest.raises(AtrousError, match=said):
            segmenter(odd[name])


@pytest.mark.slow
def test_texts_and_numpys_numbers_are_taken_for_paths_and_numbers(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atrous.save(model, tmp_path / "m.safetensors")
    Image.new("RGB", (48, 40)).save(tmp_path / "x.png")
    written = atrous.predict(str(tmp_path / "m.safetensors"), str(tmp_path / "x.png"), out="masks", scales=np.ones(1))  # type: ignore[arg-type]
    assert [path.name for path in written] == ["x.png"]
    with pytest.raises(AtrousError, match=r"predict: out is empty; give '\.' for the current folder"):
        atrous.predict("m.safetensors", ["x.png"], out="")  # type: ignore[arg-type,list-item]


#: Numbers that no float, or no 64 bits, can hold; Python writes no whole number of more than 4300 digits.
TOO_LARGE = {"10**400": 10**400, "10**5000": 10**5000, "-10**5000": -(10**5000), "fraction": Fraction(10**400)}


@pytest.mark.parametrize("value", TOO_LARGE.values(), ids=TOO_LARGE)
def test_numbers_that_are_too_large_are_refused_with_their_name(model, value):
    segmenter = atrous.Segmenter(model, engine="torch")
    client = atrous.Client("http://127.0.0.1:1", patience=0)
    picture = np.zeros((4, 5, 3), np.uint8)
    info = model.info
    for name, call in {
        "patience": lambda: atrous.Client("http://127.0.0.1:1", patience=value),
        "timeout": lambda: atrous.Client("http://127.0.0.1:1", timeout=value),
        "tile": lambda: client.segment(picture, model="x", tile=value),
        "bilateral_weight": lambda: atrous.DenseCRF(bilateral_weight=value),
        "bilateral_xy": lambda: atrous.DenseCRF(bilateral_xy=value),
        "compatibility": lambda: atrous.DenseCRF(compatibility=[[value]]),
        "output_stride": lambda: atrous.Segmenter(model, output_stride=value),
        "range": lambda: segmenter.looking(range=(0, value)),
        "scales": lambda: segmenter.looking(scales=(value,)),
        "crf": lambda: segmenter.looking(crf={"iterations": value}),
        "seed": lambda: atrous.Recipe(seed=value),
        "lr": lambda: Optim(lr=value),
        "mean": lambda: replace(info.preprocessing.image, mean=(value,) * 3),
        "std": lambda: replace(info.preprocessing.image, std=(value,) * 3),
        "enlarge": lambda: replace(info.preprocessing, enlarge=value),
        "temperature": lambda: replace(info, temperature=value),
        "provenance": lambda: replace(info, provenance={"x": [value]}),
        "num_classes": lambda: atrous.create_model("deeplabv3plus", num_classes=value),
    }.items():
        with pytest.raises(AtrousError, match=rf"{name} must be a number within ±1.8e308, got"):
            call()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1e30])
def test_whole_numbers_have_at_most_64_bits(model, value):
    with pytest.raises(AtrousError, match=r"output_stride must be a whole number of at most 64 bits, got"):
        atrous.Segmenter(model, output_stride=value)
    with pytest.raises(AtrousError, match=r"seed must be a whole number of at most 64 bits, got"):
        atrous.Recipe(seed=value)


def test_a_fraction_is_taken_for_a_float_and_can_be_saved(model, tmp_path):
    third = Fraction(1, 3)
    preprocessing = replace(model.info.preprocessing.image, mean=(third,) * 3, std=(1, third, np.float32(2)))
    assert preprocessing.mean == (1 / 3,) * 3 and preprocessing.std == (1.0, 1 / 3, 2.0)
    info = replace(model.info, temperature=third, preprocessing=Preprocessing((preprocessing,), enlarge=Fraction(3, 2)))
    other = copy.deepcopy(model)
    other.info = info
    atrous.save(other, tmp_path / "m.safetensors")
    assert atrous.load(tmp_path / "m.safetensors").info == info
    assert info.temperature == 1 / 3 and info.preprocessing.enlarge == 1.5


def test_a_list_that_holds_itself_is_refused(model):
    loop: list = []
    loop.append(loop)
    deep = 1
    for _ in range(100):
        deep = [deep]
    for value in (loop, deep, {"x": loop}):
        with pytest.raises(AtrousError, match="provenance is a list that contains itself, or is nested too deep"):
            replace(model.info, provenance=value)


class Shaped:
    """An object whose shape is none."""

    shape = 5


class Broken:
    """An object whose shape cannot be had."""

    @property
    def shape(self) -> int:
        raise RuntimeError("no shape")


@pytest.mark.parametrize("value", [Shaped(), Broken()], ids=["a number for a shape", "no shape"])
def test_objects_whose_shape_is_none_are_shown_by_their_type(value):
    assert shown(value) == type(value).__name__
    with pytest.raises(AtrousError, match=type(value).__name__):
        atrous.Client(value)
