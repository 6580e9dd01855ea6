"""Builds a CRF from a text (command line) or from plain values (model file), and returns the settings of a CRF."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from atrous.checked_arguments import as_dict, as_float
from atrous.crf.mean_field import PRESETS, DenseCRF
from atrous.errors import AtrousError, shown, unknown_name
from atrous.json_yaml import parse_yaml

#: The text that selects the settings stored in the model file.
STORED = "model"
#: All settings and their defaults.
DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(DenseCRF).parameters.items()
    if name not in ("trainable", "args", "kwargs")
}


def make_crf(given: DenseCRF | Mapping[str, Any] | str, stored: Mapping[str, Any] | None = None) -> DenseCRF:
    """Builds a CRF from its settings.

    Args:
        given: a CRF, a mapping of settings, or a text. A CRF is returned unchanged. Settings that are absent from a
            mapping have the defaults of `DenseCRF`. A text is "model" (the settings of the model file), the name of a
            preset, NAME=VALUE pairs separated by commas, or a mapping in YAML or JSON. Pairs may follow "model" or a
            preset; for example, "deeplabv1,iterations=5" changes one setting of the preset.
        stored: settings in the model file; None if the file stores no settings.

    Raises:
        AtrousError: the model file stores no settings, a preset or setting is unknown (the message names the nearest
            match), or a value has a wrong type or is out of range.
    """
    if isinstance(given, DenseCRF):
        return given
    record = _read(given, stored) if isinstance(given, str) else as_dict(given, "crf")
    if record is None:
        raise AtrousError(f"a CRF must be a DenseCRF, a text or a mapping of settings, got {shown(given)}.")
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
    """Returns the settings of a CRF as plain numbers and lists, for JSON; `make_crf` builds the same CRF from them.

    Args:
        crf: the CRF.
    """
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
    """Checks the value of a setting; converts text such as 1e3, which YAML does not read as a number."""
    if name == "compatibility":
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    elif (number := as_float(value, f"the CRF's {name}")) is not None:
        return number
    raise AtrousError(f"the CRF's {name} must be a number, got {shown(value)}.")


def _read(text: str, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads the settings from a text."""
    if text.lstrip().startswith("{"):
        return _mapping(text)
    base, _, changes = text.partition(",")
    if "=" in base:
        return _pairs(text)
    if base == STORED and stored is None:
        raise AtrousError(
            f"the model file stores no CRF settings: name a preset ({', '.join(sorted(PRESETS))}), or find settings "
            "with `atrous evaluate MODEL DATA --crf-search --save-crf OUT.safetensors`."
        )
    if base not in (STORED, *PRESETS):
        raise unknown_name("CRF", base, [STORED, *PRESETS, "NAME=VALUE,…"])
    return {**(PRESETS[base] if base != STORED else stored or {}), **_pairs(changes)}


def _pairs(text: str) -> dict[str, Any]:
    """Reads NAME=VALUE,… as a mapping."""
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
        raise AtrousError(f"CRF settings must be a mapping of names to values, got {text!r}.")
    return record
