"""What runs a given model: its record, its network at an output stride, and the engine for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from atrous import model_file
from atrous.errors import AtrousError
from atrous.inference import exported
from atrous.inference.engine import NotConvertible, choose

if TYPE_CHECKING:
    import torch

    from atrous.inference.openvino_engine import OpenVinoEngine
    from atrous.inference.torch_engine import TorchEngine
    from atrous.models import SegmentationModel
    from atrous.models.info import Info


def info_of(path: Path) -> Info:
    """What a model file or an exported file says about its model."""
    return exported.read_info(path) if exported.is_named_as_exported(path) else model_file.read_info(path)


def at_output_stride(
    model: Path | SegmentationModel, info: Info, output_stride: int
) -> tuple[Path | SegmentationModel, int | None]:
    """The model, a copy of a module at that stride; and the stride if it is not the model's own.

    Raises:
        AtrousError: an exported file, or a stride that the module cannot have; of a model file, reading it tells.
    """
    if isinstance(model, Path) and exported.is_exported(model):
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
) -> TorchEngine | OpenVinoEngine | exported.OnnxGraph | exported.OpenVinoGraph:
    """The engine that was asked for; where none was, torch if OpenVINO does not run this network."""
    if isinstance(model, Path) and exported.is_exported(model):
        return exported.open_graph(model, engine, str(device), precision)
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
