"""The module that all engines run: raw pictures in, low-resolution scores out."""

from __future__ import annotations

from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.models import SegmentationModel
from atrous.models.layers import Normalize
from atrous.models.model_checks import check_model


class Pipeline(nn.Module):
    """Normalises pictures and runs the model; exporters append the layers that make masks.

    Args:
        model: module with `.scores` and `.info`; it is put into evaluation mode.

    Raises:
        AtrousError: the module is not a model of atrous.
    """

    @checked
    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        check_model(model)
        self.normalize = Normalize.of(model.info.preprocessing)
        self.model = model
        self.eval()

    def forward(self, raw_images: Tensor) -> Tensor:
        """N×C×H×W unnormalised → N×K×h×w logits, at the model's own low resolution."""
        return self.model.scores(self.normalize(raw_images))["main"]
