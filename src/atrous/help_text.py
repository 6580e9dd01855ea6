"""The texts of `atrous --help` and `atrous VERB --help`: options in groups, with their choices and defaults."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from atrous.command_discovery import COMMANDS, Option, description, examples, groups, inside, options, sections, verbs
from atrous.learning.shipped_recipes import shipped_recipes
from atrous.option_fields import in_words

ABOUT = "Trains, evaluates and runs DeepLab models for semantic segmentation, from a folder of pictures and masks."

#: The verbs of each task, in the order of the page.
TASKS = {
    "Start here": ("demo", "doctor"),
    "Make a model": ("train", "tune", "merge", "convert", "calibrate"),
    "Measure it": ("evaluate", "compare", "report", "explain"),
    "Use it": ("predict", "area", "serve", "export"),
    "Set up the shell": ("completion",),
}

#: The groups of options, in the order of the page; `verb.name` takes precedence over `name`.
GROUPS = {
    "Input": (
        "model", "models", "a", "b", "base", "adapter", "paths", "rasters", "file", "runs", "data", "split", "layout",
        "input", "groups", "train", "val", "pages", "planes", "slices", "window", "range", "source", "weights",
        "classes", "check", "calibrate", "resume", "resume_existing", "init", "search", "shell",
    ),
    "With --calibrate": ("export.layout", "export.groups"),
    "With --calibrate or --check": ("export.input",),
    "Output": (
        "out", "format", "case_ids", "overlay", "raw", "polygons", "smallest_polygon", "json", "chart", "pictures",
        "tensorboard", "save_crf", "write_classes", "write_split", "scores", "storage", "overwrite", "print_schema",
    ),
    "The network and its quality": (
        "architecture", "backbone", "num_classes", "in_channels", "output_stride", "scales", "flip", "tolerance",
        "largest_part", "smallest_part", "crf", "crf_search", "crf_images", "half", "int8", "max_drop", "epochs",
    ),
    "Length of the search": ("trials", "minutes", "pruning", "confirm"),
    "Displayed content": ("explain.classes", "most"),
    "Address and access": ("host", "port", "key_file"),
    "Limits": ("waiting", "megabytes", "megapixels", "megavoxels", "seconds"),
    "Speed and memory": (
        "on", "processes", "min_processes", "engine", "device", "precision", "tile", "overlap", "memory",
    ),
}  # fmt: skip

NARROWEST, WIDEST, COLUMN = 40, 100, 26


def overview(package: str = COMMANDS) -> str:
    """Returns the help text of all verbs, grouped by task.

    Args:
        package: name of the package whose files are the verbs, here and in `explained`.
    """
    about = inside("", package)
    others = tuple(name for name in about if not any(name in names for names in TASKS.values()))
    lines = ["usage: atrous VERB [arguments]", "", *_wrapped(ABOUT, "")]
    for task, names in {**TASKS, "More": others}.items():
        if there := [name for name in names if name in about]:
            lines += ["", f"{task}:"]
            for name in there:
                lines += _entry(f"  {name}", about[name], 13)
    lines += ["", "Examples:"]
    for verb in ("doctor", "train", "predict"):
        if verb in about:
            lines += _command(examples(verb, package)[0])
    lines += ["", *_wrapped("`atrous VERB --help` explains a verb, and `atrous --version` prints the version.", "")]
    return "\n".join(lines) + "\n"


def explained_group(group: str, package: str = COMMANDS) -> str:
    """Returns the help text of a group of verbs, such as `atrous federate`."""
    about = inside(group, package)
    lines = [f"usage: atrous {group} VERB [arguments]", "", *_wrapped(groups(package)[group], ""), "", "Verbs:"]
    for name, sentence in about.items():
        lines += _entry(f"  {name}", sentence, 13)
    shown = [examples(verb, package)[0] for verb in verbs(package) if verb.startswith(f"{group} ")]
    lines += ["", "Examples:"] if shown else []
    for command in shown:
        lines += _command(command)
    lines += ["", *_wrapped(f"`atrous {group} VERB --help` explains a verb.", "")]
    return "\n".join(lines) + "\n"


def explained(verb: str, package: str = COMMANDS) -> str:
    """Returns the help text of one verb.

    Raises:
        AtrousError: there is no such verb.
    """
    found = options(verb, package)
    parts = sections(verb, package)
    words = [f"{one.name.upper()}{' ...' if one.takes_several else ''}" for one in found if one.positional]
    if parts:
        words = ["[RECIPE]", "[--section.field VALUE ...]"]
    usage = _wrapped(
        " ".join([f"usage: atrous {verb}", *words, *(["[options]"] if len(found) > len(words) else [])]), "       "
    )
    lines = [*usage]
    for paragraph in description(verb, package).split("\n\n"):
        lines += ["", *_wrapped(" ".join(paragraph.split()), "")]
    lines += ["", "Examples:"]
    for command in examples(verb, package):
        lines += _command(command)
    flags = {one.name: one.flag for one in found}
    own = [one for one in found if not one.of_recipe]
    for title, names in GROUPS.items():
        group = [one for one in own if _group_of(verb, one.name) == title]
        order = {name: place for place, name in enumerate(names)}
        group.sort(key=lambda one: (not one.positional, order.get(one.name, order.get(f"{verb}.{one.name}", 0))))
        recipe = parts and title == "Input"
        if group or recipe:
            lines += ["", f"{title}:"]
        if recipe:
            lines += _recipe()
        for one in group:
            lines += _option(one, flags)
    if parts:
        lines += _fields_of(parts, [one for one in found if one.of_recipe], flags)
    return "\n".join(lines) + "\n"


def kind_in_words(option: Option) -> str:
    """Returns the type of an option's value as text, such as "a whole number" or "one of sgd, adam, adamw"."""
    if option.choices:
        return f"one of {', '.join(map(str, option.choices))}"
    if option.takes_several:
        count = {2: "two ", 3: "three "}.get(option.count or 0, "")
        many = {int: "whole numbers", float: "numbers"}.get(option.item, "names")
        example = {int: "320,320", float: "1,1,2.5" if option.count == 3 else "0.5,2"}.get(option.item, "road,car")
        return ", or ".join((f"{count}{many} separated by commas, such as {example}", *option.words))
    if option.is_place:
        return "a path or a URL"
    kinds = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", str: "a text"}
    return kinds.get(option.kind, 'names and values, such as {"output_stride": 8}')


def value_in_words(option: Option, commands: Sequence[str]) -> str:
    """Returns which value an option needs, with an example if there is one: "a file, such as --json area.json".

    Args:
        option: option that takes a value.
        commands: commands of the verb's help, one of which may contain the option.
    """
    kind = {" FILE": "a file", " FOLDER": "a folder"}.get(_placeholder(option), kind_in_words(option))
    found = (re.search(rf"{re.escape(option.flag)}[ =]([^\s-]\S*)", command) for command in commands)
    example = next((f"{option.flag} {one[1]}" for one in found if one is not None), "")
    if not example and option.name.rpartition(".")[2] == "json":
        example = f"{option.flag} result.json"
    return f"{kind}, such as {example}" if example and "such as" not in kind else kind


def _group_of(verb: str, name: str) -> str:
    for wanted in (f"{verb}.{name}", name):
        for title, names in GROUPS.items():
            if wanted in names:
                return title
    return "Input"


def _recipe() -> list[str]:
    text = (
        "a recipe: a YAML file, or the name of a shipped recipe (a file of that name in the current folder takes "
        "precedence):"
    )
    lines = _entry("  RECIPE", text, COLUMN)
    for name, sentence in shipped_recipes().items():
        lines += _wrapped(f"{name}: {sentence}", " " * 8, " " * 6)
    return lines


def _fields_of(parts: dict[str, str], fields: list[Option], flags: dict[str, str]) -> list[str]:
    """Returns the help lines of a recipe's fields, section by section."""
    about = "Every field of the recipe is also a flag, which takes precedence over the file."
    lines = ["", *_wrapped(about, ""), "", "The run:"]
    for one in fields:
        if "." not in one.name:
            lines += _option(one, flags)
    for section, sentence in parts.items():
        lines += ["", *_wrapped(f"{section}: {sentence[0].lower() + sentence[1:].rstrip('.')}", "  ")]
        for one in fields:
            if one.name.startswith(f"{section}."):
                lines += _option(one, flags)
    return lines


def _option(option: Option, flags: dict[str, str]) -> list[str]:
    """Returns the help lines of an option: flag, placeholder, description, choices and default."""
    section = option.name.rpartition(".")[0]
    beside = {name.rpartition(".")[2]: flag for name, flag in flags.items() if name.rpartition(".")[0] == section}
    text = re.sub(r"`(\w+)`", lambda name: beside.get(name[1], name[0]), option.sentence).rstrip(".")
    text = re.sub(r"; in Python .*", "", text)
    if any(choice not in text for choice in option.choices):
        text += f": {in_words(option.choices)}"
    default = _default_in_words(option)
    if default and "default" not in text:
        text += f" (default: {default})"
    return _entry(f"  {option.name.upper() if option.positional else option.flag}{_placeholder(option)}", text, COLUMN)


def _placeholder(option: Option) -> str:
    """Returns the placeholder for the value of a flag, such as " N"."""
    if option.positional or option.is_switch:
        return ""
    if option.takes_several:
        one = {int: "N", float: "X"}.get(option.item, "NAME")
        return f" {','.join([one] * (option.count or 2))}" + ("" if option.count else ",…")
    if option.sentence.startswith("pattern"):
        return " PATTERN"
    if option.is_path:
        return " FOLDER" if re.match(r"[^:;,.]*(folder|dataset)", option.sentence) else " FILE"
    if option.kind is str or (option.choices and option.kind is not int):
        return " NAME"
    return {int: " N", float: " X", bool: " true|false"}.get(option.kind, " JSON")


def _default_in_words(option: Option) -> str:
    value = option.default
    if option.positional or option.is_switch or value is None or value in ("", (), []):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _command(command: str) -> list[str]:
    """Returns a command that can be copied, broken into several lines if it is too long for one."""
    lines = _wrapped(command, "      ", "  ", margin=2)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _entry(head: str, text: str, column: int) -> list[str]:
    """Returns the lines of an entry: its head, and its text in a column beside the head, or below a long head."""
    column = column if _width() >= 60 else min(column, 6)
    if len(head) < column:
        return _wrapped(text, " " * column, head.ljust(column))
    return [head, *_wrapped(text, " " * column, " " * column)]


def _wrapped(text: str, indent: str, first: str = "", margin: int = 0) -> list[str]:
    """Wraps text to the width of the terminal; breaks no line inside a default, such as (default: 8), or a bound."""
    lines = textwrap.wrap(
        re.sub(r"(\(default:|[≥>≤<](?= \d)) ", "\\1\N{NO-BREAK SPACE}", text),
        _width() - margin,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _width() -> int:
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))
