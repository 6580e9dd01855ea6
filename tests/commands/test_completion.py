"""`atrous completion`: bash really completes with the script; zsh and tcsh read theirs, where they are installed."""

import shutil
import subprocess

import pytest

from atrous.cli import main
from atrous.command_discovery import options, verbs
from atrous.commands.completion import OFFERED, completion
from atrous.errors import AtrousError
from atrous.inference.model_spec import RUNTIMES

BASH = shutil.which("bash")

#: Fills the words that bash would, calls the function that it would, and prints what the function answers.
ASK = """
source "$1"; shift
complete -p atrous >/dev/null || exit 3
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p atrous | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function atrous "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "tcsh"):
        with (folder / shell).open("w", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return folder


def completed(scripts, folder, *words):
    """What bash offers for the last of the words."""
    if BASH is None:
        pytest.skip("no bash on this machine")
    asked = [BASH, "--norc", "-c", ASK, "bash", str(scripts / "bash"), "atrous", *words]
    done = subprocess.run(asked, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in done.stdout.split("\n") if word.strip()}


def test_verbs(scripts, tmp_path):
    assert completed(scripts, tmp_path, "") >= set(verbs())
    assert completed(scripts, tmp_path, "ex") == {"explain", "export"}


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_flag(scripts, tmp_path, verb):
    flags = {option.flag for option in options(verb) if not option.positional}
    assert flags <= completed(scripts, tmp_path, verb, "--")


def test_fields_of_a_recipe_after_its_name(scripts, tmp_path):
    assert completed(scripts, tmp_path, "train", "quickstart", "--optim.l") == {"--optim.lr"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["predict", "m", "p", "--engine", ""], set(RUNTIMES)),
        (["predict", "m", "p", "--device", "c"], {"cpu", "cuda"}),
        (["predict", "m", "p", "--crf", "deep"], {"deeplabv1", "deeplabv2"}),
        (["doctor", "d", "--pages", ""], {"first", "channels"}),
        (["doctor", "d", "--layout", "city"], {"cityscapes"}),
        (["convert", "f", "--source", "torch"], {"torchvision"}),
        (["train", "quickstart", "--optim.name", "adam"], {"adam", "adamw"}),
        (["train", "quickstart", "--data.check", ""], {"true", "false"}),
        (["completion", ""], {"bash", "zsh", "tcsh"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_choices(scripts, tmp_path, words, offered):
    assert completed(scripts, tmp_path, *words) == offered


def test_files_recipes_and_folders(scripts, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "photos").mkdir()
    recipes = completed(scripts, tmp_path, "train", "")
    assert {"quickstart", "camvid", "mine.yaml", "photos/"} <= recipes
    assert "model.safetensors" not in recipes
    assert "model.safetensors" in completed(scripts, tmp_path, "predict", "mo")
    assert {"photos", "photos/"} & completed(scripts, tmp_path, "predict", "model.safetensors", "ph")
    assert "mine.yaml" in completed(scripts, tmp_path, "convert", "f", "--classes", "mi")
    assert {"photos", "photos/"} & completed(scripts, tmp_path, "train", "quickstart", "--data.root", "ph")
    assert "model.safetensors" in completed(scripts, tmp_path, "serve", "mo")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_takes_its_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_scripts_name_every_verb(scripts, shell):
    script = (scripts / shell).read_text(encoding="utf-8")
    assert all(verb in script for verb in verbs())
    assert "quickstart" in script and "camvid_quick" in script


def test_offered_values_are_of_options_that_there_are():
    names = {option.name.split(".")[-1] for verb in verbs() for option in options(verb)}
    assert OFFERED.keys() <= names


def test_another_shell_is_refused():
    with pytest.raises(AtrousError, match="shell must be 'bash' or 'zsh' or 'tcsh', got 'bsh'"):
        completion("bsh")  # pyright: ignore[reportArgumentType]
