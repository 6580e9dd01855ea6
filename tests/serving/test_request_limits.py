"""What a server takes from strangers: memory that pictures share, connections, and looks of the network."""

import asyncio
import dataclasses
import io
import sys
import threading

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous.data.pictures import TooLarge, decode_pixels, decoded_size
from atrous.errors import AtrousError, OutOfMemory
from atrous.inference.prediction import Prediction, visible
from atrous.inference.segmenter import Segmenter
from atrous.serving import form_files, picture_upload, request_handler, response_formats, server, slow_request_timeouts
from atrous.serving.auth import AccessControl
from atrous.serving.model_store import InferenceOptions, Model
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_limits import Memory, Problem
from atrous.serving.request_settings import RequestSettings


def test_memory_is_shared_in_the_order_of_asking():
    async def pictures() -> list[str]:
        memory, done = Memory(10), []
        leave = {name: asyncio.Event() for name in "abcd"}

        async def picture(name: str, size: float) -> None:
            async with memory.take(size):
                assert memory.used <= 10
                done.append(name)
                await leave[name].wait()

        tasks = []
        for name, size in (("a", 6), ("b", 8), ("c", 4), ("d", 2)):  # c and d would fit beside a, and wait behind b
            tasks.append(asyncio.create_task(picture(name, size)))
            await asyncio.sleep(0)
        assert done == ["a"]
        for name in "abcd":
            leave[name].set()
            for _ in range(10):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert memory.used == 0
        return done

    assert asyncio.run(pictures()) == ["a", "b", "c", "d"]


def test_whoever_stops_waiting_for_memory_leaves_none_behind():
    async def pictures() -> None:
        memory = Memory(10)
        async with memory.take(9):
            waiting = asyncio.create_task(memory.take(5).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with memory.take(10):
            assert memory.used == 10
        with pytest.raises(Problem, match="send a smaller picture"):
            await memory.take(11).__aenter__()

    asyncio.run(pictures())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_the_size_that_a_header_names_is_at_least_that_of_the_pixels(kind, mode):
    grey = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, kind)
    except (OSError, ValueError):
        pytest.skip("the format has no such mode")
    pixels, size = decoded_size(file.getvalue(), 100)
    assert pixels == 60 and size >= decode_pixels(file.getvalue(), 100).values.nbytes
    with pytest.raises(TooLarge):
        decoded_size(file.getvalue(), 59)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int32"])
def test_the_size_of_a_deep_tiff_with_many_bands(dtype):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((6, 10, 7), dtype), photometric="minisblack", planarconfig="contig")
    pixels, size = decoded_size(file.getvalue(), 100)
    assert pixels == 60 and size >= np.zeros((6, 10, 7), dtype).nbytes


def model(tmp_path, **preprocessing) -> Model:
    network = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3).eval()
    info = network.info
    network.info = dataclasses.replace(info, preprocessing=dataclasses.replace(info.preprocessing, **preprocessing))
    atrous.save(network, tmp_path / "m.safetensors")
    segmenter = Segmenter(tmp_path / "m.safetensors", engine="torch", device="cpu", precision="float32")
    return Model("m", tmp_path / "m.safetensors", "1", segmenter)


@pytest.mark.slow
def test_enlarging_and_the_first_pass_of_tiles_count_as_pixels(tmp_path):
    plain, asked = model(tmp_path), response_formats.ResponseOptions()
    assert RequestSettings(plain, InferenceOptions(), asked).pixel_factor == 1
    assert RequestSettings(plain, InferenceOptions((1.0, 2.0), True), asked).pixel_factor == 10
    assert plain.segmenter.pools
    assert RequestSettings(plain, InferenceOptions(tile=512, overlap=0), asked).pixel_factor == 2
    enlarged = model(tmp_path, enlarge=2.0)
    assert RequestSettings(enlarged, InferenceOptions(), asked).pixel_factor == 4
    assert RequestSettings(enlarged, InferenceOptions(tile=512, overlap=256), asked).pixel_factor == 4 * 2 * 4


def test_a_websocket_is_refused_whatever_its_key():
    asked: list[str] = []

    async def app(scope, receive, send) -> None:
        asked.append(scope["type"])

    for key in (None, "secret"):
        sent: list[dict] = []

        async def send(message, sent=sent) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/models", "headers": [(b"authorization", b"Bearer secret")]}
        asyncio.run(AccessControl(app, key, Metrics())(scope, None, send))
        assert [message["type"] for message in sent] == ["websocket.close"]
    assert asked == []


def test_a_form_is_read_beside_the_event_loop(monkeypatch, tmp_path):
    threads: list[threading.Thread] = []
    parse = form_files.MultiPartParser.parse

    async def spied(self):
        threads.append(threading.current_thread())
        return await parse(self)

    monkeypatch.setattr(form_files.MultiPartParser, "parse", spied)
    content = b'--B\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\nhello\r\n--B--\r\n'

    class Request:
        headers = form_files.Headers({"content-type": "multipart/form-data; boundary=B"})

    class Settings:
        parameters = ("format",)
        model = model(tmp_path)

    async def ask() -> bytes:
        made = request_handler.RequestHandler((), None, request_handler.Limits(), Metrics())  # type: ignore[arg-type]
        try:
            return (await made._files_in(Request(), content, Settings()))[0]  # type: ignore[arg-type]
        finally:
            made.close()

    assert asyncio.run(ask()) == b"hello"
    assert threads and threading.main_thread() not in threads


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return model(tmp_path_factory.mktemp("opened"))


@pytest.mark.parametrize("where", ["the header", "the picture", "the network", "the answer"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfMemory("this takes more memory than there is."), 413),
        (MemoryError(), 413),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 413),
        (AtrousError("four channels"), 422),
    ],
)
def test_memory_that_runs_out_is_a_picture_too_large(opened, monkeypatch, where, error, status):
    if where == "the header" and isinstance(error, RuntimeError):
        pytest.skip("no GPU reads headers")

    def fail(*words: object, **options: object) -> None:
        raise error

    class Broken:
        async def segment(self, job: object) -> np.ndarray:
            if where == "the network":
                raise error
            return np.zeros((8, 8), np.uint8)

    module, name = {
        "the header": (picture_upload, "decoded_size"),
        "the picture": (picture_upload, "decode_pixels"),
        "the answer": (response_formats, "write"),
    }.get(where, (request_handler, "FORM_BYTES"))
    monkeypatch.setattr(module, name, fail)
    settings = RequestSettings(opened, InferenceOptions(), response_formats.ResponseOptions())
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")

    async def ask() -> None:
        made = request_handler.RequestHandler((), Broken(), request_handler.Limits(), Metrics())  # type: ignore[arg-type]
        try:
            await made._answer((file.getvalue(),), settings, "")
        finally:
            made.close()

    with pytest.raises(Problem) as raised:
        asyncio.run(ask())
    assert raised.value.status == status


def test_connections_leave_files_for_the_server_itself():
    resource = pytest.importorskip("resource", reason="sockets are no files here")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert server.most_connections() == server.MOST_CONNECTIONS  # the soft limit is raised
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= server.MOST_CONNECTIONS + server.OWN_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_hard_limit_on_files_means_fewer_connections(monkeypatch):
    resource = pytest.importorskip("resource", reason="sockets are no files here")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert server.most_connections() == 1024 - server.OWN_FILES
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert server.most_connections() == 1


def test_where_sockets_are_no_files_all_connections_are_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert server.most_connections() == server.MOST_CONNECTIONS


def test_an_unknown_uvicorn_is_served_by_its_own_protocol(monkeypatch):
    class Without(slow_request_timeouts.H11Protocol):
        pause_writing = None  # type: ignore[assignment]

    class Other:
        def __init__(self, settings: object) -> None:
            pass

    said: list[str] = []
    assert slow_request_timeouts.fits()
    assert server._protocol(said.append) is slow_request_timeouts.TimedH11 and not said
    for protocol in (Without, Other):
        assert not slow_request_timeouts.fits(protocol)
    monkeypatch.setattr(slow_request_timeouts, "fits", lambda: False)
    assert server._protocol(said.append) == "h11"
    assert "slow connections are not closed" in said[0]


def test_an_overlay_in_parts_is_that_of_the_whole(monkeypatch):
    info = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=3).info
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (37, 41)).astype(np.uint8)
    mask[5] = 255
    for image in (rng.integers(0, 256, (37, 41, 3), np.uint8), rng.normal(9, 2, (37, 41, 1)).astype(np.float32)):
        picture = visible(image, mask != 255).astype(np.float32)
        colors = np.zeros((256, 3), np.float32)
        colors[:3] = info.colors
        strength = np.where(colors.any(1), np.float32(0.55), np.float32(0))[mask][..., None]
        whole = (picture * (1 - strength) + colors[mask] * strength).round().astype(np.uint8)
        for at_once in (2**18, 100, 1):
            monkeypatch.setattr("atrous.inference.prediction.PIXELS_AT_ONCE", at_once)
            assert np.array_equal(np.asarray(Prediction(mask, image, info).overlay()), whole)
