"""The command line: a verb runs the function of its name in `atrous.commands`; flags are its arguments."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import io
import json
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import atrous
from atrous.errors import AtrousError, unknown_name

_python_shows = warnings.showwarning
COMMANDS = Path(__file__).parent / "commands"

USAGE = """usage: atrous VERB [arguments]

DeepLab, from a folder of pictures and masks to a trained, measured segmenter.

{verbs}

`atrous VERB --help` explains one.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `atrous`; those of this process when not given.

    Returns:
        0 done, 1 some inputs failed, 2 wrong usage or unusable input, 130 interrupted.
    """
    if arguments is None and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        _start_again_in_utf8()
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names and "≈" must not fail where the locale lacks them
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs=_describe_verbs()), end="")
        return 0
    if words[0] == "--version":
        print(f"atrous {atrous.__version__}")
        return 0
    # Threads that spin as long as OpenMP lets them slow training up to tenfold as soon as anything else wants a
    # core: another program, or our own data workers. Read when torch is imported, so set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    warnings.showwarning = _show_warning
    try:
        return _run(words[0], words[1:])
    except AtrousError as error:
        print(f"atrous: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `atrous … | head`
        sys.stderr.close()
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"atrous: {error}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # of a library that takes paths as text only
        if not any("\ud800" <= letter <= "\udfff" for letter in error.object):
            raise
        print(f"atrous: {error.object!r} is a name that is no text, which this needs: rename it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"atrous: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130


def _show_warning(message: Any, category: type[Warning], *place: Any) -> None:
    """Prints a warning of ours as a sentence, and others as Python does."""
    if category.__module__.startswith("atrous."):
        print(f"note: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *place)


def _start_again_in_utf8() -> None:
    """Replaces this process by one whose paths are UTF-8, as libraries in other languages take them (PEP 540).

    What is printed stays in the encoding of the terminal.
    """
    shown = f"{sys.stdout.encoding}:backslashreplace" if sys.stdout else ""
    environment = {"PYTHONIOENCODING": shown, **os.environ, "PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def verbs() -> dict[str, str]:
    """Each verb and its one sentence, read from the files so that listing them imports nothing."""
    found = {}
    for path in sorted(COMMANDS.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = docstring.splitlines()[0].partition(": ")[2]
    return found


def _describe_verbs() -> str:
    return "\n".join(f"  {verb:<10} {sentence}" for verb, sentence in verbs().items())


def _run(verb: str, words: list[str]) -> int:
    if verb not in verbs():
        raise unknown_name("verb", verb, verbs())
    function = getattr(importlib.import_module(f"atrous.commands.{verb}"), verb)
    result = function(**_parse(verb, function, words))
    return result if isinstance(result, int) else 0


def _parse(verb: str, function: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """The function's arguments from the words; the parser is made from its signature and docstring."""
    import docstring_parser
    from jsonargparse import ArgumentParser

    _accept_any_file_name()

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
            raise AtrousError(f"{_in_a_sentence(message)} (`atrous {verb} --help` explains)") from ex

    documented = docstring_parser.parse(inspect.getdoc(function) or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
    parser = Parser(prog=f"atrous {verb}", description=documented.short_description)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name != "recipe" and parameter.kind is not parameter.VAR_KEYWORD:
            _add_argument(parser, parameter, hints[name], help_of.get(name))
    if "recipe" not in hints:
        _check_flags(parser, words)
        return vars(parser.instantiate(parser.parse_args(_in_brackets(words, hints))))
    return _parse_recipe(parser, words, hints["recipe"])


def _accept_any_file_name() -> None:
    """Lets the parser take words with bytes that are no text, which Python keeps as lone surrogates (PEP 383)."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")

    def load_any(text: str) -> Any:
        return load(text) if text.isascii() or not re.search("[\ud800-\udfff]", text) else text

    set_loader("yaml", load_any, (yaml.YAMLError, RecursionError, ValueError))


def _add_argument(parser: Any, parameter: inspect.Parameter, hint: Any, help_text: str | None) -> None:
    """One flag or positional word for one parameter."""
    if parameter.kind is not parameter.KEYWORD_ONLY:
        several = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if several else hint
        parser.add_argument(parameter.name, type=kind, help=help_text, nargs="+" if several else None)
        return
    flag = "--" + parameter.name.replace("_", "-")
    if hint is bool:
        parser.add_argument(flag, action="store_true", help=help_text)
    else:
        parser.add_argument(flag, type=hint, default=parameter.default, help=help_text)


def _in_a_sentence(message: str) -> str:
    """The parser's report of a value of the wrong type, of several lines, in one; other messages as they are."""
    report = re.fullmatch(
        r"""Parser\ key\ "(?P<key>[\w.]+)":\s+
            (?:Expected\ an?\ (?P<one>.+?)\.\ Got\ value:\ (?P<got>.*)
            |Does\ not\ validate.+?Subtypes:\ \[(?P<several>.+?)\]\n.+Given\ value:\ (?P<given>.*))""",
        message.strip(),
        re.DOTALL | re.VERBOSE,
    )
    if report is None:
        return message.strip()
    kinds = report["one"] or report["several"].replace(", <class 'NoneType'>", "")
    kinds = re.sub(r"<class '(\w+)'>", r"\1", kinds).replace("typing.Literal", "one of ")
    value = report["got"] if report["one"] else report["given"]
    return f"--{report['key'].replace('_', '-')} is {kinds}, got {value}."


def _in_brackets(words: list[str], hints: dict[str, Any]) -> list[str]:
    """The words with the values of flags that take several in brackets, as the parser wants them: [0.5,1], ["a"]."""
    flags = {name: f"--{name.replace('_', '-')}" for name in hints}
    numbers = {flags[name] for name, hint in hints.items() if hint == list[float] | None}
    names = {flags[name] for name, hint in hints.items() if hint == list[str] | None}
    result, before = [], ""
    for word in words:
        flag, equals, value = word.partition("=")
        if equals and flag in numbers | names:
            word = f"{flag}={_bracketed(value, quoted=flag in names)}"
        elif before in numbers | names:
            word = _bracketed(word, quoted=before in names)
        result.append(word)
        before = word
    return result


def _bracketed(values: str, quoted: bool) -> str:
    inside = values.strip("[]")
    return f"[{','.join(json.dumps(value.strip()) for value in inside.split(','))}]" if quoted else f"[{inside}]"


def _parse_recipe(parser: Any, words: list[str], recipe: Any) -> dict[str, Any]:
    """A recipe's file comes first, or is that of the run to resume; every field of it is a flag too."""
    from atrous.learning.recipe import read_recipe
    from atrous.run_folder import restore_config

    parser.usage = f"{parser.prog} RECIPE.yaml [--any.field VALUE]"
    parser.add_class_arguments(recipe)
    parser.add_argument("--config", action="config", help="the recipe's file, also as the first word")
    resumed = _value_of("--resume", words)
    if resumed and not words[0].startswith("-"):
        raise AtrousError(
            f"--resume {resumed} goes on with that run's own recipe: leave {words[0]} out. Single fields may be "
            "changed by their flags."
        )
    if resumed:
        restore_config(Path(resumed))
        words = [str(Path(resumed) / "config.yaml"), *words]
    if words and not words[0].startswith("-"):
        recorded = asdict(read_recipe(words[0]))  # its messages are better than the parser's
        # as JSON in ASCII, because the parser reads files in the encoding of the locale
        words = ["--config", json.dumps(recorded), *words[1:]]
    _check_flags(parser, words)
    values = vars(parser.instantiate(parser.parse_args(words)))
    values.pop("config")
    fields = {name: values.pop(name) for name in recipe.__dataclass_fields__}
    return {"recipe": recipe(**fields), **values}


def _check_flags(parser: Any, words: list[str]) -> None:
    """Refuses an unknown flag before the parser does, with the nearest match."""
    flags = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in flags and not flag.startswith("--model.arguments."):
            near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise AtrousError(f"unknown flag '{flag}'.{hint} (`{parser.prog} --help` lists all)")


def _value_of(flag: str, words: list[str]) -> str | None:
    """The value given to a flag, as `--flag value` or `--flag=value`."""
    for index, word in enumerate(words):
        if word == flag:
            return words[index + 1] if index + 1 < len(words) else None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
