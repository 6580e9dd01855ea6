"""What people and tools read of the project itself: its metadata, its citation, its workflow."""

import importlib.util
import inspect
import re
import shlex
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import atrous

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
VERSION = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def pythons() -> list[str]:
    """The versions of Python that pyproject.toml names."""
    return [found[1] for entry in PROJECT["classifiers"] if (found := VERSION.fullmatch(entry))]


def test_the_package_says_that_it_is_typed():
    assert (Path(atrous.__file__).parent / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


@pytest.mark.parametrize("name", [name for name in atrous.__all__ if name != "__version__"])
def test_public_functions_and_methods_are_annotated(name):
    public = getattr(atrous, name)
    functions = {name: public}
    if inspect.isclass(public):
        own = inspect.getmembers(public, inspect.isfunction)
        functions = {
            f"{name}.{method}": function for method, function in own if method == "__init__" or method[0] != "_"
        }
        functions = {key: one for key, one in functions.items() if one.__module__.startswith("atrous.")}
    for key, function in functions.items():
        signature = inspect.signature(function)
        parameters = [one for one in signature.parameters.values() if one.name != "self"]
        lacking = [one.name for one in parameters if one.annotation is inspect.Parameter.empty]
        assert not lacking, f"{key}: {lacking}"
        assert signature.return_annotation is not inspect.Signature.empty, key


def test_pythons_are_those_that_are_required():
    least = PROJECT["requires-python"].removeprefix(">=")
    assert pythons()[0] == least
    minors = [int(version.partition(".")[2]) for version in pythons()]
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_urls_and_citation_name_one_repository():
    urls = PROJECT["urls"]
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    assert citation()["repository-code"] == urls["Homepage"]


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


#: Of schema 1.2.0: the keys at the top and of a reference, those that are required, and the kinds of identifiers.
CFF_KEYS = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}
REFERENCE_KEYS = {"authors", "title", "type", "year", "identifiers", "journal", "doi", "url"}
PERSON_KEYS = {"family-names", "given-names", "name-particle", "name-suffix", "alias", "affiliation", "orcid"}
ENTITY_KEYS = {"name", "alias", "website", "email"}


def check_authors(authors: list[dict[str, str]]) -> None:
    assert authors
    for author in authors:
        assert author and (set(author) <= PERSON_KEYS or ("name" in author and set(author) <= ENTITY_KEYS))
        assert all(isinstance(value, str) for value in author.values())


def test_the_citation_is_valid_and_of_this_version():
    found = citation()
    assert {"authors", "cff-version", "message", "title"} <= found.keys() <= CFF_KEYS
    assert found["cff-version"] == "1.2.0"
    assert found["type"] in ("software", "dataset")
    assert found["version"] == PROJECT["version"] == atrous.__version__
    assert found["license"] == PROJECT["license"]
    assert isinstance(found.get("date-released", date.today()), date)
    assert set(found["keywords"]) == set(PROJECT["keywords"])
    check_authors(found["authors"])
    for reference in found["references"]:
        assert {"authors", "title", "type"} <= reference.keys() <= REFERENCE_KEYS
        check_authors(reference["authors"])
        assert isinstance(reference["year"], int)
        for identifier in reference["identifiers"]:
            assert {"type", "value"} <= identifier.keys() <= {"type", "value", "description"}
            assert identifier["type"] in ("doi", "url", "swh", "other")


def commands() -> list[tuple[str, str]]:
    """Each line that the workflow runs, with its job."""
    return [
        (job, line)
        for job, content in WORKFLOW["jobs"].items()
        for step in content["steps"]
        for line in step.get("run", "").splitlines()
    ]


def test_the_workflow_runs_on_every_system_and_python_that_is_promised():
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == pythons()
    systems = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
    named = {f"Operating System :: {systems[image.partition('-')[0]]}" for image in matrix["os"]}
    assert named == {entry for entry in PROJECT["classifiers"] if entry.startswith("Operating System")}
    used = {
        step["with"]["python-version"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "with" in step
    }
    assert used <= {"${{ matrix.python }}", *pythons()}


@pytest.mark.parametrize(("job", "line"), commands())
def test_every_command_of_the_workflow_exists(job, line):
    first, *words = shlex.split(line)
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words and set(words) <= set(targets)
        return
    assert (first, words[0]) == ("python", "-m"), f"{job}: neither make nor python -m"
    assert importlib.util.find_spec(words[1]) is not None
    for word in words:
        if word.endswith(".txt"):
            assert (ROOT / word).is_file()
        if extras := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys()


def test_jobs_of_linux_run_what_a_change_has_to_pass():
    wanted = re.findall(r"^make .+$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted and set(wanted) <= {line for _, line in commands()}
