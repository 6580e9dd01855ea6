"""The pretrained filters of red, green and blue start at the bands of these colours."""

from __future__ import annotations

import pytest
import torch
from timm.models import adapt_input_conv

import atrous
from atrous.models.first_layer import first_layer, spread_over_bands

SENTINEL = ("B2", "B3", "B4", "B8", "B8A", "B11")


def with_filters(channels):
    """A model whose first layer is adapted by timm, and the three filters."""
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", aspp_channels=8, in_channels=channels)
    layer = first_layer(model)
    filters = torch.randn(layer.out_channels, 3, *layer.kernel_size, generator=torch.Generator().manual_seed(0))
    layer.load_state_dict({"weight": adapt_input_conv(channels, filters)})
    return model, layer, filters


@pytest.mark.parametrize(
    ("names", "wavelengths", "order"),
    [
        (("blue", "Green", "red", "nir"), (), (2, 1, 0)),
        (("Blue (B2)", "sr_green", "SR_RED", "Red-edge_1"), (), (2, 1, 0)),
        (("near infra-red", "Coastal blue", "Blue", "Green", "Red", "Red Edge"), (), (4, 3, 2)),
        (("red 1", "red 2", "green", "blue"), (), None),
        (SENTINEL, (), (2, 1, 0)),
        (("B02", "B03", "B04", "B12"), (), (2, 1, 0)),
        (("B1", "B2", "B3", "B4"), (), None),  # Landsat 7 and 8 differ
        ((), (490, 560, 665, 842), (2, 1, 0)),
        ((), (842, 665, 560, 490, 1610), (1, 2, 3)),
        ((), (842, 900, 560, 490), None),
        ((), (), None),
    ],
)
def test_colours_are_found_by_name_or_wavelength(names, wavelengths, order):
    channels = len(names or wavelengths) or 5
    model, layer, filters = with_filters(channels)
    before = layer.weight.clone()
    assert spread_over_bands(model, names, wavelengths) == (order is not None)
    if order is None:
        assert torch.equal(layer.weight, before)
        return
    for color, band in enumerate(order):
        torch.testing.assert_close(layer.weight[:, band], filters[:, color] * 3 / channels)
    others = [band for band in range(channels) if band not in order]
    for band in others:
        torch.testing.assert_close(layer.weight[:, band], filters.mean(1) * 3 / channels)


def test_bands_that_are_alike_give_the_output_of_rgb():
    model, layer, filters = with_filters(6)
    spread_over_bands(model, SENTINEL, ())
    grey = torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    rgb = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), filters)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(grey.repeat(1, 6, 1, 1), layer.weight), rgb, atol=1e-4, rtol=1e-4
    )


def test_three_channels_are_put_in_order():
    model, layer, _ = with_filters(3)
    before = layer.weight.clone()
    assert spread_over_bands(model, ("red", "green", "blue"), ())
    torch.testing.assert_close(layer.weight, before)
    assert spread_over_bands(model, ("blue", "green", "red"), ())
    torch.testing.assert_close(layer.weight, before[:, [2, 1, 0]])
