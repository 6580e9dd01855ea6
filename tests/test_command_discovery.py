"""A folder of commands is a group of verbs: `atrous federate serve` runs commands/federate/serve.py."""

import sys

import pytest

from atrous.cli import main
from atrous.command_discovery import called, examples, function_of, groups, inside, options, verbs
from atrous.commands.completion import _parser
from atrous.errors import AtrousError
from atrous.help_text import explained, explained_group, overview

FILES = {
    "__init__.py": '"""Commands made by a test."""',
    "_private.py": '"""Nothing: that may be called."""',
    "plan.py": '''"""`atrous plan`: make a plan.

Examples:
    atrous plan town
"""
from atrous.errors import AtrousError

def plan(place: str, *, rounds: int = 3) -> int:
    """Make a plan.

    Args:
        place: where it is for.
        rounds: how often it is made, ≥ 1.
    """
    print(f"planned {place} {rounds} times")
    return 0
''',
    "federate/__init__.py": '"""`atrous federate`: train together without sharing pictures."""',
    "federate/_rounds.py": "",
    "federate/serve.py": '''"""`atrous federate serve`: lead the rounds.

Examples:
    atrous federate serve model.safetensors --sites 3
"""
from pathlib import Path

def serve(model: Path, *, sites: int = 2, quick: bool = False) -> int:
    """Lead the rounds of several sites.

    Args:
        model: model file to begin with.
        sites: sites to wait for, ≥ 1.
        quick: end after one round.
    """
    print("serving", model, sites, quick)
    return 1
''',
    "federate/join.py": '''"""`atrous federate join`: take part in the rounds.

Examples:
    atrous federate join localhost
"""
def join(address: str) -> int:
    """Take part.

    Args:
        address: address of the server.
    """
    return 0
''',
    "federate/keys/__init__.py": '"""`atrous federate keys`: keys of the sites."""',
    "federate/keys/make.py": '''"""`atrous federate keys make`: make a key.

Examples:
    atrous federate keys make
"""
def make() -> int:
    """Make a key."""
    print("made")
    return 0
''',
    "federate/not_a_group/serve.py": '"""`x`: in a folder without an __init__.py."""',
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Name of a package of commands with groups in it."""
    folder = tmp_path_factory.mktemp("path")
    for name, text in FILES.items():
        path = folder / "commands_of_test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "commands_of_test"
        for name in [name for name in sys.modules if name.split(".")[0] == "commands_of_test"]:
            del sys.modules[name]


def test_files_are_verbs_and_folders_are_groups(package):
    assert verbs(package) == {
        "federate join": "take part in the rounds.",
        "federate keys make": "make a key.",
        "federate serve": "lead the rounds.",
        "plan": "make a plan.",
    }
    assert groups(package) == {
        "federate": "train together without sharing pictures.",
        "federate keys": "keys of the sites.",
    }
    assert list(inside("", package)) == ["federate", "plan"]
    assert list(inside("federate", package)) == ["join", "keys", "serve"]
    assert not [name for name in sys.modules if name.startswith("commands_of_test.")]  # listing imports no verb


def test_our_own_verbs_are_listed_without_a_group():
    assert {"train", "predict", "doctor"} <= verbs().keys()


@pytest.mark.parametrize(
    ("words", "printed", "code"),
    [
        ("plan town", "planned town 3 times\n", 0),
        ("plan town --rounds 4", "planned town 4 times\n", 0),
        ("federate serve m.safetensors --sites 5", "serving m.safetensors 5 False\n", 1),
        ("federate serve --quick m", "serving m 2 True\n", 1),
        ("federate keys make", "made\n", 0),
    ],
)
def test_a_verb_of_a_group_runs(package, words, printed, code, capsys):
    assert main(words.split(), package) == code
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("federat serve", "unknown verb 'federat'. Did you mean 'federate'? Allowed: federate, plan."),
        ("federate sevre m", "unknown verb of federate 'sevre'. Did you mean 'serve'? Allowed: join, keys, serve."),
        ("federate plan", "unknown verb of federate 'plan'."),
        ("federate _rounds", "unknown verb of federate '_rounds'."),
        ("federate keys mak", "unknown verb of federate keys 'mak'. Did you mean 'make'?"),
        ("serve", "unknown verb 'serve'."),
        ("federate --sites 3", "atrous federate needs one of the verbs join, keys, serve first, got --sites."),
        ("federate serve m --site 3", "unknown flag '--site'. Did you mean '--sites'? (`atrous federate serve --help`"),
        (
            "federate serve m --sites x",
            "--sites must be a whole number, got x. (`atrous federate serve --help` lists all options)",
        ),
    ],
)
def test_misspelt_words_name_the_nearest(package, words, message, capsys):
    assert main(words.split(), package) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", ["federate", "federate --help", "federate -h", "help federate"])
def test_a_group_is_explained(package, words, capsys):
    assert main(words.split(), package) == 0
    page = capsys.readouterr().out
    assert page == explained_group("federate", package)
    assert page.startswith("usage: atrous federate VERB [arguments]\n\ntrain together without sharing pictures.\n")
    assert "\n  serve      lead the rounds.\n" in page and "\n  keys       keys of the sites.\n" in page
    assert "\n  atrous federate serve model.safetensors --sites 3\n" in page


@pytest.mark.parametrize("words", ["federate serve --help", "federate serve m -h", "help federate serve"])
def test_a_verb_of_a_group_is_explained(package, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words.split(), package)
    assert stopped.value.code == 0
    page = capsys.readouterr().out
    assert page == explained("federate serve", package)
    assert page.startswith("usage: atrous federate serve MODEL [options]\n")
    assert "--sites N" in page and "atrous federate serve model.safetensors" in page


def test_the_overview_names_the_group_and_not_its_verbs(package):
    page = overview(package)
    assert "\n  federate   train together without sharing pictures.\n" in page
    assert "serve" not in page


def test_functions_options_and_examples_are_those_of_the_file(package):
    assert function_of("federate serve", package).__module__ == "commands_of_test.federate.serve"
    assert [option.flag for option in options("federate serve", package)] == ["model", "--sites", "--quick"]
    assert examples("federate join", package) == ["atrous federate join localhost"]
    assert called(["federate", "serve", "m", "--x"], package) == ("federate serve", ["m", "--x"])
    with pytest.raises(AtrousError, match="Did you mean 'federate serve'"):
        function_of("federate srve", package)


@pytest.mark.parametrize("shell", ["bash", "zsh"])  # shtab completes in tcsh one level of verbs
def test_completion_knows_the_groups_verbs_and_flags(package, shell):
    import shtab

    script = shtab.complete(_parser(package), shell)
    assert all(word in script for word in ("federate", "serve", "join", "--sites"))
