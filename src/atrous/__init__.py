"""Semantic segmentation with the DeepLab models: training, evaluation, prediction, export and serving.

Names are imported on first use, so `import atrous` is fast and does not import torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError
from atrous.version import __version__

if TYPE_CHECKING:
    from atrous.build_model import create_model as create_model
    from atrous.commands.area import area as area
    from atrous.commands.calibrate import calibrate as calibrate
    from atrous.commands.compare import compare as compare
    from atrous.commands.convert import convert as convert
    from atrous.commands.doctor import doctor as doctor
    from atrous.commands.evaluate import evaluate as evaluate
    from atrous.commands.explain import explain as explain
    from atrous.commands.predict import predict as predict
    from atrous.commands.train import train as train
    from atrous.crf import DenseCRF as DenseCRF
    from atrous.crf import permutohedral_filter as permutohedral_filter
    from atrous.data.open_dataset import open_dataset as open_dataset
    from atrous.data.sources.source import Sink as Sink
    from atrous.data.sources.source import Source as Source
    from atrous.inference.model_spec import ModelSpec as ModelSpec
    from atrous.inference.pipeline import Pipeline as Pipeline
    from atrous.inference.prediction import Prediction as Prediction
    from atrous.inference.segmenter import Segmenter as Segmenter
    from atrous.learning.fit import fit as fit
    from atrous.learning.recipe import Recipe as Recipe
    from atrous.learning.recipe import read_recipe as read_recipe
    from atrous.learning.training_step import TrainingStep as TrainingStep
    from atrous.learning.transfer_weights import start_from as start_from
    from atrous.model_file import load as load
    from atrous.model_file import save as save
    from atrous.serving.client import Client as Client

# Without this handler, Python would print warnings to standard error; see atrous.logger.
logging.getLogger("atrous").addHandler(logging.NullHandler())

_HOME = {
    "area": "atrous.commands.area",
    "calibrate": "atrous.commands.calibrate",
    "Client": "atrous.serving.client",
    "compare": "atrous.commands.compare",
    "convert": "atrous.commands.convert",
    "create_model": "atrous.build_model",
    "DenseCRF": "atrous.crf",
    "doctor": "atrous.commands.doctor",
    "evaluate": "atrous.commands.evaluate",
    "explain": "atrous.commands.explain",
    "fit": "atrous.learning.fit",
    "load": "atrous.model_file",
    "ModelSpec": "atrous.inference.model_spec",
    "open_dataset": "atrous.data.open_dataset",
    "permutohedral_filter": "atrous.crf",
    "Pipeline": "atrous.inference.pipeline",
    "predict": "atrous.commands.predict",
    "Prediction": "atrous.inference.prediction",
    "read_recipe": "atrous.learning.recipe",
    "Recipe": "atrous.learning.recipe",
    "save": "atrous.model_file",
    "Segmenter": "atrous.inference.segmenter",
    "Sink": "atrous.data.sources.source",
    "Source": "atrous.data.sources.source",
    "start_from": "atrous.learning.transfer_weights",
    "train": "atrous.commands.train",
    "TrainingStep": "atrous.learning.training_step",
}

__all__ = ["AtrousError", "__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atrous' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
