"""The interface of all engines and exported files, and the choice of an engine for a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from atrous import model_file
from atrous.errors import AtrousError
from atrous.inference import exported_onnx_and_openvino
from atrous.inference.choose_engine import Engine, NotConvertible, choose

if TYPE_CHECKING:
    import torch

    from atrous.models import SegmentationModel
    from atrous.models.info import Info


class Runner(Protocol):
    """The interface of a network that runs on raw pictures of any size; any number of threads may use it at once."""

    @property
    def engine(self) -> Engine:
        """The runtime, its device and precision."""
        ...

    @property
    def pools(self) -> bool:
        """Whether `pooled` and `features` can be used: the network has image pooling, and the runtime supports them."""
        ...

    @property
    def stacks(self) -> bool:
        """Whether `labels_of_all` is faster than calling `labels` for each picture."""
        ...

    def check_scores(self) -> None:
        """Raises an AtrousError if the network returns only labels and no scores."""
        ...

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to H×W uint8 class indices; arguments as in `scores`."""
        ...

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """Maps N×H×W×C raw values to N×H×W uint8 class indices."""
        ...

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: picture or tile.
            pooled: mean of `features` over the whole picture, C' values, to use for a tile; None for the mean over
                `image`.
        """
        ...

    def features(self, image: np.ndarray) -> np.ndarray:
        """Maps H×W×C raw values to the h×w×C' float32 features that image pooling averages."""
        ...


def info_of(path: Path) -> Info:
    """Reads the metadata of the model from a model file or an exported file."""
    return (
        exported_onnx_and_openvino.read_info(path)
        if exported_onnx_and_openvino.is_named_as_exported(path)
        else model_file.read_info(path)
    )


def at_output_stride(
    model: Path | SegmentationModel, info: Info, output_stride: int
) -> tuple[Path | SegmentationModel, int | None]:
    """Returns the model, and the output stride at which to load it.

    The output stride is None if the model already has it. Otherwise, a module is replaced by a copy with this stride.

    Raises:
        AtrousError: the file is exported, or the module does not support the stride. A model file is checked when it is
            loaded.
    """
    if isinstance(model, Path) and exported_onnx_and_openvino.is_exported(model):
        raise AtrousError(f"{model} is an exported file, whose output stride is fixed: give the model file instead.")
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
    """Returns the runner of a model; with the engine "auto", torch runs networks that OpenVINO cannot run."""
    if isinstance(model, Path) and exported_onnx_and_openvino.is_exported(model):
        return exported_onnx_and_openvino.open_graph(model, engine, str(device), precision)
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
