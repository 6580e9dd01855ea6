"""A warning states that windows, or the places around them, are smaller than the ground that a crop may show."""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import Item
from atrous.data.raster_items import small_windows
from atrous.data.rasters.scene_windows import WindowPlace
from atrous.data.sources.source import Window


def item(window, region):
    return Item("a", WindowPlace(Path("a.tif"), Window(0, 0, *window)).path, None, region=(0, 0, *region))


def test_windows_that_hold_a_crop_at_the_smallest_scale_are_no_problem():
    assert small_windows([item((200, 200), (400, 400))], (100, 100), 0.5) is None
    assert small_windows([item((100, 100), (400, 400))], None, 0.5) is None
    assert small_windows([Item("a", Path("a.png"), None)], (100, 100), 0.5) is None


def test_larger_windows_are_proposed():
    found = small_windows([item((199, 200), (400, 400))] * 2 + [item((200, 200), (400, 400))], (100, 100), 0.5) or ""
    assert found.startswith("2 of 3 training windows are smaller than 200×200 pixels, which is the crop divided by")
    assert found.endswith("so crops have borders without labels. Use larger windows (--data.window 400).")


def test_a_place_that_is_too_small_needs_a_smaller_crop():
    found = small_windows([item((150, 150), (150, 150))], (100, 100), 0.5) or ""
    assert "Of these, 1 are whole scenes, or whole places of the random split." in found
    assert found.endswith("Use a smaller crop (--augment.crop) or a larger smallest scale (--augment.scale).")


def test_a_few_narrow_windows_at_the_edges_are_no_problem():
    wide, narrow = item((200, 200), (400, 400)), item((200, 3), (200, 3))
    assert small_windows([wide] * 19 + [narrow], (100, 100), 0.5) is None
