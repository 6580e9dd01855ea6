"""How a model is opened, as plain values that other processes are sent."""

import multiprocessing
import pickle
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from spawned import mask_of

import atrous
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec


@pytest.fixture(scope="module")
def file(make_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "model.safetensors"
    atrous.save(make_model("deeplabv3plus", backbone="mobilenetv2_050"), path)
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.kron(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "scales": (0.5, 1.0),
            "flip": True,
            "crf": "deeplabv2,iterations=2",
            "output_stride": 8,
            "tile": 64,
            "overlap": 32,
        },
    ],
    ids=["plain", "all"],
)
def test_a_spec_opens_in_a_spawned_process_with_the_same_mask(file, picture, options):
    spec = ModelSpec(file, device="cpu", engine="torch", precision="float32", **options)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        mask = pool.apply(mask_of, (spec, picture))
    assert np.array_equal(mask, spec.open()(picture).mask)
    one = atrous.Segmenter(file, device="cpu", engine="torch", precision="float32", **options)
    assert np.array_equal(mask, one(picture).mask)


def test_a_spec_is_small_plain_and_fixed(file):
    spec = ModelSpec(str(file), scales=[1, 0.5], range=[0, 4095], device=torch.device("cpu"))  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec == ModelSpec(file, scales=(1.0, 0.5), range=(0.0, 4095.0), device="cpu")
    assert len(pickle.dumps(spec)) < 1000 and len({again, spec}) == 1
    with pytest.raises(FrozenInstanceError):
        spec.flip = True  # type: ignore[misc]
    assert atrous.ModelSpec is ModelSpec
    plain = (str, Path, int, float, bool, tuple, type(None))
    assert all(isinstance(getattr(spec, field.name), plain) for field in fields(spec))


def test_the_record_is_read_without_the_network(file):
    assert ModelSpec(file).read_info().classes == atrous.load(file).info.classes
    with pytest.raises(AtrousError, match="no model file"):
        ModelSpec("absent.safetensors").read_info()
    with pytest.raises(AtrousError, match="no model file"):
        ModelSpec("absent.safetensors").open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine"),
        ({"precision": "float16"}, "precision"),
        ({"device": "cude"}, "cuda:N or mps, got 'cude'"),
        ({"device": 3}, "a device must be"),
        ({"scales": ()}, "scales must be"),
        ({"scales": (0.0,)}, "scales must be"),
        ({"scales": "big"}, "scales must be"),
        ({"output_stride": 12}, "output_stride must be 8, 16 or 32, got 12"),
        ({"crf": "deeplabv22"}, "Did you mean 'deeplabv2'"),
        ({"crf": {"bilateral_rbg": 5}}, "Did you mean 'bilateral_rgb'"),
        ({"crf": 5}, "a CRF must be"),
        ({"range": (5, 1)}, "the lower first"),
        ({"range": (0, float("inf"))}, "each a finite number"),
        ({"scales": (9.0,)}, "scales must be"),
        ({"range": (1, 2, 3)}, "2 numbers"),
        ({"tile": 10}, "tile must be 32 or more pixels, got 10"),
        ({"tile": 64, "overlap": 40}, "larger tile"),
        ({"overlap": -1}, "overlap must be 0 or more pixels, got -1"),
        ({"memory": 0}, "memory must be 0.01 or more GB, got 0"),
        ({"memory": 1e-6}, "memory must be 0.01 or more GB, got 1e-06"),
        ({"memory": "much"}, "memory must be a number"),
        ({"flip": 5}, "flip must be True or False"),
        ({"path": 5}, "path must be a path"),
        ({"scale": 1}, "no argument 'scale'; did you mean scales"),
    ],
)
def test_what_cannot_be_is_refused_when_the_spec_is_made(options, message):
    with pytest.raises(AtrousError, match=message):
        ModelSpec(**{"path": "model.safetensors", **options})


@pytest.mark.parametrize("settings", [{"bilateral_rgb": 20, "iterations": 2}, "CRF"])
def test_settings_of_a_crf_are_kept_as_text(file, picture, settings):
    crf = atrous.DenseCRF(bilateral_rgb=20, iterations=2) if settings == "CRF" else settings
    spec = ModelSpec(file, crf=crf, engine="torch", device="cpu", precision="float32")
    assert isinstance(spec.crf, str) and hash(spec) is not None
    expected = atrous.Segmenter(file, crf=crf, engine="torch", device="cpu", precision="float32")(picture).mask
    assert np.array_equal(mask_of(spec, picture), expected)


def test_stored_settings_of_a_crf_are_looked_for_when_it_is_opened(file):
    with pytest.raises(AtrousError, match="stores no CRF settings"):
        ModelSpec(file, crf="model").open()


def test_a_segmenter_that_is_pickled_names_the_spec(file):
    with pytest.raises(AtrousError, match=r"atrous\.ModelSpec"):
        pickle.dumps(ModelSpec(file, engine="torch", device="cpu").open())
