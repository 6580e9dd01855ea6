"""Reads the convolutions of a TensorFlow Lite file: their weights, strides and atrous rates. No code of the file runs.

The weights of the file are float32 or quantised to 8 bits; quantised weights are converted to float32.

The file is a flatbuffer (schema: tensorflow/lite/schema/schema.fbs). In a damaged file, its offsets may be wrong. So
every index is checked against its table, and the tensors together may not have more bytes than the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError, missing_extra

#: Bytes 4 to 8 of every file.
IDENTIFIER = b"TFL3"
#: The limit of the format itself, because its offsets are signed 32-bit numbers.
LARGEST_FILE = 2**31
#: Limit on operators: far above the graph of a segmenter (70), and low enough for quick reading.
MOST_OPERATORS = 5_000

#: TensorType → NumPy's type, for weights and biases of convolutions.
DTYPES = {0: "<f4", 2: "<i4", 3: "u1", 9: "i1"}
FLOAT32, UINT8, INT8 = 0, 3, 9
#: TensorType of an integer input → number that is added to its values to get pixel values of 0–255.
FROM_UINT8 = {UINT8: 0, INT8: 128}
#: Numbers of operators in BuiltinOperator.
CONV_2D, DEPTHWISE_CONV_2D, RESIZE_BILINEAR = 3, 4, 23
#: Number in ActivationFunctionType → activation, and number of SAME in Padding.
ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}
SAME = 0

#: Exceptions that wrong offsets can cause.
DAMAGE = (struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a graph.

    Attributes:
        name: name of the weights tensor in the file.
        weights: O×kh×kw×I, or 1×kh×kw×C for a depthwise convolution; float32, dequantised.
        bias: one value per output channel, float32; zeros if the file has no bias.
        depthwise: whether each channel has its own filter.
        stride: stride in input pixels, the same in height and width.
        dilation: atrous rate, the same in height and width.
        activation: activation fused into the convolution: "none", "relu" or "relu6".
    """

    name: str
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    depthwise: bool
    stride: int
    dilation: int
    activation: str


@dataclass(frozen=True)
class Graph:
    """The network in a TensorFlow Lite file.

    Attributes:
        convolutions: convolutions in order of execution.
        input_shape: N, H, W, C of the input.
        input_scale: (scale, zero point) of a quantised input. A picture x of 0–255 has the real values scale · (x −
            zero point). An int8 input takes x − 128; the zero point here includes this offset. None for a float input.
        corners: pixel positions of the last bilinear resize; None if the graph has no such resize. With "aligned", the
            centres of the corner pixels coincide. With "half_pixel" (PyTorch's default), the edges of the corner pixels
            coincide. With "top_left" (TensorFlow 1's default), the centres of the first pixels coincide.
    """

    convolutions: tuple[Convolution, ...]
    input_shape: tuple[int, ...]
    input_scale: tuple[float, float] | None
    corners: str | None


def read_graph(path: Path) -> Graph:
    """Reads the convolutions of a file's first graph.

    Args:
        path: a .tflite file; float32, or quantised to 8 bits.

    Raises:
        AtrousError: the file is not a TensorFlow Lite file, is damaged or has an unsupported part, which the message
            names; or the package `tflite` is not installed.
    """
    data = _bytes(path)
    try:
        return _File(path.name, data).graph()
    except AtrousError:
        raise
    except DAMAGE as error:
        raise AtrousError(
            f"{path.name} is damaged: its tables point outside the file ({error}). Fetch or export it again."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise AtrousError(f"{path.name} has {size} bytes; a TensorFlow Lite file has at most {LARGEST_FILE}.")
        data = path.read_bytes()
    except OSError as error:
        raise AtrousError(f"{path} cannot be read: {error.strerror}.") from error
    if data[4:8] != IDENTIFIER:
        raise AtrousError(
            f"{path.name} is not a TensorFlow Lite file: it has {data[4:8]!r} at byte 4 instead of 'TFL3'."
        )
    return data


class _File:
    """The tables of a file; every index is checked before it is used."""

    def __init__(self, name: str, data: bytes) -> None:
        try:
            from tflite.Model import Model
        except ImportError as error:
            raise missing_extra("tflite", "tflite") from error
        self.name = name
        self.model = Model.GetRootAs(data, 0)
        self.subgraph = self._one("graph", self.model.Subgraphs, self.model.SubgraphsLength(), 0)
        self.bytes_left = len(data)

    def graph(self) -> Graph:
        shape, scale = self._input()
        operators = list(self._operators())
        convolutions = tuple(
            self._convolution(code, operator) for code, operator in operators if code in (CONV_2D, DEPTHWISE_CONV_2D)
        )
        resizes = [operator for code, operator in operators if code == RESIZE_BILINEAR]
        return Graph(convolutions, shape, scale, _corners(resizes[-1]) if resizes else None)

    def _operators(self) -> Iterator[tuple[int, Any]]:
        count = self.subgraph.OperatorsLength()
        if count > MOST_OPERATORS:
            raise AtrousError(f"{self.name} has {count} operators; at most {MOST_OPERATORS} are read. Is it damaged?")
        for index in range(count):
            operator = self._one("operator", self.subgraph.Operators, count, index)
            opcode = self._one(
                "operator code", self.model.OperatorCodes, self.model.OperatorCodesLength(), operator.OpcodeIndex()
            )
            # Files that were written before 2020 have the code only in the first of these fields.
            yield max(opcode.DeprecatedBuiltinCode(), opcode.BuiltinCode()), operator

    def _input(self) -> tuple[tuple[int, ...], tuple[float, float] | None]:
        if not self.subgraph.InputsLength():
            raise AtrousError(f"{self.name} has a graph without input.")
        tensor = self._tensor(self.subgraph.Inputs(0))
        scale, zero = self._quantisation(tensor)
        if tensor.Type() == FLOAT32:
            return self._shape(tensor), None
        if tensor.Type() not in FROM_UINT8 or scale is None or not scale[0] > 0:
            raise AtrousError(
                f"{self.name}: its input has type number {tensor.Type()} and the scale {scale}. Export the model with "
                "an input of float32, or of uint8 or int8 with a scale above 0."
            )
        return self._shape(tensor), (float(scale[0]), float(zero[0]) + FROM_UINT8[tensor.Type()])

    def _convolution(self, code: int, operator: Any) -> Convolution:
        options = _options(operator, code)
        name = self._name(self._tensor(operator.Inputs(1)))
        if options.StrideH() != options.StrideW() or options.DilationHFactor() != options.DilationWFactor():
            raise AtrousError(f"{self.name}: '{name}' has another stride or dilation in height than in width.")
        if options.Padding() != SAME:
            raise AtrousError(f"{self.name}: '{name}' is padded as VALID; only SAME is supported.")
        activation = options.FusedActivationFunction()
        if activation not in ACTIVATIONS:
            raise AtrousError(
                f"{self.name}: '{name}' has activation {activation}; only ReLU, ReLU6 or none is supported."
            )
        weights = self._values(operator.Inputs(1), rank=4)
        outputs = weights.shape[3 if code == DEPTHWISE_CONV_2D else 0]
        has_bias = operator.InputsLength() > 2 and operator.Inputs(2) >= 0
        bias = self._values(operator.Inputs(2), rank=1) if has_bias else np.zeros(outputs, np.float32)
        if len(bias) != outputs:
            raise AtrousError(f"{self.name}: '{name}' has {outputs} output channels and {len(bias)} biases.")
        return Convolution(
            name,
            weights,
            bias,
            code == DEPTHWISE_CONV_2D,
            options.StrideH(),
            options.DilationHFactor(),
            ACTIVATIONS[activation],
        )

    def _values(self, index: int, rank: int) -> NDArray[np.float32]:
        """Copies a constant tensor to float32, dequantised."""
        tensor = self._tensor(index)
        name, shape = self._name(tensor), self._shape(tensor)
        if tensor.Type() not in DTYPES or len(shape) != rank:
            raise AtrousError(
                f"{self.name}: '{name}' has type number {tensor.Type()} and shape {shape}; it must have {rank} "
                "dimensions of float32, int32 or 8-bit integers. Export the model as float32 or quantised to 8 bits."
            )
        buffer = self._one("buffer", self.model.Buffers, self.model.BuffersLength(), tensor.Buffer())
        if not buffer.DataLength():
            raise AtrousError(f"{self.name}: '{name}' is computed by the graph; only stored weights are supported.")
        self._spend(buffer.DataLength())
        raw = buffer.DataAsNumpy().view(DTYPES[tensor.Type()]).reshape(shape)
        values = raw.astype(np.float32) if tensor.Type() == FLOAT32 else self._dequantised(name, tensor, raw)
        if not np.isfinite(values).all():
            raise AtrousError(f"{self.name}: '{name}' has values that are not finite; the file is damaged.")
        return values

    def _spend(self, size: int) -> None:
        # Without this limit, thousands of convolutions of a small file could share one buffer or name, and fill memory.
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise AtrousError(
                f"{self.name} is damaged: its tensors overlap; together they have more bytes than the file."
            )

    def _dequantised(self, name: str, tensor: Any, raw: NDArray[Any]) -> NDArray[np.float32]:
        scale, zero = self._quantisation(tensor)
        if scale is None:
            raise AtrousError(f"{self.name}: '{name}' has integers but has no scale.")
        along = [1] * raw.ndim
        if len(scale) > 1:
            along[tensor.Quantization().QuantizedDimension()] = -1
        with np.errstate(invalid="ignore", over="ignore"):  # _values refuses values that are not finite
            return (raw.astype(np.float32) - zero.astype(np.float32).reshape(along)) * scale.reshape(along)

    def _quantisation(self, tensor: Any) -> tuple[NDArray[np.float32] | None, NDArray[np.int64]]:
        """Returns the scales and zero points, one per tensor or per channel; the scale is None without quantisation."""
        record = tensor.Quantization()
        if record is None or not record.ScaleLength():
            return None, np.zeros(1, np.int64)
        scale = record.ScaleAsNumpy()
        return scale, record.ZeroPointAsNumpy() if record.ZeroPointLength() else np.zeros(len(scale), np.int64)

    def _shape(self, tensor: Any) -> tuple[int, ...]:
        count = tensor.ShapeLength()
        return tuple(int(size) for size in tensor.ShapeAsNumpy()) if 0 < count <= 8 else ()

    def _name(self, tensor: Any) -> str:
        name = tensor.Name()
        self._spend(len(name))
        found = name.decode(errors="replace")
        if not found.isprintable():
            raise AtrousError(f"{self.name} has a tensor named {found[:60]!r}: it is damaged or altered.")
        return found

    def _tensor(self, index: int) -> Any:
        return self._one("tensor", self.subgraph.Tensors, self.subgraph.TensorsLength(), index)

    def _one(self, kind: str, table: Any, count: int, index: int) -> Any:
        if not 0 <= index < count:
            raise AtrousError(f"{self.name} is damaged: it names {kind} {index}, but the number of entries is {count}.")
        return table(index)


def _options(operator: Any, code: int) -> Any:
    """Returns the options of a convolution or a resize, from the operator's union."""
    from tflite.Conv2DOptions import Conv2DOptions
    from tflite.DepthwiseConv2DOptions import DepthwiseConv2DOptions
    from tflite.ResizeBilinearOptions import ResizeBilinearOptions

    table = operator.BuiltinOptions()
    options = {
        CONV_2D: Conv2DOptions,
        DEPTHWISE_CONV_2D: DepthwiseConv2DOptions,
        RESIZE_BILINEAR: ResizeBilinearOptions,
    }[code]()
    options.Init(table.Bytes, table.Pos)
    return options


def _corners(resize: Any) -> str:
    options = _options(resize, RESIZE_BILINEAR)
    if options.AlignCorners():
        return "aligned"
    return "half_pixel" if options.HalfPixelCenters() else "top_left"
