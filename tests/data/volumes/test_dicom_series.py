"""DICOM series: positions after the standard's formula, refused series, and real scans."""

import io
import itertools
import shutil
import struct
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.volumes import dicom_files, dicom_pixels, dicom_series
from atrous.data.volumes.dicom_series import read_series, series_shape
from atrous.data.volumes.grid import check_same_grid
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.read_volume import read_volume, volume_shape
from atrous.data.volumes.series_places import holds_dicom
from atrous.errors import AtrousError

pydicom = pytest.importorskip("pydicom")
from pydicom import uid as uids  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
HEAD_DOWN, MIRRORED = [-1, 0, 0, 0, 1, 0], [0, -1, 0, 1, 0, 0]
SECRET = "Doe^Jane"
UID = "1.2.826.0.1.3680043.8.498.1"


def oblique():
    """Directions of rows and columns of a plane that is turned about three axes."""
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return [float(value) for value in rotation[:, :2].T.ravel()]


def header(directions=AXIAL, position=(0, 0, 0), size=(5, 4), series=UID, **fields):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uids.CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uids.generate_uid()
    dataset.PatientName = dataset.PatientID = dataset.SeriesDescription = SECRET
    dataset.PatientBirthDate = "19700101"
    dataset.Modality, dataset.SeriesInstanceUID = "CT", series
    dataset.Rows, dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelSpacing = [0.75, 0.5]  # distance of rows, then of columns
    dataset.ImageOrientationPatient = [f"{value:.12g}" for value in directions]
    dataset.ImagePositionPatient = [f"{value:.12g}" for value in position]
    dataset.SliceThickness, dataset.SliceLocation = 3.2, 7
    for name, value in fields.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def save(dataset, path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def write(folder, heights, directions=AXIAL, pixels=None, shift=(0, 0, 0), prefix="", **fields):
    """Writes slices at multiples of the normal; the names of the files have nothing to do with their order."""
    normal = np.cross(directions[:3], directions[3:])
    names = np.random.default_rng(1).permutation(len(heights))
    for index, height in enumerate(heights):
        position = np.array([10, -20, 30]) + height * normal + index * np.array(shift)
        image = np.full((5, 4), index, np.int16) if pixels is None else pixels[index]
        slice_ = header(directions, position, image.shape, InstanceNumber=int(len(heights) - index), **fields)
        save(slice_, folder / f"{SECRET}{prefix}{names[index]}.dcm", image)
    return folder


def refused(match, path, **options):
    with pytest.raises(AtrousError, match=match) as caught:
        read_series(path, **options)
    for one in (SECRET, "Doe", "1970"):
        assert one not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("directions", [AXIAL, CORONAL, SAGITTAL, HEAD_DOWN, MIRRORED, oblique()])
def test_every_voxel_is_where_the_standard_puts_it(tmp_path, directions, sign):
    pixels = np.random.default_rng(0).permutation(3 * 5 * 4).reshape(3, 5, 4).astype(np.int16)
    heights = sign * np.array([0, 2.5, 5])
    volume = read_series(write(tmp_path, heights, directions, pixels))
    assert volume.grid.axes == "RAS"
    assert volume.values.dtype == np.float32 and volume.notes == ()
    np.testing.assert_allclose(sorted(volume.grid.spacing), [0.5, 0.75, 2.5])
    rows, columns = np.array(directions[:3]), np.array(directions[3:])
    for slice_, row, column in itertools.product(range(3), range(5), range(4)):
        # PS3.3 C.7.6.2.1.1: P = S + X Δi i + Y Δj j, with i the column and Δi the distance of columns
        place = np.array([10, -20, 30]) + heights[slice_] * np.cross(rows, columns)
        place = place + rows * 0.5 * column + columns * 0.75 * row
        voxel = np.argwhere(volume.values[..., 0] == pixels[slice_, row, column])
        np.testing.assert_allclose(volume.grid.positions(voxel)[0], place * (-1, -1, 1), atol=1e-6)
    grid, contrasts = series_shape(tmp_path)
    check_same_grid(grid, volume.grid, "the headers", "the pixels")
    assert contrasts == 1 and grid.shape == volume.values.shape[:3]


def packed(folder, path, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for one in sorted(folder.rglob("*")):
            archive.write(one, one.relative_to(folder))
    return path


def test_a_zip_is_read_as_its_folder(tmp_path):
    folder = write(tmp_path / "scan/deep/er", [0, 1, 2, 3]).parents[1]
    (folder / "notes.txt").write_text("no DICOM")
    path = packed(folder, tmp_path / "scan.ZIP")
    one, other = read_volume(folder), read_volume(path)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.grid.affine, other.grid.affine)
    assert one.notes == ("scan: 1 of 5 files are not DICOM images of a scan, so they are not read.",)
    assert volume_shape(path)[0].shape == volume_shape(folder)[0].shape == (4, 5, 4)
    assert read_volume(folder) is one  # kept in memory
    write(folder, [4], prefix="more")
    assert read_volume(folder).values.shape[2] == 5  # read again
    assert sorted(child.name for child in tmp_path.iterdir()) == ["scan", "scan.ZIP"]


def test_the_headers_of_a_series_are_read_once_for_all_slices(tmp_path, monkeypatch):
    folder, read = write(tmp_path / "a", range(9)), []
    real = dicom_series.read_dataset
    monkeypatch.setattr(dicom_series, "read_dataset", lambda *given: read.append(given) or real(*given))
    for path in (folder, packed(folder, tmp_path / "a.zip")):
        read.clear()
        shapes = {volume_shape(path)[0].shape for _ in range(9)}
        assert (shapes, len(read)) == ({(4, 5, 9)}, 9)
    write(folder, [9], prefix="more")
    assert volume_shape(folder)[0].shape == (4, 5, 10)


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slice.dcm", bytes(2**27))
    refused("the zip of 0.1.* MB promises 134.2 MB, which is more than 50 times its size", path)
    monkeypatch.setattr(dicom_files, "MOST_FILES", 2)
    refused("there are 3 files, but at most 2 are read", packed(write(tmp_path / "a", [0, 1, 2]), tmp_path / "a.zip"))
    refused("there are 3 files, but at most 2 are read", tmp_path / "a")


def with_element(path, group, element, value, vr=b"OB"):
    """Inserts an element before the first one that has a larger tag; pydicom would not write some of them."""
    content = path.read_bytes()
    end = next(at for at in positions(content) if content[at : at + 4] > struct.pack("<HH", group, element))
    new = struct.pack("<HH2sHL", group, element, vr, 0, len(value) if vr != b"SQ" else 0xFFFFFFFF) + value
    path.write_bytes(content[:end] + new + content[end:])


def positions(content):
    """Yields the positions of the elements of a file with explicit VR and little-endian bytes."""
    at = 132
    while at < len(content):
        yield at
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        at += (
            12 + int.from_bytes(content[at + 8 : at + 12], "little")
            if long
            else 8 + int.from_bytes(content[at + 6 : at + 8], "little")
        )


EMPTY_ITEM = b"\xfe\xff\x00\xe0" + bytes(4)
LARGE = {
    "pixels": lambda path: replaced(path, PixelData=bytes(2**23)),
    "file meta": lambda path: with_element(path, 2, 0x102, bytes(2**23)),
    "a wanted value": lambda path: with_element(path, 0x28, 0x3000, bytes(2**23)),
    "items": lambda path: with_element(path, 0x28, 0x3000, EMPTY_ITEM * 6000),
    "items of an unwanted sequence": lambda path: with_element(path, 0x40, 0x275, EMPTY_ITEM * 6000, b"SQ"),
}


def replaced(path, **fields):
    dataset = pydicom.dcmread(path)
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


@pytest.mark.parametrize("part", LARGE)
def test_no_more_is_read_into_memory_than_the_header_promises(tmp_path, part, monkeypatch):
    monkeypatch.setattr(dicom_files, "HEADER_BYTES", 2**20)
    monkeypatch.setattr(dicom_files, "_MOST_ITEMS", 1000)
    folder = write(tmp_path / "a", [0, 1, 2])
    LARGE[part](min(folder.iterdir()))
    for path in (folder, packed(folder, tmp_path / "a.zip")):
        match = "file 1 in the order of names has a header of more than 1 MiB, or more pixels than"
        with memory_below(2**22):
            refused(match, path)


@contextmanager
def memory_below(most):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_a_large_value_that_is_not_read_is_skipped(tmp_path):
    folder = write(tmp_path / "a", [0, 1, 2])
    with_element(min(folder.iterdir()), 0x29, 0x1010, bytes(2**26))
    assert read_series(folder).values.shape == (4, 5, 3, 1)


def test_the_number_of_slices_is_limited_over_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_series, "MOST_FILES", 5)
    enhanced(tmp_path / "a/1.dcm", [0, 1, 2])
    enhanced(tmp_path / "a/2.dcm", [3, 4, 5])
    refused("more than 5 slices", tmp_path / "a")
    enhanced(tmp_path / "b/1.dcm", range(6))
    refused("damaged", tmp_path / "b")


def test_a_large_directory_of_a_zip_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files, "MOST_FILES", 100)
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 15)
    count = 60_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, count * len(entry), 0, 0)
    (tmp_path / "many.zip").write_bytes(entry * count + end)
    with memory_below(2e6):
        refused("the directory of the zip has 2.76 MB, but at most 100 files", tmp_path / "many.zip")


def test_damaged_and_odd_zips_are_refused(tmp_path):
    folder = write(tmp_path / "a", [0, 1, 2])
    refused("neither stored nor deflated", packed(folder, tmp_path / "lzma.zip", zipfile.ZIP_LZMA))
    good = packed(folder, tmp_path / "good.zip", zipfile.ZIP_STORED).read_bytes()
    (tmp_path / "cut.zip").write_bytes(good[:-30])
    refused("the zip is damaged", tmp_path / "cut.zip")
    at = good.index(b"PK\1\2") + 8
    (tmp_path / "locked.zip").write_bytes(good[:at] + b"\1" + good[at + 1 :])
    refused("encrypted", tmp_path / "locked.zip")
    (tmp_path / "flipped.zip").write_bytes(good.replace(b"MONOCHROME2", b"MONOCHROME3"))  # the checksum is wrong
    refused("file 1 in the order of names is damaged", tmp_path / "flipped.zip")
    refused("no such file", tmp_path / "none.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_damage_of_a_zip_is_named(tmp_path, method):
    """Each byte of the zip may be damaged; both the search for DICOM files and the reader meet the damage."""
    good = packed(write(tmp_path / "a", [0]), tmp_path / "a.zip", method).read_bytes()
    path, random = tmp_path / "bad.zip", np.random.default_rng(0)
    errors = set()
    for _ in range(300):
        bad = bytearray(good)
        for place in random.integers(0, len(good), 3):
            bad[place] ^= random.integers(1, 256)
        path.write_bytes(bad[: random.integers(len(good) // 2, 2 * len(good))])
        holds_dicom(path, below=True)
        try:
            read_series(path)
        except AtrousError as error:
            errors.add(type(error))
    assert errors == {AtrousError}


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path):
    write(tmp_path, [0, 1, 2])
    write(tmp_path, [0, 3], prefix="other", series=UID[:-1] + "25", Modality="MR")
    message = refused("there are 2 series: .*argument series", tmp_path)
    assert f"{UID} (3 slices of 5×4 pixels, CT)" in message
    assert f"{UID[:-1]}25 (2 slices of 5×4 pixels, MR)" in message
    assert read_series(tmp_path, UID).values.shape == (4, 5, 3, 1)
    assert read_series(tmp_path, UID[:-1] + "2").values.shape == (4, 5, 2, 1)
    refused("2 series that start with '1.2.8'", tmp_path, series="1.2.8")
    refused("no SeriesInstanceUID starts with '1.3'. The series are: 1.2.826", tmp_path, series="1.3")


def test_slices_of_other_geometry_in_one_series_are_refused(tmp_path):
    write(tmp_path, [0, 1, 2])
    write(tmp_path, [0], CORONAL, prefix="scout")
    refused("2 different sizes, directions or pixel distances: .*3 slices.*1 slice of", tmp_path)


@pytest.mark.parametrize(
    ("heights", "match"),
    [
        (
            [0, 2, 4, 8, 10],
            r"slices are missing \(1\).* 5 slices is 2 mm, but the slice at 34 mm .* the next one are 4 mm apart",
        ),
        ([0, 2, 8, 10, 16], r"slices are missing \(4\)"),
        ([0, 2, 2, 4], r"1 of 4 slices are at the position of another slice, the first at 32 mm"),
        ([0, 2, 2.005, 4], r"1 of 4 slices are at the position"),
        ([0, 2, 4.05, 6], r"distances between 4 slices are not equal: 1.95 to 2.05 mm"),
        ([0, 1, 2.5, 3.5], r"distances between 4 slices are not equal: 1 to 1.5 mm"),
        ([*np.arange(0, 20) * 0.9905, *19.8 + np.arange(0, 20) * 1.0095], r"distances between 40 slices are not equal"),
    ],
)
def test_slices_that_are_not_equally_far_apart_are_refused(tmp_path, heights, match):
    refused(match, write(tmp_path, heights))


def test_rounded_positions_are_a_regular_series(tmp_path):
    volume = read_series(write(tmp_path, [round(0.625 * n, 2) for n in range(9)]))
    assert volume.grid.spacing[2] == pytest.approx(0.625)


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path):
    shift = (0, 2 * np.tan(np.radians(12)), 0)
    refused(
        r"the gantry is tilted by 12°, so over 4 slices .* sideways by 1.275 mm",
        write(tmp_path, [0, 2, 4, 6], shift=shift),
    )
    save(header(position=(13, -20, 32)), tmp_path / "b/2.dcm", np.zeros((5, 4), np.int16))
    for height in (30, 34):
        save(header(position=(10, -20, height)), tmp_path / f"b/{height}.dcm", np.zeros((5, 4), np.int16))
    refused("shifted sideways by up to 3 mm, and not along a line", tmp_path / "b")


def test_one_slice_has_the_side_of_its_header(tmp_path):
    volume = read_series(write(tmp_path / "a", [0]))
    assert volume.grid.spacing == pytest.approx((0.5, 0.75, 3.2))
    assert volume.notes == ("a has one slice. Its voxel side along the normal is SliceThickness, 3.2 mm.",)
    assert read_series(write(tmp_path / "b", [0], SpacingBetweenSlices=4)).grid.spacing[2] == 4
    refused("one slice, without SpacingBetweenSlices", write(tmp_path / "c", [0], SliceThickness=None))


def test_each_slice_has_its_own_scale(tmp_path):
    for index, (slope, intercept) in enumerate([(1, -1000), (0.5, 3)]):
        dataset = header(position=(0, 0, index), RescaleSlope=slope, RescaleIntercept=intercept)
        save(dataset, tmp_path / f"{index}.dcm", np.full((5, 4), 100, np.int16))
    np.testing.assert_array_equal(read_series(tmp_path).values[0, 0, :, 0], [-900, 53])


def test_unused_bits_are_ignored_and_the_sign_is_that_of_the_stored_bits(tmp_path):
    image = np.full((5, 4), 0x5F38, np.uint16)  # 0xF38 of 12 bits is −200
    signed = write(tmp_path / "a", [0, 1], pixels=[image] * 2, BitsStored=12, HighBit=11)
    assert np.unique(read_series(signed).values).tolist() == [-200]
    unsigned = write(tmp_path / "b", [0, 1], pixels=[image] * 2, BitsStored=12, HighBit=11, PixelRepresentation=0)
    assert np.unique(read_series(unsigned).values).tolist() == [0xF38]
    high = write(tmp_path / "c", [0, 1], pixels=[image] * 2, BitsStored=12, HighBit=15, PixelRepresentation=0)
    assert np.unique(read_series(high).values).tolist() == [0x5F3]


def test_padding_has_no_value_and_monochrome1_is_noted(tmp_path):
    image = np.zeros((5, 4), np.int16)
    image[1, 2], image[0, 0] = -2000, -1990
    options = {"pixels": [image] * 2, "PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -24}
    volume = read_series(write(tmp_path / "a", [0, 1], PixelPaddingValue=-2000, **options))
    assert np.isnan(volume.values).sum() == 2 and np.nanmin(volume.values) == -2014
    assert [*volume.notes] == [
        "a is MONOCHROME1 (large values are dark). Its values are read as they are, without inversion.",
        "a has voxels without data (PixelPaddingValue), which are read as NaN.",
    ]
    lossy = read_series(write(tmp_path / "c", [0, 1], LossyImageCompression="01"))
    assert lossy.notes == ("c is compressed with loss, so its values and the edges of its padding may be inexact.",)
    both = write(tmp_path / "b", [0, 1], PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990, **options)
    assert np.isnan(read_series(both).values).sum() == 4


def test_other_pixels_and_files_are_refused(tmp_path):
    color = np.zeros((5, 4, 3), np.uint8)
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "BitsAllocated": 8}
    for index in range(2):
        dataset = header(position=(0, 0, index), BitsStored=8, HighBit=7, PixelRepresentation=0, **rgb)
        save(dataset, tmp_path / f"rgb/{index}.dcm", color)
    refused("in colour", tmp_path / "rgb")
    refused("no position", write(tmp_path / "x", [0], ImagePositionPatient=None))
    refused("not two perpendicular vectors", write(tmp_path / "y", [0, 1], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]))
    refused("damaged or not valid DICOM", large(tmp_path))
    (tmp_path / "empty").mkdir()
    refused("no DICOM images", tmp_path / "empty")
    folder = write(tmp_path / "cut", [0, 1])
    first = min(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    refused("file 1 in the order of names is damaged", folder)


def large(folder):
    """A header that promises more pixels than the file holds."""
    dataset = header(size=(60000, 60000))
    return save(dataset, folder / "large/a.dcm", np.zeros((5, 4), np.int16)).parent


@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_never_raise_another_error(tmp_path):
    write(tmp_path / "a", [0, 1, 2], PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=0)
    enhanced(tmp_path / "b/one.dcm", [0, 1, 2])
    random = np.random.default_rng(0)
    messages = []
    for folder in [tmp_path / "a", tmp_path / "b"] * 150:
        path = min(folder.iterdir())
        good = path.read_bytes()
        bad = bytearray(good)
        for place in random.integers(132, len(bad), random.integers(1, 4)):
            bad[place] = random.choice([0, 1, 2, 16, 92, 255])
        path.write_bytes(bad)
        try:
            read_series(folder)
        except AtrousError as error:
            messages.append(str(error))
        path.write_bytes(good)
    assert len(messages) > 50
    assert not [one for one in messages if "Doe" in one or "1970" in one]


def test_compressed_slices(tmp_path):
    write(tmp_path / "a", [0, 1, 2])
    truth = read_series(tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(uids.RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(tmp_path / "a").values, truth.values)
    for path in (tmp_path / "a").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = uids.HTJ2KLossless
        dataset.save_as(path)
    from pydicom.pixels import get_decoder

    if not get_decoder(uids.HTJ2KLossless).is_available:
        refused("no decoder .*: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg", tmp_path / "a")
    dataset.file_meta.TransferSyntaxUID = uids.MPEG2MPML
    dataset.save_as(path)
    refused("no decoder|damaged", tmp_path / "a")


def compressed(folder, syntax, size, promised):
    """Writes a slice whose compressed pixels have another size than its header promises."""
    pixels = np.zeros(size, np.uint16)
    dataset = header(size=size, PixelRepresentation=0)
    dataset.PixelData = pixels.tobytes()
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.Rows, dataset.Columns = promised
    folder.mkdir()
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("syntax", [uids.RLELossless, uids.JPEGLSLossless])
def test_compressed_pixels_of_another_size_are_not_decoded(tmp_path, syntax):
    try:
        compressed(tmp_path / "good", syntax, (64, 32), (64, 32))
    except RuntimeError:
        pytest.skip("no encoder is installed")
    assert read_series(tmp_path / "good").values.shape == (32, 64, 1, 1)
    folder = compressed(tmp_path / "bad", syntax, (5000, 5000), (64, 32))
    with memory_below(5e6):
        refused("damaged", folder)


def test_the_size_of_a_jpeg_is_that_of_its_frame():
    for kind, options in (("JPEG", {"progressive": True}), ("JPEG", {}), ("JPEG2000", {})):
        content = io.BytesIO()
        Image.new("L", (70, 50)).save(content, kind, **options)
        assert dicom_pixels._size_of(content.getvalue()) == (50, 70)


@pytest.mark.filterwarnings("ignore:The pixel data is")
@pytest.mark.parametrize("name", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_other_transfer_syntaxes_give_the_same_values(tmp_path, name):
    """With files that pydicom has in some of its releases."""
    files = Path(pydicom.__file__).parent / "data/test_files"
    if not (files / f"MR_small_{name}.dcm").is_file():
        pytest.skip("this pydicom has no such file")
    for folder, file in (("plain", "MR_small.dcm"), (name, f"MR_small_{name}.dcm")):
        (tmp_path / folder).mkdir()
        shutil.copy(files / file, tmp_path / folder)
    try:
        values = read_series(tmp_path / name).values
    except AtrousError as error:
        if "no decoder" in str(error):
            pytest.skip("no decoder is installed")
        raise
    np.testing.assert_array_equal(values, read_series(tmp_path / "plain").values)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path, [0, 1])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused(r"pip install 'atrous\[medical\]'", tmp_path)


def test_deflated_files_are_refused(tmp_path):
    dataset = header()
    dataset.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    save(dataset, tmp_path / "a.dcm", np.zeros((5, 4), np.int16))
    refused("deflated", tmp_path)


def enhanced(path, heights, **fields):
    """Writes one file of many frames, of which each has its own position and scale."""
    dataset = header(ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, **fields)
    dataset.SOPClassUID = uids.EnhancedCTImageStorage
    dataset.NumberOfFrames = len(heights)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.75, 0.5], 9
    plane.ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, height in enumerate(heights):
        frame, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [10, -20, height]
        scale.RescaleSlope, scale.RescaleIntercept = 1, 100 * index
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return save(dataset, path, np.stack([np.full((5, 4), index, np.int16) for index in range(len(heights))]))


def test_a_file_of_many_frames_is_a_series(tmp_path):
    enhanced(tmp_path / "a/one.dcm", [6, 2, 4])
    volume = read_series(tmp_path / "a")
    assert volume.values[0, 0, :, 0].tolist() == [101, 202, 0]
    np.testing.assert_allclose(volume.grid.spacing, (0.5, 0.75, 2))
    np.testing.assert_allclose(volume.stored.affine[:3, 3], (-10, 20, 2))
    enhanced(tmp_path / "b/one.dcm", [0, 0, 2, 2])
    refused("2 of 4 slices are at the position of another slice.*contrasts or other points in time", tmp_path / "b")
    dataset = pydicom.dcmread(tmp_path / "a/one.dcm")
    del dataset.PerFrameFunctionalGroupsSequence
    (tmp_path / "c").mkdir()
    dataset.save_as(tmp_path / "c/one.dcm")
    refused("the slices have no position", tmp_path / "c")


def test_a_real_liver_is_at_its_density_under_its_mask(shared):
    folder = shared / "data/chaos_ct_liver"
    volume, mask = read_series(folder / "series.zip"), read_nifti(folder / "liver_mask.nii.gz")
    check_same_grid(volume.grid, mask.grid, "the series", "the mask")
    assert volume.grid.spacing == pytest.approx((0.7265625, 0.7265625, 2))  # SliceThickness is 3.2
    liver = volume.values[mask.values > 0]
    assert (round(float(liver.mean())), round(float(liver.std()))) == (142, 33)
    assert volume.values[:, :, ::-1][mask.values > 0].std() > 100
    assert volume.notes == ()


def test_a_real_series_has_the_values_and_positions_of_highdicom(shared, tmp_path):
    image = pytest.importorskip("highdicom.image")
    with zipfile.ZipFile(shared / "data/chaos_ct_liver/series.zip") as archive:
        archive.extractall(tmp_path)
    datasets = [pydicom.dcmread(path) for path in sorted(tmp_path.iterdir())]
    truth = image.get_volume_from_series(datasets)
    volume = read_series(tmp_path)
    voxels = np.random.default_rng(0).integers(0, volume.grid.shape, (200, 3))
    places = np.c_[volume.grid.positions(voxels) * (-1, -1, 1), np.ones(200)]  # left, posterior, superior
    theirs = np.rint(places @ np.linalg.inv(truth.affine).T).astype(int)[:, :3]
    np.testing.assert_array_equal(volume.values[(*voxels.T, 0)], truth.array[tuple(theirs.T)])
    np.testing.assert_allclose((np.c_[theirs, np.ones(200)] @ truth.affine.T), places, atol=1e-6)


def test_a_real_folder_of_scans_and_segmentations(shared, tmp_path):
    folder = shared / "data/dicom_seg"
    message = refused("there are 3 series", folder)
    assert "(3 slices of 512×512 pixels, CT)" in message and "SEG" not in message
    volume = read_series(folder, "1.2.392")
    assert volume.values.shape == (512, 512, 3, 1)
    np.testing.assert_allclose(volume.grid.spacing, (0.810547, 0.810547, 1))
    np.testing.assert_allclose(volume.stored.affine[:3, 3], (235.199997, 226.800003, -128.690002))
    for one in (1, 3):
        shutil.copy(folder / f"dcmqi_ct-3slice_0{one}.dcm", tmp_path)
    assert read_series(tmp_path).grid.spacing[2] == pytest.approx(2)  # two slices alone cannot show a gap
