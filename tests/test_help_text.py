"""The pages of --help, of every verb, as a user reads them."""

import re
import shlex
from pathlib import Path

import pytest

from atrous.cli import _parse
from atrous.command_discovery import Option, called, examples, inside, options, sections, verbs
from atrous.help_text import GROUPS, TASKS, explained, overview
from atrous.learning.recipe import field_names
from atrous.learning.shipped_recipes import shipped_recipes

VERBS = sorted(verbs())
WIDTHS = (30, 40, 59, 60, 80, 200)
#: What Python calls things, which a user need not know.
PYTHON = (
    r"<class|\bnull\b|\bNone\b|Union|Optional|Literal|\bPath\b|(list|dict|tuple)\[|\bstr\b|\bbool\b|typing|False|True|e-\d\d"
    "|Python"
)


@pytest.mark.parametrize("verb", VERBS)
def test_no_python_is_shown(verb):
    page = explained(verb)
    assert not re.findall(PYTHON, page)
    assert "`" not in re.sub(r"`atrous [^`]*`", "", page)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_sentence_and_stands_once(verb):
    page = explained(verb)
    for option in options(verb):
        assert len(option.sentence.split()) >= 3, option
        assert not option.sentence.startswith("of "), option
        head = option.name.upper() if option.positional else option.flag
        assert len(re.findall(rf"^  {re.escape(head)}( |$)", page, re.MULTILINE)) == 1, head
    heads = re.findall(r"^  (--[\w.-]+)", page, re.MULTILINE)
    assert set(heads) == {option.flag for option in options(verb) if not option.positional}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_belongs_to_one_group(verb):
    for option in options(verb):
        if not option.of_recipe:
            own = [title for title, names in GROUPS.items() if f"{verb}.{option.name}" in names]
            shared = [title for title, names in GROUPS.items() if option.name in names]
            assert len(own or shared) == 1, option.name


def test_the_dataset_flags_of_export_are_those_of_calibrate():
    said = explained("export")
    assert re.search(r"With --calibrate:\n  --layout NAME[\s\S]*?  --groups PATTERN", said)
    assert "With --calibrate or --check:\n  --input" in said


def test_groups_name_only_options_that_there_are():
    there = {name for verb in VERBS for option in options(verb) for name in (option.name, f"{verb}.{option.name}")}
    assert {name for names in GROUPS.values() for name in names} <= there


def test_every_verb_belongs_to_one_task():
    assert sorted(verb for names in TASKS.values() for verb in names) == sorted(inside(""))
    assert list(TASKS)[-1] == "Set up the shell"


@pytest.mark.parametrize("verb", VERBS)
def test_examples_parse(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine", encoding="utf-8")
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text("name: mine", encoding="utf-8")
    assert 1 <= len(examples(verb)) <= 3
    for example in examples(verb):
        words = shlex.split(example.partition(" > ")[0])
        assert called(words[1:]) == (verb, words[1 + len(verb.split()) :])
        assert _parse(*called(words[1:]))
        assert f"\n  {example}\n" in explained(verb)  # on one line of 80


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_lines_fit_the_terminal(verb, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for line in (explained(verb) if verb else overview()).splitlines():
        assert line == line.rstrip()
        head, _, last = line.rpartition(" ")
        unbreakable = not head.strip() or re.fullmatch(r"  --\S+", head)  # a word alone, a flag with what it takes
        assert len(line) <= max(40, min(width, 100)) or unbreakable or "(default:" in last or line.endswith(" \\")


def test_a_command_on_several_lines_can_be_copied(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    page = explained("evaluate")
    for example in examples("evaluate"):
        assert example in " ".join(page.replace(" \\\n", " ").split())


def test_train_explains_every_field_of_a_recipe_section_by_section():
    page = explained("train")
    places = [page.index(f"\n  --{name}") for name in field_names() if "." in name]
    assert places == sorted(places)
    for section, sentence in sections("train").items():
        assert f"\n{section}: {sentence[0].lower()}" in page
        assert page.index(f"\n{section}: ") < page.index(f"\n  --{section}.")
    said = " ".join(page.split())
    assert "passes over the training pictures" in said
    assert all(f"{name}: {sentence}" in said for name, sentence in shipped_recipes().items())


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("predict", "--out FOLDER folder for the masks"),
        ("predict", "(default: predictions)"),
        ("doctor", "--pages NAME pages to read from multi-page TIFFs: first is"),
        ("doctor", "(default: first)"),
        ("export", "the format that the suffix of --out names"),
        ("serve", "largest total size of the files of one request, in MiB (2²⁰ bytes) (default: 32)"),
        ("train", "--optim.lr X learning rate of the head, > 0 (default: 0.001)"),
        ("train", "--optim.name NAME optimiser: sgd, adam or adamw (default: adamw)"),
        ("train", "--augment.crop N,N height and width"),
        ("train", "(default: 0.5,2)"),
        ("train", "--data.check true|false examine every file"),
        ("train", "--watch.wandb true|false log to Weights & Biases"),
        ("train", "(default: false)"),
    ],
)
def test_choices_and_defaults_are_in_words(verb, said):
    assert said in " ".join(explained(verb).split())


@pytest.mark.parametrize("verb", VERBS)
def test_choices_that_a_type_names_are_all_said(verb):
    page = " ".join(explained(verb).split())
    for option in options(verb):
        after = page.split(option.name.upper() if option.positional else option.flag, 1)[1][:600]
        assert all(choice in after for choice in option.choices), option


def test_a_switch_takes_no_value_and_a_field_does():
    assert Option("flip", bool, False, "x").is_switch
    assert not Option("data.check", bool, True, "x", of_recipe=True).is_switch
