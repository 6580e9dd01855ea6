"""What people are told, a program finds in the logger "atrous"; and nobody is told twice."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

import atrous
from atrous.cli import main
from atrous.commands import serve
from atrous.console import console
from atrous.console import error_console as warning_console
from atrous.inference.value_range import PictureWarning
from atrous.logger import log, suppressed, warn


@pytest.fixture
def logged(caplog):
    """The level and the sentence of each record of the logger."""
    caplog.set_level(logging.DEBUG, logger="atrous")

    def records() -> list[tuple[int, str]]:
        assert {record.name for record in caplog.records} <= {"atrous"}
        return [(record.levelno, record.getMessage()) for record in caplog.records]

    return records


def test_sentences_are_logged_without_their_colours_and_tables_are_not(logged, capsys):
    console.print("[yellow]warning[/]: 100 % of [bold]%s[/]")
    console.print("run: a/b")
    console.print("from a", "to b")
    console.print(Table("class", "IoU"))
    console.print("")
    assert logged() == [
        (logging.WARNING, "warning: 100 % of %s"),
        (logging.INFO, "run: a/b"),
        (logging.INFO, "from a to b"),
    ]
    printed = capsys.readouterr()
    assert printed.out.count("run: a/b") == 1 and not printed.err


def test_what_goes_to_standard_error_is_a_warning(logged, capsys):
    warning_console.print("a worker died")
    assert logged() == [(logging.WARNING, "a worker died")]
    assert capsys.readouterr().err.count("a worker died") == 1


def test_a_quiet_console_logs_nothing(logged, monkeypatch):
    monkeypatch.setattr(console, "quiet", True)
    console.print("one of many processes")
    assert logged() == []


def test_warnings_are_raised_and_logged_at_the_line_of_the_caller(logged):
    with pytest.warns(PictureWarning, match="12 bits") as caught:
        warn("12 bits in 100 %s", PictureWarning)
    assert caught[0].filename == __file__
    assert logged() == [(logging.WARNING, "12 bits in 100 %s")]


def test_suppressed_warnings_are_neither_shown_nor_logged(logged):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with suppressed(PictureWarning):
            warn("told before", PictureWarning)
            warn("another kind", RuntimeWarning)
        warn("told again", PictureWarning)
    assert [str(one.message) for one in caught] == ["another kind", "told again"]
    assert [sentence for _, sentence in logged()] == ["another kind", "told again"]


@pytest.fixture(scope="module")
def model():
    arguments = {"backbone": "mobilenetv2_035", "aspp_channels": 16, "low_channels": 8}
    return atrous.create_model("deeplabv3plus", num_classes=3, **arguments)


def test_a_doubt_about_a_picture_reaches_a_program_that_logs(model, logged):
    segmenter = atrous.Segmenter(model, engine="torch", device="cpu")
    picture = np.full((40, 40, 3), 4000, np.uint16)
    with pytest.warns(PictureWarning) as caught:
        segmenter(picture)
    assert [sentence for level, sentence in logged() if level == logging.WARNING] == [
        str(one.message) for one in caught
    ]


def test_a_verb_called_from_python_logs_what_it_prints(model, logged, tmp_path, capsys):
    atrous.save(model, tmp_path / "model.safetensors")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    atrous.predict(tmp_path / "model.safetensors", [str(tmp_path / "a.png")], out=tmp_path / "masks", engine="torch")
    printed = " ".join(capsys.readouterr().out.split())
    sentences = [sentence for _, sentence in logged()]
    assert sentences and all(printed.count(" ".join(sentence.split())) == 1 for sentence in sentences)
    assert sentences[-1].startswith("1 mask in")


def test_the_servers_lines_are_logged(logged, capsys):
    serve._say("listening at http://127.0.0.1:8000 - Ctrl-C ends")
    assert logged() == [(logging.INFO, "listening at http://127.0.0.1:8000 - Ctrl-C ends")]


@pytest.mark.parametrize("setting", ["", "logging.basicConfig(level=logging.DEBUG)"])
def test_the_command_line_prints_once_whatever_a_library_does_to_the_root_logger(setting, tmp_path):
    code = f"import logging, sys\nfrom atrous import cli\n{setting}\nsys.argv = ['atrous', 'doctor', 'nowhere']\n"
    code += "from atrous.console import console, error_console\n"
    code += (
        "cli._run = lambda *words: (console.print('said'), error_console.print('warned'), 0)[-1]\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert (done.stdout, done.stderr) == ("said\n", "warned\n")


def test_without_a_handler_importing_and_warning_print_nothing_more():
    code = "import atrous\nfrom atrous.logger import warn\nwarn('once', UserWarning)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert (done.stdout, done.stderr) == ("", "<string>:3: UserWarning: once\n")


def test_main_within_a_program_leaves_the_logger_as_it_is(capsys):
    assert main(["--version"]) == 0
    assert logging.getLogger("atrous").propagate


def test_names_that_are_no_text_are_logged_as_escapes(caplog):
    """As a handler that writes to a file takes them."""
    log(logging.WARNING, "车 \udce9.png, 5 %")
    assert [record.getMessage() for record in caplog.records] == ["车 \\udce9.png, 5 %"]
    caplog.records[0].getMessage().encode("utf-8")
