"""A model whose scores are not all alike, in a file, and its exports: made once, read by many tests.

Lets the tests of this folder, and the processes that they spawn, import `spawned`, which lies beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import models

sys.path.append(str(Path(__file__).parent))

Make = Callable[..., models.SegmentationModel]


def make(
    architecture: str, *, enlarge: float = 1.0, aligned: bool = False, dtype: str = "uint8", **arguments: Any
) -> models.SegmentationModel:
    """A fresh model with a head that tells classes apart, since the paper's starts near zero."""
    torch.manual_seed(0)
    model = models.build(architecture, {"num_classes": 4, **arguments}).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4 and parameter.shape[0] == model.info.arguments["num_classes"]:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias") and parameter.shape[0] == model.info.arguments["num_classes"]:
            torch.nn.init.zeros_(parameter)
    preprocessing = replace(model.info.preprocessing.with_image(dtype=dtype), enlarge=enlarge, aligned=aligned)
    count = len(model.info.classes)
    names = tuple(f'"class" {index} <ä&道>' for index in range(count))  # nothing that XML or JSON would bend
    model.info = model.info.with_table(replace(model.info.table, names=names))
    model.info = replace(model.info, preprocessing=preprocessing, provenance={"note": "a\nb"})
    return model


@pytest.fixture(scope="session")
def make_model() -> Make:
    return make


@pytest.fixture(scope="session")
def small() -> models.SegmentationModel:
    """The quickest to export: convolutions alone."""
    return make("deeplabv1", backbone="vgg16", fov_channels=8)


@pytest.fixture(scope="session")
def exports(small: models.SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """The small model as a file of a format, with scores or without; not to be changed."""
    from atrous.inference import export_graph

    folder = tmp_path_factory.mktemp("exports")
    programs: dict[bool, Any] = {}

    def export(format: str, with_scores: bool) -> Path:
        path = folder / f"{format}_{with_scores}{ {'onnx': '.onnx', 'openvino': '.xml', 'torch': '.pt2'}[format] }"
        if not path.exists():
            if with_scores not in programs:
                programs[with_scores] = export_graph.trace(small, with_scores=with_scores)
            export_graph.write(programs[with_scores], small.info, format, path)
        return path

    return export
