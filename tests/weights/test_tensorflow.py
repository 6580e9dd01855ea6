""".tflite files written here, run by LiteRT and converted; damaged and hostile ones; a checkpoint's own layout."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from atrous import convert
from atrous.errors import AtrousError
from atrous.weights import tensorflow
from atrous.weights.read_checkpoint import Foreign, read
from atrous.weights.tflite_names import read_tflite

pytest.importorskip("tflite")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")

CLASSES = 5
#: A quarter of MobileNetV2's width: channels out of each of the 17 blocks.
CHANNELS = [4, 6, 6, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 40, 40, 40, 80]
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 3}


class Writer:
    """A TensorFlow Lite file of the whole network with drawn weights."""

    def __init__(self, height: int, width: int, output_stride: int, names=("{}/weights", "{}/depthwise_weights")):
        self.random = np.random.RandomState(0)
        self.names = names
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []
        images = self.tensor("input", (1, height, width, 3))
        self.graph.inputs, self.graph.outputs = [images], [self.network(images, output_stride, (height, width))]

    def network(self, images: int, output_stride: int, size: tuple[int, int]) -> int:
        x = self.conv("MobilenetV2/Conv", images, 8, kernel=3, stride=2, activation="relu6")
        stride, rate = 2, 1
        for number, nominal in enumerate(tensorflow.STRIDES):
            name = f"MobilenetV2/expanded_conv_{number}" if number else "MobilenetV2/expanded_conv"
            taken = nominal if stride < output_stride else 1
            expanded = (6 * self.shape(x)[3] + 4) // 8 * 8  # slim rounds these to 8 at every width
            y = self.conv(f"{name}/expand", x, expanded, activation="relu6") if number else x
            y = self.conv(f"{name}/depthwise", y, 0, kernel=3, stride=taken, rate=rate, activation="relu6")
            y = self.conv(f"{name}/project", y, CHANNELS[number])
            x = self.add(x, y) if taken == 1 and self.shape(x) == self.shape(y) else y
            stride, rate = stride * taken, rate * nominal // taken
        pooled = self.conv("image_pooling", self.pool(x), 256, activation="relu")
        pooled = self.resize(pooled, self.shape(x)[1:3])
        point = self.conv("aspp0", x, 256, activation="relu")
        x = self.conv("concat_projection", self.concatenate(pooled, point), 256, activation="relu")
        return self.resize(self.conv("logits/semantic", x, CLASSES), size)

    def tensor(self, name: str, shape: tuple[int, ...], values: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), 0, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.type = {"float32": 0, "int32": 2, "int8": 9}[str(values.dtype)]
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.graph.tensors[tensor].shape)

    def operator(self, code: str, inputs: list[int], shape: tuple[int, ...], options=None, kind: str = "NONE") -> int:
        number = getattr(schema.BuiltinOperator, code)
        known = [entry.builtinCode for entry in self.model.operatorCodes]
        if number not in known:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = number
            entry.version = 2 if code == "DEPTHWISE_CONV_2D" else 1
            self.model.operatorCodes.append(entry)
            known.append(number)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs = known.index(number), inputs
        operator.outputs = [self.tensor(f"{code}_{len(self.graph.tensors)}", shape)]
        operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(operator)
        return operator.outputs[0]

    def conv(self, name, x, outputs, *, kernel=1, stride=1, rate=1, activation="none") -> int:
        depthwise = not outputs
        code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = rate
        options.fusedActivationFunction = ACTIVATIONS[activation]
        if depthwise:
            options.depthMultiplier, outputs = 1, self.shape(x)[3]
        inputs = 1 if depthwise else self.shape(x)[3]
        shape = (1, kernel, kernel, outputs) if depthwise else (outputs, kernel, kernel, inputs)
        weights = self.random.normal(0, (2 / (kernel**2 * inputs)) ** 0.5, shape).astype(np.float32)
        bias = self.random.normal(0, 0.1, outputs).astype(np.float32)
        constants = [
            self.tensor(self.names[depthwise].format(name), shape, weights),
            self.tensor(f"{name}/bias", (outputs,), bias),
        ]
        _, height, width, _ = self.shape(x)
        result = (1, -(-height // stride), -(-width // stride), outputs)
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        return self.operator(code, [x, *constants], result, options, kind)

    def add(self, x: int, y: int) -> int:
        return self.operator("ADD", [x, y], self.shape(x), schema.AddOptionsT(), "AddOptions")

    def pool(self, x: int) -> int:
        options = schema.Pool2DOptionsT()
        _, options.filterHeight, options.filterWidth, channels = self.shape(x)
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = 1
        return self.operator("AVERAGE_POOL_2D", [x], (1, 1, 1, channels), options, "Pool2DOptions")

    def resize(self, x: int, size: tuple[int, ...]) -> int:
        options = schema.ResizeBilinearOptionsT()
        options.alignCorners = True
        target = self.tensor("size", (2,), np.array(size, np.int32))
        result = (1, *size, self.shape(x)[3])
        return self.operator("RESIZE_BILINEAR", [x, target], result, options, "ResizeBilinearOptions")

    def concatenate(self, x: int, y: int) -> int:
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        result = (*self.shape(x)[:3], self.shape(x)[3] + self.shape(y)[3])
        return self.operator("CONCATENATION", [x, y], result, options, "ConcatenationOptions")

    def convolutions(self):
        return [operator for operator in self.graph.operators if len(operator.inputs) == 3]

    def weights_of(self, layer: str):
        return next(tensor for tensor in self.graph.tensors if tensor.name.startswith(f"{layer}/") and tensor.buffer)

    def write(self, folder) -> str:
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        (folder / "it.tflite").write_bytes(builder.Output())
        return str(folder / "it.tflite")


def quantise(writer: Writer, layer: str) -> np.ndarray:
    """Makes a layer's weights int8 with a scale for each output channel; returns what they then stand for."""
    tensor = writer.weights_of(layer)
    axis = 3 if layer.endswith("depthwise") else 0
    values = np.frombuffer(bytes(writer.model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)
    others = tuple(index for index in range(4) if index != axis)
    scale = np.abs(values).max(others).astype(np.float32) / 127
    along = scale.reshape([-1 if index == axis else 1 for index in range(4)])
    whole = np.round(values / along).astype(np.int8)
    record = schema.QuantizationParametersT()
    record.scale, record.zeroPoint, record.quantizedDimension = scale, np.zeros(len(scale), np.int64), axis
    tensor.type, tensor.quantization = 9, record
    writer.model.buffers[tensor.buffer].data = np.frombuffer(whole.tobytes(), np.uint8)
    return whole * along


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(65, 65), (64, 96), (70, 101)])
def test_a_file_converted_gives_what_litert_makes_of_it(tmp_path, size, output_stride):
    """At even sizes too, where SAME pads unevenly, and a layer that lost its stride evenly."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    file = Writer(*size, output_stride).write(tmp_path)
    model = convert(file, source="tensorflow")
    assert model.info.arguments["backbone"] == "google_mobilenetv2_025"
    assert model.info.arguments["output_stride"] == output_stride
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = run(interpreter.Interpreter(file, num_threads=1), images.permute(0, 2, 3, 1).contiguous().numpy())
    assert expected.std() > 0.05
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def writer():
    return Writer(33, 33, 16)


def test_the_reader_takes_names_as_mlir_writes_them(tmp_path):
    names = "{0}/Conv2D_Fold;{0}/weights_quant/FakeQuantWithMinMaxVars", "{0}/depthwise_Fold;{0}/weights_quant/Fake"
    one, other = Writer(33, 33, 16, names), Writer(33, 33, 16)
    found = read_tflite(one.write(tmp_path))[0]
    expected = read_tflite(other.write(tmp_path))[0]
    assert found.keys() == expected.keys() and len(found) == 110
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("layer", ["concat_projection", "MobilenetV2/expanded_conv_3/depthwise"])
def test_weights_with_a_scale_per_channel_are_dequantised(tmp_path, writer, layer):
    expected = quantise(writer, layer)
    leaf = "depthwise_weights" if layer.endswith("depthwise") else "weights"
    found = read_tflite(writer.write(tmp_path))[0][f"{layer}/{leaf}"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def quantise_input(writer: Writer, dtype: str, zero: int, scale: float = 1 / 128) -> None:
    """Gives the network an integer input, which its first operator turns into floats."""
    images = writer.graph.inputs[0]
    given = writer.tensor("integers", writer.shape(images))
    record = schema.QuantizationParametersT()
    record.scale, record.zeroPoint = [scale], [zero]
    writer.graph.tensors[given].type = {"uint8": 3, "int8": 9, "int16": 7}[dtype]
    writer.graph.tensors[given].quantization = record
    writer.operator("DEQUANTIZE", [given], writer.shape(images), schema.DequantizeOptionsT(), "DequantizeOptions")
    first = writer.graph.operators.pop()
    first.outputs, writer.graph.inputs = [images], [given]
    writer.graph.operators.insert(0, first)


@pytest.mark.parametrize(("dtype", "zero", "mean"), [("uint8", 127, 127), ("int8", -1, 127), ("int8", 0, 128)])
def test_an_integer_input_says_its_own_preprocessing(tmp_path, writer, dtype, zero, mean):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    quantise_input(writer, dtype, zero)
    file = writer.write(tmp_path)
    model = convert(file, source="tensorflow")
    preprocessing = model.info.preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((mean,) * 3, (128.0,) * 3)
    picture = np.random.default_rng(0).integers(0, 256, (33, 33, 3), np.uint8)
    integers = picture if dtype == "uint8" else (picture.astype(int) - 128).astype(np.int8)
    expected = run(interpreter.Interpreter(file, num_threads=1), integers[None])
    normalised = (torch.from_numpy(picture).float().permute(2, 0, 1)[None] - mean) / 128
    with torch.no_grad():
        torch.testing.assert_close(model(normalised), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 1 / 128), ("uint8", 0.0), ("int8", -1.0)])
def test_other_integer_inputs_are_refused(tmp_path, writer, dtype, scale):
    quantise_input(writer, dtype, 0, scale)
    with pytest.raises(AtrousError, match="its input has type number"):
        convert(writer.write(tmp_path), source="tensorflow")


def run(interpreter, images: np.ndarray) -> torch.Tensor:
    """What a file gives for N×H×W×C images, as N×C×H×W."""
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def test_half_pixel_centers_are_pytorchs(tmp_path, writer):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    last = writer.graph.operators[-1].builtinOptions
    last.alignCorners, last.halfPixelCenters = False, True
    file = writer.write(tmp_path)
    model = convert(file, source="tensorflow")
    assert model.info.arguments["align_corners"] is False
    images = torch.randn(1, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    expected = run(interpreter.Interpreter(file, num_threads=1), images.permute(0, 2, 3, 1).contiguous().numpy())
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)


def test_the_first_tensorflows_corners_are_refused_unless_their_shift_is_accepted(tmp_path, writer):
    writer.graph.operators[-1].builtinOptions.alignCorners = False
    file = writer.write(tmp_path)
    with pytest.raises(AtrousError, match="neither align_corners nor half_pixel_centers"):
        convert(file, source="tensorflow")
    assert convert(file, source="tensorflow", align_corners=False).info.arguments["align_corners"] is False


def test_the_general_reader_hands_over_what_the_graph_says(tmp_path, writer):
    file = read(writer.write(tmp_path))
    assert file.config["output_stride"] == 16
    assert file.config["corners"] == "aligned"
    assert file.config["dilations"]["MobilenetV2/expanded_conv_16/depthwise"] == 2
    assert tensorflow.recognises(file)
    assert convert(tmp_path / "it.tflite").info.provenance["source"] == "tensorflow"


@pytest.mark.slow
def test_a_checkpoints_own_layout_and_norms_give_the_same_model(tmp_path, writer):
    """Kernels h×w×I×O and norms of their own, as tf.train.load_checkpoint names them."""
    folded = read_tflite(writer.write(tmp_path))[0]
    random = np.random.RandomState(1)
    state = {"global_step": torch.tensor(30000)}
    for name, tensor in folded.items():
        layer, _, leaf = name.rpartition("/")
        if leaf != "bias":
            continue
        depthwise = f"{layer}/depthwise_weights" in folded
        key = f"{layer}/depthwise_weights" if depthwise else f"{layer}/weights"
        kernel = folded[key].permute(1, 2, 3, 0)  # h×w×I×O, or h×w×C×1
        if layer == "logits/semantic":
            state[key], state[f"{layer}/biases"] = kernel, tensor
            continue
        eps = 1e-3 if layer.startswith("MobilenetV2/") else 1e-5
        gamma, variance = (torch.tensor(random.uniform(0.5, 1.5, len(tensor)), dtype=torch.float32) for _ in range(2))
        mean = torch.tensor(random.normal(0, 0.1, len(tensor)), dtype=torch.float32)
        factor = gamma / (variance + eps).sqrt()
        state[key] = kernel / (factor[:, None] if depthwise else factor)
        state |= {f"{layer}/BatchNorm/gamma": gamma, f"{layer}/BatchNorm/beta": tensor + mean * factor}
        state |= {f"{layer}/BatchNorm/moving_mean": mean, f"{layer}/BatchNorm/moving_variance": variance}
    one = convert(tmp_path / "it.tflite", source="tensorflow")
    other = convert(state, source="tensorflow")
    assert other.info.arguments == one.info.arguments
    assert other.info.provenance["left_over"] == ["global_step"]
    images = torch.randn(1, 3, 49, 65, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(other(images), one(images), atol=1e-4, rtol=1e-4)


def test_folded_norms_add_their_bias_and_nothing_else(tmp_path, writer):
    model = convert(writer.write(tmp_path), source="tensorflow").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            values = torch.linspace(-3, 3, 18 * module.num_features).reshape(2, -1, 3, 3)
            expected = values + module.bias[:, None, None]
            found = torch.nn.BatchNorm2d.forward(module, values)  # timm's go on with the activation
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


def spoil(writer: Writer, what: str) -> None:
    """One way of not being this network, or of being no sound file."""
    options = {"stem": writer.convolutions()[0].builtinOptions, "last": writer.convolutions()[-1].builtinOptions}
    tensor = writer.weights_of("aspp0")
    match what:
        case "padded as VALID":
            options["stem"].padding = schema.Padding.VALID
        case "another stride or dilation":
            options["stem"].strideW = 1
        case "ends in activation 'relu6'":
            options["last"].fusedActivationFunction = 3
        case "has activation 4":
            options["last"].fusedActivationFunction = 4
        case "has stride and dilation":
            writer.convolutions()[-9].builtinOptions.dilationHFactor = 1
            writer.convolutions()[-9].builtinOptions.dilationWFactor = 1
        case "has a tensor named":
            tensor.name = "\x1b]0;aspp0/weights"
        case "two convolutions named":
            tensor.name = "image_pooling/weights"
        case "has type number 1":
            tensor.type = 1
        case "has no scale":
            tensor.type = 2
        case "not finite":
            buffer = writer.model.buffers[tensor.buffer]
            buffer.data = np.concatenate([np.frombuffer(np.float32(np.nan).tobytes(), np.uint8), buffer.data[4:]])
        case "computed by the graph":
            tensor.buffer = 0
        case "damaged: it names tensor":
            writer.convolutions()[3].inputs[1] = 10_000
        case "damaged: it names tensor -1":
            writer.convolutions()[3].inputs[1] = -1
        case "damaged: it names buffer":
            tensor.buffer = 10_000
        case "damaged: it names operator code":
            writer.convolutions()[3].opcodeIndex = 99
        case "damaged: its tables":
            tensor.shape = [2**30, 2**30, 2**30, 2**30]
        case "graph without input":
            writer.graph.inputs = []
        case "names graph 0, but the number of entries is 0":
            writer.model.subgraphs = []
        case "biases":
            writer.graph.tensors[writer.convolutions()[-1].inputs[2]].shape = [CLASSES - 1]
            buffer = writer.model.buffers[writer.graph.tensors[writer.convolutions()[-1].inputs[2]].buffer]
            buffer.data = buffer.data[: 4 * (CLASSES - 1)]
        case "operators; at most":
            writer.graph.operators = writer.graph.operators * 100
        case "tensors overlap":
            writer.graph.operators += [writer.convolutions()[-2]] * 50
        case "'aspp1/bias'":
            writer.weights_of("aspp0").name = "aspp1/weights"
        case "is missing":
            writer.weights_of("MobilenetV2/expanded_conv_16/project").name = "MobilenetV2/other/project/weights"


@pytest.mark.parametrize(
    "what",
    [
        "padded as VALID",
        "another stride or dilation",
        "ends in activation 'relu6'",
        "has activation 4",
        "has stride and dilation",
        "has a tensor named",
        "two convolutions named",
        "has type number 1",
        "has no scale",
        "not finite",
        "computed by the graph",
        "damaged: it names tensor",
        "damaged: it names tensor -1",
        "damaged: it names buffer",
        "damaged: it names operator code",
        "damaged: its tables",
        "graph without input",
        "names graph 0, but the number of entries is 0",
        "biases",
        "operators; at most",
        "tensors overlap",
        "'aspp1/bias'",
        "is missing",
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, writer, what):
    spoil(writer, what)
    with pytest.raises(AtrousError, match=what):
        convert(writer.write(tmp_path), source="tensorflow")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    Writer(33, 33, 16).write(folder)
    return (folder / "it.tflite").read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 8, 9, 16, 40, 100, 1000, 20_000])
def test_a_truncated_file_is_refused(tmp_path, whole, kept):
    (tmp_path / "short.tflite").write_bytes(whole[:kept])
    with pytest.raises(AtrousError):
        read_tflite(tmp_path / "short.tflite")


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 64, b"PK\3\4" * 9]
)
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "garbage.tflite").write_bytes(content)
    with pytest.raises(AtrousError):
        read_tflite(tmp_path / "garbage.tflite")


def test_a_missing_reader_is_named_with_what_installs_it(tmp_path, writer, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite.Model", None)  # as where the package is not installed
    with pytest.raises(AtrousError, match=r"atrous\[tflite\]"):
        read_tflite(writer.write(tmp_path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AtrousError, match="cannot be read"):
        read_tflite(tmp_path / "none.tflite")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=8),
    tables=st.booleans(),
)
@example(changes=[(1.0, 2**32 - 1)], tables=True)
def test_a_file_with_altered_words_is_read_or_refused_and_nothing_else(tmp_path, whole, changes, tables):
    """The builder puts weights first, and the tables into the last 40 kB."""
    data = bytearray(whole)
    first = len(data) - 40_000 if tables else 8
    for where, word in changes:
        at = first + int(where * (len(data) - 4 - first)) // 4 * 4
        data[at : at + 4] = word.to_bytes(4, "little")
    (tmp_path / "altered.tflite").write_bytes(data)
    try:
        found, _ = read_tflite(tmp_path / "altered.tflite")
    except AtrousError:
        return
    assert sum(tensor.numel() for tensor in found.values()) <= len(whole)


def test_other_arrays_are_not_recognised():
    for name in ("MobilenetV2/Conv/weights", "logits/semantic/weights"):
        assert not tensorflow.recognises(Foreign({name: torch.zeros(1)}))
