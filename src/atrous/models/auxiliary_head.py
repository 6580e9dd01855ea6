"""The auxiliary head: a second classifier, used only in training, for features of the stage before the last.

Source: arXiv:1612.01105 §3.3.
"""

from __future__ import annotations

from torch import Tensor, nn

from atrous.models.layers import Norm, conv_norm_relu, initialise, set_norm


class AuxiliaryHead(nn.Module):
    """Auxiliary head as in torchvision and mmsegmentation: a 3×3 unit, dropout and a 1×1 classifier.

    The unit (convolution, batch norm, ReLU) has a quarter of the input's channels.

    Args:
        in_channels: C of the features before the backbone's last stage.
        num_classes: K ≥ 1.
        norm: (eps > 0, momentum 0–1) of the head's batch norm.
        dropout: dropout probability before the classifier, 0–1.
    """

    def __init__(self, in_channels: int, num_classes: int, *, norm: Norm = (1e-5, 0.1), dropout: float = 0.1) -> None:
        super().__init__()
        self.unit = conv_norm_relu(in_channels, in_channels // 4, 3)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(in_channels // 4, num_classes, 1)
        initialise(self)
        set_norm(self, norm)

    def forward(self, features: Tensor) -> Tensor:
        """Returns N×K×h×w logits for N×C×h×w features."""
        return self.classifier(self.dropout(self.unit(features)))
