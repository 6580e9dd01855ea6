"""Traces a model as one graph from raw pictures to masks, and writes the graph as a file for other runtimes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError, missing_extra
from atrous.inference.exported_onnx_and_openvino import INFO_KEY, write_openvino
from atrous.inference.pipeline import Pipeline
from atrous.models import SegmentationModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from atrous.models.info import Info

#: Packages that each format needs to write and to run a file, as (package, extra of atrous).
NEEDED = {
    "onnx": (("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx")),
    "openvino": (("openvino", "openvino"),),
    "torch": (),
}

#: Height and width of the pictures for tracing, in pixels, chosen so that no two dimensions of a graph are equal.
TRACED_SIZE = (150, 203)


class ExportGraph(nn.Module):
    """A pipeline from raw pictures to labels: normalisation, network, resizing and argmax.

    Args:
        model: model of a paper's architecture, with `.scores` and `.info`; it is put into evaluation mode.
        with_scores: True to output the low-resolution scores, too.
    """

    def __init__(self, model: SegmentationModel, *, with_scores: bool = False) -> None:
        super().__init__()
        self.pipeline = Pipeline(model)
        self.align_corners = model.align_corners
        self.with_scores = with_scores
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps N×C×H×W raw values to N×H×W uint8 labels and, if `with_scores`, N×K×h×w float32 scores."""
        scores = self.pipeline(image).float()
        logits = F.interpolate(scores, size=image.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        labels = logits.argmax(1) if scores.shape[1] > 1 else logits[:, 0] > 0
        labels = labels.to(torch.uint8)
        return (labels, scores) if self.with_scores else (labels,)


def check_installed(format: str) -> None:
    """Checks, before the export, that the packages of a format are installed.

    Args:
        format: a key of `NEEDED`.

    Raises:
        AtrousError: a package is missing; the message has the command that installs it.
    """
    for package, extra in NEEDED[format]:
        if find_spec(package) is None:
            raise missing_extra(package, extra)


def trace(model: SegmentationModel, *, with_scores: bool = False) -> ExportedProgram:
    """Traces the `ExportGraph` of a model for any number of pictures of any height and width.

    Args:
        model: model on the CPU.
        with_scores: True to output the low-resolution scores, too.

    Raises:
        AtrousError: torch cannot trace the backbone at dynamic sizes.
    """
    preprocessing = model.info.preprocessing
    dtype = torch.uint8 if preprocessing.dtype == "uint8" else torch.float32
    image = torch.zeros((2, preprocessing.channels, *TRACED_SIZE), dtype=dtype)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                ExportGraph(model, with_scores=with_scores),
                (image,),
                dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
            )
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise AtrousError(
            f"{model.info.architecture} over {model.info.arguments['backbone']} cannot be exported: torch cannot trace "
            f"it for pictures of any size: {_first_line(error)} Use a ResNet, MobileNet, EfficientNet or VGG-16 as "
            "the backbone: these can be exported."
        ) from error


def write(program: ExportedProgram, info: Info, format: str, path: Path, *, half: bool = False) -> None:
    """Writes a graph and the model's metadata into a file.

    Args:
        program: result of `trace`.
        info: the model's metadata; it is stored as JSON in the file's own metadata.
        format: onnx, openvino (whose weights are written to a .bin beside the file) or torch.
        path: path of the file.
        half: True to store the weights in 16 bits; for openvino only.

    Raises:
        AtrousError: the format lacks an operation of the graph, or the file cannot be written.
    """
    record = json.dumps(info.to_dict())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if format == "onnx":
                _write_onnx(program, record, path, info.tasks[0].outputs)
            elif format == "openvino":
                _write_openvino(program, record, path, half, info.tasks[0].outputs)
            else:
                torch.export.save(program, path, extra_files={f"{INFO_KEY}.json": record})
    except AtrousError:
        raise
    except OSError as error:
        raise AtrousError(f"cannot write {path}: {error.strerror or error}.") from error
    except Exception as error:  # each exporter has its own errors, and openvino's have no narrower base class
        raise AtrousError(
            f"{info.architecture} over {info.arguments['backbone']} cannot be written as {format}: "
            f"{_first_line(error)} Try another --format."
        ) from error


def _write_onnx(program: ExportedProgram, record: str, path: Path, outputs: Sequence[str]) -> None:
    names = list(outputs[: len(program.graph_signature.user_outputs)])
    exported = torch.onnx.export(
        program, (), dynamo=True, input_names=["image"], output_names=names, external_data=False, verbose=False
    )
    assert exported is not None
    graph = exported.model_proto
    # The tracer describes the size of every intermediate tensor by a long formula; no runtime needs these formulas.
    del graph.graph.value_info[:]
    for value, sizes in zip((*graph.graph.input, *graph.graph.output), ("N H W", "N H W", "N h w"), strict=False):
        dimensions = value.type.tensor_type.shape.dim
        free = [dimension for dimension in dimensions if not dimension.HasField("dim_value")]
        for dimension, name in zip(free, sizes.split(), strict=True):
            dimension.dim_param = name
    graph.metadata_props.add(key=INFO_KEY, value=record)
    path.write_bytes(graph.SerializeToString())


def _write_openvino(program: ExportedProgram, record: str, path: Path, half: bool, outputs: Sequence[str]) -> None:
    import openvino

    model = openvino.convert_model(program)
    for output, name in zip(model.outputs, outputs, strict=False):
        output.get_tensor().set_names({name})
    write_openvino(model, record, path, half=half)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}".rstrip(".") + "."
