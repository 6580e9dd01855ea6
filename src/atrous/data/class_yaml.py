"""Converts the content of a ``classes.yaml`` to the fields of a class table, and the fields back to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from atrous.data.class_colors import default_colors
from atrous.data.raw_values import Raw, is_triple, is_whole, plain, tupled
from atrous.errors import AtrousError, shown, unknown_name

#: Keys of a class entry for its coded meanings, in the order of `Codes`.
_CODE_KEYS = ("code", "category")
#: Keys that belong into inputs.yaml; see `InputFiles`.
_KEYS_OF_INPUTS = ("inputs", "image", "bands", "wavelengths", "unit", "normalize")


def table_fields(content: Any) -> dict[str, Any]:
    """Returns the arguments of `ClassTable`, by name, from the content of a ``classes.yaml``.

    Args:
        content: the parsed file.

    Raises:
        AtrousError: a key is unknown or missing, or a value has another type.
    """
    if isinstance(content, dict) and (of_inputs := [key for key in content if key in _KEYS_OF_INPUTS]):
        raise AtrousError(
            f"the key {of_inputs[0]} describes the pictures, not the classes. Write it into inputs.yaml in the folder "
            "of the dataset, such as inputs: {image: {bands: [B4, B3, B2]}}."
        )
    _check_keys("the file", content, ("classes", "ignore", "overlap", "attribute"))
    entries = content.get("classes")
    if not isinstance(entries, list) or not entries:
        raise AtrousError("classes: must be a list of {name, color, raw}, one per class.")
    names, colors, raw, codes, segments = [], [], [], [], []
    fallback = default_colors(len(entries))
    for index, entry in enumerate(entries):
        _check_keys("a class entry", entry, ("name", "color", "raw", *_CODE_KEYS, "segments"))
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise AtrousError(f"class {index} has the name {name!r}; give text, in quotes if YAML reads another type.")
        names.append(name)
        colors.append(tupled(entry.get("color", fallback[index])))
        raw.append(_raw_values(entry.get("raw", index), f"class '{name}'"))
        if "category" in entry and "code" not in entry:
            raise AtrousError(f"class '{name}' has a category but no code; give both, or the code alone.")
        codes.append(tuple(tupled(entry[key]) for key in _CODE_KEYS if key in entry))
        segments.append(_texts(entry.get("segments", []), f"class '{name}'"))
    given = content.get("ignore")
    listed = [] if given is None else given if isinstance(given, list | tuple) else [given]
    ignore = _raw_values([one for one in listed if not isinstance(one, str)], "ignore")
    found = {"names": names, "colors": colors, "raw": raw, "codes": codes, "segments": segments}
    rows = {key: tuple(values) for key, values in found.items()}
    rows["ignored_values"] = tuple(one.strip() for one in listed if isinstance(one, str))
    if content.get("attribute"):
        rows["unwritten"] = tuple(index for index, entry in enumerate(entries) if "raw" not in entry)
    return {**rows, "ignore": ignore, **{key: content.get(key, "") for key in ("overlap", "attribute")}}


def table_text(fields: dict[str, Any]) -> str:
    """Returns a ``classes.yaml``, one class per line.

    Args:
        fields: the fields of a class table by name; `codes` and `segments` may be ().
    """
    lines = [f"ignore: {_flow([*map(plain, fields['ignore']), *fields['ignored_values']])}"]
    if fields["overlap"]:
        lines.append(f"overlap: {fields['overlap']}")
    if fields["attribute"]:
        lines.append(f"attribute: {_flow(fields['attribute'])}")
    lines.append("classes:")
    for index, name in enumerate(fields["names"]):
        raw = [plain(value) for value in fields["raw"][index]]
        entry = {"name": name, "color": list(fields["colors"][index])}
        if index not in fields["unwritten"]:
            entry["raw"] = raw
        if fields["codes"]:
            entry |= {key: list(code) for key, code in zip(_CODE_KEYS, fields["codes"][index], strict=False)}
        if fields["segments"] and fields["segments"][index]:
            entry["segments"] = list(fields["segments"][index])
        lines.append(f"  - {_flow(entry)}")
    return "\n".join(lines) + "\n"


def _check_keys(kind: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise AtrousError(f"{given!r} given; {kind} must be a mapping with the keys {', '.join(allowed)}.")
    for key in given:
        if key not in allowed:
            raise unknown_name(f"key in {kind}", key, allowed)


def _raw_values(given: Any, owner: str) -> tuple[Raw, ...]:
    values = given if isinstance(given, list | tuple) else [given]
    for value in values:
        if not (is_whole(value) or is_triple(tupled(value))):
            raise AtrousError(f"{owner} has the raw value {shown(value)}; give whole numbers or [r, g, b] colours.")
    return tuple(tupled(value) for value in values)


def _texts(given: Any, owner: str) -> tuple[str, ...]:
    values = given if isinstance(given, list | tuple) else [given]
    for value in values:
        if not is_whole(value) and not (isinstance(value, str) and value.strip()):
            raise AtrousError(
                f"{owner} has the segment {shown(value)}; give a whole number, or the label of a segment as text, in "
                "quotes if YAML reads another type."
            )
    return tuple(map(str, values))


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()  # the mark after a plain text, which ends a document
