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
