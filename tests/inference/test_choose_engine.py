"""Which engine is taken and why, and that each gives the same masks."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import atrous
from atrous import Segmenter
from atrous.device import pick_device
from atrous.errors import AtrousError
from atrous.inference import choose_engine, openvino_engine
from atrous.inference.choose_engine import NotConvertible, choose
from atrous.models import Preprocessing

pytest.importorskip("openvino", reason="the extra openvino is not installed")


def used(architecture="deeplabv3plus", backbone="resnet18", **arguments):
    torch.manual_seed(0)
    model = atrous.create_model(architecture, backbone=backbone, num_classes=4, **arguments).train()
    with torch.no_grad():
        for _ in range(3):
            model.scores(torch.randn(2, model.backbone.in_channels, 97, 97))
    return model.eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    atrous.save(used(), file)
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "atrous" / "openvino"


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (7, 9, 3)), np.ones((11, 11, 1))).astype(np.uint8)


def test_the_fastest_present_is_taken_and_says_why(monkeypatch):
    monkeypatch.setattr(choose_engine, "maybe_gpu", lambda: False)
    assert choose("auto", "auto", True)[0] == "openvino"
    assert choose("auto", "cpu", True)[0] == "openvino"
    assert choose("auto", "auto", False)[0] == "torch"
    assert choose("auto", "cuda", True) == ("torch", "it runs on the GPU, cuda")
    assert choose("torch", "auto", True) == ("torch", "as requested")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (True, False, ("torch", "it runs on the GPU, cuda")),
        (False, True, ("torch", "it runs on the GPU, mps")),
        (False, False, ("openvino", "the fastest on CPUs")),
    ],
)
def test_a_gpu_is_claimed_only_where_torch_computes_on_it(monkeypatch, cuda, mps, expected):
    """As on a Mac with and without MPS, and where there is a GPU, but torch was built for CPUs."""
    monkeypatch.setattr(choose_engine, "maybe_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose("auto", "auto", True) == expected
    assert pick_device("auto").type == ("cuda" if cuda else "mps" if mps else "cpu")


def test_an_intel_mac_has_no_gpu_for_torch(monkeypatch):
    monkeypatch.setattr(choose_engine.platform, "system", lambda: "Darwin")
    for machine in ("arm64", "x86_64"):
        monkeypatch.setattr(choose_engine.platform, "machine", lambda machine=machine: machine)
        assert choose_engine.maybe_gpu() == (machine == "arm64")


@pytest.mark.slow
def test_on_a_mac_without_a_gpu_the_engine_says_what_computes(path, picture, monkeypatch):
    monkeypatch.setattr(choose_engine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(choose_engine.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    segmenter = Segmenter(path)
    assert (segmenter.engine.device, "GPU" in segmenter.engine.reason) == ("cpu", False)
    assert segmenter(picture).mask.shape == picture.shape[:2]


def test_without_openvino_torch_runs_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(choose_engine, "maybe_gpu", lambda: False)
    monkeypatch.setattr(choose_engine.importlib.util, "find_spec", lambda name: None)
    name, reason = choose("auto", "auto", True)
    assert name == "torch" and "pip install atrous[openvino]" in reason
    with pytest.raises(AtrousError, match=r"pip install atrous\[openvino\]"):
        choose("openvino", "auto", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine"),
        ({"engine": "openvino", "device": "cuda"}, "openvino runs only on the CPU"),
        ({"engine": "openvino", "precision": "float16"}, "precision"),
    ],
)
def test_what_cannot_be_is_refused(path, options, message):
    with pytest.raises(AtrousError, match=message):
        Segmenter(path, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "backbone", "arguments"),
    [
        ("deeplabv1", "vgg16", {}),
        ("deeplabv2", "resnet18", {}),
        ("deeplabv3", "resnet18", {}),
        ("deeplabv3plus", "mobilenetv2_100", {"align_corners": True}),
        ("deeplabv3plus", "tf_efficientnet_lite0", {}),
    ],
)
@pytest.mark.parametrize("aligned", [False, True])
def test_openvino_is_torch_at_any_size(architecture, backbone, arguments, aligned):
    model = used(architecture, backbone, **arguments)
    model.info = replace(model.info, preprocessing=replace(model.info.preprocessing, aligned=aligned))
    ours, theirs = (Segmenter(model, engine=name, precision="float32") for name in ("openvino", "torch"))
    for height, width in ((97, 97), (64, 130), (33, 47)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
        (found,), (expected,) = ours.scores(image), theirs.scores(image)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4 * np.abs(expected).max())
        assert (ours(image).mask == theirs(image).mask).mean() > 0.999


@pytest.mark.slow
def test_large_pictures_of_one_size_and_of_several_have_the_same_scores(monkeypatch):
    model = used(backbone="mobilenetv2_100")
    rng = np.random.default_rng(0)
    sizes = ((64, 130), (64, 130), (97, 97), (64, 130))
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    plain = Segmenter(model, engine="openvino", precision="float32")
    monkeypatch.setattr(openvino_engine, "LARGE", 64 * 130)
    large = Segmenter(model, engine="openvino", precision="float32")
    for picture in pictures:
        np.testing.assert_allclose(large.scores(picture)[0], plain.scores(picture)[0], rtol=1e-3, atol=1e-4)
        assert np.array_equal(large(picture).mask, plain(picture).mask)


@pytest.mark.slow
def test_many_channels_and_deep_pictures():
    model = used(in_channels=5)
    image = np.random.default_rng(0).normal(0, 1, (40, 50, 5)).astype(np.float32)
    model.info = replace(model.info, preprocessing=Preprocessing.of_pictures((0.0,) * 5, (1.0,) * 5, dtype="float32"))
    masks = [Segmenter(model, engine=name, precision="float32")(image).mask for name in ("openvino", "torch")]
    assert (masks[0] == masks[1]).mean() > 0.999


def test_torch_runs_what_openvino_does_not(path, picture, monkeypatch):
    def refuse(model):
        raise NotConvertible("OpenVINO cannot convert this network: for once")

    monkeypatch.setattr(openvino_engine, "convert", refuse)
    monkeypatch.setattr(choose_engine, "maybe_gpu", lambda: False)
    segmenter = Segmenter(path)
    assert segmenter.engine.name == "torch"
    assert "for once" in segmenter.engine.reason
    assert segmenter(picture).mask.shape == picture.shape[:2]
    with pytest.raises(AtrousError, match="for once"):
        Segmenter(path, engine="openvino")


@pytest.mark.slow
def test_a_plain_mask_of_a_kept_network_needs_no_torch(path, picture, tmp_path):
    Segmenter(path, engine="openvino")
    np.save(tmp_path / "picture.npy", picture)
    code = (
        "import sys, numpy, atrous\n"
        f"segmenter = atrous.Segmenter({str(path)!r}, engine='openvino')\n"
        f"mask = segmenter(numpy.load({str(tmp_path / 'picture.npy')!r})).mask\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
        "print(mask.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(picture.shape[:2])


def test_lists_and_iterators(path, picture):
    segmenter = Segmenter(path, engine="torch", precision="float32")
    one = segmenter(picture).mask
    several = segmenter([picture, picture[:50]])
    assert [prediction.mask.shape for prediction in several] == [picture.shape[:2], (50, picture.shape[1])]
    endless = segmenter(picture for _ in iter(int, 1))
    assert np.array_equal(next(endless).mask, one)
    assert np.array_equal(next(endless).mask, one)
    assert segmenter([]) == []


@pytest.mark.slow
def test_a_picture_that_openvino_cannot_run_is_named():
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = atrous.create_model("deeplabv2", backbone="mobilenetv2_035", num_classes=3)
    pixel = np.zeros((1, 1, 3), np.uint8)
    assert atrous.Segmenter(model, engine="torch", device="cpu")(pixel).mask.shape == (1, 1)
    with pytest.raises(AtrousError, match=r"a picture of 1×1 px; the engine torch can"):
        atrous.Segmenter(model, engine="openvino")(pixel)


@pytest.mark.slow
def test_a_signal_after_two_networks_came_and_went_is_handled(path):
    """Of two OpenVINO cores that end in the order they began, the second leaves signals a freed stack."""
    program = f"""if True:
        import gc, os, signal
        import numpy as np
        from atrous import Segmenter

        first, second = (Segmenter({str(path)!r}, engine="openvino") for _ in range(2))
        for segmenter in (first, second):
            segmenter(np.zeros((65, 65, 3), np.uint8))
        del segmenter, first
        gc.collect()
        del second
        gc.collect()
        signal.signal(signal.SIGINT, lambda *_: print("handled"))
        signal.raise_signal(signal.SIGINT)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
