"""A CRF's settings as words and plain values: on the command line, in a model file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from atrous.checked_arguments import as_dict, as_float
from atrous.crf.mean_field import PRESETS, DenseCRF
from atrous.errors import AtrousError, shown, unknown_name
from atrous.json_yaml import parse_yaml

#: The word for the settings that a model file stores.
STORED = "model"
#: What may be set, and its default.
DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(DenseCRF).parameters.items()
    if name not in ("trainable", "args", "kwargs")
}


def make_crf(given: DenseCRF | Mapping[str, Any] | str, stored: Mapping[str, Any] | None = None) -> DenseCRF:
    """A CRF from whatever names its settings.

    Args:
        given: a CRF, which is returned; a mapping of settings, the others as DenseCRF has them; or text: "model" for
            those that the model stores, a preset, NAME=VALUE,… or a mapping in YAML or JSON. NAME=VALUE may follow
            "model" or a preset: "deeplabv1,iterations=5".
        stored: settings in the model file, or None.

    Raises:
        AtrousError: nothing stored, an unknown preset or setting (with the nearest match), or a value of a wrong kind.
    """
    if isinstance(given, DenseCRF):
        return given
    record = _read(given, stored) if isinstance(given, str) else as_dict(given, "crf")
    if record is None:
        raise AtrousError(f"a CRF is a DenseCRF, the name of its settings or a mapping of them, got {shown(given)}.")
    for name in record:
        if name not in DEFAULTS:
            raise unknown_name("CRF setting", name, DEFAULTS)
    try:
        return DenseCRF(**{name: _value(name, value) for name, value in record.items()})
    except (TypeError, ValueError) as error:
        if isinstance(error, AtrousError):
            raise
        raise AtrousError(f"the CRF's compatibility must be 'potts' or a K×K matrix: {error}.") from error


def settings_of(crf: DenseCRF) -> dict[str, Any]:
    """What `make_crf` makes the same CRF of: plain numbers and lists, for JSON."""
    return {
        "bilateral_weight": crf.bilateral_weight.item(),
        "bilateral_xy": crf.bilateral_xy,
        "bilateral_rgb": crf.bilateral_rgb,
        "gaussian_weight": crf.gaussian_weight.item(),
        "gaussian_xy": crf.gaussian_xy,
        "iterations": crf.iterations,
        "prune": crf.prune,
        "compatibility": "potts" if crf.compatibility is None else crf.compatibility.tolist(),
    }


def _value(name: str, value: Any) -> Any:
    """A setting's value; YAML does not take 1e3 for a number, people do."""
    if name == "compatibility":
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    elif (number := as_float(value, f"the CRF's {name}")) is not None:
        return number
    raise AtrousError(f"the CRF's {name} must be a number, got {shown(value)}.")


def _read(text: str, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings that a text names."""
    if text.lstrip().startswith("{"):
        return _mapping(text)
    base, _, changes = text.partition(",")
    if "=" in base:
        return _pairs(text)
    if base == STORED and stored is None:
        raise AtrousError(
            f"the model file stores no CRF settings: name a preset ({', '.join(sorted(PRESETS))}), or find some with "
            "`atrous evaluate MODEL DATA --crf-search --save-crf OUT.safetensors`."
        )
    if base not in (STORED, *PRESETS):
        raise unknown_name("CRF", base, [STORED, *PRESETS, "NAME=VALUE,…"])
    return {**(PRESETS[base] if base != STORED else stored or {}), **_pairs(changes)}


def _pairs(text: str) -> dict[str, Any]:
    """NAME=VALUE,… as a mapping."""
    record = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise AtrousError(f"CRF settings are written NAME=VALUE, separated by commas; got '{pair}'.")
        record |= _mapping(f"{{{name.strip()}: {value}}}")
    return record


def _mapping(text: str) -> dict[str, Any]:
    try:
        record = parse_yaml(text, "the text")
    except AtrousError as error:
        raise AtrousError(f"CRF settings cannot be read from {text[:200]!r}: {error}") from error
    if not isinstance(record, dict):
        raise AtrousError(f"CRF settings are a mapping of names to values, got {text!r}.")
    return record
