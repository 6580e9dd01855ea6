"""How a model is to be opened: small enough to be sent to other processes, where a `Segmenter` is opened from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.arguments import checked, checked_fields
from atrous.errors import AtrousError, shown, unknown_name
from atrous.inference.any_size import check_tiling
from atrous.inference.engine import ENGINES
from atrous.inference.runner import info_of
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import as_range
from atrous.inference.views import views_of
from atrous.models.info import Info

if TYPE_CHECKING:
    import torch

    from atrous.crf import DenseCRF

#: Runtimes that may be asked for; onnxruntime runs exported .onnx files alone.
RUNTIMES = (*ENGINES, "onnxruntime")
#: Precisions that may be asked for.
PRECISIONS = ("auto", "float32", "bfloat16")
#: Output strides that a network may have; see `models.features.OUTPUT_STRIDES`, which needs torch.
OUTPUT_STRIDES = (8, 16, 32)
#: Names of devices.
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")


@checked_fields
@dataclass(frozen=True)
class ModelSpec:
    """A model file and how to run it: what other processes are sent in place of a `Segmenter`.

    It is a few plain values, which can be compared, hashed and pickled. They are checked when it is made, and what only
    the file and the machine can tell when it is opened.

    Args:
        path: of a model file or of an exported .onnx or .xml file.
        engine: auto, openvino, torch, or onnxruntime for .onnx files; see `Segmenter`.
        device: auto, cpu, cuda, cuda:N or mps; or a torch.device.
        precision: auto, float32 or bfloat16; see `Segmenter`.
        scales: of the picture, at which the network looks at it, each within 0–8; probabilities are averaged.
        flip: the network looks at the mirrored picture too.
        output_stride: 8, 16 or 32; None for the model's own.
        crf: settings of the CRF that refines the masks: text as `crf.settings.make_crf` reads it, or a mapping or a
            DenseCRF, which are kept as text; None for none.
        range: (lower, upper) values of the pictures that become 0 and the largest value of the model's type; None for
            the whole range of the pictures' type.
        tile: pixels, at least 32; every picture larger than that is tiled. None for tiles only where the whole would
            not fit.
        overlap: pixels that neighbouring tiles share; None for a quarter of the tile, at most 512.
        memory: GB that pictures may take, more than 0, on this host in all; None for half of what is free.

    Raises:
        AtrousError: a value out of its range, or of another type.

    Examples:
        >>> import pickle
        >>> spec = ModelSpec("model.safetensors", device="cpu", flip=True)
        >>> pickle.loads(pickle.dumps(spec)) == spec
        True
    """

    path: Path
    engine: str = "auto"
    device: str | torch.device = "auto"
    precision: str = "auto"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    output_stride: int | None = None
    crf: str | Mapping[str, Any] | DenseCRF | None = None
    range: tuple[float, ...] | None = None
    tile: int | None = None
    overlap: int | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in RUNTIMES:
            raise unknown_name("engine", self.engine, RUNTIMES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "device", _device_name(self.device))
        views_of(self.scales, self.flip)
        if self.output_stride is not None and self.output_stride not in OUTPUT_STRIDES:
            raise AtrousError(f"output_stride must be 8, 16 or 32, got {self.output_stride}.")
        object.__setattr__(self, "crf", _crf_in_words(self.crf))
        object.__setattr__(self, "range", as_range(self.range))
        check_tiling(self.tile, self.overlap, self.memory)

    def read_info(self) -> Info:
        """What the file says about its model; the network is not loaded.

        Raises:
            AtrousError: no such file, or no model file.
        """
        return info_of(self.path)

    @checked
    def open(self, say: Callable[[str], object] = lambda line: None) -> Segmenter:
        """Loads the network.

        Args:
            say: told in one line when a picture is tiled and why, and when memory ran out.

        Raises:
            AtrousError: see `Segmenter`.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Segmenter(values.pop("path"), **values, say=say)


def _device_name(device: Any) -> str:
    """The device's name, whether or not this machine has it.

    Raises:
        AtrousError: no name of a device.
    """
    if not isinstance(device, str):
        from atrous.device import pick_device  # with torch, which names do without

        return str(pick_device(device))
    if not DEVICE.fullmatch(device):
        raise AtrousError(f"a device is auto, cpu, cuda, cuda:N or mps, got {shown(device)}.")
    return device


def _crf_in_words(crf: Any) -> str | None:
    """The CRF's settings as text, whether or not the model file stores some.

    Raises:
        AtrousError: unknown settings.
    """
    if crf is None:
        return None
    from atrous.crf.settings import make_crf, settings_of

    made = make_crf(crf, {})
    return crf if isinstance(crf, str) else json.dumps(settings_of(made))
