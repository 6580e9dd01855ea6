"""`ModelSpec`: a model file and its options, which can be sent to other processes to open a `Segmenter` there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from atrous.checked_arguments import checked
from atrous.errors import AtrousError, shown
from atrous.inference.choose_engine import ENGINES
from atrous.inference.memory_estimate import LEAST_MEMORY
from atrous.inference.runner import info_of
from atrous.inference.segmenter import Segmenter
from atrous.inference.test_time_augmentation import LARGEST_SCALE, views_of
from atrous.inference.tile_grid import GRID, check_tiling
from atrous.inference.value_range import as_range
from atrous.models.info import Info
from atrous.option_fields import described, setting, settings

if TYPE_CHECKING:
    import torch

    from atrous.crf import DenseCRF

    Device: TypeAlias = str | torch.device
    Settings: TypeAlias = str | Mapping[str, Any] | DenseCRF
else:  # at run time, both are text, as on the command line, so torch need not be imported
    Device = Settings = str

#: Runtimes that can be requested; onnxruntime runs only exported .onnx files.
RUNTIMES = (*ENGINES, "onnxruntime")
#: Precisions that can be requested.
PRECISIONS = ("auto", "float32", "bfloat16")
#: Output strides that a network may have: a copy of `models.paper_arguments.OUTPUT_STRIDES`, whose import loads torch.
OUTPUT_STRIDES = (8, 16, 32)
#: Names of devices.
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")


@settings("")
@dataclass(frozen=True)
class ModelSpec:
    """A model file and the options for running it; unlike a `Segmenter`, it can be sent to other processes.

    It consists of a few plain values, so it can be compared, hashed and pickled. The constructor checks the values.
    `open` checks what depends on the file or on the machine. The commands that run a model have the fields as options;
    `atrous serve` has only some of them. `device` may also be a torch.device, and `crf` may also be a mapping or a
    DenseCRF; both are stored as text.

    Raises:
        AtrousError: a value is out of range or has another type.

    Examples:
        >>> import pickle
        >>> spec = ModelSpec("model.safetensors", device="cpu", flip=True)
        >>> pickle.loads(pickle.dumps(spec)) == spec
        True
    """

    path: Path = field(metadata=described("a model file, or an exported .onnx or .xml file"))
    engine: str = setting(
        "auto",
        "runtime of the network: openvino, torch, onnxruntime for .onnx files, or auto for the fastest that is "
        "installed",
        choices=RUNTIMES,
    )
    device: Device = setting("auto", "device to run on: auto, cpu, cuda, cuda:N or mps")
    precision: str = setting(
        "auto",
        "number format to compute in: float32, bfloat16, or auto for the faster of the two",
        choices=PRECISIONS,
    )
    scales: tuple[float, ...] = setting(
        (1.0,),
        "resize factors of the picture, such as 0.5,0.75,1,1.25,1.5,1.75 (the papers'); the probabilities at all "
        "scales are averaged",
        gt=0,
        le=LARGEST_SCALE,
    )
    flip: bool = setting(False, "average the probabilities of each picture and its mirror image")
    output_stride: int | None = setting(
        None,
        "output stride to run at, 8, 16 or 32; smaller is finer and slower; by default the model's own",
        choices=OUTPUT_STRIDES,
    )
    crf: Settings | None = setting(
        None,
        "refine the masks by a fully connected CRF with these settings: model (those that the model file stores), a "
        "preset (deeplabv1, deeplabv2, pydensecrf), or NAME=VALUE,… such as deeplabv2,iterations=5",
    )
    range: tuple[float, float] | None = setting(
        None,
        "pixel values LOW,HIGH that count as black and white, such as 0,4095 for 12 bits stored in 16; by default the "
        "limits of the pictures' data type",
    )
    tile: int | None = setting(
        None,
        "side of a tile; larger pictures are cut into tiles; by default only pictures that do not fit into memory",
        ge=GRID,
        unit="pixels",
    )
    overlap: int | None = setting(
        None,
        "overlap of neighbouring tiles; by default a quarter of the tile, at most 512",
        ge=0,
        unit="pixels",
    )
    memory: float | None = setting(
        None,
        "memory that pictures may take, for all processes on this host together; larger pictures are cut into tiles; "
        "by default half of the free memory",
        ge=LEAST_MEMORY,
        unit="GB",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", _device_name(self.device))
        views_of(self.scales, self.flip)
        object.__setattr__(self, "crf", _crf_in_words(self.crf))
        object.__setattr__(self, "range", as_range(self.range))
        check_tiling(self.tile, self.overlap, self.memory)

    @property
    def options(self) -> dict[str, Any]:
        """All fields except the path, as keyword arguments of `Segmenter`."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "path"}

    def read_info(self) -> Info:
        """Reads the metadata of the model; the network is not loaded.

        Raises:
            AtrousError: the file is missing or is not a model file.
        """
        return info_of(self.path)

    @checked
    def open(self, say: Callable[[str], object] = lambda line: None) -> Segmenter:
        """Loads the network and returns a `Segmenter` with these options.

        Args:
            say: function that gets a line of text when a picture is tiled, with the reason, and when memory ran out.

        Raises:
            AtrousError: see `Segmenter`.
        """
        return Segmenter(self.path, **self.options, say=say)


def _device_name(device: Any) -> str:
    """Returns the name of a device; if the device is given by its name, this machine need not have it.

    Raises:
        AtrousError: the value is not a name of a device.
    """
    if not isinstance(device, str):
        from atrous.device import pick_device  # imports torch, which names do not need

        return str(pick_device(device))
    if not DEVICE.fullmatch(device):
        raise AtrousError(f"device must be auto, cpu, cuda, cuda:N or mps, got {shown(device)}.")
    return device


def _crf_in_words(crf: Any) -> str | None:
    """Returns the CRF's settings as text; the model file is not read.

    Raises:
        AtrousError: a setting is unknown.
    """
    if crf is None:
        return None
    from atrous.crf.settings import make_crf, settings_of

    made = make_crf(crf, {})
    return crf if isinstance(crf, str) else json.dumps(settings_of(made))
