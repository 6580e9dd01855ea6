"""What stands beside a field is what its check, its sentence and its docstring say."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import typing
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.checked_arguments import checked
from atrous.errors import AtrousError
from atrous.option_fields import About, described, fields_of, given_to, in_words, setting, settings, taking


@settings("part")
@dataclass(frozen=True)
class Part:
    """A part.

    It has a second paragraph.
    """

    share: float = setting(0.5, "share of pixels; 0 is none", ge=0, lt=1)
    turn: float = setting(0.0, "largest turn", ge=0, le=180, unit="degrees")
    size: tuple[int, int] | None = setting(None, "height and width; its own when not given", ge=1)
    steps: tuple[float, ...] = setting((), "shares, rising", gt=0, lt=1)
    kind: Literal["a", "b"] = setting("a", "which kind")
    colour: str = setting("red", "which colour; as the paper", choices=("red", "green"))
    stride: int = setting(16, "output stride", choices=(8, 16, 32))
    more: dict[str, int] = field(default_factory=dict, metadata=described("what there is more"))


@pytest.mark.parametrize(
    ("about", "range"),
    [
        (About("x"), ""),
        (About("x", ge=1), "≥ 1"),
        (About("x", gt=0), "> 0"),
        (About("x", ge=0, le=1), "0–1"),
        (About("x", ge=0, lt=1), "≥ 0 and < 1"),
        (About("x", gt=0, lt=1, unit="pixels"), "> 0 and < 1 pixels"),
        (About("x", ge=0, le=0.5, unit="turns"), "0–0.5 turns"),
    ],
)
def test_a_range_is_in_words(about, range):
    assert about.range == range


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("share", "share of pixels, ≥ 0 and < 1; 0 is none"),
        ("turn", "largest turn, 0–180 degrees"),
        ("kind", "which kind: a or b"),
        ("colour", "which colour: red or green; as the paper"),
        ("more", "what there is more"),
    ],
)
def test_range_and_choices_stand_in_the_first_part_of_the_sentence(field, sentence):
    assert fields_of(Part)[field].sentence == sentence
    assert f"    {field}: {sentence}\n" in f"{Part.__doc__}\n"


def test_choices_that_the_help_names_are_not_listed_again():
    assert About("potts, or learned", choices=("potts", "learned")).sentence == "potts, or learned"


def test_the_docstring_keeps_its_own_sentences_and_lists_the_fields():
    assert inspect.getdoc(Part).startswith("A part.\n\nIt has a second paragraph.\n")
    assert "\nArgs:\n    share: " in inspect.getdoc(Part)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1}, "part.share must be 0 or more and below 1, got 1."),
        ({"share": -0.1}, "part.share must be 0 or more and below 1, got -0.1."),
        ({"share": float("inf")}, "part.share must be 0 or more and below 1, got inf."),
        ({"turn": 181}, "part.turn must be 0 to 180 degrees, got 181."),
        ({"size": (0, 5)}, "part.size must be height and width: 2 numbers, each 1 or more, got [0, 5]."),
        ({"size": (1, 2, 3)}, "part.size must be height and width: 2 numbers, each 1 or more, got [1, 2, 3]."),
        ({"steps": [0.5, 1]}, "part.steps must be shares, rising, each above 0 and below 1, got [0.5, 1]."),
        ({"stride": 4}, "part.stride must be 8, 16 or 32, got 4."),
        ({"kind": "c"}, "part.kind must be 'a' or 'b', got 'c'."),
        ({"colour": "gren"}, "unknown part.colour 'gren'. Did you mean 'green'? Allowed: green, red."),
        ({"share": "much"}, "part.share must be a number, got 'much'."),
        ({"more": 3}, "part.more must be a dict, got 3."),
    ],
)
def test_what_is_not_allowed_is_said_with_the_fields_name(values, message):
    with pytest.raises(AtrousError) as caught:
        Part(**values)
    assert str(caught.value) == message
    with pytest.raises(AtrousError):
        dataclasses.replace(Part(), **values)


def test_values_by_position_are_checked_too():
    with pytest.raises(AtrousError, match=r"part\.turn"):
        Part(0.5, 181)


def test_an_unknown_field_is_named():
    with pytest.raises(AtrousError, match=r"no argument 'shar'; did you mean share\?"):
        Part(shar=1)  # pyright: ignore


@given(st.floats(allow_nan=False))
def test_a_number_is_taken_where_it_is_in_the_range(number):
    inside = 0 <= number < 1
    try:
        assert Part(share=number).share == number and inside
    except AtrousError:
        assert not inside


def test_each_object_has_a_dict_of_its_own():
    one, other = Part(), Part()
    one.more["x"] = 1
    assert other.more == {} == Part().more


def test_what_is_made_is_a_plain_dataclass():
    part = Part(share=0.25, size=(2, 3))
    assert (
        copy.deepcopy(part) == pickle.loads(pickle.dumps(part)) == dataclasses.replace(Part(), share=0.25, size=(2, 3))
    )
    assert part.size == (2, 3)


@pytest.mark.parametrize(("choices", "words"), [((), ""), (("a",), "a"), ((8, 16, 32), "8, 16 or 32")])
def test_choices_in_words(choices, words):
    assert in_words(choices) == words


@settings("")
@dataclass(frozen=True)
class Other:
    """Another part, with a field of the same name."""

    kind: str = setting("third", "which kind of the others", choices=("third", "fourth"))
    place: str = field(default="here", metadata=described("where it is"))
    needed: int = field(kw_only=True, metadata=described("a number that has no default"))


@checked
@taking(Part, "share", "kind", "size")
@taking(Other)
def work(place: str, *, often: int = 1, **options: object) -> dict[str, object]:
    """Do some work.

    Args:
        place: where it is done,
            in two lines.
        often: how often.

    Returns:
        What was given.
    """
    return {"place": place, "often": often, **options}


def test_fields_are_arguments_with_their_types_defaults_and_sentences():
    parameters = inspect.signature(work).parameters
    assert list(parameters) == ["place", "often", "kind", "share", "size"]
    assert parameters["share"].kind is inspect.Parameter.KEYWORD_ONLY and parameters["share"].default == 0.5
    assert typing.get_type_hints(work)["size"] == tuple[int, int] | None
    assert inspect.getdoc(work).splitlines()[2:] == [
        *("Args:", "    place: where it is done,", "        in two lines.", "    often: how often."),
        "    kind: which kind of the others: third or fourth",
        f"    share: {fields_of(Part)['share'].sentence}",
        f"    size: {fields_of(Part)['size'].sentence}",
        *("", "Returns:", "    What was given."),
    ]


def test_a_function_gets_the_fields_that_are_given_and_those_below_win():
    assert work("x") == {"place": "x", "often": 1}
    assert work("x", share=0.25, kind="fourth") == {"place": "x", "often": 1, "share": 0.25, "kind": "fourth"}
    assert inspect.signature(work).parameters["kind"].default == "third"
    assert given_to(Part, {"share": 0.25, "kind": "d", "often": 2}) == {"share": 0.25, "kind": "d"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shar": 1}, "no argument 'shar'; did you mean share"),
        ({"needed": 1}, "no argument 'needed'"),
        ({"size": 5}, "work: size must be"),
        ({"turn": 5.0}, "no argument 'turn'"),
    ],
)
def test_what_is_no_field_or_of_another_type_is_refused(options, message):
    with pytest.raises(AtrousError, match=message):
        work("x", **options)


def test_all_fields_with_a_default_are_taken_where_none_is_named():
    @taking(Other)
    def other(**options: object) -> None:
        """Do nothing.

        Raises:
            AtrousError: never.
        """

    assert list(inspect.signature(other).parameters) == ["kind", "place"]
    assert inspect.getdoc(other).startswith("Do nothing.\n\nArgs:\n    kind: ")
    assert inspect.getdoc(other).endswith("    place: where it is\n\nRaises:\n    AtrousError: never.")


def test_choices_end_with_the_word_that_is_wanted():
    assert in_words(("a", "b", "c"), "and") == "a, b and c"
