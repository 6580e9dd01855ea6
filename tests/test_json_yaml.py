"""Every place that reads JSON or YAML answers a bad text with a sentence, or passes over it, and with nothing else."""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from pathlib import Path

import pytest

import atrous
from atrous import overwrite_checks, run_folder
from atrous.crf.settings import make_crf
from atrous.data.class_file_formats import parse_json as parse_class_json
from atrous.data.class_file_formats import parse_yolo
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.json_yaml import _object, parse_json, parse_yaml, read_json
from atrous.learning.recipe import read_recipe
from atrous.weights import read_checkpoint

JSON = {
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "long number": '{"a": ' + "9" * 5000 + "}",
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "beyond float": '{"a": 1e999}',
    "twice": '{"a": 1, "a": 2}',
    "cut": '{"a": ',
}
YAML = {
    "deep list": "a: " + "[" * 100_000,
    "deep mapping": "{a: " * 5000,
    "long number": "a: " + "9" * 5000,
    "NaN": "a: .nan",
    "infinity": "a: -.Inf",
    "twice": "a: 1\na: 2",
    "no date": "a: 2024-99-99",
    "in itself": "a: &x [*x]",
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)),
    "list as key": "? [a]\n: 1",
    "a tag": "a: !!python/object:os.system x",
    "control": "a: \x00",
    **{
        f"{tag} of {value}": f"a: !!{tag} {value!r}"
        for tag in ("int", "float", "bool", "timestamp", "binary")
        for value in ("", "-", "0x", "maybe", "1:", "ü")
        if (tag, value) != ("binary", "") and (tag, value) not in (("binary", "-"), ("binary", "1:"))
    },
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_bad_json_is_one_error(text, tmp_path):
    with pytest.raises(AtrousError, match=r"^it cannot be read as JSON"):
        parse_json(text, "it")
    with pytest.raises(AtrousError, match=r"^it cannot be read as JSON"):
        parse_json(text.encode(), "it")
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(AtrousError, match=r"x\.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_bad_yaml_is_one_error(text):
    with pytest.raises(AtrousError, match=r"^it cannot be read as YAML"):
        parse_yaml(text, "it")


class _Key(str):
    compared = 0

    def __eq__(self, other):
        type(self).compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_one_key_twice_among_thousands_is_found_in_one_pass():
    pairs = [(_Key(index), 0) for index in range(2000)]
    with pytest.raises(ValueError, match="'1999' occurs twice"):
        _object([*pairs, (_Key(1999), 0)])
    assert _Key.compared < 20_000


def test_good_texts():
    record = {"a": [1, 2.5, None, True, "ü"], "b": {"c": {}}}
    assert parse_json(json.dumps(record), "it") == record
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n", "it")["d"] == {"b": 1, "e": 2}
    assert parse_yaml("", "it") is None
    assert parse_json('{"a": NaN}', "it", finite=False)["a"] != 0
    with pytest.raises(AtrousError, match="cannot be read"):
        read_json(Path("absent.json"))


def in_a_safetensors_header(path: Path, metadata: str) -> Path:
    header = ('{"__metadata__": ' + metadata + "}").encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def refusing(folder: Path, text: str):
    """Each place where a bad text is the user's to mend."""
    quoted = json.dumps(text)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors.index.json").write_text(text)
    (folder / "evaluation.json").write_text(text)
    (folder / "list.json").write_text(text)
    yield lambda: atrous.load(in_a_safetensors_header(folder / "a.safetensors", text))
    yield lambda: atrous.load(in_a_safetensors_header(folder / "b.safetensors", f'{{"atrous": {quoted}}}'))
    yield lambda: read_checkpoint._read_config(folder)
    yield lambda: read_checkpoint.read(folder / "model.safetensors.index.json")
    yield lambda: run_folder.read_evaluation(folder / "evaluation.json")


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_every_place_that_needs_json(text, tmp_path):
    for number, read in enumerate(refusing(tmp_path, text)):
        with pytest.raises(AtrousError):
            pytest.fail(f"place {number} took it: {read()}")


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_every_place_that_passes_over_what_is_no_json(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert run_folder._read_doctor(path) == {}
    assert run_folder.read_metrics(path) == []
    assert not overwrite_checks.is_our_json(path)
    assert not overwrite_checks.is_our_metrics(path)
    assert overwrite_checks.safetensors_metadata(in_a_safetensors_header(tmp_path / "x.safetensors", text)) in (
        {},
        {"a": float("inf")},
    )
    with suppress(ValueError):  # which its caller turns into a finding
        parse_class_json(text)


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_every_place_that_reads_yaml(text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for read in (read_recipe, ClassTable.from_yaml):
        with pytest.raises(AtrousError):
            read(path)
    assert parse_yolo(text) == []
    with pytest.raises(AtrousError):
        make_crf(text)


def test_no_other_file_reads_json_or_yaml():
    """But the forms of class files, which doubt each entry by itself."""
    allowed = {"json_yaml.py", "class_file_formats.py"}
    for path in sorted(Path(atrous.__file__).parent.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert path.name in allowed or not names & {"json.loads", "json.load", "yaml.safe_load", "yaml.load"}, path
