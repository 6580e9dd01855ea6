"""Which errors say that memory ran out, what is remembered of it, and what surely fits."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import atrous
from atrous.data.sources.array import ArraySink, ArraySource
from atrous.errors import OutOfMemory
from atrous.inference import whole_or_tiled as module
from atrous.inference.memory_estimate import SURELY_FITS, predict_bytes, surely_fits
from atrous.inference.out_of_memory import TileLimits
from atrous.inference.segmenter import Segmenter
from atrous.inference.whole_or_tiled import AnySize
from atrous.memory_errors import is_out_of_memory
from atrous.serving.inference_queue import InferenceQueue, Job


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "Failed to allocate 8589934592 bytes of memory",
        "std::bad_alloc",
    ],
)
def test_errors_of_all_allocators_are_recognised(text: str):
    assert is_out_of_memory(RuntimeError(text))


def test_an_array_that_numpy_cannot_allocate_is_recognised():
    with pytest.raises(MemoryError, match="Unable to allocate") as caught:
        np.empty(2**60, np.uint8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(RuntimeError(str(caught.value)))


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_other_errors_are_not(text: str):
    assert not is_out_of_memory(RuntimeError(text))


def test_what_ran_out_at_a_scale_or_without_a_crf_runs_out_at_larger_ones_and_with_one():
    limits = TileLimits()
    assert limits.tile(1.0, True) is None
    limits.lower(512, 1.0, False)
    limits.lower(768, 1.0, False)
    limits.lower(256, 2.0, True)
    assert limits.tile(1.0, False) == limits.tile(1.75, True) == limits.tile(9.0, False) == 512
    assert limits.tile(2.0, True) == 256
    assert limits.tile(0.5, False) is limits.tile(0.75, True) is None


LARGE = np.random.default_rng(0).integers(0, 255, (288, 1100, 3), np.uint8)


@pytest.fixture
def small(make_model, monkeypatch) -> Segmenter:
    """A segmenter whose memory holds 288×400 px; it counts how often that was not enough."""
    segmenter = Segmenter(
        make_model("deeplabv3plus", backbone="mobilenetv2_035"), engine="torch", device="cpu", precision="float32"
    )
    through, segmenter.failures = segmenter.whole.runner._through, []

    def limited(images):
        if images.shape[1] * images.shape[2] > 288 * 400:
            segmenter.failures.append(images.shape)
            raise MemoryError
        return through(images)

    monkeypatch.setattr(segmenter.whole.runner, "_through", limited)
    return segmenter


@pytest.mark.slow
def test_a_second_picture_does_not_run_out_of_memory_again(small):
    first = small(LARGE).mask
    assert len(small.failures) == 2  # at once, and in tiles of 544 px
    assert np.array_equal(small(LARGE).mask, first)
    assert np.array_equal(small.looking()(LARGE).mask, first)
    assert len(small.failures) == 2
    assert np.array_equal(first, AnySize(small.whole, tile=256)(LARGE))


def test_a_larger_tile_that_was_asked_for_is_not_tried_again(small):
    for _ in range(2):
        AnySize(small.whole, tile=640, limits=small.limits)(LARGE)
    assert len(small.failures) == 1
    wide = AnySize(small.whole, tile=640, overlap=320, limits=small.limits)  # after which a tile of 352 px is the least
    assert wide(LARGE).shape == (288, 1100)


@pytest.mark.slow
def test_threads_share_what_ran_out(small):
    first = small(LARGE).mask
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: small(LARGE).mask, range(4)))
    assert all(np.array_equal(mask, first) for mask in found) and len(small.failures) == 2


@pytest.mark.slow
def test_every_way_to_run_the_network_remembers_what_ran_out(small):
    first, sink = small(LARGE).mask, ArraySink(288, 1100)
    small.windows(ArraySource(LARGE), sink)
    assert np.array_equal(sink.mask, first)
    looks = [small, small.looking(), small.with_crf(None), small.looking(tile=640), small.looking(flip=True)]
    with ThreadPoolExecutor(len(looks)) as pool:
        found = list(pool.map(lambda look: look(LARGE).mask, looks))
    assert all(np.array_equal(mask, first) for mask in found[:4]) and not np.array_equal(found[4], first)
    assert len(small.failures) == 2 and {look.limits for look in looks} == {small.limits}


def test_a_server_remembers_what_ran_out(small):
    network = InferenceQueue()
    masks = [network.submit(Job(small.looking(), LARGE)).result(60) for _ in range(2)]
    network.close()
    assert np.array_equal(*masks) and len(small.failures) == 2


def test_a_server_stacks_fewer_pictures_after_memory_ran_out(small, monkeypatch):
    monkeypatch.setattr(Segmenter, "stacks", property(lambda self: self is small))
    together: list[int] = []

    def stacked(images):
        together.append(len(images))
        if len(images) > 3:
            raise MemoryError
        return [small.segment(image) for image in images]

    small.segment_together = stacked
    image = np.zeros((32, 64, 3), np.uint8)
    network, sizes = InferenceQueue(), []
    for _ in range(2):
        with network._changed:  # until all are in line
            jobs = [Job(small, image) for _ in range(6)]
            network._jobs.extend(jobs)
            network._changed.notify()
        sizes += [job.mask.result(60).shape for job in jobs]
    network.close()
    assert sizes == 12 * [(32, 64)] and together == [6, 3, 3]
    each = predict_bytes(small.info, 32, 64) - predict_bytes(small.info, 0, 0)
    small.any_size.memory = (predict_bytes(small.info, 0, 0) + 4.5 * each) / 1e9
    allowed = InferenceQueue()
    assert allowed._most_together(Job(small, image)) == 4
    allowed.close()


def test_what_surely_fits_depends_on_scales_enlargement_and_crf(make_model, monkeypatch):
    segmenter = Segmenter(make_model("deeplabv3plus", backbone="mobilenetv2_035"), engine="torch", device="cpu")
    enlarging = Segmenter(
        make_model("deeplabv3plus", backbone="mobilenetv2_035", enlarge=1.5), engine="torch", device="cpu"
    )
    at, below = SURELY_FITS // 1024, SURELY_FITS // 1024 - 1
    cases = [
        (segmenter, 1.0),
        (segmenter.looking(scales=(0.5, 0.75)), 1.0),  # the picture itself stays
        (segmenter.looking(scales=(0.5, 2.0)), 4.0),
        (enlarging, 2.25),
        (enlarging.looking(scales=(2.0,)), 9.0),
        (segmenter.looking(crf="deeplabv2"), 1 + (24 * 4 + 330) / 512),
    ]
    asked: list[float] = []
    monkeypatch.setattr(module, "limit_bytes", lambda *given: asked.append(1) or 1e15)
    for looking, weight in cases:
        assert surely_fits(looking.whole, int(at / weight), 1024) and not surely_fits(
            looking.whole, int(at / weight) + 2, 1024
        )
        any_size = AnySize(looking.whole)
        assert any_size._tile_for(int(below / weight), 1024, "a.png") is None and not asked
        assert any_size._tile_for(int(at / weight) + 2, 1024, "a.png") is None and asked.pop()


def test_a_server_stacks_only_what_surely_fits(make_model, monkeypatch):
    monkeypatch.setattr(Segmenter, "stacks", True)
    plain, enlarging = (
        Segmenter(make_model("deeplabv3plus", backbone="mobilenetv2_035", enlarge=one), engine="torch", device="cpu")
        for one in (1.0, 2.0)
    )
    image, network = np.zeros((1000, 1000, 3), np.uint8), InferenceQueue()
    assert network._most_together(Job(plain, image)) == 16
    assert network._most_together(Job(enlarging, image)) == 1
    network.close()


def test_valid_of_another_size_is_refused(make_model):
    segmenter = Segmenter(make_model("deeplabv3plus", backbone="mobilenetv2_035"), engine="torch", device="cpu")
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(atrous.AtrousError, match="booleans of the picture's 40×50 px"):
        segmenter(image, np.ones((50, 40), bool))
    valid = np.ones((40, 50), bool)
    valid[:7] = False
    assert np.array_equal(segmenter(image, valid).mask == 255, ~valid)


def running_out(model):
    """With a layer that asks torch for more memory than any machine has."""
    model.classifier.register_forward_pre_hook(lambda module, inputs: torch.empty(2**55))
    return atrous.Segmenter(model, engine="torch", precision="float32")


@pytest.mark.parametrize(
    "call",
    [
        lambda segmenter, picture: segmenter(picture),
        lambda segmenter, picture: segmenter([picture]),
        lambda segmenter, picture: list(segmenter(iter([picture]))),
        lambda segmenter, picture: segmenter.looking(scales=(0.5, 1.0))(picture),
        lambda segmenter, picture: segmenter.any_size(picture),
        lambda segmenter, picture: segmenter.segment_together([picture, picture]),
        lambda segmenter, picture: segmenter.any_size.scores(picture),
        lambda segmenter, picture: segmenter.whole.segment(picture),
    ],
    ids=["picture", "list", "iterator", "scales", "any size", "together", "scores", "whole"],
)
def test_memory_that_torch_cannot_allocate_is_an_error_of_ours(call):
    """It is torch's RuntimeError, raised by the allocator itself."""
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=2, aspp_channels=8)
    with pytest.raises(OutOfMemory, match="more memory than there is"):
        call(running_out(model.eval()), np.zeros((40, 40, 3), np.uint8))
