"""Segmenters and CRFs that were used before a process forked, and then in the child: they work, or say what to do."""

import os
import subprocess
import sys

import pytest

import atrous
from atrous.fork_safety import ForkLock

pytestmark = pytest.mark.needs("fork")

#: What every program begins with: a picture, a model whose masks vary, and what runs it.
BEGIN = """if True:
    import multiprocessing, os, sys, threading
    import numpy as np
    import atrous

    path, engine = sys.argv[1:]
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((32, 32, 1), np.uint8)) for _ in range(4)]

    def open_segmenter():
        given = {} if engine == "file" else {"engine": engine, "device": "cpu", "precision": "float32"}
        return atrous.Segmenter(path, **given)

    def alike(mask, expected):
        # But for ties: sums over one thread and over two are rounded differently.
        return (mask == expected).mean() > 0.999
"""


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("forks") / "model.safetensors"
    atrous.save(make_model("deeplabv3plus", backbone="mobilenetv2_050"), file)
    return file


def run(code, path, engine="file"):
    """What a program prints; it has threads that a child can miss, and cannot hang longer than this test may take."""
    threads = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(path), engine],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | threads,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


#: A pool of forked children, and a child that ends as a script does.
POOL_AND_EXIT = """
    segmenter = open_segmenter()
    expected = [segmenter(picture).mask for picture in pictures]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(segment, pictures)
    print(all(alike(*both) for both in zip(expected, found)))
    child = os.fork()
    again = open_segmenter() if child == 0 else segmenter  # a new one opens in the child, too
    for one in (segmenter, again):
        assert alike(one(pictures[0]).mask, expected[0])
    if child:
        print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_segmenter_works_in_forked_children(model, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    code = "\n    def segment(picture):\n        return segmenter(picture).mask\n"
    assert run(code + POOL_AND_EXIT, model, engine) == ["True", "0"]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_exported_file_works_in_forked_children(exports, format, package):
    pytest.importorskip(package)
    code = "\n    def segment(picture):\n        return segmenter(picture).mask\n"
    assert run(code + POOL_AND_EXIT, exports(format, True)) == ["True", "0"]


@pytest.mark.slow
def test_a_network_that_ran_in_a_lost_thread_says_what_to_do(model):
    """The fork happens while a thread is inside of the network: the child has the network, but not the thread."""
    pytest.importorskip("openvino")
    code = """
    from atrous.errors import AtrousError

    segmenter = open_segmenter()
    expected = segmenter(pictures[0]).mask
    large = np.zeros((1000, 1000, 3), np.uint8)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            segmenter(large)

    thread = threading.Thread(target=work)
    thread.start()
    while not segmenter.whole.runner._any_size._computing._lock.locked():
        pass
    child = os.fork()
    if child == 0:
        try:
            segmenter(pictures[0])
        except AtrousError as error:
            print(error, flush=True)
        os._exit(0 if alike(open_segmenter()(pictures[0]).mask, expected) else 1)
    status = os.waitpid(child, 0)[1]
    stop.set()
    thread.join()
    print(np.array_equal(segmenter(pictures[0]).mask, expected), status)
    """
    said, after = run(code, model, "openvino")
    assert "open the Segmenter in the child, or start processes by multiprocessing's method spawn" in said
    assert after == "True 0"


CRF = """
    import torch

    crf = atrous.DenseCRF(iterations=3)
    values = rng.random((3, *pictures[0].shape[:2]), np.float32)
    probabilities = values / values.sum(0)

    def refine(picture):
        return crf(picture, probabilities)

    {before}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(refine, pictures)
    print(all(np.array_equal(refine(picture), one) for picture, one in zip(pictures, found)))
"""


@pytest.mark.slow  # loops are compiled a second time, for one thread
@pytest.mark.parametrize("before", ["refine(pictures[0])", "torch.rand(600, 600) @ torch.rand(600, 600)", "pass"])
def test_a_crf_works_in_forked_children(model, before):
    assert run(CRF.format(before=before), model) == ["True"]


@pytest.mark.slow
def test_a_crf_of_a_segmenter_works_in_forked_children_in_tiles(model):
    code = """
    from atrous.inference.whole_or_tiled import AnySize

    segmenter = open_segmenter().looking(crf="deeplabv2", scales=(1.0, 2.0))
    tiled = AnySize(segmenter.whole, tile=128, overlap=64)

    def segment(picture):
        return tiled(picture)

    expected = [segment(picture) for picture in pictures]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(segment, pictures)
    print(all(alike(*both) for both in zip(expected, found)))
    """
    assert run(code, model, "torch") == ["True"]


@pytest.mark.parametrize("lost", ["the thread is lost", ""])
def test_a_thread_that_forks_while_it_holds_a_lock_goes_on_in_the_child(lost):
    lock = ForkLock(lost)
    with lock:
        child = os.fork()
        held = lock._lock.locked()
    if child == 0:
        try:
            with lock:
                os._exit(0 if held else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
