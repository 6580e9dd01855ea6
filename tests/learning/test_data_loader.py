import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.dataset import Dataset
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.transforms import Augment
from atrous.errors import AtrousError
from atrous.learning.batch import Batch
from atrous.learning.class_balance import pictures_of_classes
from atrous.learning.data_loader import AugmentedSamples, Loader, to_tensor
from atrous.learning.epoch_sampler import EpochOrder

COUNT = 11


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir()
    for index in range(COUNT):
        image = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{index:02}.png")
        Image.fromarray(rng.integers(0, 3, image.shape[:2], dtype=np.uint8)).save(root / "masks" / f"{index:02}.png")
    names = "\n".join(f"{index:02}" for index in range(COUNT))
    (root / "splits" / "train.txt").write_text(names)
    ClassTable(("a", "b", "c"), default_colors(3), ((0,), (1,), (2,)), (255,)).to_yaml(root / "classes.yaml")
    return open_dataset(root)


def samples(dataset: Dataset, **options) -> AugmentedSamples:
    config = Augment(crop=(16, 24), rotation=10, brightness=0.2, blur=0.3)
    options = {"config": config, "channels": 3, "seed": 5, "fill": (1.0, 2.0, 3.0), **options}
    return AugmentedSamples(dataset, dataset.split("train"), options.pop("config"), **options)


def epochs(dataset: Dataset, workers: int, starts=((0, 0), (1, 0))) -> list[list[Batch]]:
    order = EpochOrder(COUNT, 4, seed=3)
    loader = Loader(samples(dataset), order, workers)
    found = []
    for epoch, first in starts:
        order.start(epoch, first)
        found.append(list(loader))
    return found


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [batch.names for batch in ours] == [batch.names for batch in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.fixture(scope="module")
def alone(dataset) -> list[list[Batch]]:
    return epochs(dataset, 0)


def test_batches_are_raw_and_whole(alone):
    for epoch in alone:
        assert [len(batch.names) for batch in epoch] == [4, 4, 3]
        assert sorted(name for batch in epoch for name in batch.names) == [f"{index:02}" for index in range(COUNT)]
        for batch in epoch:
            assert batch.images.shape == (len(batch.names), 3, 16, 24)
            assert batch.images.dtype == batch.labels.dtype == torch.uint8
            assert set(batch.labels.unique().tolist()) <= {0, 1, 2, 255}


def test_epochs_differ_in_order_and_augmentation(alone):
    first, second = alone
    assert [batch.names for batch in first] != [batch.names for batch in second]
    of = [{n: image for b in epoch for n, image in zip(b.names, b.images, strict=True)} for epoch in alone]
    assert not any(torch.equal(of[0][name], of[1][name]) for name in of[0])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(dataset, alone, workers):
    torch.manual_seed(workers)  # nor on the global generators
    np.random.seed(workers)  # noqa: NPY002
    for ours, theirs in zip(epochs(dataset, workers), alone, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_an_epoch_goes_on_from_any_of_its_batches(dataset, alone, workers, first):
    rest, following = epochs(dataset, workers, ((0, min(4 * first, COUNT)), (1, 0)))
    assert_same(rest, alone[0][first:])
    assert_same(following, alone[1])


def test_order_is_a_pure_function_of_seed_and_epoch():
    def of(seed, epoch, size=20):
        order = EpochOrder(size, 6, seed)
        order.start(epoch)
        return [key for batch in order for key in batch]

    assert of(1, 2) == of(1, 2)
    assert of(1, 2) != of(2, 2)
    assert [index for _, index in of(1, 2)] != [index for _, index in of(1, 3)]
    assert sorted(of(1, 2)) == [(2, index) for index in range(20)]
    assert len(EpochOrder(20, 6, 0)) == 4
    assert len(EpochOrder(18, 6, 0)) == 3


def test_a_balanced_epoch_draws_all_classes_equally_often():
    classes = [np.arange(90, 100), np.array([7]), np.array([], np.int64)]  # one class in no picture
    order = EpochOrder(3000, 8, 5, balance=0.5, classes=classes)
    epochs = []
    for epoch in (0, 0, 1):
        order.start(epoch)
        epochs.append([index for batch in order for _, index in batch])
    assert epochs[0] == epochs[1] != epochs[2]
    assert len(set(epochs[0])) == 3000  # each repetition has its own index, and so its own augmentation
    pictures = np.array(epochs[0]) % 3000
    assert 650 < (pictures == 7).sum() < 850 and 650 < np.isin(pictures, classes[0]).sum() < 850
    assert len(set(pictures)) > 1400  # the other half of the epoch is drawn without repetition
    order.start(0, 8 * 20)
    assert [index for batch in order for _, index in batch] == epochs[0][8 * 20 :]
    parts = [EpochOrder(3000, 8, 5, rank, 2, balance=0.5, classes=classes) for rank in range(2)]
    assert sorted(index for part in parts for batch in part for _, index in batch) == sorted(epochs[0])


def test_a_repeated_sample_has_another_augmentation(dataset):
    found = samples(dataset, config=Augment(crop=(8, 8)))
    first, again, same = found[0, 2], found[0, 2 + COUNT], found[0, 2 + COUNT]
    assert first[2] == again[2] and not torch.equal(first[0], again[0])
    assert torch.equal(again[0], same[0])


def test_the_pictures_of_each_class_are_found(dataset):
    items = dataset.split("train")
    found = pictures_of_classes(dataset, items)
    assert len(found) == len(dataset.classes)
    for one, indices in enumerate(found):
        expected = [number for number, item in enumerate(items) if (dataset.read(item).label == one).any()]
        assert indices.tolist() == expected


def test_grey_and_colour_become_what_the_model_takes(dataset):
    image, label, name = samples(dataset, channels=1, fill=(9.0,))[0, 2]
    assert image.shape == (1, 16, 24)
    assert label.shape == (16, 24)
    assert name == "02"
    with pytest.raises(AtrousError, match="3 channels, but 4 are needed"):
        samples(dataset, channels=4)[0, 2]


def test_what_is_outside_the_picture_is_ignored_and_filled(dataset):
    wide = Augment(crop=(100, 100), scale=(1.0, 1.0), flip=0)
    image, label, _ = samples(dataset, config=wide)[0, 0]
    outside = label == 255
    assert int((~outside).sum()) == 20 * 30
    assert image[:, outside].unique(dim=1).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_to_tensor_keeps_every_value(dtype):
    image = np.arange(2 * 3 * 2, dtype=dtype).reshape(2, 3, 2) * dtype(21)
    if dtype == np.uint16:
        image[0, 0, 0] = 65535
    tensor = to_tensor(image[:, ::-1])
    assert tensor.shape == (2, 2, 3)
    assert tensor.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert np.array_equal(tensor.numpy().transpose(1, 2, 0), image[:, ::-1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named(dataset, tmp_path, workers):
    bad = tmp_path / "bad.png"
    bad.write_bytes(Path(dataset.split("train")[0].image).read_bytes()[:99])
    items = [type(item)(item.name, bad, item.mask) for item in dataset.split("train")]
    broken = AugmentedSamples(dataset, items, Augment(), channels=3, seed=0, fill=(0.0,) * 3)
    with pytest.raises(AtrousError, match=r"bad\.png") as caught:
        list(Loader(broken, EpochOrder(COUNT, 4, 0), workers))
    assert str(caught.value).startswith(str(bad))  # a sentence, not a worker's traceback


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_one_batch_that_differ_in_size_name_the_cure(dataset, workers):
    loader = Loader(samples(dataset, config=Augment(crop=None)), EpochOrder(COUNT, 4, 0), workers)
    with pytest.raises(AtrousError, match=r"^pictures of one batch differ in size \(.*set augment.crop"):
        list(loader)
    alone = Loader(samples(dataset, config=Augment(crop=None)), EpochOrder(COUNT, 1, 0), workers)
    assert len({batch.images.shape for batch in alone}) == COUNT


# Workers that fail

SAMPLES = {"channels": 3, "seed": 5, "fill": (1.0, 2.0, 3.0)}
#: What ends a process at once; on Windows os.kill does with any signal.
KILLING = getattr(signal, "SIGKILL", signal.SIGTERM)


class Fatal(AugmentedSamples):
    """Kills or hangs the worker that reads one of its pictures."""

    def __init__(self, *words, fatal, how, **options):
        super().__init__(*words, **options)
        self.dataset = FatalDataset(self.dataset, self.items[fatal], how)


class FatalDataset:
    def __init__(self, dataset, fatal, how):
        self.dataset, self.fatal, self.how = dataset, fatal, how

    def read(self, item):
        if torch.utils.data.get_worker_info() is not None and item == self.fatal:
            os.kill(os.getpid(), KILLING) if self.how == "kill" else time.sleep(3600)
        return self.dataset.read(item)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "workers"), [("kill", 1), ("kill", 3), ("hang", 2)])
def test_a_worker_that_dies_or_hangs_costs_no_batch(dataset, alone, how, workers, capsys):
    order = EpochOrder(COUNT, 4, seed=3)
    fatal = [index for batch in order for _, index in batch][5]  # in the second of three batches
    config = Augment(crop=(16, 24), rotation=10, brightness=0.2, blur=0.3)
    options = {**SAMPLES, "fatal": fatal, "how": how}
    broken = Fatal(dataset, dataset.split("train"), config, **options)
    loader = Loader(broken, order, workers, patience=3)
    child_ended = getattr(signal, "SIGCHLD", signal.SIGINT)  # nobody touches the other
    handler = signal.getsignal(child_ended)
    assert_same(list(loader), alone[0])
    assert signal.getsignal(child_ended) == handler
    assert loader.workers == 0  # no number of workers above 0 can read it
    said = " ".join(capsys.readouterr().err.split())
    assert f"Continuing with {workers - 1} workers" in said
    assert f"it was reading {broken.items[fatal].name}." in said
    order.start(1)
    assert_same(list(loader), alone[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(104, "reset"), ConnectionRefusedError(111, "refused")]
)
def test_a_batch_that_died_with_its_worker_is_made_again(dataset, error, monkeypatch):
    """It lies in the queue, and the connection to the worker that holds its memory ends in its middle."""
    order = EpochOrder(COUNT, 4, seed=3)
    loader = Loader(samples(dataset), order, 1, patience=30)
    iterate = loader._begin
    broken = [error]

    class Broken:
        def __init__(self, iterator):
            self.iterator = iterator

        def __next__(self):
            if broken:
                raise broken.pop()
            return next(self.iterator)

    monkeypatch.setattr(loader, "_begin", lambda: Broken(iterate()))
    assert len(list(loader)) == 3
    assert loader.workers == 0


@pytest.mark.slow
def test_a_worker_that_dies_between_epochs_costs_no_batch(dataset, alone, capsys):
    order = EpochOrder(COUNT, 4, seed=3)
    config = Augment(crop=(16, 24), rotation=10, brightness=0.2, blur=0.3)
    loader = Loader(AugmentedSamples(dataset, dataset.split("train"), config, **SAMPLES), order, 2)
    assert_same(list(loader), alone[0])
    assert loader._loader is not None
    worker = loader._loader._iterator._workers[1]
    worker.kill()
    worker.join()
    order.start(1)
    assert_same(list(loader), alone[1])
    assert loader.workers == 1
    assert "exited unexpectedly" in capsys.readouterr().err


def test_a_dead_worker_is_noticed_long_before_a_slow_one_is_given_up(dataset, monkeypatch):
    monkeypatch.setattr("atrous.learning.data_loader.POLL", 0.5)
    order = EpochOrder(COUNT, 4, seed=3)
    options = {**SAMPLES, "fatal": 0, "how": "kill"}
    loader = Loader(Fatal(dataset, dataset.split("train"), Augment(crop=(16, 24)), **options), order, 1, patience=3600)
    assert len(list(loader)) == 3


def test_shared_memory_that_is_too_small_is_found_at_the_start(dataset, alone, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    per_worker = (16 * 24 * 3 + 16 * 24) * 4 * 5
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(per_worker * 1.5)))
    loader = Loader(samples(dataset), EpochOrder(COUNT, 4, seed=3), 3)
    assert_same(list(loader), alone[0])
    assert loader.workers == 1
    assert "continuing with 1 of 3 workers" in " ".join(capsys.readouterr().err.split())


def test_crops_that_grow_need_the_shared_memory_of_the_last(dataset, monkeypatch):
    config = Augment(crop=(16, 24), first_crop=(8, 12), growth=4)
    usage = shutil.disk_usage("/")
    per_worker = (16 * 24 * 3 + 16 * 24) * 4 * 5
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(per_worker * 1.5)))
    loader = Loader(samples(dataset, config=config), EpochOrder(COUNT, 4, seed=3), 3)
    next(iter(loader))
    assert loader.workers == 1


@pytest.mark.needs("fork")
@pytest.mark.kill
@pytest.mark.parametrize("moment", ["before it starts", "while it waits"])
def test_a_worker_ends_with_the_main_process(moment):
    """Also if the main process dies before the worker could read its number, which torch's own check misses."""
    program = """
import os, signal, time
import torch.utils.data._utils.worker as worker
from torch.utils.data import DataLoader
from atrous.learning import data_loader

start, check = data_loader._start_worker, worker.ManagerWatchdog
if {before}:
    class LateCheck(check):
        def __init__(self):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(0.5)
            super().__init__()

    worker.ManagerWatchdog = LateCheck
loader = DataLoader(range(10**6), num_workers=1, worker_init_fn=start)
batches = iter(loader)
next(batches)
os.kill(os.getpid(), signal.SIGKILL)
"""
    code = program.format(before=moment == "before it starts")
    # The worker has the output open: reading it to its end waits for the worker.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_of_every_start_method_stay(method, tmp_path):
    """With forkserver, a worker's parent process is not the main process."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not have the start method {method}")
    program = """
import multiprocessing, sys, time
from torch.utils.data import DataLoader
from atrous.learning.data_loader import _start_worker

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    batches = iter(DataLoader(range(8), num_workers=2, worker_init_fn=_start_worker, persistent_workers=True))
    first = next(batches)
    time.sleep(3)  # the workers look for the main process every second
    assert all(worker.is_alive() for worker in batches._workers)
    assert len(list(batches)) == 7
    del batches  # ends the workers
"""
    script = tmp_path / "program.py"  # these methods import the main program again
    script.write_text(program, encoding="utf-8")
    words = [sys.executable, str(script), method]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_workers_end_when_an_error_ends_the_main_process(tmp_path):
    """An error that nothing catches keeps the iterator, and with it the workers, until the process exits."""
    program = """
import sys
from torch.utils.data import DataLoader
import torch
from atrous.learning.data_loader import Loader

class Samples:
    reading = torch.full((1,), -1)
    def __getitem__(self, key):
        return torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8), "name"

from atrous.learning.epoch_sampler import EpochOrder

def train():
    loader = Loader(Samples(), EpochOrder(64, 4, seed=0), 1)
    loader._workers_that_fit = lambda: 1
    for batch in loader.epoch(0):
        raise ValueError("a step fails")

train()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "a step fails" in done.stderr, done.stderr
