"""The one module that engines see: raw pictures in, low-resolution scores out."""

from __future__ import annotations

from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.models import SegmentationModel
from atrous.models.layers import Normalize
from atrous.models.model_checks import check_model


class Pipeline(nn.Module):
    """Normalise and score; exporters wrap it with a tail that makes masks.

    Args:
        model: a paper's module with `.scores` and `.info`; put into evaluation mode.

    Raises:
        AtrousError: no model of atrous.
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
