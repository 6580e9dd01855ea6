"""NIfTI files: values, positions and notes as nibabel has them, and masks on the exact grid of the scan."""

import gzip
import itertools
import struct
import tracemalloc

import numpy as np
import pytest

from atrous.data.volumes import nifti_extensions
from atrous.data.volumes.nifti import nifti_shape, read_nifti, write_nifti_mask
from atrous.errors import AtrousError
from atrous.software_tag import is_marked, is_sealed

nibabel = pytest.importorskip("nibabel")

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def saved(path, values, affine=None, **fields):
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1, 2, 1]) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_values_and_positions_are_those_of_nibabel(tmp_path, orientation):
    order, signs = orientation
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (direction, sign) in enumerate(zip(order, signs, strict=True)):
        affine[direction, axis] = sign * (axis + 1.25)
    affine[:3, 3] = (4, -5, 6)
    values = np.random.default_rng(0).integers(0, 1000, (3, 4, 5)).astype(np.int16)
    path = saved(tmp_path / "scan.nii.gz", values, affine)
    volume, truth = read_nifti(path), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.values[..., 0], np.asanyarray(truth.dataobj))
    np.testing.assert_allclose(volume.grid.affine, truth.affine, atol=1e-5)
    assert volume.grid.axes == "RAS"
    assert nifti_shape(path)[0].shape == volume.values.shape[:3]

    mask = (volume.values[..., 0] > 500).astype(np.uint8)
    write_nifti_mask(tmp_path / "mask.nii.gz", mask, path, packed=True)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), values > 500)
    for field in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "pixdim"):
        np.testing.assert_array_equal(written.header[field], nibabel.load(path).header[field])


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 3), (0, 0)])
def test_a_mask_keeps_both_positions_of_the_scan_and_their_codes(tmp_path, codes):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.diag([-0.7, 0.8, 2.5, 1]))
    image.header.set_sform(np.diag([-0.7, 0.8, 2.5, 1]), codes[0])
    image.header.set_qform(np.diag([-0.7, 0.8, 2.5, 1]), codes[1])
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_nifti(tmp_path / "scan.nii")
    write_nifti_mask(tmp_path / "mask.nii", np.ones(volume.grid.shape, np.uint8), tmp_path / "scan.nii", packed=False)
    scan, mask = (nibabel.load(tmp_path / name).header for name in ("scan.nii", "mask.nii"))
    for field in ("sform_code", "qform_code", "srow_x", "pixdim", "qoffset_z", "xyzt_units"):
        np.testing.assert_array_equal(mask[field], scan[field])


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    image.to_filename(tmp_path / "scan.nii")
    header = bytearray((tmp_path / "scan.nii").read_bytes())
    struct.pack_into("<2f", header, 112, 2.0, -1000.0)  # nibabel scales when it saves; the raw numbers stay here
    (tmp_path / "scan.nii").write_bytes(header)
    stored = nibabel.load(tmp_path / "scan.nii")
    volume = read_nifti(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.values[..., 0], stored.get_fdata())
    assert volume.values.dtype == np.float32


def with_scale(path, values, slope, intercept):
    """Saves raw numbers with a scale in the header; nibabel itself would change the numbers."""
    image = nibabel.Nifti1Image(values, np.eye(4))
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else bytes(content))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 7, 2), (5, 6, 7, 1, 3)])
@pytest.mark.parametrize("scale", [(0.0173, -1024.3), (1.0, 0.0), (2.0, 0.0), (0.0, 5.0), (np.nan, 0.0)])
def test_scaled_values_are_those_of_nibabel_rounded_once(tmp_path, dtype, shape, scale):
    values = (np.random.default_rng(0).normal(size=shape) * 50 + 100).astype(dtype)
    path = with_scale(tmp_path / "scan.nii.gz", values, *scale)
    expected = np.asanyarray(nibabel.load(path).dataobj)
    expected = expected.astype(np.float32) if expected.dtype == np.float64 else expected
    found = read_nifti(path).values
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected.reshape(*(*shape, 1)[:3], -1))


@pytest.mark.parametrize(("name", "bytes_per_voxel"), [("scan.nii", 4.5), ("scan.nii.gz", 7.5)])
def test_a_scaled_scan_is_never_in_memory_as_float64(tmp_path, name, bytes_per_voxel):
    values = np.random.default_rng(0).integers(-1000, 1000, (128, 128, 64)).astype(np.int16)
    path = with_scale(tmp_path / name, values, 0.5, -1)
    read_nifti(path)  # imports
    tracemalloc.start()
    try:
        assert read_nifti(path).values.dtype == np.float32
        assert tracemalloc.get_traced_memory()[1] < bytes_per_voxel * values.size
    finally:
        tracemalloc.stop()


def test_a_fourth_dimension_is_contrasts(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, 4, 5, 2)).astype(np.float32)
    path = saved(tmp_path / "scan.nii.gz", values)
    np.testing.assert_array_equal(read_nifti(path).values, values)
    assert nifti_shape(path)[1] == 2


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_units_of_length_become_millimetres(tmp_path, unit, factor):
    path = saved(tmp_path / "scan.nii", np.zeros((2, 2, 2), np.uint8), xyzt_units=unit)
    np.testing.assert_allclose(read_nifti(path).grid.spacing, np.array([1, 1, 2]) * factor)


def test_a_file_without_orientation_is_noted(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    assert "does not state its orientation" in read_nifti(tmp_path / "scan.nii").notes[0]


def test_two_positions_that_differ_are_noted(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_nifti(tmp_path / "scan.nii")
    assert "two different affines" in volume.notes[0]
    np.testing.assert_array_equal(volume.grid.affine, np.eye(4))


UNUSABLE = {
    "zero": np.zeros((3, 4)),
    "one direction twice": np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]),
    "NaN": np.full((3, 4), np.nan),
}


def with_forms(path, kind, sform, qform):
    """Saves a scan with an sform (3×4 numbers, written as they are) and a qform (4×4, or a broken quaternion)."""
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.header["sform_code"], image.header["qform_code"] = int(sform is not None), int(qform is not None)
    if isinstance(qform, np.ndarray):
        image.header.set_qform(qform, 1)
    elif qform is not None:
        image.header["quatern_b"] = image.header["quatern_c"] = 1
    for axis, row in zip("xyz", np.eye(4)[:3] if sform is None else sform, strict=True):
        image.header[f"srow_{axis}"] = row
    content = image.to_bytes()
    header = image.header.binaryblock
    path.write_bytes(header + content[len(header) :])
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("sform", UNUSABLE)
def test_an_unusable_sform_leaves_the_position_to_the_qform_with_a_note(tmp_path, kind, sform):
    qform = np.array([[-2.0, 0, 0, 9], [0, 0, 3, 8], [0, 1, 0, 7], [0, 0, 0, 1]])
    path = with_forms(tmp_path / "scan.nii", kind, UNUSABLE[sform], qform)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.stored.affine, qform, atol=1e-5)
    (note,) = volume.notes
    assert "scan.nii: its sform is unusable, so its qform is used" in note
    assert nifti_shape(path)[0].shape == volume.grid.shape
    write_nifti_mask(tmp_path / "mask.nii", np.ones(volume.grid.shape, np.uint8), path, packed=False)
    np.testing.assert_array_equal(read_nifti(tmp_path / "mask.nii").stored.affine, volume.stored.affine)


@pytest.mark.parametrize("sform", UNUSABLE)
@pytest.mark.parametrize("qform", [None, "broken", np.full((4, 4), np.nan)], ids=["none", "broken", "NaN"])
def test_a_file_without_a_usable_position_is_refused(tmp_path, sform, qform):
    path = with_forms(tmp_path / "scan.nii", nibabel.Nifti1Image, UNUSABLE[sform], None if qform is None else "broken")
    if isinstance(qform, np.ndarray):
        image = bytearray(path.read_bytes())
        struct.pack_into("<3f", image, 256, *[float("nan")] * 3)
        path.write_bytes(image)
    with pytest.raises(AtrousError, match=r"scan\.nii: the header has no usable affine\. sform: "):
        read_nifti(path)


def test_a_broken_qform_is_an_error_without_an_sform_and_a_note_beside_one(tmp_path):
    alone = with_forms(tmp_path / "alone.nii", nibabel.Nifti1Image, None, "broken")
    with pytest.raises(AtrousError, match=r"alone\.nii: the file is damaged or not NIfTI: w2"):
        read_nifti(alone)
    both = read_nifti(with_forms(tmp_path / "both.nii", nibabel.Nifti1Image, np.eye(4)[:3], "broken"))
    np.testing.assert_array_equal(both.stored.affine, np.eye(4))
    assert "its qform is unusable, so its sform is used" in both.notes[0]


def test_no_text_of_the_scan_is_in_the_mask(tmp_path):
    path = saved(
        tmp_path / "scan.nii",
        np.zeros((2, 2, 2), np.uint8),
        descrip=b"Erika Muster",
        db_name=b"E. Muster",
        aux_file=b"EM",
    )
    image = nibabel.load(path)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Erika Muster, 1970"))
    nibabel.save(image, tmp_path / "scan2.nii")
    assert b"Muster" in (tmp_path / "scan2.nii").read_bytes()
    write_nifti_mask(tmp_path / "mask.nii", np.ones((2, 2, 2), np.uint8), tmp_path / "scan2.nii", packed=False)
    assert b"Muster" not in (tmp_path / "mask.nii").read_bytes()


def test_a_mask_of_another_shape_is_refused(tmp_path):
    path = saved(tmp_path / "scan.nii", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(AtrousError, match="but the volume has"):
        write_nifti_mask(tmp_path / "mask.nii", np.ones((2, 4, 3), np.uint8), path, packed=False)
    assert not (tmp_path / "mask.nii").exists()


def bad_files(path):
    good = saved(
        path / "good.nii.gz", np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8)
    ).read_bytes()
    plain = gzip.decompress(good)
    huge = bytearray(plain)
    struct.pack_into("<8h", huge, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    many = bytearray(plain)
    struct.pack_into("<h", many, 40, 7)
    nan = bytearray(plain)
    struct.pack_into("<4f", nan, 280, float("nan"), 0, 0, 0)
    return {
        "empty": b"",
        "text": b"not a volume",
        "truncated gzip": good[: len(good) // 2],
        "damaged gzip": good[:200] + b"\0" * 20 + good[220:],
        "truncated": plain[:600],
        "huge": bytes(huge),
        "huge gzip": gzip.compress(bytes(huge)),
        "seven dimensions": bytes(many),
        "affine of NaN": bytes(nan),
        "magic": plain[:344] + b"xxxx" + plain[348:],
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "text", "truncated gzip", "damaged gzip", "truncated", "huge", "huge gzip", "seven dimensions"),
        *("affine of NaN", "magic"),
    ],
)
def test_damaged_files_are_named(tmp_path, kind):
    content = bad_files(tmp_path)[kind]
    path = tmp_path / ("bad.nii.gz" if content[:2] == b"\x1f\x8b" else "bad.nii")
    path.write_bytes(content)
    with pytest.raises(AtrousError, match=path.name):
        read_nifti(path)


def test_colours_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((2, 2, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for name, values in (("colours.nii", colours), ("complex.nii", np.zeros((2, 2, 2), np.complex64))):
        with pytest.raises(AtrousError, match="only whole numbers and real numbers"):
            read_nifti(saved(tmp_path / name, values))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AtrousError, match="no such file"):
        read_nifti(tmp_path / "missing.nii.gz")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_mask_of_ours_is_known_until_it_is_corrected(tmp_path, kind, packed, endianness):
    values = np.zeros((3, 4, 5), np.int16)
    image = kind(values, np.eye(4), kind(values, np.eye(4)).header.as_byteswapped(endianness))
    nibabel.save(image, tmp_path / "scan.nii")
    path = tmp_path / ("mask.nii.gz" if packed else "mask.nii")
    assert not is_marked(tmp_path / "scan.nii")
    write_nifti_mask(path, np.ones((3, 4, 5), np.uint8), tmp_path / "scan.nii", packed=packed)
    assert is_sealed(path) and (np.asanyarray(nibabel.load(path).dataobj) == 1).all()

    mask = nibabel.load(path)
    corrected = np.asanyarray(mask.dataobj).copy()
    corrected[1, 2, 3] = 0
    nibabel.save(kind(corrected, mask.affine, mask.header), path)
    assert is_marked(path) and not is_sealed(path)


def shifted(image):
    image.header["srow_x"][3] += 1.5
    image.header["qoffset_x"] += 1.5


def without_sform(image):
    image.header["sform_code"] = 0


def other_qform_code(image):
    image.header["qform_code"] = 3


def thicker(image):
    image.header["pixdim"][3] *= 2


def in_metres(image):
    image.header["xyzt_units"] = 1


def scaled(image):
    image.header["scl_slope"] = 2


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("change", [shifted, without_sform, other_qform_code, thicker, in_metres, scaled])
def test_a_mask_of_ours_whose_position_or_scale_was_corrected_is_not_overwritten(tmp_path, kind, packed, change):
    path = tmp_path / ("mask.nii.gz" if packed else "mask.nii")
    nibabel.save(kind(np.zeros((3, 4, 5), np.int16), np.diag([1.0, 1, 2, 1])), tmp_path / "scan.nii")
    write_nifti_mask(path, np.ones((3, 4, 5), np.uint8), tmp_path / "scan.nii", packed=packed)
    assert is_sealed(path)
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    image = kind.from_bytes(content)
    change(image)
    changed = image.header.binaryblock + content[len(image.header.binaryblock) :]
    assert len(changed) == len(content) and changed != content
    path.write_bytes(gzip.compress(changed) if packed else changed)
    assert is_marked(path) and not is_sealed(path)


def bomb(kind: str, size: int) -> bytes:
    """A compressed NIfTI file whose header promises 128 bytes of voxels; nibabel unpacks `size` bytes more."""
    content = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
    content[108:112] = struct.pack("<f", 352 + size)
    if kind == "byte order":  # sizeof_hdr of the other byte order: nibabel uses the order of the dimensions
        content[:4] = struct.pack(">i", 348)
    if kind == "magic number of a pair":
        content[344:348] = b"ni1\0"
    if kind != "no extension":
        content[348] = 1
        content[352:360] = struct.pack("<ii", size // 16 * 16, 4)
    return gzip.compress(bytes(content) + bytes(size))


@pytest.mark.parametrize("kind", ["extension", "no extension", "magic number of a pair", "byte order"])
def test_a_small_file_is_not_unpacked_beyond_the_limit(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_extensions, "MOST_BYTES", 2**16)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(bomb(kind, 2**23))
    assert path.stat().st_size < 2**14
    tracemalloc.start()
    try:
        for read in (read_nifti, nifti_shape):
            with pytest.raises(AtrousError, match="the file is damaged: the voxels begin at byte"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    path.write_bytes(bomb("no extension", 2**15))
    assert read_nifti(path).values.shape[:3] == (4, 4, 4)


def test_a_compressed_scan_is_in_memory_once_when_read_and_a_mask_twice_when_written(tmp_path):
    values = np.random.default_rng(0).integers(0, 4, (256, 256, 128)).astype(np.int16)
    path = saved(tmp_path / "scan.nii.gz", values)
    tracemalloc.start()
    volume = read_nifti(path)
    reading = tracemalloc.get_traced_memory()[1]
    mask = volume.values[..., 0].astype(np.uint8)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    write_nifti_mask(tmp_path / "mask.nii.gz", mask, path, packed=True)
    writing = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert np.array_equal(volume.values[..., 0], values)
    assert reading < 1.2 * values.nbytes
    assert writing < 2.8 * mask.nbytes
