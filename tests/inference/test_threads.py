"""One segmenter for any number of threads: each caller gets its own picture's mask."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import atrous
from atrous.errors import AtrousError
from atrous.inference import export_graph, exported_onnx_and_openvino, openvino_engine, resize_argmax
from atrous.inference.segmenter import Segmenter
from atrous.inference.torch_engine import TorchEngine
from atrous.inference.whole_or_tiled import AnySize

ENGINES = ("openvino", "torch", ".xml", ".onnx")
TILE, OVERLAP = 64, 32


@pytest.fixture(scope="module")
def files(make_model, tmp_path_factory):
    """A model with image pooling as a file, and its exports."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("threads")
    model = make_model("deeplabv3plus", backbone="mobilenetv2_050")
    atrous.save(model, folder / "model.safetensors")
    program = export_graph.trace(model, with_scores=True)
    for format, suffix in (("openvino", ".xml"), ("onnx", ".onnx")):
        export_graph.write(program, model.info, format, folder / f"model{suffix}")
    return folder


@pytest.fixture(scope="module", params=ENGINES)
def segmenter(request, files):
    if request.param.startswith("."):
        return Segmenter(files / f"model{request.param}")
    return Segmenter(files / "model.safetensors", engine=request.param, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(8)]


def whole(segmenter):
    return segmenter.segment


def tiled(segmenter):
    return AnySize(segmenter.whole, tile=TILE, overlap=OVERLAP)


def one_in_tiles(segmenter):
    """One segmenter, and so one `AnySize`, for all threads."""
    shared = segmenter.looking(tile=TILE, overlap=OVERLAP)
    return lambda picture: shared(picture).mask


def swapped(segment, pictures, threads, calls):
    """How many of the masks that threads got are not their picture's; all threads begin at once."""
    expected = [segment(picture) for picture in pictures]
    assert len({mask.tobytes() for mask in expected}) == len(pictures)  # not vacuous
    begin = threading.Barrier(threads)

    def work(thread):
        begin.wait()
        own = [(thread + call) % len(pictures) for call in range(calls)]
        return sum(not np.array_equal(segment(pictures[one]), expected[one]) for one in own)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


@pytest.mark.slow
@pytest.mark.parametrize("way", [whole, tiled, one_in_tiles])
def test_many_threads_get_their_own_masks(segmenter, pictures, way):
    assert swapped(way(segmenter), pictures, threads=8, calls=4) == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", [whole, tiled])
def test_eight_threads_and_many_calls(segmenter, pictures, way):
    assert swapped(way(segmenter), pictures, threads=8, calls=20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"scales": (1.0, 2.0), "flip": True}, {"crf": "deeplabv2,iterations=2"}])
@pytest.mark.parametrize("way", [whole, tiled])
def test_views_and_the_crf_are_each_threads_own(segmenter, pictures, way, options):
    assert swapped(way(segmenter.looking(**options)), pictures[:3], threads=3, calls=2) == 0


def test_different_looks_at_one_network_run_side_by_side(segmenter, pictures):
    looks = [segmenter, segmenter.looking(flip=True), segmenter.looking(scales=(0.5, 1.0))]
    expected = [look.segment(pictures[0]) for look in looks]
    with ThreadPoolExecutor(len(looks)) as pool:
        found = list(pool.map(lambda look: [look.segment(pictures[0]) for _ in range(4)], looks))
    assert all(np.array_equal(mask, right) for masks, right in zip(found, expected, strict=True) for mask in masks)


@pytest.mark.parametrize("way", [whole, tiled])
def test_a_thread_between_network_and_mask_keeps_its_scores(segmenter, pictures, way, monkeypatch):
    """Each thread waits there until all others have run the network, too."""
    if segmenter.engine.name == "onnxruntime":
        pytest.skip("its graph gives masks")
    segment, held = way(segmenter), threading.local()
    expected = [segment(picture) for picture in pictures]
    all_there = threading.Barrier(len(pictures), timeout=60)
    decide = resize_argmax.resize_argmax

    def hold(scores, size, align_corners=False):
        if not getattr(held, "once", False):
            held.once = True
            all_there.wait()
        return decide(scores, size, align_corners)

    for module in (openvino_engine, exported_onnx_and_openvino, resize_argmax):
        monkeypatch.setattr(module, "resize_argmax", hold)
    with ThreadPoolExecutor(len(pictures)) as pool:
        found = list(pool.map(segment, pictures))
    assert all(np.array_equal(mask, right) for mask, right in zip(found, expected, strict=True))


def test_what_one_thread_pools_is_not_anothers(files, pictures):
    """A thread is held inside the network, where it puts the whole picture's mean; another runs meanwhile."""
    segmenter = Segmenter(files / "model.safetensors", engine="torch", device="cpu", precision="float32")
    expected, parts = segmenter.segment(pictures[0]), AnySize(segmenter.whole, tile=TILE, overlap=OVERLAP)
    right = parts(pictures[1])
    holder, inside, go_on = threading.local(), threading.Event(), threading.Event()

    def hold(*_):
        if getattr(holder, "holds", False):
            inside.set()
            assert go_on.wait(60)

    def in_tiles():
        holder.holds = True
        return parts(pictures[1])

    assert isinstance(segmenter.whole.runner, TorchEngine)
    handle = segmenter.whole.runner._means[0].register_forward_hook(hold)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(in_tiles)
        assert inside.wait(60)
        found = segmenter.segment(pictures[0])
        go_on.set()
        assert np.array_equal(future.result(), right)
    handle.remove()
    assert np.array_equal(found, expected)


@pytest.mark.slow
def test_threads_that_open_one_file_at_once(files, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is converted yet

    def open_and_run(engine):
        return Segmenter(files / "model.safetensors", engine=engine, precision="float32").segment(pictures[0])

    expected = open_and_run("torch")
    with ThreadPoolExecutor(4) as pool:
        for mask in pool.map(open_and_run, ["openvino", "torch", "openvino", "torch"]):
            assert (mask == expected).mean() > 0.999


@pytest.mark.slow
def test_a_large_picture_of_each_thread(files):
    """Networks that are made for one size, while threads have pictures of two."""
    segmenter = Segmenter(files / "model.safetensors", engine="openvino", precision="float32")
    rng = np.random.default_rng(0)
    large = [
        np.kron(rng.integers(0, 256, (*size, 3), np.uint8), np.ones((64, 64, 1), np.uint8))
        for size in ((16, 17), (17, 16), (16, 17))
    ]
    expected = [segmenter.segment(picture) for picture in large]
    segmenter = Segmenter(files / "model.safetensors", engine="openvino", precision="float32")
    with ThreadPoolExecutor(3) as pool:
        for mask, right in zip(pool.map(segmenter.segment, large), expected, strict=True):
            assert (mask == right).mean() > 0.9999


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_segmenter_and_a_client_say_how_to_be_used_elsewhere(segmenter, send):
    with pytest.raises(AtrousError, match=r"call its open\(\) in the other process"):
        send(segmenter)
    with pytest.raises(AtrousError, match="make a Client with the same address there"):
        send(atrous.Client("http://127.0.0.1:9"))
