"""Failed work keeps no picture in memory, also while the garbage collector does not run."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.serving.drop_tracebacks import drop_tracebacks

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from atrous.serving import form_files, picture_upload, request_handler, response_formats
from atrous.serving.inference_queue import InferenceQueue, Job
from atrous.serving.model_store import InferenceOptions, Model
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_limits import Problem
from atrous.serving.request_settings import RequestSettings


@pytest.fixture
def uncollected():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", aspp_channels=16, pretrained=False)
    atrous.save(model, path)
    return Model("m", path, "1", Segmenter(path, engine="torch", device="cpu", precision="float32"))


def test_tracebacks_of_an_error_and_its_causes_are_dropped(uncollected):
    seen = []

    def fail(held: list[BaseException]) -> None:
        picture = np.zeros(9)
        seen.append(weakref.ref(picture))
        try:
            raise ValueError("inner")
        except ValueError as inner:
            held.append(inner)
            raise AtrousError("outer") from inner

    def run() -> AtrousError:
        held: list[BaseException] = []
        try:
            fail(held)
        except AtrousError as error:
            held.append(error)  # a cycle: error, traceback, frame of `fail`, held, error
            return error
        raise AssertionError

    error = run()
    assert seen[0]() is not None
    drop_tracebacks(error)
    assert seen[0]() is None
    assert str(error.__cause__) == "inner"


@pytest.mark.parametrize("where", ["the header", "the picture", "the network", "the answer"])
def test_a_refused_picture_stays_in_no_memory(opened, monkeypatch, uncollected, where):
    seen = []

    def fail(*words: object, **options: object) -> None:
        picture = np.zeros(9)
        seen.append(weakref.ref(picture))
        raise AtrousError("truncated")

    name = {"the header": "decoded_size", "the picture": "decode_pixels"}.get(where)
    if name is not None:
        monkeypatch.setattr(picture_upload, name, fail)
    elif where == "the answer":
        monkeypatch.setattr(response_formats, "write", fail)
    else:
        monkeypatch.setattr(type(opened.segmenter.any_size), "__call__", fail)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")

    class Request:
        headers = form_files.Headers({})
        url = "http://localhost/v1/models/model/segment"

        async def stream(self):
            yield file.getvalue()

        async def receive(self) -> dict[str, str]:
            await asyncio.sleep(60)
            raise AssertionError

    async def ask() -> None:
        queue = InferenceQueue()
        made = request_handler.RequestHandler([opened], queue, request_handler.Limits(), Metrics())  # type: ignore[arg-type]
        try:
            settings = RequestSettings(opened, InferenceOptions(), response_formats.ResponseOptions())
            with pytest.raises(Problem):
                await made.serve(Request(), settings)  # type: ignore[arg-type]
            await asyncio.sleep(0)
            assert seen[0]() is None
        finally:
            made.close()
            queue.close()

    asyncio.run(ask())


def test_the_network_keeps_no_picture_that_failed_was_segmented_or_was_left(opened, uncollected):
    segmenter, seen, began = opened.segmenter, [], threading.Event()

    def job_of(picture: np.ndarray, segment) -> Job:
        job = Job(segmenter.looking(), picture)
        job.segmenter.whole.segment = segment  # type: ignore[method-assign]
        seen.append(weakref.ref(picture))
        return job

    def fail(image, valid=None, pooled=None):
        raise AtrousError("too narrow")

    def succeed(image, valid=None, pooled=None):
        return np.zeros(image.shape[:2], np.uint8)

    def wait_and_fail(image, valid=None, pooled=None):
        began.set()
        threading.Event().wait(0.2)
        raise AtrousError("too narrow")

    async def ask() -> None:
        queue = InferenceQueue()
        await queue.segment(job_of(np.zeros((8, 8, 3), np.uint8), succeed))
        with pytest.raises(AtrousError):
            await queue.segment(job_of(np.zeros((8, 8, 3), np.uint8), fail))
        leaving = asyncio.ensure_future(queue.segment(job_of(np.zeros((8, 8, 3), np.uint8), wait_and_fail)))
        await asyncio.to_thread(began.wait, 30)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        del leaving
        await asyncio.to_thread(lambda: None)
        for _ in range(100):
            if not any(one() is not None for one in seen):
                break
            await asyncio.sleep(0.02)
        assert [one() is None for one in seen] == [True, True, True]
        queue.close()

    asyncio.run(ask())
