"""True areas of pixels: scale factors of projections, and pyproj's geodesic areas."""

from __future__ import annotations

import numpy as np
import pytest

from atrous.data.rasters.pixel_area import PixelAreas
from atrous.data.rasters.polygon_area import polygon_area
from atrous.data.rasters.raster_grid import coordinates
from atrous.data.sources.geotiff import Place
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
pyproj = pytest.importorskip("pyproj")
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402


def areas_of(crs: str, transform: Affine, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """The areas of all pixels of a raster."""
    place = Place(CRS.from_user_input(crs), transform, (), None)
    return PixelAreas(place, size, "a.tif").of((0, 0, *size))


def geodesic(crs: str, transform: Affine, row: int, column: int, count: int = 1, points: int = 50) -> float:
    """The area of a square of pixels whose sides are drawn with many points: pyproj's geodesic polygon."""
    part = np.arange(points) / points
    columns = column + count * np.concatenate([part, np.ones(points), 1 - part, np.zeros(points)])
    rows = row + count * np.concatenate([np.zeros(points), part, np.ones(points), 1 - part])
    known = pyproj.CRS(crs)
    to_degrees = pyproj.Transformer.from_crs(known, known.geodetic_crs, always_xy=True)
    longitude, latitude = (
        to_degrees.transform(*(transform @ np.stack([columns, rows, np.ones_like(rows)]))[:2])
        if (False)
        else to_degrees.transform(
            transform.a * columns + transform.b * rows + transform.c,
            transform.d * columns + transform.e * rows + transform.f,
        )
    )
    unit = np.degrees(known.geodetic_crs.axis_info[0].unit_conversion_factor)
    area, _ = known.geodetic_crs.get_geod().polygon_area_perimeter(
        np.multiply(longitude, unit), np.multiply(latitude, unit)
    )
    return abs(area)


def test_at_the_central_meridian_of_utm_the_scale_is_09996():
    areas = areas_of("EPSG:32632", from_origin(500_000, 5_000_000, 10, 10), (8, 8))
    np.testing.assert_allclose(areas, 100 / 0.9996**2, rtol=1e-6)


def test_in_an_equal_area_projection_areas_are_those_of_the_grid():
    areas = areas_of("EPSG:3035", from_origin(4_300_000, 3_200_000, 30, 30))
    np.testing.assert_allclose(areas, 900, rtol=1e-6)


def test_web_mercator_is_four_times_too_large_at_60_degrees():
    y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, 60)[1]
    areas = areas_of("EPSG:3857", from_origin(1_100_000, y, 10, 10), (4, 4))
    assert 100 / areas.mean() == pytest.approx(4, rel=0.006)  # 4 on a sphere
    assert areas[0, 0] == pytest.approx(geodesic("EPSG:3857", from_origin(1_100_000, y, 10, 10), 0, 0), rel=1e-5)


@pytest.mark.parametrize("latitude", [0, 45, 60, 89, -33])
def test_pixels_in_degrees_are_as_large_as_geodesics_say(latitude):
    transform = from_origin(12, latitude + 0.5, 0.01, 0.01)
    areas = areas_of("EPSG:4326", transform, (100, 30))
    for row in (0, 50, 99):
        expected = geodesic("EPSG:4326", transform, row, 7)
        np.testing.assert_allclose(areas[row], expected, rtol=2e-7)


def test_the_whole_earth():
    areas = areas_of("EPSG:4326", from_origin(-180.5, 90.5, 1, 1), (181, 361))  # half a pixel beyond the poles
    assert areas[:, :360].sum() == pytest.approx(510_065_621_724_089, rel=1e-9)  # WGS 84 in m²


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:2263", from_origin(980_000, 200_000, 3, 3)),  # US survey feet
        ("EPSG:27572", from_origin(600_000, 2_200_000, 25, 25)),  # the geographic CRS is in grads from Paris
        ("EPSG:3413", from_origin(200_000, -300_000, 40, 40)),  # polar stereographic
        ("EPSG:3413", from_origin(-1000, 1000, 40, 40)),  # with the pole
        ("EPSG:32601", from_origin(300_000, 7_000_000, 60, 60)),  # the date line is near
        ("EPSG:25832+7837", from_origin(300_000, 5_600_000, 10, 10)),  # with heights
        ("EPSG:32632", Affine(7, 7, 690_000, 7, -7, 5_000_000)),  # rotated
        ("EPSG:4326", Affine(1e-4, 4e-5, 11, 4e-5, -1e-4, 48)),
        ("EPSG:6933", from_origin(1_000_000, 6_000_000, 9000, 9000)),  # pixels larger than a cell
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_crs_agrees_with_geodesic_polygons(crs, transform):
    areas = areas_of(crs, transform)
    known = "EPSG:25832" if "+" in crs else crs
    for row, column in ((0, 0), (40, 60)):
        part = areas[row : row + 20, column : column + 20].sum()
        assert part == pytest.approx(geodesic(known, transform, row, column, count=20), rel=3e-5)


def test_windows_have_the_areas_of_the_whole():
    place = Place(CRS.from_epsg(3857), from_origin(0, 8_000_000, 20, 20), (), None)
    areas = PixelAreas(place, (300, 200), "a.tif")
    whole, part = areas.of((0, 0, 300, 200)), areas.of((110, 30, 77, 90))
    np.testing.assert_array_equal(part, whole[110:187, 30:120])


def test_what_is_not_on_earth_has_no_area():
    """The corners of a world map in Mollweide's projection."""
    areas = areas_of("ESRI:54009", from_origin(-18_100_000, 9_100_000, 100_000, 100_000), (182, 362))
    assert areas[0, 0] == areas[-1, -1] == 0
    assert areas.sum() == pytest.approx(5.1e14, rel=0.02)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(None, from_origin(0, 0, 1, 1), (), None), "no coordinate reference system.*gdal_edit"),
        (Place(None, Affine.identity(), ("a point",), CRS.from_epsg(4326)), "ground control points.*gdalwarp"),
        (Place(CRS.from_epsg(32632), Affine.identity(), (), None), "no positions of its pixels"),
        (Place(CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]'), from_origin(9, 9, 1, 1), (), None), "not on Earth"),
        (Place(CRS.from_epsg(4326), from_origin(48, 170, 0.1, 0.1), (), None), "exchanged"),
        (Place(CRS.from_epsg(32632), from_origin(9e19, 9e19, 1, 1), (), None), "not on Earth.*EPSG:32632"),
    ],
)
def test_rasters_without_a_place_are_refused(place, message):
    with pytest.raises(AtrousError, match=message):
        PixelAreas(place, (4, 5), "a.tif")


def test_a_sphere_has_the_area_of_a_sphere():
    areas = areas_of("+proj=longlat +a=6371000 +b=6371000", from_origin(-180, 90, 1, 1), (180, 360))
    assert areas.sum() == pytest.approx(4 * np.pi * 6371000**2)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", from_origin(5, 41, 0.01, 0.02)),
        ("EPSG:4326+5773", from_origin(5, -41, 0.01, 0.02)),  # with heights
        ("EPSG:32632", from_origin(600000, 4600000, 10, 10)),
    ],
)
def test_the_pixels_of_a_raster_are_as_large_as_its_polygon(crs, transform):
    shapely = pytest.importorskip("shapely")
    right, bottom = coordinates(transform, 96, 64)
    bounds = shapely.box(transform.c, bottom, right, transform.f)
    whole = polygon_area(pyproj.CRS(crs).to_wkt())(bounds)
    assert areas_of(crs, transform).sum() == pytest.approx(whole, rel=1e-7)
