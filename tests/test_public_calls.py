"""Whatever is put into a public call, nothing but an AtrousError comes out."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import atrous
from atrous.commands.export import export
from atrous.commands.report import report
from atrous.data.dataset import Dataset, Item
from atrous.data.labels import ClassTable
from atrous.data.transforms import Augment
from atrous.errors import AtrousError, WrongArguments
from atrous.explaining.look import explain_picture
from atrous.inference.any_size import AnySize
from atrous.learning import recipe as recipes
from atrous.learning.calibration import fit_temperature, reliability
from atrous.learning.recipe import Recipe, read_recipe, to_recipe
from atrous.models.deeplab_v1 import DeepLabV1
from atrous.models.deeplab_v2 import DeepLabV2
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from atrous.models.info import Info, Preprocessing


class Unprintable:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def closed_picture() -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, "PNG")
    picture = Image.open(file)
    picture.close()
    return picture


def cut_picture() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((90, 70), 99).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:2000]))


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8, pretrained=False
    ).eval()


@pytest.fixture(scope="module")
def odd(model, tmp_path_factory) -> dict[str, Any]:
    """Values that nobody should give."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "empty").write_bytes(b"")
    (folder / "text.safetensors").write_text("no weights")
    (folder / "x.pt2").write_bytes(b"PK")
    (folder / "x.bin").write_bytes(b"\0\1\2")
    array = np.zeros((4, 5, 3), np.uint8)
    return {
        "None": None,
        "nothing": "",
        "a text": "nonsense",
        "a zero character": "a\0b",
        "a long name": "x" * 5000,
        "half a letter": "\udcff",
        "bytes": b"nonsense",
        "a missing path": folder / "none" / "x.safetensors",
        "a folder": folder,
        "an empty file": folder / "empty",
        "a file of text": folder / "text.safetensors",
        "a .pt2": folder / "x.pt2",
        "a .bin": folder / "x.bin",
        "below a file": folder / "empty" / "x",
        "-1": -1,
        "0": 0,
        "1e30": 1e30,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "10**30": 10**30,
        "True": True,
        "a complex number": 1j,
        "an object": object(),
        "an unprintable object": Unprintable(),
        "a function": len,
        "a class": dict,
        "an empty list": [],
        "a list of None": [None],
        "a list of NaN": [float("nan")],
        "a list of texts": ["x"],
        "nested lists": [[1], [2, 3]],
        "a dict": {"x": 1},
        "a dict of dicts": {1: {2: None}},
        "a set": {1},
        "an empty array": np.zeros((0, 5, 3), np.uint8),
        "no dimension": np.array(3),
        "five dimensions": np.zeros((1, 1, 1, 1, 1), np.uint8),
        "two channels": np.zeros((4, 5, 2), np.uint8),
        "C first": np.zeros((3, 40, 50), np.uint8),
        "reversed": array[::-1, ::-1, ::-1],
        "float64": array.astype(np.float64),
        "float16": array.astype(np.float16),
        "int64": array.astype(np.int64),
        "booleans": array.astype(bool),
        "objects": array.astype(object),
        "texts": array.astype(str),
        "times": array.astype("datetime64[s]"),
        "complex": array.astype(complex),
        "big-endian": array.astype(">u2"),
        "records": np.zeros(3, [("a", "u1")]),
        "all NaN": np.full((4, 5, 3), np.nan, np.float32),
        "masked": np.ma.masked_all((4, 5, 3), np.uint8),
        "strides of 0": np.broadcast_to(np.uint8(0), (10**7, 10**7, 3)),
        "a tensor": torch.zeros(3, 4, 5),
        "a tensor of integers": torch.zeros(3, 4, dtype=torch.int64),
        "an empty tensor": torch.zeros(0),
        "a tensor without data": torch.zeros(3, 4, device="meta"),
        "a closed picture": closed_picture(),
        "a cut picture": cut_picture(),
        "an empty picture": Image.new("RGB", (0, 0)),
        "another's module": torch.nn.Linear(2, 2),
        "a wrapped model": torch.nn.DataParallel(model),
        "a state dict": model.state_dict(),
        "a model": model,
        "a module without weights": torch.nn.Identity(),
        "a model of halves": atrous.create_model(
            "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8, pretrained=False
        ).half(),
    }


def calls(model: Any, folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public call, with arguments that it takes; each of them is replaced by odd values, one at a time."""
    picture = np.zeros((40, 48, 3), np.uint8)
    segmenter = atrous.Segmenter(model, engine="torch")
    prediction = segmenter(picture)
    probabilities = np.full((2, 4, 5), 0.5, np.float32)
    crf = atrous.DenseCRF(iterations=1)
    missing = folder / "missing.safetensors"
    image = picture.copy()
    table = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)), ((0,), (1,)), (255,))
    item = Item("x", folder / "x.png", folder / "y.png")
    dataset = Dataset(folder, "folder", table, {"train": (item,)})
    labels, logits = np.array([0, 1]), np.zeros((2, 2), np.float32)
    raw_mask = np.zeros((4, 5), np.uint8)
    file = folder / "model.safetensors"
    atrous.save(model, file)
    verb = {"model": missing, "data": folder}
    client = atrous.Client("http://127.0.0.1:9", patience=0, timeout=5)
    return {
        "Segmenter": (
            atrous.Segmenter,
            {
                "model": model,
                "engine": "torch",
                "device": "cpu",
                "precision": "float32",
                "scales": (1.0,),
                "flip": False,
                "output_stride": None,
                "crf": None,
                "range": None,
            },
        ),
        "Segmenter.__call__": (segmenter, {"picture": picture, "valid": None}),
        "Segmenter.__call__ of several": (lambda picture: segmenter([picture]), {"picture": picture}),
        "Segmenter.read": (segmenter.read, {"picture": picture}),
        "Segmenter.looking": (segmenter.looking, {"scales": (1.0,), "flip": False, "crf": None, "range": None}),
        "Prediction": (
            atrous.Prediction,
            {"mask": prediction.mask, "image": prediction.image, "info": prediction.info},
        ),
        "Prediction.overlay": (prediction.overlay, {"opacity": 0.5, "legend": False}),
        "Prediction.save": (prediction.save, {"path": folder / "mask.png"}),
        "DenseCRF": (
            atrous.DenseCRF,
            {
                name: parameter.default
                for name, parameter in inspect.signature(atrous.DenseCRF).parameters.items()
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            },
        ),
        "DenseCRF.__call__": (
            crf,
            {"image": picture[:4, :5], "probabilities": probabilities, "valid": None},
        ),
        "DenseCRF.preset": (atrous.DenseCRF.preset, {"name": "deeplabv1"}),
        "permutohedral_filter": (
            atrous.permutohedral_filter,
            {"features": torch.zeros(6, 2), "values": torch.ones(6, 1)},
        ),
        "Pipeline": (atrous.Pipeline, {"model": model}),
        "TrainingStep": (
            atrous.TrainingStep,
            {"model": model, "loss": torch.nn.Identity(), "precision": torch.float32, "auxiliary": 0.4, "crf": None},
        ),
        "start_from": (atrous.start_from, {"model": model, "source": model}),
        "open_dataset": (atrous.open_dataset, {"root": folder, "layout": None, "classes": None}),
        "Client": (atrous.Client, {"address": "http://127.0.0.1", "key": None, "timeout": 1.0, "patience": 0.0}),
        "Client.segment": (
            client.segment,
            {
                "picture": picture,
                "model": "x",
                "scales": (1.0,),
                "flip": False,
                "crf": None,
                "range": None,
                "tile": None,
                "overlap": None,
            },
        ),
        "evaluate": (atrous.evaluate, {**verb, **own_arguments(atrous.evaluate)}),
        "calibrate": (atrous.calibrate, {**verb, **own_arguments(atrous.calibrate)}),
        "predict": (atrous.predict, {"model": missing, "paths": [folder], **own_arguments(atrous.predict)}),
        "explain": (atrous.explain, {"model": missing, "paths": [folder], **own_arguments(atrous.explain)}),
        "doctor": (atrous.doctor, {"data": folder, **own_arguments(atrous.doctor)}),
        "read_recipe": (read_recipe, {"path": missing}),
        "read_recipe over a file": (read_recipe, {"path": write(folder / "recipe.yaml", "seed: 1"), "overrides": None}),
        "to_recipe": (to_recipe, {"record": {"seed": 1}}),
        "Info": (Info, {name: getattr(model.info, name) for name in Info.__dataclass_fields__}),
        "Info.from_dict": (Info.from_dict, {"record": model.info.to_dict()}),
        "Preprocessing": (
            Preprocessing,
            {name: getattr(model.info.preprocessing, name) for name in Preprocessing.__dataclass_fields__},
        ),
        "train": (atrous.train, {"recipe": Recipe(), **own_arguments(atrous.train)}),
        "load": (atrous.load, {"path": file, "output_stride": None}),
        "save": (atrous.save, {"model": model, "path": folder / "x.safetensors", "half": False, "overwrite": False}),
        "convert": (atrous.convert, {"file": {"x": torch.zeros(3)}, **own_arguments(atrous.convert)}),
        "export": (export, {"model": missing, **own_arguments(export)}),
        "report": (report, {"runs": [folder], **own_arguments(report)}),
        "create_model": (
            atrous.create_model,
            {"architecture": "deeplabv3plus", "pretrained": False, **constructor_arguments(DeepLabV3Plus)},
        ),
        "DeepLabV1": (DeepLabV1, constructor_arguments(DeepLabV1)),
        "DeepLabV2": (DeepLabV2, constructor_arguments(DeepLabV2)),
        "DeepLabV3": (DeepLabV3, constructor_arguments(DeepLabV3)),
        "set_output_stride": (model.set_output_stride, {"output_stride": 16}),
        "a model": (model, {"images": torch.zeros(1, 3, 33, 33)}),
        "a model's scores": (model.scores, {"images": torch.zeros(1, 3, 33, 33)}),
        "Dataset": (
            Dataset,
            {
                "root": folder,
                "layout": "folder",
                "classes": table,
                "splits": {},
                "notes": (),
                "masks_without_image": (),
                "channels": None,
                "pages": "first",
            },
        ),
        "Dataset.split": (dataset.split, {"name": "train"}),
        "Dataset.taking": (dataset.taking, {"channels": None, "pages": "first"}),
        "Dataset.read": (dataset.read, {"item": item}),
        "Dataset.read_label": (dataset.read_label, {"mask": folder / "y.png"}),
        "ClassTable": (
            ClassTable,
            {name: getattr(table, name) for name in ("names", "colors", "raw", "ignore")},
        ),
        "ClassTable.from_yaml": (ClassTable.from_yaml, {"path": missing}),
        "ClassTable.to_yaml": (table.to_yaml, {"path": folder / "classes.yaml"}),
        "ClassTable.encode": (table.encode, {"raw_mask": raw_mask, "nodata": None}),
        "ClassTable.look_up": (table.look_up, {"raw_mask": raw_mask}),
        "ClassTable.decode": (table.decode, {"label": raw_mask}),
        "Augment": (Augment, {name: getattr(Augment(), name) for name in Augment.__dataclass_fields__}),
        "Recipe": (Recipe, {name: getattr(Recipe(), name) for name in Recipe.__dataclass_fields__}),
        **{
            f"a recipe's {name}": (part, {field: getattr(part(), field) for field in part.__dataclass_fields__})
            for name in ("Data", "Model", "Loss", "Crf", "Optim", "Schedule", "Train", "Watch")
            for part in (getattr(recipes, name),)
        },
        "AnySize": (
            AnySize,
            {
                "segmenter": segmenter,
                "tile": None,
                "overlap": None,
                "memory": None,
                "say": lambda line: None,
                "limits": None,
            },
        ),
        "AnySize.__call__": (AnySize(segmenter), {"image": image, "valid": None, "name": "x", "progress": None}),
        "AnySize.scores": (AnySize(segmenter).scores, {"image": image}),
        "Segmenter.prepare": (segmenter.prepare, {"image": image}),
        "Segmenter.segment": (segmenter.segment, {"image": image}),
        "Segmenter.scores": (segmenter.scores, {"image": image}),
        "explain_picture": (
            explain_picture,
            {"model": model, "image": image, "valid": None, "classes": [0], "most": 1, "crf": None},
        ),
        "fit_temperature": (fit_temperature, {"logits": logits, "labels": labels}),
        "reliability": (reliability, {"logits": logits, "labels": labels, "temperature": 1.0, "bins": 15}),
    }


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def constructor_arguments(paper: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a paper's class, over a small backbone."""
    small = {"backbone": "google_mobilenetv2_025", "fov_channels": 8, "aspp_channels": 8, "low_channels": 8}
    return {name: small.get(name, default) for name, default in own_arguments(paper).items()}


def own_arguments(verb: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a verb's options."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(verb).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


@pytest.fixture(scope="module")
def table(model, tmp_path_factory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    return calls(model, tmp_path_factory.mktemp("calls"))


#: Calls that do something with many of the odd values, such as to load or to look through folders.
TAKING_LONG = {
    *("Segmenter", "start_from", "predict", "explain", "doctor", "evaluate", "load"),
    *("create_model", "DeepLabV1", "DeepLabV2", "DeepLabV3"),
}
SLOW = pytest.mark.slow
CALLS = [
    "Segmenter",
    "Segmenter.__call__",
    "Segmenter.__call__ of several",
    "Segmenter.read",
    "Segmenter.looking",
    "Prediction",
    "Prediction.overlay",
    "Prediction.save",
    "DenseCRF",
    "DenseCRF.__call__",
    "DenseCRF.preset",
    "permutohedral_filter",
    "Pipeline",
    "TrainingStep",
    "start_from",
    "open_dataset",
    "Client",
    "Client.segment",
    "evaluate",
    "calibrate",
    "predict",
    "explain",
    "doctor",
    "train",
    "load",
    "save",
    "convert",
    "export",
    "report",
    "create_model",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "set_output_stride",
    "a model",
    "a model's scores",
    "Dataset",
    "Dataset.split",
    "Dataset.taking",
    "Dataset.read",
    "Dataset.read_label",
    "ClassTable",
    "ClassTable.from_yaml",
    "ClassTable.to_yaml",
    "ClassTable.encode",
    "ClassTable.look_up",
    "ClassTable.decode",
    "Augment",
    "Recipe",
    "a recipe's Data",
    "a recipe's Model",
    "a recipe's Loss",
    "a recipe's Crf",
    "a recipe's Optim",
    "a recipe's Schedule",
    "a recipe's Train",
    "a recipe's Watch",
    "AnySize",
    "AnySize.__call__",
    "AnySize.scores",
    "Segmenter.prepare",
    "Segmenter.segment",
    "Segmenter.scores",
    "explain_picture",
    "fit_temperature",
    "reliability",
    "read_recipe over a file",
    "read_recipe",
    "to_recipe",
    "Info",
    "Info.from_dict",
    "Preprocessing",
]


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in TAKING_LONG else ()) for name in CALLS])
@pytest.mark.filterwarnings("ignore")
def test_odd_values_give_nothing_but_an_atrous_error(table, odd, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # what is written does no harm
    function, arguments = table[name]
    raised = []
    for argument in arguments:
        for title, value in odd.items():
            try:
                function(**{**arguments, argument: value})
            except AtrousError:
                continue
            except Exception as error:
                raised.append(f"{argument}={title}: {type(error).__name__}: {error}")
    assert not raised, "\n".join(raised)


@pytest.mark.parametrize("arguments", [{"backbone": object()}, {"num_classes": "3"}, {"aspp_channels": -1}, {"x": 1}])
def test_create_model_refuses_arguments_that_no_network_has(arguments):
    with pytest.raises(AtrousError):
        atrous.create_model("deeplabv3plus", **{"backbone": "mobilenetv2_035", "num_classes": 2, **arguments})
    with pytest.raises(AtrousError):
        atrous.create_model(None)


def test_every_public_name_is_in_the_table_or_tested_elsewhere():
    elsewhere = {"AtrousError", "__version__"}
    assert {name.partition(".")[0] for name in CALLS} | elsewhere >= set(atrous.__all__)


#: Calls of torch's own, whose arguments Python binds.
BOUND_BY_TORCH = {"DenseCRF.__call__", "a model", "a model's scores"}
#: Calls by keyword where any name may be meant for a network.
TAKING_FURTHER = {"create_model", "convert", "DenseCRF.preset"}


@pytest.mark.parametrize("name", [name for name in CALLS if name not in BOUND_BY_TORCH | TAKING_FURTHER])
def test_unknown_and_missing_arguments_are_said_with_the_nearest_name(table, name):
    function, arguments = table[name]
    if "of several" in name or name in ("Segmenter.prepare", "Segmenter.segment", "Segmenter.scores", "AnySize.scores"):
        pytest.skip("a function of this test, or one whose arguments Python binds")
    first = next(iter(arguments))
    with pytest.raises(WrongArguments, match=f"no argument '{first}x'; did you mean {first}") as raised:
        function(**arguments, **{f"{first}x": 1})
    assert isinstance(raised.value, AtrousError)
    assert isinstance(raised.value, TypeError)
    with pytest.raises(WrongArguments, match=r"no argument '0815'\. There are: "):
        function(**arguments, **{"0815": 1})
    needed = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
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
        ("a wrapped model", r"a DataParallel wraps the model: give the model in it, \.module"),
        ("a state dict", r"a state dict holds weights alone.*atrous\.convert"),
        ("another's module", r"Linear is no model of atrous.*atrous\.convert\(module\.state_dict\(\)\)"),
        ("a model of halves", r"weights are float16.*model\.float\(\)"),
        ("None", "a model is what atrous.create_model, load or convert return, got None"),
        ("a class", "a model is what"),
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
        "a tensor": r"tensor\.cpu\(\)\.permute\(1, 2, 0\)\.numpy\(\)",
        "a closed picture": "the picture: cannot be read",
        "a cut picture": "the picture: cannot be read",
        "masked": "a masked array is not read",
        "C first": r"picture\.transpose\(1, 2, 0\)",
    }.items():
        with pytest.raises(AtrousError, match=said):
            segmenter(odd[name])


def test_texts_and_numpys_numbers_are_taken_for_paths_and_numbers(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atrous.save(model, tmp_path / "m.safetensors")
    Image.new("RGB", (48, 40)).save(tmp_path / "x.png")
    written = atrous.predict(str(tmp_path / "m.safetensors"), str(tmp_path / "x.png"), out="masks", scales=np.ones(1))  # type: ignore[arg-type]
    assert [path.name for path in written] == ["x.png"]
    with pytest.raises(AtrousError, match=r"predict: out is empty; the current folder is '\.'"):
        atrous.predict("m.safetensors", ["x.png"], out="")  # type: ignore[arg-type,list-item]
