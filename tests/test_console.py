"""What verbs say reaches any stream, also one whose encoding lacks some of its letters."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

import atrous
from atrous.console import console, error_console, print_table, progress_bar
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError

PLAIN = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def data(tmp_path):
    """A data set with a class whose name is in few encodings."""
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(4):
        Image.fromarray(np.full((16, 16, 3), 60 * index, np.uint8)).save(root / f"images/{index}.png")
        Image.fromarray((np.arange(256).reshape(16, 16) % 2).astype(np.uint8)).save(root / f"masks/{index}.png")
    ClassTable(("road", "車"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return root


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "shift_jis", "utf-8"])
def test_a_verb_called_from_python_writes_in_the_encoding_of_the_stream(data, encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    atrous.doctor(data)
    sys.stdout.flush()
    said = raw.getvalue().decode(encoding)
    assert ("車" if encoding in ("shift_jis", "utf-8") else "\\u8eca") in said
    assert "road" in said


@pytest.mark.parametrize(("printer", "name"), [(console, "stdout"), (error_console, "stderr")])
def test_letters_that_a_stream_lacks_are_written_as_escapes(printer, name, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="ascii"))
    printer.print("≈ 3 車, \udce9.png")
    assert raw.getvalue().decode("ascii") == "\\u2248 3 \\u8eca, \\udce9.png" + os.linesep


@pytest.mark.parametrize(("printer", "name"), [(console, "stdout"), (error_console, "stderr")])
def test_a_process_without_streams_says_nothing(printer, name, monkeypatch):
    monkeypatch.setattr(sys, name, None)
    printer.print("nobody hears")


def test_letters_that_a_terminal_lacks_are_escapes_while_a_bar_is_shown(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    raw = io.BytesIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal(raw, encoding="ascii"))
    with progress_bar() as bar:
        bar.add_task("車", total=2, note="")
        console.print("≈ 3")
    sys.stdout.flush()
    assert b"\\u2248 3" in raw.getvalue()


def test_a_verb_called_in_a_plain_locale_works(data):
    code = f"import atrous\natrous.doctor({str(data)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **PLAIN}, capture_output=True, encoding="ascii", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\\u8eca" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names there are of one encoding")
@pytest.mark.parametrize(
    "call", ["doctor(path)", "Segmenter(path)", "load(path)", "convert(path)", "open_dataset(path)"]
)
def test_a_path_that_the_locale_cannot_name_is_said(call):
    code = f"import atrous\npath = '/tmp/stra\\u00dfe.safetensors'\ntry:\n    atrous.{call}\n"
    code += "except atrous.AtrousError as error:\n    print(ascii(str(error)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **PLAIN}, capture_output=True, encoding="ascii", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "xdfe" in done.stdout
    assert "PYTHONUTF8=1" in done.stdout or call == "Segmenter(path)"  # where there is no file of that name


def test_half_a_letter_in_a_path_is_said():
    with pytest.raises(AtrousError, match="not valid text"):
        atrous.doctor("\ud800")


def test_numbers_of_a_table_are_not_broken_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    table = Table("class", "interval", box=None)
    table.add_row("anterior", "0.883–0.916")
    table.add_row("posterior", "-0.011–0.145")
    print_table(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["class", "interval"],
        ["anterior", "0.883–0.916"],
        ["posterior", "-0.011–0.145"],
    ]
