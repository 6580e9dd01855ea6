"""Jobs: planned, sent to other processes, done there, and summed up."""

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spawned import do_jobs, what_is_said

import atrous
from atrous.commands.predict import predict
from atrous.errors import AtrousError
from atrous.inference.memory_estimate import limit_bytes, predict_bytes, workers_on
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job, Worker, plan
from atrous.inference.predict_records import Record, Summary, summarise

OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def file(make_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "model.safetensors"
    atrous.save(make_model("deeplabv3plus", backbone="mobilenetv2_050"), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Five pictures, one of them transparent, and one that is cut off."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(5):
        values = rng.integers(0, 256, (5, 6, 4 if index == 2 else 3), np.uint8)
        values[..., 3:] = 255 * (values[..., 3:] > 128)
        Image.fromarray(np.kron(values, np.ones((8, 8, 1), np.uint8))).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"overlay": True}, {"raw": True}], ids=["masks", "overlays", "raw"])
def test_a_spawned_worker_writes_the_files_of_predict(file, photos, tmp_path, how):
    with pytest.raises(atrous.errors.SomeInputsFailed):
        predict(file, [photos], out=tmp_path / "expected", json=tmp_path / "all.json", **OPTIONS, **how)
    spec = ModelSpec(file, **OPTIONS)
    jobs = plan([photos], tmp_path / "out", spec, **how)
    assert not (tmp_path / "out").exists() and pickle.loads(pickle.dumps(jobs)) == jobs
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        records = pickle.loads(pool.apply(do_jobs, (spec, pickle.dumps(jobs))))
    assert files_in(tmp_path / "out") == files_in(tmp_path / "expected")
    assert [Path(record.image).name for record in records if record.error] == ["broken.png"]
    assert str(summarise(records)).startswith("5 masks, 1 failed: ")


def test_the_records_are_those_of_predicts_json(file, photos, tmp_path):
    with pytest.raises(atrous.errors.SomeInputsFailed):
        predict(file, [photos], out=tmp_path / "out", json=tmp_path / "all.json", **OPTIONS)
    written = json.loads((tmp_path / "all.json").read_text())["pictures"]
    spec = ModelSpec(file, **OPTIONS)
    worker = Worker(spec)
    assert [worker(job).to_dict() for job in plan([photos], tmp_path / "out", spec)] == written


def test_a_geotiff_is_a_job_in_windows(file, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    picture = np.random.default_rng(0).integers(0, 256, (3, 70, 90), np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=70, width=90, count=3, dtype="uint8", **place
    ) as made:
        made.write(picture)
    spec = ModelSpec(file, tile=64, overlap=32, **OPTIONS)
    (job,) = plan([tmp_path / "a.tif"], tmp_path / "out", spec)
    assert job.windowed and job.target == tmp_path / "out/a.tif"
    record = Worker(spec)(job)
    assert record.error is None and record.work and record.work["tiles"] == 2
    predict(file, [tmp_path / "a.tif"], out=tmp_path / "expected", tile=64, overlap=32, **OPTIONS)
    with rasterio.open(job.target) as ours, rasterio.open(tmp_path / "expected/a.tif") as expected:
        assert np.array_equal(ours.read(), expected.read()) and ours.transform == expected.transform


def test_whatever_fails_is_a_record(file, photos, tmp_path):
    worker = Worker(ModelSpec(file, **OPTIONS))
    gone = worker(Job(tmp_path / "gone.png", tmp_path / "out/gone.png"))
    assert gone.mask is None and "gone.png" in str(gone.error)
    (tmp_path / "taken").write_text("a file")
    record = worker(Job(photos / "0.png", tmp_path / "taken/0.png"))
    assert record.mask is None and "cannot be written" in str(record.error)
    with pytest.raises(AtrousError, match="a worker takes a Job"):
        worker(photos / "0.png")  # type: ignore[arg-type]
    for wrong in (file, worker.segmenter):
        with pytest.raises(AtrousError, match=r"atrous\.ModelSpec"):
            Worker(wrong)  # type: ignore[arg-type]
        with pytest.raises(AtrousError, match=r"atrous\.ModelSpec"):
            plan([photos], tmp_path, wrong)  # type: ignore[arg-type]


def test_a_plan_overwrites_nothing_of_others(file, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/0.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(AtrousError, match="predict did not write and would overwrite"):
        plan([photos], tmp_path / "out", ModelSpec(file))
    with pytest.raises(AtrousError, match="would overwrite that picture"):
        plan([photos], photos, ModelSpec(file))


def test_a_summary_is_of_all_records_in_any_order():
    records = [
        Record("a", "a.png", share={"sky": 0.75, "road": 0.25}),
        Record("b", error="b: broken"),
        Record("c", "c.png", share={"sky": 0.25, "road": 0.75}, no_data=0.5),
        Record("d", "d.png", share={"sky": 0.0, "road": 0.0}, no_data=1.0),
    ]
    expected = Summary(3, (records[1],), {"sky": 0.5, "road": 0.5}, 0.5)
    assert summarise(records) == summarise(records[::-1]) == expected
    assert str(expected) == "3 masks, 1 failed: sky 50.0%, road 50.0%; 50.0% without data"
    assert str(summarise([])) == "0 masks"
    assert records[1].to_dict() == {"image": "b", "error": "b: broken"}


# Memory that workers share


def test_workers_on_one_host_share_the_memory(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (workers_on(), limit_bytes(3)) == (1, 3e9)
    monkeypatch.setattr("atrous.inference.memory_estimate.available_bytes", lambda device: 8e9)
    assert limit_bytes(None) == 4e9
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (workers_on(), limit_bytes(3), limit_bytes(None)) == (2, 1.5e9, 2e9)
    for said in ("", "two", "-3", "0", "²"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
        assert workers_on() == 1


@pytest.mark.parametrize(("gpus", "named", "shared"), [(4, 8, 2), (8, 8, 1), (3, 8, 3), (1, 8, 8)])
def test_workers_with_gpus_of_their_own_share_no_memory(monkeypatch, gpus, named, shared):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(named))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert workers_on("cuda") == shared
    assert workers_on("cuda:0") == named  # all were told to take this one
    assert workers_on("cpu") == named


@pytest.mark.slow
def test_two_workers_cut_into_tiles_what_one_holds_whole(file):
    spec = ModelSpec(file, memory=1.2 * predict_bytes(ModelSpec(file).read_info(), 1200, 1600) / 1e9, **OPTIONS)
    picture = np.zeros((1200, 1600, 3), np.uint8)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        alone, shared = (pool.apply(what_is_said, (spec, workers, picture)) for workers in (1, 2))
    assert alone == "" and "tiles of" in shared
