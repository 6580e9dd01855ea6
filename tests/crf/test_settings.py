"""How a CRF's settings are written down, and what a misspelt one gets for an answer."""

import json

import numpy as np
import pytest
import torch

from atrous.crf import PRESETS, DenseCRF
from atrous.crf.settings import make_crf, settings_of
from atrous.errors import AtrousError

STORED = {"bilateral_weight": 7.5, "gaussian_xy": 2, "iterations": 4}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_by_name(preset):
    assert settings_of(make_crf(preset)) == settings_of(DenseCRF(**PRESETS[preset]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("bilateral_weight=4", {"bilateral_weight": 4}),
        (
            "bilateral_weight=4.5, gaussian_xy = 1e1,iterations=3",
            {"bilateral_weight": 4.5, "gaussian_xy": 10, "iterations": 3},
        ),
        (
            '{"bilateral_xy": 50, "compatibility": [[0, 1], [1, 0]]}',
            {"bilateral_xy": 50, "compatibility": [[0, 1], [1, 0]]},
        ),
        ("{bilateral_rgb: 8}", {"bilateral_rgb": 8}),
        ({"bilateral_rgb": 8, "compatibility": "potts"}, {"bilateral_rgb": 8}),
        ({}, {}),
        ("deeplabv1,iterations=2,gaussian_weight=0", {**PRESETS["deeplabv1"], "iterations": 2, "gaussian_weight": 0}),
        ("model", STORED),
        ("model,iterations=1", {**STORED, "iterations": 1}),
    ],
    ids=str,
)
def test_what_is_given_is_what_is_set(given, expected):
    assert settings_of(make_crf(given, STORED)) == settings_of(DenseCRF(**expected))


def test_a_crf_is_itself():
    crf = DenseCRF(iterations=3)
    assert make_crf(crf) is crf


@pytest.mark.parametrize("compatibility", ["potts", np.eye(3), torch.tensor([[0.0, 0.3], [0.7, 0.1]])])
def test_settings_survive_json(compatibility):
    crf = DenseCRF(1.5, 20, 4, 2, 3, 6, compatibility, trainable=True)
    settings = json.loads(json.dumps(settings_of(crf)))
    again = make_crf("model", settings)
    assert settings_of(again) == settings
    assert set(again.state_dict()) == set(crf.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in crf.state_dict().items())
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("deplabv2", r"unknown CRF 'deplabv2'\. Did you mean 'deeplabv2'\?"),
        ("true", r"unknown CRF 'true'\..* Allowed: .*deeplabv1, .*model"),
        ("", "unknown CRF ''"),
        ("bilateral_wieght=4", r"unknown CRF setting 'bilateral_wieght'\. Did you mean 'bilateral_weight'\?"),
        ("trainable=1", "unknown CRF setting 'trainable'"),
        ({"sigma": 4}, "unknown CRF setting 'sigma'"),
        ("deeplabv2,gaussian_xy", "written NAME=VALUE, separated by commas; got 'gaussian_xy'"),
        ("gaussian_xy=", "the CRF's gaussian_xy must be a number, got None"),
        ("{gaussian_xy: wide}", "must be a number, got 'wide'"),
        ("iterations=true", "must be a number, got True"),
        ({"gaussian_xy": 10**400}, "the CRF's gaussian_xy must be a number within"),
        ("iterations=1.5", "iterations must be a whole number"),
        ("gaussian_xy=-1", "gaussian_xy must be more than 0"),
        ("gaussian_xy=[1", "cannot be read"),
        ("{1, 2}", "the CRF's|unknown CRF setting '1'"),
        ("{gaussian_xy: 1", "cannot be read"),
        ("compatibility=pots", r"unknown compatibility 'pots'"),
        ('{"compatibility": [[0, 1], [1]]}', "K×K matrix"),
        ('{"compatibility": {"a": 1}}', "K×K matrix"),
        ('{"compatibility": null}', "K×K matrix"),
    ],
)
def test_what_cannot_be_set_is_named(given, message):
    with pytest.raises(AtrousError, match=message):
        make_crf(given, STORED)


def test_a_model_that_stores_none():
    with pytest.raises(
        AtrousError, match=r"stores no CRF settings: name a preset \(deeplabv1, deeplabv2, pydensecrf\)"
    ):
        make_crf("model")
