import asyncio
import threading

import numpy as np
import pytest

import atrous
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.serving.inference_queue import Abandoned, InferenceQueue, Job

ZEROS = np.zeros((24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    model = atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=5, aspp_channels=16, pretrained=False
    )
    return Segmenter(model, engine="torch", device="cpu", precision="float32")


@pytest.fixture
def runs() -> list[int]:
    return []


@pytest.fixture
def network(runs):
    network = InferenceQueue(ran=lambda count, seconds: runs.append(count))
    yield network
    network.close()


class Gate:
    """Keeps the network busy until it is opened."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.job = Job(segmenter.looking(), ZEROS)
        self.job.segmenter.whole.segment = self._wait  # type: ignore[method-assign]

    def _wait(self, image, valid=None, pooled=None) -> np.ndarray:
        self.entered.set()
        assert self.opened.wait(30)
        return np.zeros(image.shape[:2], np.uint8)


def pictures(count: int, shape=(24, 32, 3)) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, *shape), dtype=np.uint8))


def test_each_mask_is_that_of_its_picture(network, tiny):
    given = pictures(6)
    masks = [network.submit(Job(tiny, image)) for image in given]
    assert all(np.array_equal(mask.result(30), tiny(image).mask) for mask, image in zip(masks, given, strict=True))


def test_pictures_of_one_size_are_stacked_where_that_is_faster(network, tiny, runs, monkeypatch):
    monkeypatch.setattr(Segmenter, "stacks", property(lambda self: self is tiny))
    gate = Gate(tiny)
    network.submit(gate.job)
    assert gate.entered.wait(30)
    given = [*pictures(3), *pictures(2, (40, 24, 3)), *pictures(2)]
    jobs = [Job(tiny, image) for image in given]
    for job in jobs:
        network.submit(job)
    gate.opened.set()
    for job, image in zip(jobs, given, strict=True):
        assert np.array_equal(job.mask.result(30), tiny(image).mask)
    network.close()
    assert runs == [1, 5, 2]


def test_on_processors_nothing_is_stacked(tiny):
    assert not tiny.stacks
    assert not tiny.looking(flip=True).stacks


def test_together_means_the_same_as_one_by_one(tiny):
    given = pictures(3)
    together = tiny.segment_together(given)
    assert all(np.array_equal(mask, tiny(image).mask) for mask, image in zip(together, given, strict=True))


def test_an_error_is_its_pictures_alone(network, tiny):
    broken = tiny.looking()
    broken.whole.segment = lambda *_: 1 / 0
    failed, well = network.submit(Job(broken, ZEROS)), network.submit(Job(tiny, ZEROS))
    with pytest.raises(ZeroDivisionError):
        failed.result(30)
    assert well.result(30).shape == (24, 32)
    with pytest.raises(AtrousError, match="overlap"):
        tiny.looking(tile=64, overlap=64)


def test_abandoned_pictures_cost_nothing(network, tiny, runs):
    async def leave() -> Job:
        job = Job(tiny, ZEROS)
        waiting = asyncio.ensure_future(network.segment(job))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return job

    gate = Gate(tiny)
    network.submit(gate.job)
    assert gate.entered.wait(30)
    job = asyncio.run(leave())
    gate.opened.set()
    assert network.submit(Job(tiny, ZEROS)).result(30) is not None
    assert job.abandoned.is_set()
    assert job.mask.cancelled()
    network.close()
    assert runs == [1, 1]  # the gate's, and the one after


def test_work_in_tiles_ends_between_two_of_them(network, tiny):
    seen = []
    looking = tiny.looking(tile=256, overlap=64)
    job = Job(looking, np.zeros((512, 512, 3), np.uint8))

    def segment(image, valid=None, pooled=None):
        seen.append(image.shape)
        job.abandoned.set()
        return tiny.segment(image, valid, pooled)

    looking.whole.segment = segment  # type: ignore[method-assign]
    with pytest.raises(Abandoned):
        network.submit(job).result(60)
    assert len(seen) == 1


def test_closing_finishes_the_line(tiny):
    network = InferenceQueue()
    masks = [network.submit(Job(tiny, ZEROS)) for _ in range(5)]
    network.close()
    assert all(mask.done() for mask in masks)
    assert not network.alive
