"""Reads the metadata of exported files, and runs the files in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from atrous.errors import AtrousError, missing_extra, unknown_name
from atrous.fork_safety import leave_to_parent
from atrous.inference.choose_engine import Engine
from atrous.inference.onnx_metadata import read_property
from atrous.inference.openvino_core import KERNELS_KEPT, CompiledNetwork, openvino_core
from atrous.inference.resize_argmax import resize_argmax
from atrous.json_yaml import parse_json
from atrous.model_file import sha256_of

if TYPE_CHECKING:
    from atrous.models.info import Info

#: Key of the model's metadata: a property of an ONNX file, an entry of OpenVINO's rt_info, an extra file of a .pt2.
INFO_KEY = "atrous"
#: Key, in the .xml file, of the SHA-256 of the .bin file. If the .bin file has another SHA-256, the two files do not
#: belong together.
WEIGHTS_KEY = "atrous_weights"

#: Reason for the choice of the engine, for exported files.
REASON = "the runtime the file was exported for"

#: Precisions of atrous → names in OpenVINO. If no precision is set, OpenVINO uses bfloat16 on processors on which
#: bfloat16 is fast.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def is_exported(path: str | Path) -> bool:
    """Returns whether a path has the suffix of an exported file that atrous can run: .onnx or .xml."""
    return Path(path).suffix.lower() in (".onnx", ".xml")


def is_named_as_exported(path: str | Path) -> bool:
    """Returns whether a file may be an output of `atrous export`, including .pt2 and .bin, which atrous cannot run."""
    path = Path(path)
    suffix = path.suffix.lower()
    return is_exported(path) or suffix == ".pt2" or (suffix == ".bin" and not _is_torch_file(path))


def read_info(path: str | Path) -> Info:
    """Reads the model's metadata from an exported file; no runtime is needed.

    Args:
        path: path of a .onnx or .xml file written by `atrous export`.

    Raises:
        AtrousError: the file is missing, has another format, is damaged, or was not written by atrous.
    """
    from atrous.models.info import Info

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        raise AtrousError(
            f"{path} is for other programs: a .pt2 file contains pickles, which atrous never reads. Export the model "
            "as onnx or openvino to run it in atrous."
        )
    if suffix == ".bin":
        beside = path.with_suffix(".xml")
        raise AtrousError(
            f"{path} contains only the weights: give {beside}."
            if beside.is_file()
            else f"{path} may be the weights of an exported file: give its .xml file; {beside} does not exist."
            if path.is_file()
            else f"no file at {path}; for an exported model, give the .xml file."
        )
    if not is_exported(path):
        raise AtrousError(f"{path} is not an exported file: the names of exported files end in .onnx or .xml.")
    if not path.is_file():
        raise AtrousError(f"no exported file at {path}.")
    try:
        record = read_property(path, INFO_KEY) if suffix == ".onnx" else _rt_info(path, INFO_KEY)
    except (ValueError, IndexError, OSError, ElementTree.ParseError) as error:
        raise AtrousError(f"{path} is damaged or not a {suffix} file: {error}. Export it again.") from error
    if record is None:
        raise AtrousError(
            f"{path} was not written by atrous: it has no model metadata, so its classes and inputs are unknown. Only "
            "files of `atrous export` can be run."
        )
    try:
        return Info.from_dict(parse_json(record, "its metadata"))
    except (ValueError, TypeError, AttributeError) as error:  # AtrousError is a ValueError
        raise AtrousError(f"{path}: {error}") from error


def write_openvino(model: Any, record: str, path: Path, *, half: bool = False) -> None:
    """Writes an OpenVINO model as an .xml and a .bin file; the .xml contains the SHA-256 of the .bin.

    Args:
        model: OpenVINO model; the metadata is added to it.
        record: the model's metadata, as JSON.
        path: path of the .xml file.
        half: True to store the weights in 16 bits.
    """
    import openvino

    model.set_rt_info(record, [INFO_KEY])
    openvino.save_model(model, path, compress_to_fp16=half)
    model.set_rt_info(sha256_of(path.with_suffix(".bin")), [WEIGHTS_KEY])
    openvino.save_model(model, path, compress_to_fp16=half)


def open_graph(path: str | Path, engine: str, device: str, precision: str) -> OnnxGraph | OpenVinoGraph:
    """Opens an exported file to run it.

    Args:
        path: path of a .onnx or .xml file.
        engine: auto, or the file's runtime: onnxruntime for .onnx, openvino for .xml.
        device: auto or cpu; exported files run only on the CPU.
        precision: auto or float32. Both mean float32, in which the export was checked. For an .xml file, bfloat16 is
            also allowed.

    Raises:
        AtrousError: the file is not an exported file, or does not support the engine, device or precision.
    """
    runtime = "onnxruntime" if Path(path).suffix.lower() == ".onnx" else "openvino"
    for name, given, allowed in (
        ("engine", engine, ["auto", runtime]),
        ("device", device, ["auto", "cpu"]),
        ("precision", precision, ["auto", *PRECISIONS] if runtime == "openvino" else ["auto", "float32"]),
    ):
        if given not in allowed:
            raise AtrousError(
                f"{path} runs in {runtime} on the CPU: {name} must be {' or '.join(allowed)}, got {given}."
            )
    if runtime == "onnxruntime":
        return OnnxGraph(path)
    return OpenVinoGraph(path, precision="float32" if precision == "auto" else precision, tail=False)


class OnnxGraph:
    """An exported .onnx file in ONNX Runtime on the CPU; any number of threads may use it at once.

    Args:
        path: path of the file.
        threads: number of threads that compute one picture; None for one per core.

    Attributes:
        info: the model's metadata.
        engine: runtime, device and precision.
        has_scores: whether the graph outputs scores besides labels.
        pools: False, because the graph has no input for the pooled features of the whole picture.
        stacks: False, because each call of the runtime runs one picture.

    Raises:
        AtrousError: the file is not an exported file or is damaged, or onnxruntime is not installed.
    """

    pools = stacks = False

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.info = read_info(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "onnx") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # avoids warnings about unused initialisers
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no narrower base class
            raise _cannot_run(path, "ONNX Runtime", error) from error
        leave_to_parent(self._session)
        self._path = Path(path)
        self.engine = Engine("onnxruntime", "cpu", "float32", REASON)
        self.has_scores = _has_scores(self.info, [output.name for output in self._session.get_outputs()], path)

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to H×W uint8 class indices; arguments as in `scores`."""
        if pooled is not None:
            raise _without_pooling()
        return self._run(self.info.tasks[0].outputs[0], image)

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """Maps N×H×W×C raw values to N×H×W uint8 class indices, one picture after another."""
        return np.stack([self.labels(image) for image in images])

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: picture or tile; uint8 for models of 8-bit pictures.
            pooled: must be None.

        Raises:
            AtrousError: the file outputs only labels.
        """
        if pooled is not None:
            raise _without_pooling()
        self.check_scores()
        return self._run(self.info.tasks[0].outputs[1], image).transpose(1, 2, 0)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Raises an AtrousError, because exported files output only labels and scores."""
        raise _without_pooling()

    def check_scores(self) -> None:
        """Checks, before a picture is run, that the file outputs scores.

        Raises:
            AtrousError: the file outputs only labels.
        """
        _check_scores(self.has_scores, self._path)

    def _run(self, output: str, image: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run([output], {"image": _batch(image, self.info)})[0])[0]


class OpenVinoGraph:
    """An exported .xml file, with its .bin, in OpenVINO on the CPU; any number of threads may use it at once.

    Args:
        path: path of the .xml file.
        threads: number of threads that compute one picture; None for one per core.
        precision: float32 or bfloat16. On processors that support bfloat16, bfloat16 is faster, and some pixels of the
            mask change.
        tail: True to use the labels that the graph computes by an argmax at full size. False to compute the labels from
            the graph's scores, if the graph outputs scores. False is faster; labels differ only at pixels where classes
            tie.

    Attributes:
        info: the model's metadata.
        engine: runtime, device and precision.
        has_scores: whether the graph outputs scores besides labels.
        pools: False, because the graph has no input for the pooled features of the whole picture.
        stacks: False, because each call of the runtime runs one picture.

    Raises:
        AtrousError: the file is not an exported file, is damaged or lacks its .bin; the precision is unknown; or
            openvino is not installed.
    """

    pools = stacks = False

    def __init__(
        self, path: str | Path, threads: int | None = None, *, precision: str = "float32", tail: bool = True
    ) -> None:
        self.info = read_info(path)
        try:
            import openvino
        except ImportError as error:
            raise missing_extra("openvino", "openvino") from error
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        hints["CPU_RUNTIME_CACHE_CAPACITY"] = KERNELS_KEPT
        if threads:
            hints["INFERENCE_NUM_THREADS"] = str(threads)
        _check_weights(Path(path))
        try:
            core = openvino_core()
            graph = core.read_model(path)
            names = [name for output in graph.outputs for name in output.get_names()]
            self.has_scores = _has_scores(self.info, names, path)
            self._tail = tail or not self.has_scores
            if not self._tail:
                make: Any = openvino.Model  # the type stubs have another signature
                graph = make([graph.output(self.info.tasks[0].outputs[1])], graph.get_parameters())
            self._network = CompiledNetwork(core.compile_model(graph, "CPU", hints))
        except Exception as error:  # OpenVINO's errors have no narrower base class
            raise _cannot_run(path, "OpenVINO", error, f", or {Path(path).with_suffix('.bin')} beside it") from error
        self._path = Path(path)
        self.engine = Engine("openvino", "cpu", precision, REASON)
        self._align_corners = bool(self.info.arguments.get("align_corners", False))

    def labels(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to H×W uint8 class indices; arguments as in `scores`."""
        if pooled is not None:
            raise _without_pooling()
        if self._tail:
            return self._run(self.info.tasks[0].outputs[0], image)
        return resize_argmax(self.scores(image), image.shape[:2], self._align_corners)

    def labels_of_all(self, images: np.ndarray) -> np.ndarray:
        """Maps N×H×W×C raw values to N×H×W uint8 class indices, one picture after another."""
        return np.stack([self.labels(image) for image in images])

    def scores(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        """Maps H×W×C raw values to h×w×K float32 logits at the low resolution of the network's output.

        Args:
            image: picture or tile; uint8 for models of 8-bit pictures.
            pooled: must be None.

        Raises:
            AtrousError: the file outputs only labels.
        """
        if pooled is not None:
            raise _without_pooling()
        self.check_scores()
        return self._run(self.info.tasks[0].outputs[1], image).transpose(1, 2, 0)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Raises an AtrousError, because exported files output only labels and scores."""
        raise _without_pooling()

    def check_scores(self) -> None:
        """Checks, before a picture is run, that the file outputs scores.

        Raises:
            AtrousError: the file outputs only labels.
        """
        _check_scores(self.has_scores, self._path)

    def _run(self, output: str, image: np.ndarray) -> np.ndarray:
        with self._network.run([_batch(image, self.info)]) as request:
            return request.get_tensor(output).data[0].copy()


def _is_torch_file(path: Path) -> bool:
    """Returns whether a .bin file is a checkpoint of torch, by its first bytes, and not the weights of an .xml file."""
    if not path.is_file() or path.with_suffix(".xml").is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def _rt_info(path: Path, key: str) -> str | None:
    entry = ElementTree.parse(path).getroot().find(f"rt_info/{key}")
    return None if entry is None else entry.get("value")


def is_weights_of(path: Path, weights: Path) -> bool:
    """Returns whether a .bin file contains the weights with which an .xml file was written.

    Args:
        path: path of the .xml file, which may be missing.
        weights: path of the .bin file.
    """
    try:
        recorded = _rt_info(path, WEIGHTS_KEY)
    except (OSError, ElementTree.ParseError):
        return False
    return recorded is not None and weights.is_file() and sha256_of(weights) == recorded


def _check_weights(path: Path) -> None:
    """Raises an error if the .bin file does not belong to the .xml file; OpenVINO does not check this."""
    weights, recorded = path.with_suffix(".bin"), _rt_info(path, WEIGHTS_KEY)
    if recorded is not None and weights.is_file() and sha256_of(weights) != recorded:
        raise AtrousError(
            f"{path} and {weights} do not belong together: one of them is damaged or from another export. Export the "
            "model again."
        )


def _batch(image: np.ndarray, info: Info) -> np.ndarray:
    """Converts an H×W×C picture to a 1×C×H×W batch of the graph's input type."""
    channels = info.preprocessing.channels
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise AtrousError(f"the model takes pictures of H×W×{channels}, got {'×'.join(map(str, image.shape))}.")
    dtype = np.uint8 if info.preprocessing.dtype == "uint8" else np.float32
    if dtype == np.uint8 and image.dtype != np.uint8:
        raise AtrousError(f"the model takes pictures of uint8, got {image.dtype}: scale the values to 0–255 and round.")
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype)[None]


def _without_pooling() -> AtrousError:
    return AtrousError("an exported file has no input or output for image pooling: give the model file instead.")


def _has_scores(info: Info, outputs: Sequence[str], path: str | Path) -> bool:
    """Returns whether a graph outputs scores besides labels; raises an error if it does not output labels."""
    labels, scores = info.tasks[0].outputs
    if labels not in outputs:
        raise AtrousError(
            f"{path} is damaged: its metadata names the output '{labels}', but its graph has the outputs "
            f"{', '.join(outputs) or '(none with a name)'}. Export it again."
        )
    return scores in outputs


def _check_scores(has_scores: bool, path: Path) -> None:
    if not has_scores:
        raise AtrousError(
            f"{path} gives labels only, but scales, flip and CRF need scores: export the model again with --scores."
        )


def _cannot_run(path: str | Path, runtime: str, error: Exception, beside: str = "") -> AtrousError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return AtrousError(
        f"{path}{beside} is damaged, or this {runtime} cannot run it: {lines[-1][:200]}. Export it again."
    )
