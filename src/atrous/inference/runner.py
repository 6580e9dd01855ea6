"""What every engine and exported file can do, and which of them runs a given model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from atrous import model_file
from atrous.errors import AtrousError
from atrous.inference import exported_runner
from atrous.inference.choose_engine import Engine, NotConvertible, choose

if TYPE_CHECKING:
    import torch

    from atrous.models import SegmentationModel
    from atrous.models.info import Info


class Runner(Protocol):
    """What runs one network: on raw values, at any size of picture, for any number of threads."""

    @property
    def engine(self) -> Engine:
        """The runtime, its device and precision."""
        ...

    @property
    def pools(self) -> bool:
        """Whether `pooled` and `features` can be used: the network has image pooling, and the runtime gives access."""
        ...

    @property
    def stacks(self) -> bool:
        """Whether `labels_of_all` is faster than `labels` of one picture after another."""
        ...

    def check_scores(self) -> None:
        """Raises an AtrousError before the work where there are no scores, only labels."""
        ...

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """H×W×C raw values → H×W uint8 class indices; `pooled` as in `scores`."""
        ...

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """N×H×W×C raw values → N×H×W uint8 class indices."""
        ...

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """H×W×C raw values → h×w×K float32 logits, at the model's own low resolution.

        Args:
            image: a picture, or a part of one.
            pooled: C' values, the mean of the whole picture's `features`, in place of this part's.
        """
        ...

    def features(self, image: np.ndarray) -> np.ndarray:
        """H×W×C raw values → h×w×C' float32: what image pooling takes the mean of."""
        ...


def info_of(path: Path) -> Info:
    """What a model file or an exported file says about its model."""
    return exported_runner.read_info(path) if exported_runner.is_named_as_exported(path) else model_file.read_info(path)


def at_output_stride(
    model: Path | SegmentationModel, info: Info, output_stride: int
) -> tuple[Path | SegmentationModel, int | None]:
    """The model, a copy of a module at that stride; and the stride if it is not the model's own.

    Raises:
        AtrousError: an exported file, or a stride that the module cannot have; of a model file, reading it tells.
    """
    if isinstance(model, Path) and exported_runner.is_exported(model):
        raise AtrousError(f"{model} is an exported file, whose output stride is fixed: give the model file.")
    if output_stride == info.arguments.get("output_stride"):
        return model, None
    if not isinstance(model, Path):
        model = copy.deepcopy(model)
        model.set_output_stride(output_stride)
    return model, output_stride


def runner_for(
    model: Path | SegmentationModel,
    info: Info,
    engine: str,
    device: str | torch.device,
    precision: str,
    output_stride: int | None,
) -> Runner:
    """The engine that was asked for; where none was, torch if OpenVINO does not run this network."""
    if isinstance(model, Path) and exported_runner.is_exported(model):
        return exported_runner.open_graph(model, engine, str(device), precision)
    name, reason = choose(engine, str(device), isinstance(model, Path))
    if name == "openvino":
        from atrous.inference.openvino_engine import OpenVinoEngine

        try:
            return OpenVinoEngine(model, info, precision, reason, output_stride)
        except NotConvertible as error:
            if engine != "auto":
                raise
            reason = str(error)
    from atrous.inference.torch_engine import TorchEngine

    module = model_file.load(model, output_stride=output_stride) if isinstance(model, Path) else model
    return TorchEngine(module, device, precision, reason)
