"""Runs a network in OpenVINO, the fastest engine on CPUs.

The converted network of a model file is cached, so only the first start loads torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atrous import model_file
from atrous.errors import AtrousError, unknown_name
from atrous.fork_safety import ForkLock
from atrous.inference import openvino_cache
from atrous.inference.choose_engine import Engine, NotConvertible
from atrous.inference.openvino_core import KERNELS_KEPT, LOST, CompiledNetwork, openvino_core
from atrous.inference.resize_argmax import resize_argmax

if TYPE_CHECKING:
    from atrous.models import SegmentationModel
    from atrous.models.info import Info

#: H×W at which the outputs of a converted network are compared with those of the original network. The two sizes
#: differ in height, width and orientation, to find sizes that tracing took for constants.
CHECKED_SIZES = ((133, 158), (96, 67))
#: Largest accepted difference of a logit, as a share of the largest logit.
TOLERANCE = 1e-3
#: Precisions of atrous → names in OpenVINO.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
#: If a picture has at least this number of pixels, the network is compiled for the size of the picture. This halves the
#: memory.
LARGE = 2**20
#: Version of the graphs in the cache. Increase it when `convert` makes other graphs, so that old entries are not used.
KEPT_FORMAT = 5
#: End of the name that OpenVINO's tracer gives to the mean over the whole map in image pooling.
GLOBAL_MEAN = ".mean/aten::mean/ReduceMean"


#: Held while a network is converted, because torch's tracer fails if two threads trace at once. If two threads open one
#: file, the second thread finds the first thread's conversion in the cache.
_converting = ForkLock()


class OneSize(NamedTuple):
    """A network compiled for pictures of one shape, H×W×C; the shape () means a network for all shapes."""

    shape: tuple[int, ...]
    network: CompiledNetwork


class OpenVinoEngine:
    """A network in OpenVINO, for pictures of any size; any number of threads may use it at once.

    Args:
        model: path of a model file, whose conversion is cached; or a module, which is converted each time.
        info: the model's metadata.
        precision: float32, bfloat16 or auto; auto is bfloat16 if the processor supports bfloat16, else float32.
        reason: reason for the choice of this engine.
        output_stride: output stride to which the network of a model file is set; None for the file's own. It is ignored
            for a module.

    Attributes:
        engine: engine, device, precision and reason.
        pools: whether the network has image pooling, which adds features of the whole picture to each pixel.
        stacks: False, because on a CPU several pictures are not faster in one batch.

    Raises:
        AtrousError: the precision is unknown, or OpenVINO does not run the network as torch does.
    """

    stacks = False

    def __init__(
        self,
        model: Path | SegmentationModel,
        info: Info,
        precision: str,
        reason: str,
        output_stride: int | None = None,
    ) -> None:
        core = openvino_core()
        if precision == "auto":
            bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bfloat16" if bfloat16 else "float32"
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, ["auto", *PRECISIONS])
        with _converting:
            graph = read_or_convert(core, model, output_stride) if isinstance(model, Path) else convert(model)
        hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY"}
        hints["CPU_RUNTIME_CACHE_CAPACITY"] = KERNELS_KEPT
        self._any_size = CompiledNetwork(core.compile_model(graph, "CPU", hints))
        self._graph, self._hints = graph, hints
        self._compiling = ForkLock(LOST)
        self._one_size: OneSize | None = None
        self._pinned: CompiledNetwork | None = None
        self._upto_mean: CompiledNetwork | None = None
        self.pools = _global_mean(graph) is not None
        self._align_corners = bool(info.arguments.get("align_corners", False))
        self.engine = Engine("openvino", "cpu", precision, reason)

    def check_scores(self) -> None:
        """Does nothing, because every converted network outputs scores."""

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: picture or tile.
            pooled: mean of `features` over the whole picture, C' values, to use for a tile; None for the mean over
                `image`.
        """
        with self._run(image, pooled) as scores:
            return scores.copy()

    def features(self, image: np.ndarray) -> np.ndarray:
        """Maps H×W×C raw values to the h×w×C' float32 features that image pooling averages."""
        with self._compiling:
            self._upto_mean = network = self._upto_mean or self._compile(*_upto_mean(self._graph))
        with network.run([_batch(image)]) as request:
            return request.get_output_tensor(0).data[0].transpose(1, 2, 0).copy()

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to H×W uint8 class indices; arguments as in `scores`."""
        with self._run(image, pooled) as scores:
            return resize_argmax(scores, image.shape[:2], self._align_corners)

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """Maps N×H×W×C raw values to N×H×W uint8 class indices, one picture after another."""
        return np.stack([self.labels(image) for image in images])

    @contextmanager
    def _run(self, image: np.ndarray, pooled: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yields the scores; they are in the runtime's own memory and valid until the context ends."""
        given = [_batch(image)]
        self._release_before(image.size)
        if pooled is None:
            network = self._network_for(image.shape)
        else:
            with self._compiling:
                self._pinned = network = self._pinned or self._compile(*_after_mean(self._graph))
            given.append(pooled[None, :, None, None])
        with ExitStack() as stack:
            try:
                request = stack.enter_context(network.run(given))
            except RuntimeError as error:
                if min(image.shape[:2]) > 1:
                    raise
                raise AtrousError(
                    f"OpenVINO cannot run this network on a picture of {image.shape[0]}×{image.shape[1]} px; the "
                    "engine torch can run it."
                ) from error
            yield request.get_output_tensor(0).data[0]

    def _release_before(self, values: int) -> None:
        """Releases the memory of much larger pictures before the next picture, which has `values` input values."""
        one_size = self._one_size
        if one_size is not None and one_size.shape and one_size.network.release_before(values):
            # The network that was compiled for one size is dropped, too, because it takes as much memory as its
            # buffers.
            self._one_size = OneSize((), self._any_size)
        for network in (self._any_size, self._pinned, self._upto_mean):
            if network is not None:
                network.release_before(values)

    def _network_for(self, shape: tuple[int, ...]) -> CompiledNetwork:
        """Returns the compiled network for a picture of this shape.

        The first large picture gets a network compiled for its size, which later large pictures of this size use, too.
        After the first large picture of another size, all pictures get the network for any size. Compiling takes as
        long as running a picture of two megapixels, so it is done only once.
        """
        if shape[0] * shape[1] < LARGE:
            return self._any_size
        with self._compiling:
            if self._one_size is None:
                graph = self._graph.clone()
                graph.reshape([1, *shape])
                compiled = openvino_core().compile_model(graph, "CPU", self._hints)
                self._one_size = OneSize(shape, CompiledNetwork(compiled))
            if self._one_size.shape != shape:
                self._one_size = OneSize((), self._any_size)
            return self._one_size.network

    def _compile(self, outputs: list[Any], inputs: list[Any]) -> CompiledNetwork:
        """Compiles the part of the graph between inputs and outputs; the graph itself is not changed."""
        import openvino

        make: Any = openvino.Model  # the type stubs have another signature
        return CompiledNetwork(openvino_core().compile_model(make(outputs, inputs), "CPU", self._hints))


def _batch(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image, np.uint8 if image.dtype == np.uint8 else np.float32)[None]


def _global_mean(graph: Any) -> Any:
    """Returns the node that takes the mean over the whole map; None if the graph has none."""
    return next((node for node in graph.get_ops() if node.get_friendly_name().endswith(GLOBAL_MEAN)), None)


def _upto_mean(graph: Any) -> tuple[list[Any], list[Any]]:
    """Returns the outputs and inputs of the part of the network before the mean of image pooling."""
    return [_global_mean(graph).input_value(0)], graph.get_parameters()


def _after_mean(graph: Any) -> tuple[list[Any], list[Any]]:
    """Returns the outputs and inputs of the whole network, with the mean of image pooling as a second input."""
    from openvino import opset13

    copied = graph.clone()
    mean = _global_mean(copied).output(0)
    given = opset13.parameter(mean.get_partial_shape(), np.float32, "pooled")
    for target in mean.get_target_inputs():
        target.replace_source_output(given.output(0))
    return [copied.output(0)], [*copied.get_parameters(), given]


def read_or_convert(core: Any, path: Path, output_stride: int | None = None) -> Any:
    """Returns the converted network of a model file, from the user's cache if possible.

    Args:
        core: OpenVINO's core.
        path: path of the model file.
        output_stride: see `model_file.load`.

    Raises:
        AtrousError: the file is not a model file, or does not support the output stride.
        NotConvertible: the graph's outputs differ from those of the module.
    """
    import openvino

    versions = version("atrous"), KEPT_FORMAT, openvino.__version__
    return openvino_cache.read_or_make(
        core,
        [*versions, model_file.digest_of_file(path), output_stride],
        lambda: convert(model_file.load(path, output_stride=output_stride)),
    )


def convert(model: SegmentationModel) -> Any:
    """Converts a module to an OpenVINO graph: 1×H×W×C raw values → 1×h×w×K float32 logits, for any H and W.

    Raises:
        NotConvertible: OpenVINO cannot convert the module, or the graph's outputs differ from those of the module.
    """
    import openvino
    import torch
    from openvino.preprocess import PrePostProcessor

    from atrous.inference.fold_batch_norm import simplified_pipeline

    pipeline = simplified_pipeline(model)
    channels = model.info.preprocessing.channels
    dtype = torch.uint8 if model.info.preprocessing.dtype == "uint8" else torch.float32
    example = _smooth(channels, CHECKED_SIZES[0]).to(dtype)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of values that tracing may take for constants; see `_check`
            graph = openvino.convert_model(
                pipeline, example_input=example, input=[openvino.PartialShape([1, channels, -1, -1])]
            )
    except Exception as error:  # the tracer may raise any error
        raise NotConvertible(f"OpenVINO cannot convert this network: {str(error).splitlines()[0]}") from error
    steps = PrePostProcessor(graph)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.output().tensor().set_layout(openvino.Layout("NHWC"))
    steps.output().model().set_layout(openvino.Layout("NCHW"))
    graph = steps.build()
    _check(graph, pipeline, channels, dtype)
    return graph


def _check(graph: Any, pipeline: Any, channels: int, dtype: Any) -> None:
    """Compares the outputs of graph and module at two sizes, because tracing may take a size for a constant."""
    import torch

    compiled = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in CHECKED_SIZES:
        picture = _smooth(channels, size).to(dtype)
        with torch.inference_mode():
            expected = pipeline(picture)[0].permute(1, 2, 0).numpy()
        found = compiled([picture.permute(0, 2, 3, 1).numpy()])[0][0]
        same = found.shape == expected.shape
        if not same or np.abs(found - expected).max() > TOLERANCE * max(np.abs(expected).max(), 1e-6):
            raise NotConvertible(
                f"OpenVINO gives other scores for this network than torch, on a picture of {size[0]}×{size[1]} px."
            )


def _smooth(channels: int, size: tuple[int, int]) -> Any:
    """Returns a 1×C×H×W picture of waves with values 0–255; with noise, most of a network's paths would be unused."""
    import torch

    rows, columns = (torch.linspace(0, 1, side) for side in size)
    waves = [
        torch.sin(9 * (one + 1) * rows)[:, None] * torch.cos(7 * (one + 2) * columns)[None] for one in range(channels)
    ]
    return (torch.stack(waves)[None] + 1) * 127.5
