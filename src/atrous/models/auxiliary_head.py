"""A second classifier that helps training from half-way up the backbone (arXiv:1612.01105 §3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from atrous.models.layers import Norm, conv_norm_relu, initialise, set_norm


class AuxiliaryHead(nn.Module):
    """A 3×3 unit to a quarter of the channels, dropout, a 1×1 classifier; torchvision and mmsegmentation agree on it.

    Args:
        in_channels: C of the features before the backbone's last stage.
        num_classes: K.
        norm: (eps, momentum) of its batch norm.
        dropout: probability, 0–1.
    """

    def __init__(self, in_channels: int, num_classes: int, *, norm: Norm = (1e-5, 0.1), dropout: float = 0.1) -> None:
        super().__init__()
        self.unit = conv_norm_relu(in_channels, in_channels // 4, 3)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(in_channels // 4, num_classes, 1)
        initialise(self)
        set_norm(self, norm)

    def forward(self, features: Tensor) -> Tensor:
        """N×C×h×w → N×K×h×w logits."""
        return self.classifier(self.dropout(self.unit(features)))
