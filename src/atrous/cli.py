"""The command line: each verb runs a function of the same name, and the flags are the arguments of this function."""

from __future__ import annotations

import difflib
import io
import json
import logging
import os
import re
import sys
import typing
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atrous.command_discovery import (
    COMMANDS,
    PRINT_SCHEMA,
    Option,
    called,
    examples,
    function_of,
    groups,
    inside,
    options,
)
from atrous.errors import AtrousError, no_encoding
from atrous.help_text import explained, explained_group, kind_in_words, overview, value_in_words
from atrous.json_yaml import parse_json
from atrous.version import __version__

_python_shows = warnings.showwarning
_HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None, package: str = COMMANDS) -> int:
    """Runs one command.

    Args:
        arguments: the words after `atrous`; by default the arguments of this process.
        package: name of the package whose files are the verbs.

    Returns:
        Exit code: 0 for success, 1 if some inputs failed, 2 for wrong usage or unusable input, 130 if interrupted.
    """
    if arguments is None and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        _start_again_in_utf8()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # when atrous runs as a program, handlers of the root logger would print the messages again
        logging.getLogger("atrous").propagate = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the locale cannot encode, such as "≈", must not fail
            stream.reconfigure(errors="backslashreplace")
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in _HELP:
        print(overview(package), end="")
        return 0
    if words[0] == "--version":
        print(f"atrous {__version__}")
        return 0
    # Idle OpenMP threads wait in a loop (they spin). Long spinning makes training up to ten times as slow if another
    # program, or our own data workers, need a core. The variable is set here, because torch reads it at import.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # The CPU computes operations that Apple's GPUs do not support; torch reads this variable at import, too.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    warnings.showwarning = _show_warning
    try:
        return _run(words, package)
    except AtrousError as error:
        print(f"atrous: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `atrous … | head`
        sys.stderr.close()
        return 2
    except OSError as error:  # a full disk, or a folder without write permission
        print(f"atrous: {error}", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # raised by a library that takes paths as text only
        print(f"atrous: {no_encoding(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"atrous: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130


def _show_warning(message: Any, category: type[Warning], *place: Any) -> None:
    """Prints a warning of atrous as one sentence, and any other warning in Python's own form."""
    if category.__module__.startswith("atrous."):
        print(f"note: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *place)


def _start_again_in_utf8() -> None:
    """Replaces this process by one with paths in UTF-8 (PEP 540), because libraries in C and C++ need UTF-8 paths.

    Printed text stays in the encoding of the terminal.
    """
    shown = f"{sys.stdout.encoding}:backslashreplace" if sys.stdout else ""
    environment = {"PYTHONIOENCODING": shown, **os.environ, "PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _run(words: list[str], package: str) -> int:
    verb, words = called(words, package)
    if verb in groups(package):
        if words and words[0] not in _HELP:
            raise AtrousError(
                f"atrous {verb} needs one of the verbs {', '.join(inside(verb, package))} first, got {words[0]}."
            )
        print(explained_group(verb, package), end="")
        return 0
    if any(word in _HELP for word in words):
        print(explained(verb, package), end="")
        raise SystemExit(0)
    if PRINT_SCHEMA.flag in words and PRINT_SCHEMA in options(verb, package):
        from atrous.learning.recipe_json_schema import schema_text

        print(schema_text())
        return 0
    result = function_of(verb, package)(**_parse(verb, words, package))
    return result if isinstance(result, int) else 0


def _parse(verb: str, words: list[str], package: str = COMMANDS) -> dict[str, Any]:
    """Parses the words into arguments of the verb's function; the signature of the function defines the parser."""
    from jsonargparse import ArgumentParser

    _accept_any_file_name()
    known = {option.name: option for option in options(verb, package)}

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
            raise AtrousError(
                f"{_in_a_sentence(message, known, verb, package)} (`atrous {verb} --help` lists all options)"
            ) from ex

    parser = Parser(prog=f"atrous {verb}")
    for option in known.values():
        if not option.of_recipe:
            _add_argument(parser, option)
    words = _in_brackets(words, known)
    recipe = typing.get_type_hints(function_of(verb, package)).get("recipe")
    if recipe is not None:
        return _parse_recipe(parser, words, recipe, known)
    _check_flags(parser, words)
    return vars(parser.instantiate(parser.parse_args(words)))


def _accept_any_file_name() -> None:
    """Makes the parser accept words with undecodable bytes, which Python stores as lone surrogates (PEP 383)."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")

    def load_any(text: str) -> Any:
        return load(text) if text.isascii() or not re.search("[\ud800-\udfff]", text) else text

    set_loader("yaml", load_any, (yaml.YAMLError, RecursionError, ValueError))


def _add_argument(parser: Any, option: Option) -> None:
    """Adds one flag or positional word to the parser."""
    if option.positional:
        parser.add_argument(option.name, type=option.item, nargs="+" if option.takes_several else None)
    elif option.is_switch:
        parser.add_argument(option.flag, action="store_true")
    elif option.is_place and not option.takes_several:  # Path would remove one of the two slashes of a URL
        parser.add_argument(option.flag, type=str, default=None if option.default is None else str(option.default))
    else:
        several = option.takes_several and option.count is None
        hint = list[option.item] | None if several else option.hint  # the parser's messages list this type's values
        parser.add_argument(option.flag, type=hint, default=option.default)


def _in_a_sentence(message: str, known: dict[str, Option], verb: str, package: str) -> str:
    """Shortens the parser's message about a missing or wrong value to one sentence; keeps other messages unchanged."""
    if wanting := re.match(r"argument (\S+): expected (?:at least )?one argument", message):
        option = next((one for one in known.values() if one.flag == wanting[1]), None)
        which = "" if option is None else f": {value_in_words(option, examples(verb, package))}"
        return f"{wanting[1]} needs a value{which}."
    if unwanted := re.match(r"argument (\S+): ignored explicit argument '(.*)'", message):
        return f"{unwanted[1]} takes no value, got {unwanted[2]}."
    key = re.match(r'Parser key "([\w.]+)":', message.strip())
    value = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    if key is None or value is None or key[1] not in known:
        return message.strip()
    option = known[key[1]]
    return f"{option.flag} must be {kind_in_words(option)}, got {value[1].strip()}."


def _in_brackets(words: list[str], known: dict[str, Option]) -> list[str]:
    """Writes the values of each flag that takes several values in the parser's form, with brackets: [0.5,1], ["a"].

    If a flag that takes any number of values is given several times, the values are joined.
    """
    several = {option.flag: option for option in known.values() if option.takes_several and not option.positional}
    result: list[str] = []
    given: dict[str, str] = {}
    before = ""
    for word in words:
        flag, _, value = word.partition("=") if "=" in word else ("", "", "")
        if flag not in several and before in several:
            flag, value = before, word
            result.pop()
        if flag not in several:
            result.append(word)
            before = word
            continue
        is_word = value in several[flag].words
        values = value if is_word else _bracketed(value, quoted=several[flag].item is str)
        given[flag] = values if several[flag].count else _joined(given.get(flag, "null"), values)
        result.append(f"{flag}={given[flag]}")  # the parser uses the last of equal flags
        before = ""
    return result


def _joined(first: str, second: str) -> str:
    """Joins two lists of values in brackets; "null" is the empty list."""
    inside = [values[1:-1] for values in (first, second) if values not in ("null", "[]")]
    return f"[{','.join(inside)}]" if inside else second


def _bracketed(values: str, quoted: bool) -> str:
    """Returns comma-separated values as a JSON list; names are quoted, so that names such as none or 1 remain text."""
    if quoted:
        return json.dumps(_names_in(values.strip()))
    inside = values.strip("[]() ")
    return "null" if inside in ("null", "none") else f"[{inside}]"


def _names_in(text: str) -> list[str]:
    """Splits comma-separated names, with or without brackets around them; a name that contains a comma is in quotes."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    names = re.findall(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^,]*?)\s*(?:,|$)""", text)
    return [_unquoted(name) for name in names if name]


def _unquoted(name: str) -> str:
    if name.startswith('"'):
        try:
            return str(parse_json(name, "a name in quotes"))
        except ValueError:
            return name.strip('"')
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == "'" else name


def _parse_recipe(parser: Any, words: list[str], recipe: Any, known: dict[str, Option]) -> dict[str, Any]:
    """Parses the words of a verb with a recipe: the recipe or a run to resume, and flags for the recipe's fields."""
    from atrous.learning.recipe import read_recipe
    from atrous.run_folder import restore_config

    parser.add_class_arguments(recipe)
    parser.add_argument("--config", action="config")
    words = _recipe_first(words, known)
    resumed = _value_of("--resume", words)
    if resumed and not words[0].startswith("-"):
        raise AtrousError(
            f"--resume {resumed} continues with that run's own recipe: leave {words[0]} out. Flags may change single "
            "fields."
        )
    if resumed:
        restore_config(Path(resumed))
        words = [str(Path(resumed) / "config.yaml"), *words]
    if words and not words[0].startswith("-"):
        recorded = asdict(read_recipe(words[0]))  # these messages are clearer than those of the parser
        # as JSON in ASCII, because the parser reads files in the encoding of the locale
        words = ["--config", json.dumps(recorded), *words[1:]]
    _check_flags(parser, words)
    values = vars(parser.instantiate(parser.parse_args(words)))
    for name in ("config", PRINT_SCHEMA.name):
        values.pop(name)
    fields = {name: values.pop(name) for name in recipe.__dataclass_fields__}
    return {"recipe": recipe(**fields), **values}


def _recipe_first(words: list[str], known: dict[str, Option]) -> list[str]:
    """Moves the recipe, which may be at any position or after --config, to the front of the words."""
    switches = {option.flag for option in known.values() if option.is_switch}
    before = ""
    for index, word in enumerate(words):
        is_value = before.startswith("--") and "=" not in before and before not in switches
        if word.startswith("--config="):
            return [word.partition("=")[2], *words[:index], *words[index + 1 :]]
        if before == "--config":
            return [word, *words[: index - 1], *words[index + 1 :]]
        if not is_value and not word.startswith("-"):
            return [word, *words[:index], *words[index + 1 :]]
        before = word
    return words


def _check_flags(parser: Any, words: list[str]) -> None:
    """Refuses an unknown flag before the parser does, so that the message names the nearest flag."""
    flags = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in flags and not flag.startswith("--model.arguments."):
            near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise AtrousError(f"unknown flag '{flag}'.{hint} (`{parser.prog} --help` lists all flags)")


def _value_of(flag: str, words: list[str]) -> str | None:
    """Returns the value of a flag, given as `--flag value` or `--flag=value`."""
    for index, word in enumerate(words):
        if word == flag:
            return words[index + 1] if index + 1 < len(words) else None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
