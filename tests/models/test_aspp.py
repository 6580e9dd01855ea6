"""ASPP against the sum that the paper writes (arXiv:1706.05587 §3.3)."""

import pytest
import torch
from torch.nn import functional as F

from atrous.models.aspp import ASPP


@pytest.mark.parametrize("rates", [(6, 12, 18), (2, 3)])
def test_branches_are_concatenated_in_order_point_rates_pooling(rates):
    torch.manual_seed(0)
    aspp = ASPP(10, 4, rates=rates, dropout=0.0).eval()
    features = torch.randn(2, 10, 9, 11)
    branches = [F.conv2d(features, aspp.point[0].weight)]
    branches += [
        F.conv2d(features, branch[0].weight, padding=rate, dilation=rate)
        for branch, rate in zip(aspp.atrous, rates, strict=True)
    ]
    pooled = F.conv2d(features.mean((2, 3), keepdim=True), aspp.image_pooling.unit[0].weight)
    branches.append(pooled.expand_as(branches[0]))
    fresh_norm = 1 / (1 + 1e-5) ** 0.5  # of batch norm that has seen nothing
    joined = torch.cat([F.relu(branch * fresh_norm) for branch in branches], dim=1)
    expected = F.relu(F.conv2d(joined, aspp.project[0].weight) * fresh_norm)
    torch.testing.assert_close(aspp(features), expected)


def test_rates_change_on_the_same_weights():
    torch.manual_seed(0)
    aspp, other = ASPP(6, 4, rates=(1, 2, 3)).eval(), ASPP(6, 4, rates=(2, 4, 6)).eval()
    other.load_state_dict(aspp.state_dict())
    features = torch.randn(1, 6, 13, 13)
    assert not torch.equal(aspp(features), other(features))
    aspp.set_rates((2, 4, 6))
    assert torch.equal(aspp(features), other(features))


def test_as_many_rates_as_branches():
    with pytest.raises(ValueError, match="zip"):
        ASPP(6, 4, rates=(1, 2, 3)).set_rates((1, 2))


@pytest.mark.parametrize("separable", [False, True])
def test_parameters_are_the_papers(separable):
    """Five branches of 256 and a projection over 2048 channels, as arXiv:1706.05587 Figure 5 draws them."""
    count = sum(parameter.numel() for parameter in ASPP(2048, 256, separable=separable).parameters())
    norms = 2 * 256
    three = 3 * (9 * 2048 + 2 * 2048 + 2048 * 256 + norms) if separable else 3 * (9 * 2048 * 256 + norms)
    assert count == 2 * (2048 * 256 + norms) + three + 5 * 256 * 256 + norms
