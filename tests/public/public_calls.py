"""Every public call, with arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import atrous
from atrous.commands.export import export
from atrous.commands.report import report
from atrous.data.dataset import Dataset, Item
from atrous.data.mask_value_map import ClassTable
from atrous.data.pixels import StoredPixels
from atrous.data.sources.array import ArraySink, ArraySource
from atrous.data.transforms import Augment
from atrous.explaining.explanation import explain_picture
from atrous.inference.predict_jobs import Worker, plan
from atrous.inference.whole_or_tiled import AnySize
from atrous.input_spec import Input
from atrous.learning import recipe as recipes
from atrous.learning.extension import Extension
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.recipe import Recipe, read_recipe, to_recipe
from atrous.learning.temperature_scaling import fit_temperature, reliability
from atrous.models.deeplab_v1 import DeepLabV1
from atrous.models.deeplab_v2 import DeepLabV2
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from atrous.models.info import Info, Preprocessing

#: Calls that make or open a model with many of the odd values.
TAKING_LONG = {"ModelSpec.open", "Worker", "save", "create_model", "DeepLabV1", "DeepLabV2", "DeepLabV3"}
CALLS = [
    "Segmenter",
    "ModelSpec",
    "ModelSpec.open",
    "Worker",
    "plan",
    "Segmenter.__call__",
    "Segmenter.__call__ of several",
    "Segmenter.__call__ of a tensor",
    "Segmenter.__call__ of a generator",
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
    "supervised_terms",
    "Extension",
    "start_from",
    "open_dataset",
    "Client",
    "Client.segment",
    "Client.segment_volume",
    "evaluate",
    "compare",
    "calibrate",
    "predict",
    "area",
    "explain",
    "doctor",
    "train",
    "fit",
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
    "Dataset.taking_inputs",
    "Dataset.read",
    "Dataset.read_image",
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
    "a recipe's Distill",
    "a recipe's Crf",
    "a recipe's Optim",
    "a recipe's Schedule",
    "a recipe's Train",
    "a recipe's Watch",
    "AnySize",
    "AnySize.__call__",
    "AnySize.scores",
    "AnySize.logits",
    "AnySize.probabilities",
    "AnySize.windows",
    "AnySize.looking",
    "Segmenter.windows",
    "Segmenter.found",
    "Preparation.prepare",
    "Preparation.filled",
    "Segmenter.with_crf",
    "Preparation.doubt_of",
    "Preparation.warn_of",
    "Preparation.warn_of_values",
    "Preparation.warn_of_medians",
    "Segmenter.segment",
    "Segmenter.segment_together",
    "Segmenter.segment_together of one",
    "Segmenter.scores",
    "Segmenter.features",
    "Segmenter.decide",
    "Segmenter.decide of one",
    "explain_picture",
    "fit_temperature",
    "reliability",
    "read_recipe over a file",
    "read_recipe",
    "to_recipe",
    "Info",
    "Info.from_dict",
    "Preprocessing",
    "Preprocessing.of_pictures",
    "Preprocessing.normalized_by",
    "Preprocessing.with_image",
    "Input",
    "a CRF of odd settings",
]


def calls(model: Any, folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Every public call, with arguments that it takes; each of them is replaced by odd values, one at a time."""
    picture = np.zeros((40, 48, 3), np.uint8)
    segmenter = atrous.Segmenter(model, engine="torch")
    preparation = segmenter.preparation
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
                "tile": None,
                "overlap": None,
                "memory": None,
                "say": lambda line: None,
            },
        ),
        "ModelSpec": (
            atrous.ModelSpec,
            {name: field.default for name, field in atrous.ModelSpec.__dataclass_fields__.items()} | {"path": missing},
        ),
        "ModelSpec.open": (atrous.ModelSpec(file, engine="torch").open, {"say": lambda line: None}),
        "Worker": (Worker, {"spec": atrous.ModelSpec(file, engine="torch"), "say": lambda line: None}),
        "plan": (
            plan,
            {
                "paths": [folder],
                "out": folder / "out",
                "spec": atrous.ModelSpec(file),
                **{name: value for name, value in own_arguments(plan).items() if name != "also"},
            },
        ),
        "Segmenter.__call__": (segmenter, {"picture": picture, "valid": None}),
        "Segmenter.__call__ of several": (lambda picture: segmenter([picture]), {"picture": picture}),
        "Segmenter.__call__ of a tensor": (
            segmenter,
            {"picture": torch.zeros(3, 40, 48, dtype=torch.uint8), "axes": "CHW"},
        ),
        "Segmenter.__call__ of a generator": (
            lambda picture: list(segmenter(one for one in [picture])),
            {"picture": picture},
        ),
        "Segmenter.read": (segmenter.read, {"picture": picture}),
        "Segmenter.looking": (
            segmenter.looking,
            {"scales": (1.0,), "flip": False, "crf": None, "range": None, "tile": None, "overlap": None},
        ),
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
        "a CRF of odd settings": (
            lambda **settings: finite(atrous.DenseCRF(**{"iterations": 2, **settings})(picture[:4, :5], probabilities)),
            {name: getattr(crf, name) for name in ("bilateral_xy", "bilateral_rgb", "gaussian_xy", "prune")}
            | {"bilateral_weight": 4.0, "gaussian_weight": 3.0, "compatibility": "potts"},
        ),
        "DenseCRF.preset": (atrous.DenseCRF.preset, {"name": "deeplabv1"}),
        "permutohedral_filter": (
            atrous.permutohedral_filter,
            {"features": torch.zeros(6, 2), "values": torch.ones(6, 1)},
        ),
        "Pipeline": (atrous.Pipeline, {"model": model}),
        "TrainingStep": (
            atrous.TrainingStep,
            {
                "model": model,
                "terms": supervised_terms(torch.nn.Identity(), model),
                "precision": torch.float32,
                "crf": None,
                "disturb": None,
                "teacher": None,
            },
        ),
        "supervised_terms": (supervised_terms, {"loss": torch.nn.Identity(), "model": model, "auxiliary": 0.4}),
        "Extension": (Extension, {"terms": {}, "state": {}, "after_step": (), "disturb": None}),
        "start_from": (atrous.start_from, {"model": model, "source": model}),
        "open_dataset": (atrous.open_dataset, {"root": folder, "layout": None, "classes": None, "groups": None}),
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
        "Client.segment_volume": (
            client.segment_volume,
            {
                "volume": missing,
                "out": folder / "mask.nii.gz",
                "model": "x",
                "scales": (1.0,),
                "flip": False,
                "format": "nifti",
                "overwrite": False,
            },
        ),
        "evaluate": (atrous.evaluate, {**verb, **own_arguments(atrous.evaluate)}),
        "compare": (atrous.compare, {"a": missing, "b": missing, "data": folder, **own_arguments(atrous.compare)}),
        "calibrate": (atrous.calibrate, {**verb, **own_arguments(atrous.calibrate)}),
        "predict": (atrous.predict, {"model": missing, "paths": [folder], **own_arguments(atrous.predict)}),
        "area": (atrous.area, {"model": missing, "rasters": [folder], **own_arguments(atrous.area)}),
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
        "Preprocessing.of_pictures": (
            Preprocessing.of_pictures,
            {"mean": (1.0,), "std": (1.0,), "dtype": "uint8", "pages": "first", "enlarge": 1.0, "aligned": False},
        ),
        "Preprocessing.normalized_by": (
            model.info.preprocessing.normalized_by,
            {"mean": model.info.preprocessing.mean, "std": model.info.preprocessing.std},
        ),
        "Preprocessing.with_image": (
            model.info.preprocessing.with_image,
            {"mean": (1.0,), "dtype": "uint8"},
        ),
        "Input": (Input, {name: getattr(model.info.preprocessing.image, name) for name in Input.__dataclass_fields__}),
        "train": (atrous.train, {"recipe": Recipe(), **own_arguments(atrous.train)}),
        "fit": (atrous.fit, {"recipe": Recipe(), "out": None, **own_arguments(atrous.fit)}),
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
        "Dataset.taking_inputs": (dataset.taking_inputs, {"inputs": model.info.preprocessing.inputs}),
        "Dataset.read_image": (dataset.read_image, {"item": item}),
        "Dataset.read": (dataset.read, {"item": item}),
        "Dataset.read_label": (dataset.read_label, {"mask": folder / "y.png"}),
        "ClassTable": (
            ClassTable,
            {name: getattr(table, name) for name in ("names", "colors", "raw", "ignore")},
        ),
        "ClassTable.from_yaml": (ClassTable.from_yaml, {"path": missing}),
        "ClassTable.to_yaml": (table.to_yaml, {"path": folder / "classes.yaml"}),
        "ClassTable.encode": (table.encode, {"raw_mask": raw_mask, "nodata": None, "corner": (0, 0)}),
        "ClassTable.look_up": (table.look_up, {"raw_mask": raw_mask}),
        "ClassTable.decode": (table.decode, {"label": raw_mask}),
        "Augment": (Augment, {name: getattr(Augment(), name) for name in Augment.__dataclass_fields__}),
        "Recipe": (Recipe, {name: getattr(Recipe(), name) for name in Recipe.__dataclass_fields__}),
        **{
            f"a recipe's {name}": (part, {field: getattr(part(), field) for field in part.__dataclass_fields__})
            for name in ("Data", "Model", "Loss", "Distill", "Crf", "Optim", "Schedule", "Train", "Watch")
            for part in (getattr(recipes, name),)
        },
        "AnySize": (
            AnySize,
            {
                "whole": segmenter.whole,
                "tile": None,
                "overlap": None,
                "memory": None,
                "say": lambda line: None,
                "limits": None,
            },
        ),
        "AnySize.__call__": (
            AnySize(segmenter.whole),
            {"image": image, "valid": None, "name": "x", "progress": None, "scores": None},
        ),
        "AnySize.scores": (AnySize(segmenter.whole).scores, {"image": image, "name": "x"}),
        "AnySize.probabilities": (AnySize(segmenter.whole).probabilities, {"image": image, "name": "x"}),
        "AnySize.logits": (AnySize(segmenter.whole).logits, {"image": image, "places": np.arange(3), "name": "x"}),
        "AnySize.windows": (
            AnySize(segmenter.whole).windows,
            {"source": ArraySource(image), "sink": ArraySink(40, 48), "name": "x"},
        ),
        "AnySize.looking": (
            AnySize(segmenter.whole).looking,
            {"whole": segmenter.whole, "tile": None, "overlap": None, "say": None},
        ),
        "Segmenter.windows": (
            segmenter.windows,
            {"source": ArraySource(image), "sink": ArraySink(40, 48), "name": "x"},
        ),
        "Segmenter.found": (segmenter.found, {"stored": {"image": StoredPixels(image)}}),
        "Preparation.prepare": (
            preparation.prepare,
            {"image": image, "whole": True, "name": "", "give_range": "{} to {}", "valid": None},
        ),
        "Preparation.filled": (
            preparation.filled,
            {"found": segmenter.read(picture), "give_range": "{} to {}"},
        ),
        "Segmenter.with_crf": (segmenter.with_crf, {"crf": None}),
        "Preparation.doubt_of": (preparation.doubt_of, {"image": image, "give_range": "{} to {}", "valid": None}),
        "Preparation.warn_of": (preparation.warn_of, {"notes": []}),
        "Preparation.warn_of_values": (
            preparation.warn_of_values,
            {"dtype": "uint8", "largest": 9.0, "name": ""},
        ),
        "Preparation.warn_of_medians": (preparation.warn_of_medians, {"medians": (1.0, 2.0, 3.0), "name": ""}),
        "Segmenter.segment": (segmenter.segment, {"image": image, "valid": None, "pooled": None}),
        "Segmenter.segment_together": (segmenter.segment_together, {"images": [image]}),
        "Segmenter.segment_together of one": (lambda image: segmenter.segment_together([image]), {"image": image}),
        "Segmenter.scores": (segmenter.scores, {"image": image, "pooled": None}),
        "Segmenter.features": (segmenter.features, {"image": image}),
        "Segmenter.decide": (
            segmenter.decide,
            {"scores": segmenter.scores(image), "image": image, "crf": None, "valid": None},
        ),
        "Segmenter.decide of one": (lambda scores: segmenter.decide([scores], image), {"scores": image}),
        "explain_picture": (
            explain_picture,
            {"model": model, "image": image, "valid": None, "classes": [0], "most": 1, "crf": None},
        ),
        "fit_temperature": (fit_temperature, {"logits": logits, "labels": labels}),
        "reliability": (reliability, {"logits": logits, "labels": labels, "temperature": 1.0, "bins": 15}),
    }


def finite(values: np.ndarray) -> None:
    """Fails where a result is no number."""
    assert np.isfinite(values).all(), "NaN or infinity came out"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
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
