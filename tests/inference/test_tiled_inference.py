import re
import threading
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import atrous
from atrous.data.sources.array import ArraySink, ArraySource
from atrous.data.sources.source import Pixels, Window
from atrous.errors import AtrousError
from atrous.inference.memory_estimate import available_bytes, limit_bytes, predict_bytes
from atrous.inference.segmenter import Segmenter
from atrous.inference.tile_grid import check_tiling, overlap_of, plan, tile_of_training
from atrous.inference.tiled_inference import Counted, mean_features, segment_tiles
from atrous.inference.whole_or_tiled import AnySize
from atrous.models.info import aligned_side


@hypothesis.given(
    st.integers(1, 700), st.integers(1, 700), st.integers(1, 200), st.integers(0, 150), st.sampled_from([1, 8, 16, 32])
)
def test_plan_keeps_every_pixel_once_with_the_context_asked(height, width, size, overlap, grid):
    tile = size + overlap + grid
    kept = np.zeros((height, width), int)
    tiles = plan(height, width, tile, overlap, grid)
    shapes = set()
    for read, keep in tiles:
        kept[keep.rows, keep.columns] += 1
        shapes.add((read.height, read.width))
        for side, start, end, first, last in (
            (height, read.top, read.top + read.height, keep.top, keep.top + keep.height),
            (width, read.left, read.left + read.width, keep.left, keep.left + keep.width),
        ):
            assert 0 <= start <= first < last <= end <= side
            assert start % grid == 0
            assert start == 0 or first - start >= overlap // 2
            assert end == side or end - last >= overlap // 2
            assert end - start == side or tile <= end - start < tile + grid
    assert (kept == 1).all()
    assert len(shapes) == 1


@hypothesis.given(
    st.integers(33, 3000), st.integers(33, 3000), st.integers(128, 2000), st.sampled_from([0.5, 1.0, 1.25, 1.5, 2.0])
)
def test_tiles_of_resized_pictures_begin_on_the_networks_grid_and_are_resized_by_the_same_factor(
    height, width, tile, enlarge
):
    overlap = tile // 4
    seen = aligned_side(height, enlarge), aligned_side(width, enlarge)
    hypothesis.assume(tile - overlap > 64 / enlarge)
    kept = np.zeros((height, width), np.uint8)
    for read, keep in plan(height, width, tile, overlap, seen=seen):
        kept[keep.rows, keep.columns] += 1
        for side, whole, start, size, first, last in (
            (height, seen[0], read.top, read.height, keep.top, keep.top + keep.height),
            (width, seen[1], read.left, read.width, keep.left, keep.left + keep.width),
        ):
            factor = whole / side
            assert abs(start - 32 * round(start * factor / 32) / factor) <= 0.5
            assert abs(aligned_side(size, enlarge) - size * factor) <= factor
            assert start == 0 or first - start >= overlap // 2
            assert start + size == side or start + size - last >= overlap // 2
    assert (kept == 1).all()


def test_plan_is_row_by_row():
    tiles = plan(300, 500, 128, 32)
    assert tiles == sorted(tiles, key=lambda tile: (tile.kept.top, tile.kept.left))


@pytest.mark.parametrize(("height", "tile", "overlap"), [(0, 64, 8), (9, 64, 40), (9, 64, -1), (9, 0, 0)])
def test_sizes_that_cannot_be(height, tile, overlap):
    with pytest.raises(AtrousError, match=r"no pixels to segment|larger tile, or less overlap"):
        plan(height, 100, tile, overlap)


def blur(image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """A network that sees 6 pixels far, and no farther."""
    padded = np.pad(image[..., 0].astype(int), 6)
    views = np.lib.stride_tricks.sliding_window_view(padded, (13, 13))
    return (views.sum((2, 3)) % 7).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(200, 333), (150, 1), (50, 400)])
def test_tiles_equal_the_whole_where_the_overlap_covers_what_a_pixel_sees(height, width):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 1), np.uint8)
    whole, sink = blur(image), Counted(array := ArraySink(height, width))
    work = segment_tiles(blur, ArraySource(image), sink, 64, 12, grid=1)
    assert np.array_equal(array.mask, whole)
    assert np.array_equal(sink.counts, np.bincount(whole.ravel(), minlength=256))
    assert work.tiles == len(plan(height, width, 64, 12, 1))
    assert 0 < work.network_seconds <= work.seconds
    segment_tiles(blur, ArraySource(image), array, 64, 4, grid=1)  # the test can fail: too little overlap shows
    assert not np.array_equal(array.mask, whole)


def test_pixels_without_data_become_255_and_tiles_of_them_are_not_run():
    image = np.full((64, 320, 1), 9, np.uint8)
    valid = np.zeros((64, 320), bool)
    valid[:, 300:] = True
    seen = []
    sink = ArraySink(64, 320)
    work = segment_tiles(lambda i, v: seen.append(v) or blur(i), ArraySource(image, valid), sink, 64, 0)
    assert len(seen) == work.tiles == 1
    assert ((sink.mask == 255) == ~valid).all()


def test_the_network_reads_and_writes_at_the_same_time():
    """While a tile is in the network, the next is read and the one before is written; else this waits for ever."""
    tiles, threads = 20, set()
    read, computed = ([threading.Event() for _ in range(tiles + 1)] for _ in range(2))

    class Source(ArraySource):
        def read(self, window: Window) -> Pixels:
            read[window.left // 64].set()
            return super().read(window)

    class Sink(ArraySink):
        def write(self, window, mask):
            threads.add(threading.get_ident())
            index = window.left // 64
            assert index == tiles - 1 or computed[index + 1].wait(60), "the next tile waits for this one to be written"
            super().write(window, mask)

    def network(image, valid):
        index = int(image[0, 0, 0])
        computed[index].set()
        assert index == tiles - 1 or read[index + 1].wait(60), "the next tile waits for this one to be computed"
        return blur(image)

    done: list[tuple[int, ...]] = []
    numbers = np.repeat(np.arange(tiles, dtype=np.uint8), 64)  # of the tile that each column is in
    source = Source(np.tile(numbers[None, :, None], (64, 1, 1)))
    segment_tiles(network, source, Sink(64, 64 * tiles), 64, 0, lambda *count: done.append(count))
    assert threading.get_ident() not in threads
    assert done == [(i, tiles) for i in range(1, tiles + 1)]


def test_what_goes_wrong_in_writing_is_raised():
    class Full(ArraySink):
        def write(self, window, mask):
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        segment_tiles(blur, ArraySource(np.zeros((64, 64, 1), np.uint8)), Full(64, 64), 64, 0)


def segmenter_model():
    torch.manual_seed(0)
    return atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=5, aspp_channels=16)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(segmenter_model(), device="cpu", precision="float32")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (300, 420, 3), np.uint8)


def test_a_model_of_windows_segments_larger_scenes_in_tiles_as_it_was_measured(image):
    model = segmenter_model()
    model.info = replace(model.info, provenance={"window": 250})
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    assert segmenter.any_size.usual == 256
    expected = np.zeros(image.shape[:2], np.uint8)
    for read, kept in plan(300, 420, 256, overlap_of(256, None), segmenter.any_size._grid.step_for(256)):
        inner = kept.within(read)
        expected[kept.rows, kept.columns] = segmenter.whole.segment(image[read.rows, read.columns])[
            inner.rows, inner.columns
        ]
    assert np.array_equal(segmenter(image).mask, expected)
    assert np.array_equal(segmenter.looking(flip=False)(image).mask, expected)
    sink = ArraySink(300, 420)
    segmenter.any_size.windows(ArraySource(image), sink)
    assert np.array_equal(sink.mask, expected)
    whole = segmenter.whole.segment(image)
    assert not np.array_equal(whole, expected)
    assert np.array_equal(
        Segmenter(model, tile=512, engine="torch", device="cpu", precision="float32")(image).mask, whole
    )
    assert np.array_equal(segmenter(image[:200, :200]).mask, segmenter.whole.segment(image[:200, :200]))


@pytest.mark.parametrize(
    ("provenance", "overlap", "tile"),
    [({}, None, None), ({"window": 512}, None, 512), ({"window": 40}, None, 256), ({"window": 500}, 600, 640)],
)
def test_the_tile_of_a_training(provenance, overlap, tile):
    assert tile_of_training(provenance, overlap) == tile
    check_tiling(tile, overlap, None)


def test_what_fits_is_run_whole_and_what_would_not_is_tiled_and_told(segmenter, image):
    said = []
    whole = AnySize(segmenter.whole, say=said.append)(image)
    assert said == []
    assert np.array_equal(whole, segmenter.segment(image))
    needed = predict_bytes(segmenter.info, 300, 420) / 1e9
    tiled = AnySize(segmenter.whole, memory=needed - 0.001, say=said.append)
    assert tiled(image, name="scene.png").shape == (300, 420)
    assert len(said) == 1
    assert "scene.png: 420×300 px would take" in said[0] and "tiles of 256 px" in said[0]
    with pytest.raises(AtrousError, match="a tile of 256 px takes about"):
        AnySize(segmenter.whole, memory=0.1)(image)


@pytest.mark.parametrize("sides", [(300, 420), (257, 416), (40, 999)])
def test_image_pooling_over_tiles_is_over_the_picture_each_place_once(sides):
    picture = np.random.default_rng(2).random((*sides, 2), np.float32)
    seen = []

    def features(image):
        seen.append(image.shape)
        return image[::16, ::16], image[::8, ::8]

    means, work = mean_features(features, ArraySource(picture), 128)
    assert len(seen) == work.tiles == len(plan(*sides, 128, 0)) > 1
    for mean, stride in zip(means, (16, 8), strict=True):
        assert mean == pytest.approx(picture[::stride, ::stride].mean((0, 1)), rel=1e-5)


@pytest.mark.parametrize("sides", [(300, 420), (257, 416), (40, 999), (513, 1000)])
def test_where_pictures_are_resized_each_feature_counts_once_too(sides):
    """A picture of its own columns' and rows' features: the mean over tiles is that over the whole, almost."""
    seen = tuple(aligned_side(side, 1.0) for side in sides)
    whole = np.add.outer(np.arange(seen[0]), 3 * np.arange(seen[1]))[::16, ::16]
    counted = []

    def features(image):
        tall, wide = (aligned_side(side, 1.0) // 16 + 1 for side in image.shape[:2])
        counted.append((tall, wide))
        top, left = image[0, 0]
        rows, columns = (np.arange(count) * 16 for count in (tall, wide))
        factors = [one / side for one, side in zip(seen, sides, strict=True)]
        return (np.add.outer(rows + top * factors[0], 3 * (columns + left * factors[1]))[..., None],)

    rows, columns = np.mgrid[: sides[0], : sides[1]].astype(np.float32)
    means, work = mean_features(features, ArraySource(np.stack([rows, columns], 2)), 128, seen=seen)
    assert work.tiles == len(counted) > 1
    assert means[0][0] == pytest.approx(whole.mean(), abs=2.0)  # half a pixel in each direction, at most


@pytest.mark.parametrize(("enlarge", "aligned"), [(1.0, True), (1.5, False)])
def test_tiles_of_a_model_that_sees_resized_pictures_are_planned_for_them(enlarge, aligned, image):
    model = segmenter_model()
    model.info = replace(model.info, preprocessing=replace(model.info.preprocessing, enlarge=enlarge, aligned=aligned))
    segmenter = Segmenter(model, engine="torch", device="cpu", precision="float32")
    seen = aligned_side(300, enlarge), aligned_side(420, enlarge)
    pooled, _ = mean_features(segmenter.features, ArraySource(image), 128, seen=seen)
    expected, sink = ArraySink(300, 420), ArraySink(300, 420)
    segment_tiles(
        lambda part, _: segmenter.segment(part, None, pooled), ArraySource(image), expected, 128, 64, seen=seen
    )
    tiled = AnySize(segmenter.whole, tile=128, overlap=64)
    assert np.array_equal(tiled(image), expected.mask)
    tiled.windows(ArraySource(image), sink)
    assert np.array_equal(sink.mask, expected.mask)


def test_places_without_data_are_left_out_of_image_pooling():
    picture, valid = np.zeros((64, 320, 1), np.float32), np.zeros((64, 320), bool)
    picture[:, 256:], valid[:, 256:] = 7, True
    means, work = mean_features(lambda image: (image,), ArraySource(picture, valid), 64)
    assert means[0] == [7] and work.tiles == 1
    assert mean_features(lambda image: (image,), ArraySource(picture, valid & False), 64)[0] == ()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_tiles_are_told_what_image_pooling_sees_of_the_whole_picture(segmenter, image, engine, tmp_path):
    if engine == "openvino":
        pytest.importorskip("openvino")
    model = segmenter_model()
    runner = Segmenter(model, engine=engine, device="cpu", precision="float32", flip=True)
    features = runner.features(image)
    assert len(features) == 2 and features[0].shape[:2] == (19, 27)
    pooled = [one.mean((0, 1)) for one in features]
    own, given = runner.scores(image), runner.scores(image, pooled)
    other = runner.scores(image, [5 * mean for mean in pooled])
    for view in range(2):
        scale = np.abs(own[view]).max()
        assert np.abs(own[view] - given[view]).max() < 1e-4 * scale
        assert np.abs(own[view] - other[view]).max() > 1e-2 * scale
    assert np.array_equal(runner.scores(image)[0], own[0])  # nothing is left behind


def test_tiles_begin_on_the_grid_at_every_scale(segmenter):
    for scales, grid in (((0.5, 0.75, 1.0), 128), ((0.6,), 160), ((1.2, 0.3), 320), ((0.7,), 320), ((0.35,), 640)):
        looking = segmenter.looking(scales=scales)
        assert AnySize(looking.whole)._grid.step_for(2048) == grid
    assert AnySize(segmenter.whole)._grid.step_for(2048) == 32


@pytest.mark.parametrize(("scales", "grid"), [((0.3,), 320), ((0.6, 1.2), 160), ((0.7,), 320)])
def test_tiles_at_scales_that_are_not_quarters_begin_where_the_network_samples_or_it_is_said(segmenter, scales, grid):
    image, said = np.random.default_rng(3).integers(0, 255, (64, 1000, 3), np.uint8), []
    looking = segmenter.looking(scales=scales)
    sink, expected = ArraySink(64, 1000), ArraySink(64, 1000)
    pooled, _ = mean_features(looking.features, ArraySource(image), 512, grid=grid)
    segment_tiles(lambda i, v: looking.segment(i, v, pooled), ArraySource(image), expected, 512, 128, grid=grid)
    AnySize(looking.whole, tile=512, say=said.append).windows(ArraySource(image), sink)
    assert np.array_equal(sink.mask, expected.mask) and said == []
    AnySize(looking.whole, tile=128, overlap=64, say=said.append)(image)
    assert len(said) == 1 and "do not lie on the network's grid" in said[0]


@pytest.mark.parametrize(
    ("scale", "width", "tile", "overlap"),
    [(0.3, 2560, 1600, 960), (0.6, 1920, 1120, 480), (0.7, 1600, 960, 480), (1.2, 1280, 640, 320)],
)
def test_tiles_at_any_scale_see_what_the_whole_picture_shows(make_model, scale, width, tile, overlap):
    """Of a network without image pooling, with overlaps that cover what it sees: the same mask but at ties."""
    model = make_model("deeplabv2", backbone="resnet10t", atrous_rates=(1,))
    looking = Segmenter(model, engine="torch", device="cpu", precision="float32", scales=(scale,))
    patches = np.random.default_rng(0).integers(0, 256, (10, width // 8, 3), np.uint8)
    image, said = np.kron(patches, np.ones((8, 8, 1), np.uint8)), []
    whole = looking.segment(image)
    assert len(np.unique(whole)) > 1
    in_tiles = AnySize(looking.whole, tile=tile, overlap=overlap, say=said.append)
    assert (in_tiles(image) != whole).mean() < 2e-4 and said == []
    elsewhere = AnySize(looking.whole, tile=tile, overlap=overlap + 16)
    elsewhere._grid._steps = [16]  # the test can fail: tiles that begin elsewhere differ
    assert (elsewhere(image) != whole).mean() > 1e-3


@pytest.mark.parametrize("scales", [(0.33,), (0.37, 1.0)])
def test_scales_for_which_no_tile_is_large_enough_are_said(segmenter, scales):
    said = []
    AnySize(segmenter.looking(scales=scales).whole, tile=512, say=said.append)._tile_for(64, 1000, "a.png")
    assert len(said) == 1 and "a.png: tiles of 512 px do not lie on the network's grid" in said[0]


@pytest.mark.parametrize(("scales", "overlap"), [((0.7,), None), ((0.35,), None), ((0.6, 1.2), 16), ((0.33,), None)])
def test_the_tile_that_is_named_lies_on_the_grid_and_no_smaller_one_does(segmenter, scales, overlap):
    said = []
    looking = segmenter.looking(scales=scales)
    AnySize(looking.whole, tile=128, overlap=overlap, say=said.append)._tile_for(64, 8000, "a.png")
    named = int(re.search(r"tiles of (\d+) px or more do", said[0])[1])
    for tile, lies in ((named, True), (named + 512, True), (named - 32, False)):
        said.clear()
        AnySize(looking.whole, tile=tile, overlap=overlap, say=said.append)._tile_for(64, 8000, "a.png")
        assert (said == []) == lies


def test_resized_pictures_at_several_scales_leave_the_grid_and_it_is_said(make_model):
    model = make_model("deeplabv2", backbone="mobilenetv2_035", aligned=True)
    looking, said = Segmenter(model, engine="torch", device="cpu", scales=(0.5, 1.0)), []
    AnySize(looking.whole, tile=512, say=said.append)._tile_for(64, 1000, "a.png")
    assert len(said) == 1 and "resized to 32k + 1 px" in said[0]


def test_an_overlap_is_refused_only_where_there_are_tiles(segmenter, image):
    sink, any_size = ArraySink(300, 420), AnySize(segmenter.whole, overlap=3000)
    any_size.windows(ArraySource(image), sink)
    assert np.array_equal(sink.mask, any_size(image))
    assert np.array_equal(sink.mask, segmenter.segment(image))
    with pytest.raises(AtrousError, match="tiles of 256 px with 3000 px of overlap"):
        AnySize(segmenter.whole, overlap=3000, memory=predict_bytes(segmenter.info, 300, 420) / 1e9 - 0.001)(image)


def test_what_has_no_image_pooling_needs_no_first_pass(image):
    model = atrous.create_model("deeplabv2", backbone="mobilenetv2_035", num_classes=3)
    without = Segmenter(model, engine="torch", device="cpu")
    assert not without.pools
    seen = []
    AnySize(without.whole, tile=128, overlap=64)(image, progress=lambda done, total: seen.append((done, total)))
    total = len(plan(300, 420, 128, 64))
    assert seen == [(count + 1, total) for count in range(total)]


def test_tiles_as_asked(segmenter, image):
    tiled = AnySize(segmenter.whole, tile=128, overlap=64)
    expected, sink = ArraySink(300, 420), ArraySink(300, 420)
    pooled, _ = mean_features(segmenter.features, ArraySource(image), 128)
    segment_tiles(lambda i, v: segmenter.segment(i, v, pooled), ArraySource(image), expected, 128, 64)
    assert np.array_equal(tiled(image), expected.mask)
    tiled.windows(ArraySource(image), sink)
    assert np.array_equal(sink.mask, expected.mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tile": 20}, "larger tile"), ({"tile": 64, "overlap": 60}, "less overlap"), ({"memory": 0}, "0.01 GB or more")],
)
def test_settings_that_cannot_be(segmenter, settings, message):
    with pytest.raises(AtrousError, match=message):
        AnySize(segmenter.whole, **settings)


def test_missing_values_do_not_reach_the_network(segmenter, image):
    valid = np.ones((300, 420), bool)
    valid[100:] = False
    sinks = ArraySink(300, 420), ArraySink(300, 420)
    for sink, value in zip(sinks, (0, 255), strict=True):
        given = np.where(valid[..., None], image, np.uint8(value))
        segmenter.looking(tile=256).windows(ArraySource(given, valid), sink)
    assert np.array_equal(sinks[0].mask, sinks[1].mask)
    assert (sinks[0].mask[100:] == 255).all() and (sinks[0].mask[:100] < 5).all()


class Small:
    """A network whose device holds 300×300 px."""

    pools, scales = True, (1.0,)

    def __init__(self, segmenter: Segmenter, error: Exception) -> None:
        self.info, self.engine, self.crf, self.error = segmenter.info, segmenter.engine, None, error

    def segment(self, image, valid=None, pooled=None):
        self.features(image)
        return np.full(image.shape[:2], 3, np.uint8)

    def features(self, image):
        if image.shape[0] * image.shape[1] > 300**2:
            raise self.error
        return (image[::16, ::16],)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_falls_back_to_smaller_tiles_with_one_line(segmenter, error):
    said = []
    any_size = AnySize(Small(segmenter, error), say=said.append)
    for _ in range(2):
        assert (any_size(np.zeros((900, 1100, 3), np.uint8)) == 3).all()
    assert said == [
        "out of memory at 1100 px: continuing with tiles of 544 px",
        "out of memory at 544 px: continuing with tiles of 256 px",
    ]


def test_smaller_tiles_that_leave_the_grid_are_said(segmenter):
    small, said = Small(segmenter, MemoryError()), []
    small.scales = (0.7,)
    any_size = AnySize(small, say=said.append)
    assert (any_size(np.zeros((832, 1120, 3), np.uint8), name="a.png") == 3).all()
    assert [line for line in said if "grid" in line] == [
        "a.png: tiles of 256 px do not lie on the network's grid at these scales; tiles of 448 px or more do. The mask "
        "differs from that of the whole picture; it differed in 2.9 % of the pixels of one test picture."
    ]


def test_memory_that_runs_out_in_the_first_pass_over_windows(segmenter):
    sink, said = ArraySink(900, 1100), []
    any_size = AnySize(Small(segmenter, MemoryError()), tile=1024, say=said.append)
    any_size.windows(ArraySource(np.zeros((900, 1100, 3), np.uint8)), sink)
    assert (sink.mask == 3).all()
    assert said[-1] == "out of memory at 512 px: continuing with tiles of 256 px"


def test_other_errors_are_not_taken_for_it(segmenter):
    with pytest.raises(RuntimeError, match="sizes differ"):
        AnySize(Small(segmenter, RuntimeError("sizes differ")))(np.zeros((900, 1100, 3), np.uint8))


def test_memory_grows_with_pixels_and_network(segmenter):
    info = segmenter.info
    small, large = predict_bytes(info, 512, 512), predict_bytes(info, 1024, 1024)
    base = predict_bytes(info, 0, 0)
    assert large - base == pytest.approx(4 * (small - base))
    assert predict_bytes(info, 512, 512, crf=True) > small
    own = 512**2 * 8  # three bytes of a pixel twice and two of its mask, whatever the network sees
    assert predict_bytes(info, 512, 512, scale=2) - base - own == pytest.approx(4 * (small - base - own))
    bigger = atrous.create_model("deeplabv3plus", backbone="resnet50", num_classes=5, pretrained=False).info
    assert predict_bytes(bigger, 512, 512) > small


def test_the_limit_is_half_of_what_is_free():
    assert limit_bytes(2.5) == 2.5e9
    assert limit_bytes(None) == pytest.approx(available_bytes() / 2, rel=0.2)
