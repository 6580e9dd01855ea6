"""xarray's DataArrays are pictures, and their masks keep the coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.inference.data_array import is_data_array, mask_like, pixels_of_data_array
from atrous.inference.picture_input import found_in_memory
from atrous.input_spec import Input

xarray = pytest.importorskip("xarray")
RED, NIR = np.arange(12, dtype=np.float64).reshape(3, 4), np.arange(12, 24, dtype=np.float64).reshape(3, 4)


def picture(**attributes):
    """A raster of two bands, as rioxarray stores it: the spatial reference is a coordinate without dimensions."""
    values = np.stack([RED, NIR])
    values[1, 2, 3] = np.nan
    coordinates = {"band": ["red", "nir"], "y": [50.0, 40.0, 30.0], "x": [1.0, 2.0, 3.0, 4.0]}
    array = xarray.DataArray(values, coordinates, ("band", "y", "x"), attrs=attributes)
    reference = xarray.Variable((), 0, {"crs_wkt": "PROJCS[...]", "GeoTransform": "0.5 1 0 55 0 -10"})
    return array.assign_coords(spatial_ref=reference, time=7)


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("y", "x", "band"), ("x", "band", "y")])
def test_bands_are_found_by_name_in_every_order_of_dimensions(dims):
    one = Input((0.0, 0.0), (1.0, 1.0), dtype="float32", bands=("nir", "red"))
    found = found_in_memory(picture().transpose(*dims), one)
    truth = np.dstack([NIR, RED])
    truth[2, 3] = 0
    assert np.array_equal(found.image, truth)
    assert np.argwhere(~found.valid).tolist() == [[2, 3]]
    assert is_data_array(found.array)
    assert not is_data_array(truth)


def test_names_in_long_name_scaling_and_fill_value():
    array = picture(long_name=("B4", "B8"), _FillValue=5.0, scale_factor=0.5, add_offset=1.0)
    array = array.assign_coords(band=[1, 2])
    stored = pixels_of_data_array(array)
    assert stored.names == ("B4", "B8")
    values, valid = stored.for_model(2, None, (7.0,))
    assert np.argwhere(~valid).tolist() == [[1, 1], [1, 3], [2, 3]]  # 5 and 7 are compared before scaling
    assert values[0, 1].tolist() == [1.5, 7.5]


def numbered(count, **attributes):
    """A raster of bands with the numbers 1 to `count`, whose band n contains the value n."""
    values = np.repeat(np.arange(1.0, count + 1), 12).reshape(count, 3, 4)
    return xarray.DataArray(values, {"band": range(1, count + 1)}, ("band", "y", "x"), attrs=attributes)


@pytest.mark.parametrize("lost", [np.nan, -9999.0, 77.0])
def test_a_band_without_data_does_not_make_the_others_missing(lost):
    array = numbered(5, _FillValue=77.0)
    array[2] = lost
    stored = pixels_of_data_array(array)
    assert stored.empty == (2,)
    values, valid = stored.for_model(5, [0, 0, 9, 0, 0])
    assert valid is None
    assert values[1, 2].tolist() == [1, 2, 9, 4, 5]
    array[:] = lost
    assert pixels_of_data_array(array).empty == ()


def test_names_and_scales_follow_the_numbers_of_selected_bands():
    names, scales, offsets = ("B2", "B3", "B4"), (0.5, 0.25, 0.125), np.array([10, 20, 30])
    array = numbered(3, long_name=names, scales=scales, offsets=offsets)
    for chosen in ([0, 1, 2], [2, 1, 0], [2, 0], [1], 2):
        stored = pixels_of_data_array(array.isel(band=chosen))
        bands = np.atleast_1d(chosen)
        assert stored.names == tuple(names[band] for band in bands)
        assert stored.measured[0, 0].tolist() == [(band + 1) * scales[band] + offsets[band] for band in bands]
    unnumbered = pixels_of_data_array(array.drop_vars("band"))
    assert unnumbered.names == names
    assert pixels_of_data_array(array.assign_coords(band=["a", "b", "c"])).names == ("a", "b", "c")


def test_numbers_of_bands_that_do_not_fit():
    array = numbered(3, long_name=("B2", "B3", "B4")).assign_coords(band=[0, 1, 2])
    assert pixels_of_data_array(array).names == ()
    with pytest.raises(AtrousError, match=r"the attribute scales must be .*the bands 0, 1, 2"):
        pixels_of_data_array(array.assign_attrs(scales=(1, 2, 3)))
    with pytest.raises(AtrousError, match=r"the attribute offsets must be .*3 bands"):
        pixels_of_data_array(array.drop_vars("band").assign_attrs(offsets=[1, 2]))


@pytest.mark.parametrize("scale", [0.5, np.array(0.5), np.array([0.5]), [0.5, 0.5, 0.5], "0.5"])
def test_one_scale_of_all_bands(scale):
    assert pixels_of_data_array(numbered(3, scale_factor=scale)).measured[0, 0].tolist() == [0.5, 1, 1.5]


def test_the_mask_keeps_coordinates_and_the_reference():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    array = picture(grid_mapping="spatial_ref", units="1", long_name=("a", "b"))
    for one in (array, array.transpose("x", "y", "band"), array.isel(band=0)):
        found = mask_like(one, mask)
        assert found.dims == ("y", "x")
        assert np.array_equal(found.values, mask)
        assert found.dtype == np.uint8
        assert found.y.values.tolist() == [50, 40, 30]
        assert found.spatial_ref.attrs == array.spatial_ref.attrs
        assert found.attrs == {"grid_mapping": "spatial_ref", "_FillValue": 255}
        assert int(found.time) == 7
    assert "band" not in mask_like(array, mask).coords


def test_other_dimensions_are_refused():
    with pytest.raises(AtrousError, match=r"needs the dimensions y and x.*got band, y, x, time"):
        pixels_of_data_array(picture().drop_vars("time").expand_dims(time=[1, 2]).transpose("band", "y", "x", "time"))
    with pytest.raises(AtrousError, match=r"needs the dimensions y and x"):
        pixels_of_data_array(picture().rename(x="column"))
    with pytest.raises(AtrousError, match="must contain numbers"):
        pixels_of_data_array(picture().astype(str))


def test_a_segmenter_returns_the_mask_as_an_array():
    import atrous

    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=3, in_channels=2)
    values = (picture().fillna(0) * 5).astype(np.uint8)
    prediction = atrous.Segmenter(model)(values)
    found = prediction.data_array()
    assert np.array_equal(found.values, prediction.mask)
    assert found.x.equals(values.x)
    plain = atrous.Segmenter(model)(values.transpose("y", "x", "band").values)
    assert np.array_equal(plain.mask, prediction.mask)
    with pytest.raises(AtrousError, match=r"no xarray.DataArray"):
        plain.data_array()
