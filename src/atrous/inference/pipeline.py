"""The module that all engines run; it maps raw pictures to low-resolution scores."""

from __future__ import annotations

from torch import Tensor, nn

from atrous.checked_arguments import checked
from atrous.models import SegmentationModel
from atrous.models.layers import Normalize
from atrous.models.model_checks import check_model


class Pipeline(nn.Module):
    """A module that normalises pictures and runs the model; exports append the layers that make masks.

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
        """Maps N×C×H×W raw values to N×K×h×w logits at the low resolution of the network's output."""
        return self.model.scores(self.normalize(raw_images))["main"]
