"""`atrous completion`: print a script that completes commands in a shell.

Examples:
    atrous completion bash > ~/.local/share/bash-completion/completions/atrous
    atrous completion zsh > ~/.zfunc/_atrous
    atrous completion tcsh > ~/.atrous.tcsh
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, Literal

import shtab

from atrous.checked_arguments import checked
from atrous.command_discovery import COMMANDS, Option, groups, options, sections, verbs
from atrous.crf.mean_field import PRESETS
from atrous.crf.settings import STORED
from atrous.learning.shipped_recipes import shipped_recipes
from atrous.models import ARCHITECTURES
from atrous.weights.detect_source import SOURCES

#: Values that the shell offers for options without a fixed list of choices; the commands accept other values too.
OFFERED = {
    "architecture": tuple(ARCHITECTURES),
    "crf": (STORED, *PRESETS),
    "device": ("auto", "cpu", "cuda", "mps"),
    "format": ("onnx", "openvino", "torch"),
    "output_stride": ("8", "16", "32"),
    "source": tuple(SOURCES),
    "split": ("train", "val", "test"),
}

_NAMES = " ".join(shipped_recipes())
#: Completion of a recipe, which is the name of a shipped recipe or a file.
#: Each value has the form that `shtab` expects for the shell: the name of a function, or for tcsh a list of words.
_RECIPE = {
    "bash": "_atrous_recipe",
    "zsh": "_atrous_recipe",
    "tcsh": f"({_NAMES})",
}
_PREAMBLE = {
    "bash": f"""_atrous_recipe() {{
  compgen -W "{_NAMES}" -- "$1"
  compgen -f -X '!*.y*ml' -- "$1"
  compgen -d -S / -- "$1"
}}
""",
    "zsh": f"""_atrous_recipe() {{
  _alternative 'recipes:recipe that ships:({_NAMES})' 'files:recipe:_files -g "*.(yaml|yml)(-.)"'
}}
""",
}


@checked
def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script with which a shell completes the verbs, flags, choices, recipes and files of atrous commands.

    Save the script where the shell loads it: in the folder of bash-completion, in a folder of zsh's $fpath, or in a
    file that ~/.tcshrc sources. Save it again after an update of atrous.

    Args:
        shell: shell to complete in: bash, zsh or tcsh.

    Raises:
        AtrousError: the shell is not bash, zsh or tcsh.
    """
    print(shtab.complete(_parser(), shell, preamble=_PREAMBLE))  # pyright: ignore[reportArgumentType]


def _parser(package: str = COMMANDS) -> ArgumentParser:
    """Returns a parser with all verbs and their options, from which `shtab` makes the script; it parses nothing."""
    parser = ArgumentParser("atrous")
    parser.add_argument("--version", action="store_true", help="print the version")
    under = {"": parser.add_subparsers()}
    about = {**groups(package), **verbs(package)}
    for name in sorted(about):  # sorted: a group comes before its verbs
        group, _, word = name.rpartition(" ")
        one = under[group].add_parser(word, help=about[name], description=about[name])
        if name in groups(package):
            under[name] = one.add_subparsers()
            continue
        if sections(name, package):
            one.add_argument("recipe", help="name of a shipped recipe, or a recipe file").complete = _RECIPE  # pyright: ignore
        for option in options(name, package):
            _add(one, option)
    return parser


def _add(parser: ArgumentParser, option: Option) -> None:
    """Adds an option, with the values and files that the shell offers for it, to a parser."""
    help_text = option.sentence.replace("%", "%%")
    if option.is_switch:
        parser.add_argument(option.flag, action="store_true", help=help_text)
        return
    offered = (
        ("true", "false") if option.kind is bool else option.choices or OFFERED.get(option.name.split(".")[-1], ())
    )
    several: Any = {"nargs": "+"} if option.positional and option.takes_several else {}
    action: Any = parser.add_argument(option.flag, help=help_text, choices=offered or None, **several)
    if option.is_path or option.name == "models":
        action.complete = shtab.FILE
