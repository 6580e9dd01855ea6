"""One small network of each paper, and a picture for them."""

import torch

from atrous import create_model
from atrous.models.layers import Normalize

MODELS = {
    "v1 with sides": ("deeplabv1", {"backbone": "vgg16", "multi_scale": True, "fov_channels": 32}),
    "v2": ("deeplabv2", {"backbone": "resnet18", "scales": (1.0,)}),
    "v2 with branches": ("deeplabv2", {"backbone": "resnet18", "fov_channels": 16, "scales": (0.5, 1.0)}),
    "v3": ("deeplabv3", {"backbone": "resnet18"}),
    "v3plus": ("deeplabv3plus", {"backbone": "mobilenetv2_100"}),
}


def built(name: str) -> torch.nn.Module:
    """A network in float64 whose norms are not trivial."""
    torch.manual_seed(0)
    architecture, arguments = MODELS[name]
    model = create_model(architecture, num_classes=3, **arguments)
    model.train()
    with torch.no_grad():
        model.scores(torch.randn(2, 3, 97, 97))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double().eval()


def picture(height: int = 81, width: int = 97) -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(1)).double()


def normalised_picture(model: torch.nn.Module) -> torch.Tensor:
    return Normalize.of(model.info.preprocessing)(picture()).double()
