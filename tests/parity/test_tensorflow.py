"""Google's trained mobile DeepLabs, converted, against what LiteRT makes of the same files."""

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import convert
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.data.open_dataset import open_dataset
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.models.layers import Normalize

FLOAT = "deeplabv3_257_mv_gpu.tflite"
QUANTISED = ("deeplabv3_mnv2_pascal_quant.tflite", "deeplabv3_mnv2_dm05_pascal_quant.tflite")
PHOTOS = ("astronaut", "chelsea", "bird_segmentation", "dog_segmentation")


@pytest.fixture
def weights(shared):
    pytest.importorskip("tflite")
    return shared / "weights"


class LiteRT:
    """A file run by Google's own runtime: H×W×3 uint8 → H×W class indices."""

    def __init__(self, path) -> None:
        interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
        self.interpreter = interpreter
        self.input, self.output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        if self.input["dtype"] == np.float32:
            picture = picture.astype(np.float32) / 127.5 - 1
        self.interpreter.set_tensor(self.input["index"], picture[None])
        self.interpreter.invoke()
        found = self.interpreter.get_tensor(self.output["index"])[0]
        return (found.argmax(-1) if found.ndim == 3 else found).astype(np.uint8)


def labels(model, picture: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 → H×W class indices, by our model with its own preprocessing."""
    with torch.no_grad():
        return model(normalised(model, picture))[0].argmax(0).numpy().astype(np.uint8)


def normalised(model, picture: np.ndarray) -> torch.Tensor:
    preprocessing = model.info.preprocessing
    return Normalize(preprocessing.mean, preprocessing.std)(torch.tensor(picture).permute(2, 0, 1)[None])


def resized(picture: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def test_the_float_model_gives_the_golden_logits_features_and_labels(weights):
    model = convert(weights / FLOAT, source="tensorflow")
    golden = np.load(weights / "golden_257.npz")
    for photo in PHOTOS:
        images = normalised(model, golden[f"{photo}_rgb"])
        with torch.no_grad():
            logits, features = model.scores(images)["main"], model.backbone(images)[-1]
        np.testing.assert_allclose(nhwc(logits), golden[f"{photo}_logits33"], atol=1e-4, rtol=0)
        half = golden[f"{photo}_backbone33"]
        error = np.abs(nhwc(features) - half.astype(np.float32))
        assert (error <= np.spacing(np.abs(half)).astype(np.float32) / 2 + 1e-4).all()
        np.testing.assert_array_equal(labels(model, golden[f"{photo}_rgb"]), golden[f"{photo}_labels257"])


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    return tensor[0].permute(1, 2, 0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "arrays"), [(FLOAT, "deeplabv3_mnv2_dm05_voc_float.npz"), (QUANTISED[0], "deeplabv3_mnv2_voc_dequant.npz")]
)
def test_the_arrays_under_slim_names_give_the_same_weights(weights, file, arrays):
    one = convert(weights / file, source="tensorflow")
    stride = one.info.arguments["output_stride"]
    other = convert(weights / arrays, source="tensorflow", output_stride=stride)
    assert one.info.arguments == other.info.arguments
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


@pytest.mark.slow
def test_every_voc_picture_is_segmented_as_litert_does(weights, shared, capsys):
    model, runtime = convert(weights / FLOAT, source="tensorflow"), LiteRT(weights / FLOAT)
    assert model.info.classes == VOC_CLASSES.names
    dataset = open_dataset(shared / "data" / "voc2012_subset", layout="voc")
    ours, theirs, agreements = ConfusionMatrix(21), ConfusionMatrix(21), []
    for item in (item for split in dataset.splits.values() for item in split):
        sample = dataset.read(item)
        assert sample.label is not None
        picture, truth = resized(sample.image, 257), resized(sample.label, 257, nearest=True)
        mine, other = labels(model, picture), runtime(picture)
        ours.update(truth, mine)
        theirs.update(truth, other)
        agreements.append((mine == other).mean())
    with capsys.disabled():
        print(
            f"\n{len(agreements)} pictures at 257×257: mIoU {ours.miou:.5f} here, {theirs.miou:.5f} in LiteRT; "
            f"pixel accuracy {ours.pixel_accuracy:.5f} and {theirs.pixel_accuracy:.5f}; "
            f"least agreement {min(agreements):.6f}"
        )
    assert min(agreements) >= 0.999
    assert ours.miou == pytest.approx(theirs.miou, abs=1e-4)
    assert ours.pixel_accuracy > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("file", QUANTISED)
@pytest.mark.parametrize("photo", ["bird_segmentation", "cat", "dog_segmentation"])
def test_a_dequantised_model_segments_as_the_quantised_one(weights, file, photo):
    model = convert(weights / file, source="tensorflow")
    assert model.info.arguments["output_stride"] == 16
    picture = resized(np.asarray(Image.open(weights / "images" / f"{photo}.bmp").convert("RGB")), 513)
    mine, other = labels(model, picture), LiteRT(weights / file)(picture)
    assert len(np.unique(other)) > 1
    agreement = (mine == other).mean()
    print(f"{file}, {photo}: {agreement:.4f}")
    assert agreement >= 0.95
