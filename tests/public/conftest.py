"""A small model, odd values and the table of calls; lets the tests of this folder import what lies beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import atrous

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def model() -> Any:
    torch.manual_seed(0)
    return atrous.create_model(
        "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8, pretrained=False
    ).eval()


@pytest.fixture(scope="session")
def odd(model, tmp_path_factory) -> dict[str, Any]:
    from odd_values import odd_values

    return odd_values(model, tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="session")
def table(model, tmp_path_factory) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    from public_calls import calls

    return calls(model, tmp_path_factory.mktemp("calls"))
