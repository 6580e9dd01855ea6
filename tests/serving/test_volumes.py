"""Volumes over HTTP: the same file as `atrous predict` writes, limits, and refusals without names."""

import gzip
import io
import json
import re
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from atrous.commands.predict import predict
from atrous.data.volumes import dicom_seg_write
from atrous.data.volumes.dicom_seg_read import read_dicom_seg
from atrous.data.volumes.dicom_series import read_series
from atrous.data.volumes.nifti import read_nifti
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.segmenter import Segmenter
from atrous.serving import response_formats
from atrous.serving.client import Client
from atrous.serving.inference_queue import Abandoned, InferenceQueue, Job
from atrous.serving.model_store import InferenceOptions, Model
from atrous.serving.request_limits import Limits
from atrous.serving.request_settings import RequestSettings
from atrous.serving.volume_upload import VolumeUpload

from .conftest import ZOO, model_of_volumes, png

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
from pydicom import uid as uids  # noqa: E402

SECRET, ONE_WORD = "Doe^Jane", "JANEDOE"
SEGMENT = "/v1/models/volumes/segment"
TORCH = ("--engine", "torch", "--device", "cpu", "--precision", "float32")
OPTIONS = {"engine": "torch", "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_of_volumes(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A volume that names its patient, with axes that are not those of the patient."""
    values = np.kron(np.random.default_rng(0).normal(100, 30, (3, 4, 5)), np.ones((4, 4, 4))).astype(np.int16)
    affine = np.array([[0, -1.5, 0.1, 20], [-1.5, 0, 0, 30], [0, 0.1, 3, -40], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = image.header["db_name"] = SECRET.encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    path = tmp_path_factory.mktemp("scan") / f"{SECRET}.nii.gz"
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def running(start, model, scratch):
    """The model of volumes and one of pictures."""
    server = start(model, ZOO, *TORCH, "--megabytes", 1, "--megavoxels", 0.03, ATROUS_SCRATCH=str(scratch))
    yield server
    server.stop()
    assert not any(one.is_file() for one in scratch.rglob("*"))
    assert not any(name in line for line in server.lines for name in (SECRET, ONE_WORD))


def problem_of(answer: tuple[int, dict[str, str], bytes], status: int) -> str:
    assert answer[0] == status, answer
    assert SECRET.encode() not in answer[2] and b"/atrous-volumes" not in answer[2]
    return json.loads(answer[2])["detail"]


def files_in(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and one.name != "lock"]


def test_the_mask_is_the_file_that_predict_writes(running, model, scan, scratch, tmp_path):
    (expected,) = predict(model, [scan], out=tmp_path / "masks", **OPTIONS)
    packed, plain = scan.read_bytes(), gzip.decompress(scan.read_bytes())
    form = (
        b'--X\r\nContent-Disposition: form-data; name="v"; filename="Doe^Jane.nii"\r\n\r\n' + plain + b"\r\n--X--\r\n"
    )
    for content, headers in (
        (packed, {}),
        (plain, {"Accept": "application/gzip"}),
        (form, {"Content_Type": "multipart/form-data; boundary=X"}),
    ):
        status, answered, mask = running.ask(SEGMENT, content, **headers)
        assert (status, answered["content-type"]) == (200, "application/gzip"), mask
        assert mask == expected.read_bytes()
        assert SECRET not in str(answered)
    assert not files_in(scratch)
    image = nibabel.load(expected)
    assert len(np.unique(image.dataobj)) > 1
    np.testing.assert_array_equal(image.affine, nibabel.load(scan).affine)
    assert SECRET.encode() not in gzip.decompress(mask)


def test_the_client_writes_the_mask(running, model, scan, tmp_path):
    (expected,) = predict(model, [scan], out=tmp_path / "masks", flip=True, **OPTIONS)
    client = Client(running.address)
    for _ in range(2):  # its own mask is replaced
        client.segment_volume(scan, tmp_path / "mask.nii.gz", model="volumes", flip=True)
    assert (tmp_path / "mask.nii.gz").read_bytes() == expected.read_bytes()
    client.segment_volume(scan, tmp_path / "mask.nii", model="volumes", flip=True)
    assert (tmp_path / "mask.nii").read_bytes() == gzip.decompress(expected.read_bytes())
    client.segment_volume(scan, tmp_path / "mask.nii", model="volumes", flip=True)
    other = tmp_path / "other.nii"
    other.write_bytes(b"of another program")
    with pytest.raises(AtrousError, match="not replaced; give another name, or overwrite=True"):
        client.segment_volume(scan, other, model="volumes")
    client.segment_volume(scan, other, model="volumes", overwrite=True)
    with pytest.raises(AtrousError, match="segments pictures"):
        client.segment_volume(scan, tmp_path / "other.nii.gz", model="camvid")
    assert not (tmp_path / "other.nii.gz").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("spelling", ["same", "dots", "symbolic link", "hard link"])
def test_the_client_never_replaces_the_volume(scan, tmp_path, spelling, overwrite):
    volume, other = tmp_path / "scan.nii.gz", tmp_path / "link.nii.gz"
    volume.write_bytes(scan.read_bytes())
    if spelling == "symbolic link":
        other.symlink_to(volume)
    elif spelling == "hard link":
        other.hardlink_to(volume)
    else:
        other = {"same": volume, "dots": tmp_path / "masks" / ".." / volume.name}[spelling]
        (tmp_path / "masks").mkdir()
    client = Client("http://127.0.0.1:9", patience=0)  # it is not asked
    for given, out in ((volume, other), (other, volume)):
        with pytest.raises(AtrousError, match="the volume"):
            client.segment_volume(given, out, model="volumes", overwrite=overwrite)
    assert volume.read_bytes() == scan.read_bytes()


@pytest.mark.parametrize(
    ("name", "format", "match"),
    [
        ("mask.dcm", "nifti", r"needs a file name that ends in \.nii\.gz or \.nii"),
        ("mask", "nifti", r"needs a file name that ends in \.nii\.gz or \.nii"),
        ("mask.gz", "nifti", r"needs a file name"),
        ("mask.nii.gz", "dicom-seg", r"ends in \.dcm"),
        ("mask.png", "mask", r"format.*nifti"),
    ],
)
def test_the_name_of_the_mask_fits_its_format(scan, tmp_path, name, format, match):
    client = Client("http://127.0.0.1:9", patience=0)  # it is not asked
    with pytest.raises(AtrousError, match=match):
        client.segment_volume(scan, tmp_path / name, model="volumes", format=format)


def test_options_are_those_of_predict(running, model, scan, tmp_path):
    (expected,) = predict(model, [scan], out=tmp_path / "masks", flip=True, scales=(0.5, 1.0), **OPTIONS)
    assert running.ask(f"{SEGMENT}?flip=true&scales=0.5,1", scan.read_bytes())[2] == expected.read_bytes()


def test_a_volume_and_a_picture_are_refused_by_the_wrong_model(running, scan):
    picture = png(np.zeros((30, 40, 3), np.uint8))
    for content in (picture, b"", b"text", gzip.compress(picture)):
        detail = problem_of(running.ask(SEGMENT, content), 422)
        assert "trained on slices of volumes" in detail and "Give a NIfTI file" in detail
        assert "--data-binary @scan.nii.gz" in detail
    for content in (scan.read_bytes(), gzip.decompress(scan.read_bytes())):
        detail = problem_of(running.ask("/v1/models/camvid/segment", content), 422)
        assert "this is a NIfTI file" in detail and "send the volume to a model" in detail
    assert running.ask("/v1/models/camvid/segment", picture)[0] == 200


def test_formats_are_those_of_the_model(running, scan):
    detail = problem_of(running.ask(f"{SEGMENT}?format=mask", scan.read_bytes()), 422)
    assert "segments volumes: format must be nifti" in detail
    picture = png(np.zeros((30, 40, 3), np.uint8))
    detail = problem_of(running.ask("/v1/models/camvid/segment?format=nifti", picture), 422)
    assert "segments pictures: format must be mask or" in detail
    assert "application/gzip" in problem_of(running.ask(SEGMENT, scan.read_bytes(), Accept="image/png"), 406)
    planes = [model["planes"] for model in json.loads(running.ask("/v1/models")[2])["models"]]
    assert planes == [["axial", "sagittal"], []]


def test_limits(running, scan, tmp_path):
    large = nibabel.Nifti1Image(np.zeros((30, 30, 30), np.uint8), np.eye(4))
    detail = problem_of(running.ask(SEGMENT, large.to_bytes()), 413)
    assert "30×30×30 voxels has 0.054 million voxels over all planes" in detail and "0.03 million" in detail
    contrasts = nibabel.Nifti1Image(np.zeros((10, 10, 10, 31), np.uint8), np.eye(4))
    assert "0.031 million values" in problem_of(running.ask(SEGMENT, contrasts.to_bytes()), 413)
    assert "at most 1 MiB" in problem_of(running.ask(SEGMENT, bytes(2**21)), 413)
    two = nibabel.Nifti1Image(np.zeros((10, 10, 10, 2), np.uint8), np.eye(4))
    assert "contrasts" in problem_of(running.ask(SEGMENT, two.to_bytes()), 422)


@pytest.fixture
def series(shared, tmp_path) -> Path:
    """A zip of a real series of three slices, cropped, whose files and headers name a patient."""
    path = tmp_path / "series.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in (1, 2, 3):
            one = pydicom.dcmread(shared / f"data/dicom_seg/dcmqi_ct-3slice_0{index}.dcm")
            one.PatientName = one.PatientID = ONE_WORD  # highdicom warns of such names
            pixels = np.frombuffer(one.PixelData, np.int16).reshape(-1, 512)[200:240, 100:140]
            one.Rows, one.Columns, one.PixelData = *pixels.shape, pixels.tobytes()
            content = io.BytesIO()
            one.save_as(content, enforce_file_format=True)
            archive.writestr(f"{SECRET}/{index}.dcm", content.getvalue())
    return path


def test_a_zip_of_a_dicom_series_gives_nifti_or_dicom_seg(running, model, series, scratch, tmp_path):
    (expected,) = predict(model, [series], out=tmp_path / "masks", **OPTIONS)
    status, headers, mask = running.ask(SEGMENT, series.read_bytes())
    assert (status, headers["content-type"]) == (200, "application/gzip"), mask
    assert mask == expected.read_bytes() and SECRET.encode() not in gzip.decompress(mask)
    assert SECRET not in str(headers)
    pytest.importorskip("highdicom")
    status, headers, mask = running.ask(f"{SEGMENT}?format=dicom-seg", series.read_bytes())
    assert (status, headers["content-type"]) == (200, "application/dicom"), mask
    (tmp_path / "mask.dcm").write_bytes(mask)
    found = read_dicom_seg(tmp_path / "mask.dcm", read_series(series).stored)
    labels = read_nifti(expected).values[..., 0]
    present = np.unique(labels)
    assert len(present) > 1 and all(len(np.unique(found.volume.values[..., 0][labels == one])) == 1 for one in present)
    assert not files_in(scratch)


def test_dicom_seg_needs_a_dicom_series(running, scan, series):
    detail = problem_of(running.ask(f"{SEGMENT}?format=dicom-seg", scan.read_bytes()), 422)
    assert "DICOM-SEG is written only for DICOM series" in detail
    for content in (series.read_bytes()[:-30], empty_zip("a.txt"), empty_zip(f"{SECRET}.dcm")):
        problem_of(running.ask(SEGMENT, content), 422)


def test_a_zip_of_several_series_is_refused_with_what_a_request_can_do(running, series, tmp_path):
    content = io.BytesIO(series.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        for name in archive.namelist():
            dataset = pydicom.dcmread(io.BytesIO(archive.read(name)))
            first, dataset.SeriesInstanceUID = dataset.SeriesInstanceUID, "1.2.3.4"
            file = io.BytesIO()
            dataset.save_as(file)
            archive.writestr(f"other/{name}", file.getvalue())
    for form in ("nifti", "dicom-seg"):
        detail = problem_of(running.ask(f"{SEGMENT}?format={form}", content.getvalue()), 422)
        assert f"{first} (3 slices of 40×40 pixels, CT); 1.2.3.4 (3 slices" in detail
        assert detail.endswith("Send a zip of the slices of one of them.") and "argument" not in detail
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.dcm", b"a" * 2**27, zipfile.ZIP_DEFLATED)
    detail = problem_of(running.ask(SEGMENT, (tmp_path / "locked.zip").read_bytes()), 422)
    assert "as a zip without compression" in detail


def empty_zip(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, bytes(128) + b"DICM" + SECRET.encode() if name.endswith("dcm") else b"text")
    return content.getvalue()


@pytest.mark.parametrize("syntax", [uids.ExplicitVRLittleEndian, uids.DeflatedExplicitVRLittleEndian])
def test_a_small_upload_does_not_fill_the_memory(settings, series, syntax, tmp_path, monkeypatch):
    """The zip has less than 64 MiB of content, which `series_files` allows for a zip of any size."""
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    content = io.BytesIO()
    with zipfile.ZipFile(series) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for number, name in enumerate(old.namelist()):
            dataset = pydicom.dcmread(io.BytesIO(old.read(name)))
            if number == 0:
                dataset.PixelData = bytes(60 * 2**20)
                dataset.file_meta.TransferSyntaxUID = syntax
            file = io.BytesIO()
            dataset.save_as(file)
            new.writestr(name, file.getvalue())
    assert len(content.getvalue()) < 2**20
    upload = VolumeUpload((content.getvalue(),), settings, Limits(), "")
    tracemalloc.start()
    try:
        with pytest.raises(AtrousError, match=r"more pixels than its header promises|are deflated"):
            _ = upload.memory() and upload.decode()
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
        upload.close()


@pytest.mark.parametrize("study", [True, False])
def test_a_view_encodes_one_dicom_seg_or_none(settings, series, study, tmp_path, monkeypatch):
    """Without a StudyInstanceUID, no DICOM-SEG can reference the series, and the view has only NIfTI."""
    pytest.importorskip("highdicom")
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    encode, calls = dicom_seg_write._encoded, []
    monkeypatch.setattr(dicom_seg_write, "_encoded", lambda *given: calls.append(given) or encode(*given))
    content = io.BytesIO()
    with zipfile.ZipFile(series) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            dataset, file = pydicom.dcmread(io.BytesIO(old.read(name))), io.BytesIO()
            if not study:
                del dataset.StudyInstanceUID
            dataset.save_as(file)
            new.writestr(name, file.getvalue())
    as_view = RequestSettings(settings.model, InferenceOptions(), response_formats.ResponseOptions("view"))
    upload = VolumeUpload((content.getvalue(),), as_view, Limits(), "")
    try:
        upload.memory()
        job, _ = upload.decode()
        assert job.volume is not None
        view = upload.encode(np.zeros(job.volume.values.shape[:3], np.uint8))
    finally:
        upload.close()
    assert len(calls) == int(study)
    assert (b".dcm" in gzip.decompress(view)) == study


def changed(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


def test_damaged_volumes_are_refused(running, scan, scratch):
    plain = gzip.decompress(scan.read_bytes())
    huge = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    for content in (
        scan.read_bytes()[:-200],
        gzip.compress(plain[:500]),
        plain[:-1],
        changed(plain, 40, huge),
        gzip.compress(changed(plain, 40, huge)),
        changed(plain, 70, b"\x20\0"),  # complex numbers
        gzip.compress(changed(plain, 352, b"\xf0\xff\xff\x7f") + bytes(2**20)),  # an extension of 2 GiB
        gzip.compress(changed(plain, 352, bytes(4)) + bytes(2**20)),  # an extension of 0 bytes is read to the end
        changed(plain, 108, np.float32(1e9).tobytes()),
        b"PK\x03\x04" + bytes(100),
    ):
        problem_of(running.ask(SEGMENT, content), 422)
    assert not files_in(scratch)
    assert running.ask(SEGMENT, scan.read_bytes())[0] == 200


@pytest.fixture(scope="module")
def settings(model) -> RequestSettings:
    opened = Model("volumes", ModelSpec(model), "1", Segmenter(model, **OPTIONS))
    return RequestSettings(opened, InferenceOptions(), response_formats.ResponseOptions("nifti"))


def test_changed_bytes_of_the_header_give_a_mask_or_a_sentence(settings, scan, monkeypatch, tmp_path):
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    plain, rng = gzip.decompress(scan.read_bytes()), np.random.default_rng(0)
    read, sentences = 0, []
    for _ in range(600):
        content = bytearray(plain)
        for place in rng.integers(0, 400, rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        upload = VolumeUpload((bytes(content),), settings, Limits(voxels=10**6), "")
        try:
            upload.memory()
            job, _ = upload.decode()
            assert job.volume is not None
            upload.encode(np.zeros(job.volume.values.shape[:3], np.uint8))
            read += 1
        except AtrousError as error:
            sentences.append(str(error))
        finally:
            upload.close()
    assert not [one for one in sentences if str(tmp_path) in one or re.search(r"tmp\w+", one)]
    assert 50 < read < 600
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"NRRD0004\ntype: short\ndimension: 3\n", "this is an NRRD file, which a server does not take"),
        (b"ObjectType = Image\nNDims = 3\n", "this is a MetaImage file, which a server does not take"),
        (bytes(128) + b"DICM" + bytes(50), "this is a DICOM file, which a server does not take"),
        (b"GIF89a", "this file is not a volume"),
    ],
    ids=["NRRD", "MetaImage", "DICOM", "other"],
)
def test_other_formats_are_refused_with_those_that_are_served(settings, content, words):
    upload = VolumeUpload((content,), settings, Limits(), "HOW TO SEND")
    with pytest.raises(AtrousError) as caught:
        upload.memory()
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("Give a NIfTI file (.nii or .nii.gz) or a zip of a DICOM series. HOW TO SEND")


def test_the_estimate_of_memory_covers_decoding_and_encoding(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    rng = np.random.default_rng(0)
    for dtype, slope in (("int16", 1.5), ("uint8", None), ("float64", None), ("float32", None)):
        image = nibabel.Nifti1Image(rng.integers(0, 200, (100, 100, 100)).astype(dtype), np.eye(4))
        image.header.set_slope_inter(slope, None if slope is None else 3.0)
        upload = VolumeUpload((gzip.compress(image.to_bytes(), 1),), settings, Limits(), "")
        tracemalloc.start()
        size = upload.memory()
        job, _ = upload.decode()
        assert job.volume is not None
        job.volume.mean_and_std()
        upload.encode(rng.integers(0, 3, (100, 100, 100), dtype=np.uint8))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        upload.close()
        assert peak < size + 40e6, (dtype, peak, size)  # statistics take slabs of a fixed size


def test_an_abandoned_volume_stops_after_a_slice(settings, scan):
    queue, done = InferenceQueue(), []
    job = Job(settings.model.segmenter, volume=read_nifti(scan))
    segmenter = settings.model.segmenter
    probabilities = segmenter.any_size.probabilities

    def spied(*words, **options):
        done.append(1)
        job.abandoned.set()
        return probabilities(*words, **options)

    segmenter.any_size.probabilities = spied
    try:
        with pytest.raises(Abandoned):
            queue.submit(job).result(60)
    finally:
        del segmenter.any_size.probabilities
        queue.close()
    assert len(done) == 1 and job.volume is None
