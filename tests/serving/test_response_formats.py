import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.inference.prediction import Prediction
from atrous.models.info import Info, Preprocessing
from atrous.models.task import Task
from atrous.serving.response_formats import FORMATS, ResponseOptions, form_for, rle_counts, write

COLORS = ((0, 0, 0), (220, 40, 40), (40, 60, 220))
INFO = Info(
    architecture="deeplabv3",
    arguments={},
    preprocessing=Preprocessing.of_pictures((0.0,) * 3, (1.0,) * 3),
    tasks=(Task(ClassTable(("ground", "box", "disc"), COLORS, ((0,), (7,), (300,)))),),
)


@pytest.fixture
def prediction() -> Prediction:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 2
    return Prediction(mask, np.full((6, 8, 3), 90, np.uint8), INFO)


def test_the_mask_keeps_its_indices_and_colours(prediction):
    picture = Image.open(io.BytesIO(write(prediction, ResponseOptions("mask"))))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), prediction.mask)
    assert picture.getpalette()[6:9] == [40, 60, 220]
    grey = Image.open(io.BytesIO(write(prediction, ResponseOptions("indices"))))
    assert grey.mode == "L"
    assert np.array_equal(np.asarray(grey), prediction.mask)


def test_the_overlay_is_as_opaque_as_asked(prediction):
    large = Prediction(np.kron(prediction.mask, np.ones((16, 16), np.uint8)), np.full((96, 128, 3), 90, np.uint8), INFO)

    def red_of(asked: ResponseOptions) -> float:
        return float(np.asarray(Image.open(io.BytesIO(write(large, asked))))[40, 72, 0])

    assert red_of(ResponseOptions("overlay", opacity=0)) == pytest.approx(90, abs=4)
    assert red_of(ResponseOptions("overlay", opacity=1)) == pytest.approx(40, abs=4)
    with_legend = Image.open(io.BytesIO(write(large, ResponseOptions("overlay", legend=True))))
    assert with_legend.height > 96


def test_areas(prediction):
    answer = json.loads(write(prediction, ResponseOptions("areas")))
    assert (answer["width"], answer["height"]) == (8, 6)
    assert [(one["name"], one["pixels"], one["share"]) for one in answer["classes"]] == [
        ("ground", 33, 33 / 48),
        ("disc", 15, 15 / 48),
    ]


def test_runs_are_those_of_the_classes(prediction):
    decode = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed").decode
    for one in json.loads(write(prediction, ResponseOptions("rle")))["classes"]:
        assert np.array_equal(decode(one["rle"]), prediction.mask == one["index"])


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans()))
def test_runs_are_written_as_coco_does(mask):
    encode = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed").encode
    assert rle_counts(mask) == encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_long_runs_are_written_as_coco_does():
    encode = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed").encode
    mask = np.zeros((700, 900), bool)
    mask[100:650, 50:51] = mask[:, 400:800] = mask[3, 3] = True
    assert rle_counts(mask) == encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_polygons_are_geojson_in_pixels(prediction):
    answer = json.loads(write(prediction, ResponseOptions("polygons")))
    assert answer["type"] == "FeatureCollection"
    disc = answer["features"][1]
    assert disc["properties"]["name"] == "disc"
    assert disc["geometry"]["type"] == "MultiPolygon"
    ((ring,),) = disc["geometry"]["coordinates"]
    assert sorted(map(tuple, ring[:-1])) == [(2, 1), (2, 4), (7, 1), (7, 4)]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "mask"),
        ("*/*", "mask"),
        ("image/png", "mask"),
        ("image/*", "mask"),
        ("application/json", "areas"),
        ("application/geo+json, application/json;q=0.5", "polygons"),
        ("text/html, image/jpeg;q=0.9, image/png;q=0.8", "overlay"),
        ("image/png;q=0, */*;q=0.1", "areas"),
        ("text/html", None),
        ("image/png;q=nonsense", None),
        (";;,q=,,", None),
    ],
)
def test_what_accept_asks_for(accept, form):
    assert form_for(accept) == form
    assert form is None or form in FORMATS


@pytest.mark.slow
def test_outlines_much_larger_than_the_mask_are_refused():
    noise = np.random.default_rng(0).integers(0, 2, (1000, 1000), dtype=np.uint8)
    with pytest.raises(AtrousError, match="more corners than the server allows: use format=rle"):
        write(Prediction(noise, np.zeros((1000, 1000, 3), np.uint8), INFO), ResponseOptions("polygons"))
